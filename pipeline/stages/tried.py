"""Which versions of IREE's runtime load and run a file: each is tried, in a process that has it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

from pipeline import process
from pipeline.errors import PipelineError
from pipeline.iree import backends, devices
from pipeline.iree.device import Device
from pipeline.iree.devices.runtimes import Runtime
from pipeline.iree.gates import select
from pipeline.manifest.evidence import RuntimeInfo
from pipeline.stages.checks import Check, Failure, judge

_TIMEOUT = 300.0  # seconds
_SOURCE = re.compile(r"^.*?\bruntime/src/\S+: (?:[A-Z_]+; )?")  # where in its own source the runtime complains


def runtimes(check: Check, found: Sequence[Runtime]) -> list[RuntimeInfo]:
    """How the file under test runs in each runtime: all its functions, on the first draw of each.

    Raises PipelineError where this run is being interrupted: what is ended then says nothing of the file.
    """
    device = _device(check)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        infos = list(pool.map(_tried, repeat(check), found, repeat(device)))
    if process.interrupted():
        raise PipelineError("interrupted")
    return infos


def _device(check: Check) -> Device | None:
    """What the file is run on: the CPU if it has code for it, else a software device, else a real one; none that is played.

    What a runtime refuses it refuses on all devices, and a CPU takes no time to compile shaders.
    """
    variants = [variant.gated for variant in check.compiled.variants]
    takes = [d for d in check.devices if not d.emulator and select(variants, d.facts) is not None]
    return min(takes, key=lambda d: (not backends.is_cpu(d), not d.software), default=None)


def _tried(check: Check, runtime: Runtime, device: Device | None) -> RuntimeInfo:
    if runtime.problem or device is None:
        return RuntimeInfo(runtime.version, None, runtime.problem or "no device here runs any code of the file")
    cases, name = check.cases[: len(check.data)], f"runtime-{runtime.version}"
    functions, inputs = [case.data.function for case in cases], [case.inputs for case in cases]
    try:
        ran = devices.run(
            check.module,
            device,
            functions,
            inputs,
            check.folder,
            name,
            parameters=check.parameters,
            timeout=_TIMEOUT,
            runtime=runtime.folder,
        )
    except PipelineError as error:
        return RuntimeInfo(runtime.version, None, error.what)
    if ran.error and not ran.slow:
        return RuntimeInfo(runtime.version, False, _SOURCE.sub("", ran.error))
    variant = check.compiled.variants[ran.selected or 0].gated.name
    result = judge(check, variant, "device", device, ran, name)
    if isinstance(result, Failure):
        return RuntimeInfo(runtime.version, False, f"{variant} {result.where}: {result.what}")
    if len(result.functions) < len(cases):
        return RuntimeInfo(runtime.version, None, result.reason or f"{len(result.functions)} of {len(cases)} functions in time")
    return RuntimeInfo(runtime.version, True, f"{variant} on {device.title}, max error {result.max_abs_error:.1e}")
