"""The kernels that a run of a model spends its time in, each with what it takes to try other ways to lower it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import arrays
from pipeline.cache import local
from pipeline.iree import backends, mlir
from pipeline.iree.codegen import lowerings
from pipeline.iree.codegen.front import front_half
from pipeline.iree.codegen.generation import configure
from pipeline.iree.codegen.pieces import Dispatches
from pipeline.iree.device import Device
from pipeline.iree.devices import profiling
from pipeline.iree.mlir import operations
from pipeline.iree.spaces import Place, Space
from pipeline.iree.targets import Target
from pipeline.iree.tuning import kernel_of
from pipeline.tuner import calls
from pipeline.tuner.deadline import Deadline
from pipeline.tuner.trials import Trials

_RUNS, _PROFILED = 20, 0.05  # that are profiled at most; the part of the time for that
_SMALL = 0.01  # of a run's time; kernels that take less are left as they are
_LARGEST = 1 << 30  # bytes of buffers
_PATIENCE = 60.0
_BYTES: Mapping[str, int] = {"f64": 8, "i64": 8, "f16": 2, "bf16": 2, "i16": 2, "i8": 1, "i1": 1}


@dataclass(frozen=True)
class Kernel:
    """A kernel, by the name that records have for it and what the model calls it, that takes a run `seconds` in so many `calls`.

    `operations` are those whose lowering the compiler chose, `space` the ways to lower them.
    """

    kernel: str
    name: str
    operations: tuple[str, ...]
    trials: Trials
    space: Space
    seconds: float
    calls: float

    @property
    def is_fixed(self) -> bool:
        """Whether there is nothing to choose."""
        return not self.space.knobs


@dataclass(frozen=True)
class Hottest:
    """The kernels that time goes to, the first most of it; the `seconds` of a run in all kernels. How the model calls `unknown`
    more is only known when it runs."""

    kernels: tuple[Kernel, ...]
    seconds: float
    unknown: int


@dataclass(frozen=True)
class Untuned:
    """A model: its MLIR at `source`, the `module` that it is compiled to for one target with these `flags`, the archive of its
    `parameters`, if it needs one, and a file of `inputs` for each function."""

    source: Path
    module: Path
    flags: Sequence[str]
    parameters: Path | None
    inputs: Mapping[str, Path]


def find(model: Untuned, target: Target, device: Device, folder: Path, deadline: Deadline) -> Hottest:
    """What takes time when all functions of the model, for this target, run once on the device.

    Raises PipelineError where it cannot be profiled before the deadline.
    """
    timings: dict[str, tuple[float, float]] = {}
    for function in model.inputs:
        for timing in _profile(model, function, device, folder, deadline):
            kernel = kernel_of(timing.symbol)
            seconds, count = timings.get(kernel, (0.0, 0.0))
            timings[kernel] = (seconds + timing.seconds, count + timing.calls)
    total = sum(seconds for seconds, _ in timings.values())
    shapes = {function: [array.shape for array in arrays.read(inputs)] for function, inputs in model.inputs.items()}
    front = front_half(model.source, folder, [target], model.flags, local())
    found, unknown = [], 0
    with mlir.opened(front.sources) as module:
        mlir.strip_locations(module)
        dispatches, called = Dispatches(module, [target], model.flags), calls.find(module, shapes)
        pieces = {kernel_of(piece.symbol): (dispatch, piece) for (dispatch, _), piece in dispatches.pieces.items()}
        for kernel, (seconds, count) in sorted(timings.items(), key=lambda one: -one[1][0]):
            if seconds < _SMALL * total or kernel not in pieces:
                continue
            dispatch, piece = pieces[kernel]
            call = called.get(dispatch)
            if call is None or call.bytes > _LARGEST:
                unknown += 1
                continue
            trials = Trials(dispatches.batch([piece]), target, call)
            places = _places(trials, folder / "configured", deadline)
            chosen = tuple(dict.fromkeys(place.operation for place in places if place.operation != "func.func"))
            space, name = _space(places, trials, seconds / count), dispatches.name(piece.symbol)
            found.append(Kernel(kernel, name, chosen, trials, space, seconds, count))
    front.sources.unlink()
    return Hottest(tuple(found), total, unknown)


def _profile(model: Untuned, function: str, device: Device, folder: Path, deadline: Deadline) -> list[profiling.Timing]:
    """The timings of some runs; of one run, where there is no time for more."""

    def timings(runs: int) -> list[profiling.Timing]:
        own, left = folder / f"profile-{function}-{runs}", max(deadline.left, 1.0)
        own.mkdir()
        called = (model.module, device, function, model.inputs[function], own)
        return profiling.profile(*called, runs=runs, parameters=model.parameters, timeout=left)

    found = timings(1)
    seconds = sum(timing.seconds for timing in found)
    runs = int(min(_RUNS, _PROFILED * deadline.left / seconds)) if seconds else _RUNS
    return timings(runs) if runs > 1 else found


def _space(places: Sequence[Place], trials: Trials, seconds: float) -> Space:
    """The ways to lower a kernel, of which a call takes so many seconds."""
    written = [region.element for buffer in trials.call.buffers if buffer.written for region in buffer.regions]
    size, backend = _BYTES.get(written[0], 4) if written else 0, backends.named(trials.target.backend)
    found = backend.space(places, trials.target.attribute, size, seconds) if size and places else None
    return found or Space({}, lambda _values: None)


def _places(trials: Trials, folder: Path, deadline: Deadline) -> tuple[Place, ...]:
    """What the compiler chose for a kernel; nothing for one that has several functions."""
    configured = configure(trials.batch, folder, max(deadline.within(_PATIENCE), 1.0))
    with mlir.opened(configured) as module:
        (executable,) = operations(module, "hal.executable")
        several = len(operations(executable, "hal.executable.export")) > 1
        return () if several else lowerings.places(executable)
