"""Which versions of IREE's runtime load and run a file that is being verified."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.iree.device import Device
from pipeline.iree.devices import Run
from pipeline.iree.devices.runtimes import Runtime, Trial, device_for
from pipeline.manifest.evidence import RuntimeInfo
from pipeline.stages.checks import Check, Failure, judge


def runtimes(check: Check, found: Sequence[Runtime]) -> list[RuntimeInfo]:
    """How the file under test runs in each runtime: all its functions, on the first draw of each. Errors as `Trial.of`."""
    device = device_for([variant.gated for variant in check.compiled.variants], check.devices)
    cases = check.cases[: len(check.data)]
    functions, inputs = [case.data.function for case in cases], [case.inputs for case in cases]

    def judged(ran: Run, name: str, device: Device) -> tuple[bool | None, str]:
        variant = check.compiled.variants[ran.selected or 0].gated.name
        result = judge(check, variant, "device", device, ran, name)
        if isinstance(result, Failure):
            return False, f"{variant} {result.where}: {result.what}"
        return True, f"{variant} on {device.title}, max error {result.max_abs_error:.1e}"

    return Trial(check.module, device, functions, inputs, check.folder, check.parameters, judged).of(found)
