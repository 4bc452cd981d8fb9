"""One check: a module that runs one variant, on one device, on all test data, compared with the reference."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pipeline import arrays
from pipeline.arrays import Array
from pipeline.compare import Comparison, compare
from pipeline.files import sha256_file
from pipeline.iree import backends, devices, mlir
from pipeline.iree.device import Device
from pipeline.iree.devices import Run
from pipeline.spec.types import Bundle, Executable, Model
from pipeline.stages.compiled import Compiled
from pipeline.stages.evidence import Evidence
from pipeline.stages.origin import Origin
from pipeline.stages.testdata import TestData

_NUMBER = re.compile(r"(?<![\w'`])-?(\d[\d.]*(e[+-]?\d+)?|inf|nan)(?![\w'`])")


@dataclass(frozen=True)
class Place:
    """Where wrong numbers came from: a device and a file of inputs; of a twin, its `lanes` and what it is `narrow` for."""

    device: Device
    inputs: Path
    lanes: int = 0
    narrow: int = 0


@dataclass(frozen=True)
class Failure:
    """A variant that did not give the reference's numbers: where it ran, what was wrong, and its `outputs`, if it gave any.

    `varies`: it gives others when it is run again, or would. `place`: where the same wrong numbers can be had again.
    """

    variant: str
    where: str
    what: str
    outputs: tuple[Path, ...] = ()
    varies: bool = False
    place: Place | None = None


Result = Evidence | Failure


@dataclass(frozen=True)
class Check:
    """Everything a verification needs: the compiled module in `module_folder`, test data, devices, a folder for logs."""

    model: Model
    bundle: Bundle
    targets: dict[str, Executable]
    compiled: Compiled
    module_folder: Path
    imported: Path
    data: TestData
    folder: Path
    entry: str
    devices: Sequence[Device]
    origin: Origin | None = None
    baseline: str = ""  # the variant whose outputs are the reference, if one's are
    _references: dict[Path, list[Array]] = field(default_factory=dict, compare=False)
    _runs: dict[tuple[str, str, int], tuple[Run, str]] = field(default_factory=dict, compare=False)

    @property
    def module(self) -> Path:
        """The fat vmfb under test."""
        return self.module_folder / "module.vmfb"

    @cached_property
    def called(self) -> list[str]:
        """The outputs for people, with what makes them."""
        made = mlir.makers(self.imported / "model.mlirbc")
        whole = made if len(made) == len(self.data.outputs) else [""] * len(self.data.outputs)
        return [
            f"output {name!r}" + (f" (of {maker})" if maker else "") for name, maker in zip(self.data.outputs, whole, strict=True)
        ]

    def reference(self, number: int) -> list[Array]:
        """What the draw of this number must give."""
        path = self.data.outputs_of(self.data.draws[number])
        if path not in self._references:
            self._references[path] = arrays.read(path)
        return self._references[path]


def run(check: Check, module: Path, device: Device, name: str) -> Run:
    """Run the module on all draws, each twice: what a race makes is seldom the same.

    A software driver that refuses is asked once more: seldom it fails to wait for itself, whatever the code. (A crash counts.)
    """
    inputs = [check.data.inputs_of(draw) for draw in check.data.draws]
    ran = devices.run(module, device, check.entry, inputs, check.folder, name, repeats=1)
    if ran.error and not ran.slow and not ran.crashed and device.software:
        ran = devices.run(module, device, check.entry, inputs, check.folder, name, repeats=1)
    return ran


def run_once(check: Check, module: Path, device: Device, name: str) -> tuple[Run, str]:
    """`run`, or how the same file ran on this device before, with the name that it ran by."""
    key = (sha256_file(module), device.uri, backends.subgroup_size(device))
    if key not in check._runs:
        check._runs[key] = (run(check, module, device, name), name)
    return check._runs[key]


def _place(kind: str, device: Device) -> str:
    size = backends.subgroup_size(device)
    lanes = f", subgroups of {size} lanes" if size else ""
    return f"{'its twin ' if kind == 'twin' else ''}on {device.title}{lanes}"


def _compared(check: Check, found: Sequence[Path]) -> tuple[list[Comparison], str, int]:
    """How far each draw's outputs are off, and the first problem with the name of the draw, and its number."""
    results, problem, first = [], "", 0
    for number, path in enumerate(found):
        draw = check.data.draws[number]
        result = compare(arrays.read(path), check.reference(number), draw.tolerances, check.called, draw.spared)
        results.append(result)
        if result.problem and not problem:
            problem, first = f"{result.problem} (test data `{draw.name}`)", number
    return results, problem, first


def judge(check: Check, variant: str, kind: str, device: Device, ran: Run, name: str) -> Result:
    """What the run called `name` says of the variant."""
    if ran.slow:
        return Evidence(variant, "untested", reason=f"{ran.error} ({_place(kind, device)}): too slow for this device")
    if ran.error:
        return Failure(variant, _place(kind, device), ran.error)
    found = tuple(devices.outputs(check.folder, name, number) for number in range(ran.done))
    results, problem, number = _compared(check, found)
    if ran.spoiled:
        problem = f"writes over its inputs, for {ran.spoiled} of {ran.done} sets of test data: a fault of IREE"
    elif ran.varies and not problem:
        problem = f"gives other numbers when it is run again, for {ran.varies} of {ran.done} sets of test data"
    if problem:
        varies = bool(ran.varies or ran.spoiled)
        place = None if varies else Place(device, check.data.inputs_of(check.data.draws[number]))
        return Failure(variant, _place(kind, device), problem, found, varies, place)
    itself = kind == "device" and variant == check.baseline
    return Evidence(
        variant,
        kind,
        reason="its own outputs are the reference" if itself else "",
        device=device.name,
        driver=device.driver_info,
        runtime=devices.runtime_version(),
        max_abs_error=max(r.max_abs for r in results),
        max_rel_error=max(r.max_rel for r in results),
        of_tolerance=round(max(r.of_tolerance for r in results), 6),
        draws=ran.done,
        subgroup_sizes=(size,) if (size := backends.subgroup_size(device)) else (),
        seconds=round(ran.run_s, 6),
    )


def agree(check: Check, failures: Sequence[Failure]) -> bool:
    """Whether several variants give the same numbers, within the tolerances: then none of them is what is wrong."""
    if len(failures) < 2 or not all(f.outputs and not f.varies for f in failures):
        return False
    count = min(len(f.outputs) for f in failures)
    for number, draw in enumerate(check.data.draws[:count]):
        first = arrays.read(failures[0].outputs[number])
        for other in failures[1:]:
            if compare(arrays.read(other.outputs[number]), first, draw.tolerances, spared=draw.spared).problem:
                return False
    return True


def told(failures: Sequence[Failure]) -> str:
    """What went wrong first for each variant: one sentence for all that differ in nothing but numbers."""
    first = {failure.variant: failure for failure in reversed(failures)}
    groups: dict[str, list[Failure]] = {}
    for variant in dict.fromkeys(failure.variant for failure in failures):
        groups.setdefault(_NUMBER.sub("#", first[variant].what), []).append(first[variant])
    return "\n".join(f"{_places(group)}: {group[0].what}" for group in groups.values())


def _places(failures: Sequence[Failure]) -> str:
    places: dict[str, list[str]] = {}
    for failure in failures:
        places.setdefault(failure.where, []).append(failure.variant)
    return "; ".join(f"{', '.join(names)} ({where})" for where, names in places.items())
