"""One check: a module that runs one variant, on one device, on all test data, compared with the reference."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from pipeline import arrays
from pipeline.arrays import Array
from pipeline.compare import Comparison, compare
from pipeline.files import sha256_file
from pipeline.iree import backends, devices, mlir
from pipeline.iree.device import Device
from pipeline.iree.devices import Run, ways
from pipeline.iree.file import choice
from pipeline.manifest.types import Identity
from pipeline.spec.types import Bundle, Executable, Model
from pipeline.stages import parameters
from pipeline.stages.compiled import Compiled
from pipeline.stages.evidence import Evidence, Measured
from pipeline.stages.origin import Origin
from pipeline.stages.testdata import Draw, TestData

_MEASURED = 0.25  # seconds in which inferences are repeated
_EACH_WAY = 0.2  # seconds, likewise
_LONG = 1.0  # seconds; of what takes longer, starting kernels is no part that is worth measuring
_WIDEST, _OTHERS = 60.0, 5.0  # seconds in which draws are begun on a software GPU in its widest guise, and in each other one
_NUMBER = re.compile(r"(?<![\w'`])-?(\d[\d.]*(e[+-]?\d+)?|inf|nan)(?![\w'`])")


@dataclass(frozen=True)
class Place:
    """Where wrong numbers came from: a device, and a file of inputs; of a twin, its `lanes` and what it is `narrow` for."""

    device: Device
    inputs: Path
    lanes: int = 0
    narrow: int = 0


@dataclass(frozen=True)
class Failure:
    """A variant that did not give the reference's numbers: where it ran, what was wrong, and its `outputs`, if it gave any.

    `varies`: it gives others when it is run again, or would. `place`: where the same wrong numbers can be had again.
    `hint`: what to do, where it is not about single numbers.
    """

    variant: str
    where: str
    what: str
    outputs: tuple[Path, ...] = ()
    varies: bool = False
    place: Place | None = None
    hint: str = ""


Result = Evidence | Failure


@dataclass(frozen=True)
class Case:
    """A draw of an entry point's test data: the next run is of its function, on its inputs."""

    data: TestData
    draw: Draw

    @property
    def inputs(self) -> Path:
        """The file of its inputs."""
        return self.data.inputs_of(self.draw)

    @property
    def outputs(self) -> Path:
        """The file of the outputs that they must give."""
        return self.data.outputs_of(self.draw)


def cases(data: Sequence[TestData]) -> list[Case]:
    """All draws of all entry points: the first of each, then the second, …: if time runs short, each was run."""
    most = max(len(one.draws) for one in data)
    return [Case(one, one.draws[number]) for number in range(most) for one in data if number < len(one.draws)]


@dataclass(frozen=True)
class Check:
    """Everything a verification needs: the compiled module in `module_folder`, test data, devices, a folder for logs."""

    model: Model
    bundle: Bundle
    targets: dict[str, Executable]
    compiled: Compiled
    module_folder: Path
    imported: Path
    data: tuple[TestData, ...]
    folder: Path
    devices: Sequence[Device]
    identity: Identity
    origin: Origin | None = None
    baseline: str = ""  # the variant whose outputs are the reference, if one's are
    _references: dict[Path, list[Array]] = field(default_factory=dict, compare=False)
    _runs: dict[tuple[str, str, int], tuple[Run, str, Path]] = field(default_factory=dict, compare=False)

    @property
    def module(self) -> Path:
        """The fat vmfb under test."""
        return self.module_folder / "module.vmfb"

    @property
    def parameters(self) -> Path | None:
        """The archive of weights that the module needs."""
        return parameters.archive(self.imported)

    @cached_property
    def cases(self) -> list[Case]:
        """What is run: see `cases`."""
        return cases(self.data)

    @cached_property
    def called(self) -> dict[str, list[str]]:
        """The outputs of each function for people, with what makes them."""
        found = {}
        for data in self.data:
            made = mlir.makers(self.imported / "model.mlirbc", data.function)
            whole = made if len(made) == len(data.outputs) else [""] * len(data.outputs)
            of = f"{data.function}: " if len(self.data) > 1 else ""
            pairs = zip(data.outputs, whole, strict=True)
            found[data.function] = [f"{of}output {name!r}" + (f" (of {maker})" if maker else "") for name, maker in pairs]
        return found

    def reference(self, case: Case) -> list[Array]:
        """What it must give."""
        if case.outputs not in self._references:
            self._references[case.outputs] = arrays.read(case.outputs)
        return self._references[case.outputs]


def run(check: Check, module: Path, device: Device, name: str) -> Run:
    """Run the module on all draws, each twice where that is quick: what a race makes is seldom the same.

    A software GPU runs the first draw of each function, and others as long as that is quick: longest where its subgroups are
    widest, which is fastest, for what numbers do to code hardly depends on that. What takes longer than that runs once.
    """
    functions, inputs = [case.data.function for case in check.cases], [case.inputs for case in check.cases]
    # Of a real device it is worth knowing how fast it is.
    seconds = 0 if device.emulator or backends.is_software_gpu(device) else _MEASURED
    within = (_WIDEST if _is_widest(check, device) else _OTHERS) if backends.is_software_gpu(device) else math.inf

    def once() -> Run:
        called, least = (module, device, functions, inputs, check.folder, name), len(check.data)
        return devices.run(*called, parameters=check.parameters, seconds=seconds, repeats=1, least=least, within=within)

    return asked_again(once, device)


def _is_widest(check: Check, device: Device) -> bool:
    """Whether none of the guises of the device has wider subgroups."""
    guises = [backends.subgroup_size(other) for other in check.devices if other.uri == device.uri]
    return backends.subgroup_size(device) >= max(guises, default=0)


def asked_again(once: Callable[[], Run], device: Device) -> Run:
    """A run. A software driver that refuses is asked once more: seldom it fails to wait for itself, whatever the code. (A crash
    counts.)"""
    ran = once()
    return once() if ran.error and not ran.slow and not ran.crashed and device.software else ran


def run_once(check: Check, module: Path, device: Device, name: str) -> tuple[Run, str, Path]:
    """`run`, or how the same file ran on this device before, with the name that it ran by and the folder that it ran in."""
    key = (sha256_file(module), device.uri, backends.subgroup_size(device))
    if key not in check._runs:
        check._runs[key] = (run(check, module, device, name), name, check.folder)
    return check._runs[key]


def in_all_ways(check: Check, found: Evidence) -> Evidence:
    """What was seen of a variant, with its latency in each way in which the runtime runs it on the device that it ran on."""
    device = next((d for d in check.devices if backends.is_cpu(d) and not d.emulator), None)
    if device is None or found.kind != "device" or (found.device, found.driver) != (device.name, device.driver_info):
        return found
    if (found.seconds or 0) > _LONG:
        return found
    index = [v.gated.name for v in check.compiled.variants].index(found.variant)
    folder, case = check.folder / f"ways-{found.variant}", check.cases[0]
    module = forced(check, index)
    measured = ways.measure(module, device, case.data.function, case.inputs, folder, check.parameters, _EACH_WAY)
    if not measured:
        return found
    own = measured[0]  # alone, and not beside other devices
    return replace(found, latency_s=own.latency_s, spread_s=own.spread_s, rounds=own.rounds, drivers=measured)


def forced(check: Check, index: int) -> Path:
    """A copy of the file that takes variant `index`."""
    module = check.folder / f"forced-{check.compiled.variants[index].gated.name}.vmfb"
    if not module.exists():
        choice.force(check.module, index, module)
    return module


def place(kind: str, device: Device) -> str:
    """Where a variant ran, for people."""
    size = backends.subgroup_size(device)
    lanes = f", subgroups of {size} lanes" if size else ""
    return f"{'its twin ' if kind == 'twin' else ''}on {device.title}{lanes}"


def _compared(check: Check, found: Sequence[Path]) -> tuple[list[Comparison], str, int]:
    """How far the outputs of each case are off, and the first problem with the name of the draw, and the number of the case."""
    results, problem, first = [], "", 0
    for number, path in enumerate(found):
        case = check.cases[number]
        names = check.called[case.data.function]
        result = compare(arrays.read(path), check.reference(case), case.draw.tolerances, names, case.draw.spared)
        results.append(result)
        if result.problem and not problem:
            problem, first = f"{result.problem} (test data `{case.draw.name}`)", number
    return results, problem, first


def _measured(check: Check, results: Sequence[Comparison], ran: Run) -> tuple[Measured, ...]:
    """What was measured of each function, of those that were run."""
    found = []
    for data in check.data:
        mine = [number for number in range(len(results)) if check.cases[number].data is data]
        if mine:
            of = [results[number] for number in mine]
            found.append(
                Measured(
                    data.function,
                    max(r.max_abs for r in of),
                    max(r.max_rel for r in of),
                    round(max(r.of_tolerance for r in of), 6),
                    len(mine),
                    round(ran.runs_s[mine[0]], 6),
                )
            )
    return tuple(found)


def judge(check: Check, variant: str, kind: str, device: Device, ran: Run, name: str, folder: Path | None = None) -> Result:
    """What the run called `name` says of the variant; `folder` is where it ran, if not in the check's own."""
    if ran.slow:
        return Evidence(variant, "untested", reason=f"{ran.error} ({place(kind, device)}): too slow for this device")
    if ran.error:
        return Failure(variant, place(kind, device), ran.error)
    found = tuple(devices.outputs(folder or check.folder, name, number) for number in range(ran.done))
    results, problem, number = _compared(check, found)
    if ran.spoiled:
        problem = f"writes over its inputs, for {ran.spoiled} of {ran.done} sets of test data: a fault of IREE"
    elif ran.varies and not problem:
        problem = f"gives other numbers when it is run again, for {ran.varies} of {ran.done} sets of test data"
    if problem:
        varies = bool(ran.varies or ran.spoiled)
        there = None if varies else Place(device, check.cases[number].inputs)
        return Failure(variant, place(kind, device), problem, found, varies, there)
    itself = kind == "device" and variant == check.baseline
    return Evidence(
        variant,
        kind,
        reason="its own outputs are the reference" if itself else "",
        device=device.name,
        driver=device.driver_info,
        functions=_measured(check, results, ran),
        subgroup_sizes=(size,) if (size := backends.subgroup_size(device)) else (),
        load_s=ran.load_s or None,
        latency_s=ran.latency_s,
        spread_s=ran.spread_s,
        rounds=ran.rounds,
        peak_memory=ran.peak_memory,
    )


def agree(check: Check, failures: Sequence[Failure]) -> bool:
    """Whether several variants give the same numbers, within the tolerances: then none of them is what is wrong."""
    if len(failures) < 2 or not all(f.outputs and not f.varies for f in failures):
        return False
    count = min(len(f.outputs) for f in failures)
    for number, draw in enumerate(case.draw for case in check.cases[:count]):
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
