"""Tune: lower the kernels that a model spends its time in otherwise, and keep what is faster on a device here in tuning records.

`report.txt` says what was found. A record only says how code is generated: files get it by the next build, which verifies it
as it does all code.
"""

from __future__ import annotations

import importlib.util
import itertools
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline import activity, arrays
from pipeline.cache import local
from pipeline.compare import compare
from pipeline.consume.render import columns
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import fresh_folder, write
from pipeline.iree import backends, devices, mlir, toolchain, tuning
from pipeline.iree.codegen import lowerings
from pipeline.iree.codegen.front import front_half
from pipeline.iree.codegen.generation import configure
from pipeline.iree.codegen.pieces import Dispatches, Piece
from pipeline.iree.device import Device
from pipeline.iree.devices import profiling, ways
from pipeline.iree.gates import Gated, decide
from pipeline.iree.mlir import operations
from pipeline.iree.spaces import Place, Space, Values
from pipeline.iree.targets import Target, resolve
from pipeline.iree.tuning import Tuned
from pipeline.names import did_you_mean
from pipeline.spec.types import Bundle, Executable
from pipeline.stages import compile as compile_stage
from pipeline.stages import parameters, record, testdata
from pipeline.stages.origin import Origin
from pipeline.stages.testdata import TestData
from pipeline.tuner import calls
from pipeline.tuner.trials import Trials

REPORT = "report.txt"
_RUNS = 20  # that are profiled
_SMALL = 0.01  # of a run's time; kernels that take less are left as they are
_LEAST = 10.0  # seconds for a kernel; with fewer nothing is found
_HINTS = 6  # of the last kernels' best, that are tried for the next one
_TOLD = 3  # of the ways to lower a kernel that were wrong
_SEARCH = 0.8  # of the time for the search, the rest to look at the whole model
_LARGEST = 1 << 30  # bytes of buffers
_ROUNDS, _SECONDS, _SERIES = 5, 0.4, 3  # of the whole model, with and without
_WORTH, _NO_WORSE = 0.98, 1.05  # of the untuned latency, by the fastest way and by others
_PATIENCE = 300.0
_BYTES: Mapping[str, int] = {"f64": 8, "i64": 8, "f16": 2, "bf16": 2, "i16": 2, "i8": 1, "i1": 1}


@dataclass(frozen=True)
class _Job:
    """What is tuned: a model for a target, in one of its bundles, on a device. Files go into `folder`."""

    origin: Origin
    imported: Path
    data: Sequence[TestData]
    bundle: Bundle
    target: Executable
    device: Device
    folder: Path

    @property
    def parameters(self) -> Path | None:
        """The archive of weights that the model needs."""
        return parameters.archive(self.imported)

    @property
    def ways(self) -> list[Device]:
        """The device in the driver's own way and, where there is one, by one thread."""
        return ways.of(self.device)[:2]


@dataclass(frozen=True)
class _Kernel:
    """A kernel that takes a run of the model `seconds` in so many `calls`, and what the compiler chose for it."""

    piece: Piece
    name: str
    places: tuple[Place, ...]
    trials: Trials
    seconds: float
    calls: float


@dataclass
class _Found:
    """What came of a target: a line each, entries for its record, rows of a table."""

    lines: list[str] = field(default_factory=list)
    entries: list[Tuned] = field(default_factory=list)
    rows: list[tuple[str, ...]] = field(default_factory=list)


def run(
    origin: Origin,
    bundles: Sequence[tuple[Bundle, tuple[Executable, ...]]],
    imported: Path,
    reference: Path,
    folder: Path,
    names: Sequence[str],
    budget: int,
) -> None:
    """Tune the model for the targets in its `bundles` of these `names`, or for all that a device here runs, in `budget` seconds.

    Raises PipelineError for a name that is none of them, or of which no device here runs the code.
    """
    _require_optuna()
    record.require_intact(imported)
    data = testdata.read_all(reference)
    ended = time.monotonic() + budget
    known = {target.name: (bundle, target) for bundle, targets in reversed(bundles) for target in targets}
    for name in names:
        if name not in known:
            raise PipelineError(f"target={name}: {origin.model.name} is not built for it: {did_you_mean(name, known)}")
    with disk_errors(str(folder)), fresh_folder(folder):
        jobs, lines = _jobs(origin, imported, data, [known[name] for name in names or known], folder, bool(names))
        if names and lines:
            raise PipelineError("\n".join(lines), where=origin.model.name, hint="code is tuned where it runs")
        for number, job in enumerate(jobs):
            left = (ended - time.monotonic()) / (len(jobs) - number)
            lines += _tuned(job, left)
        write(folder / REPORT, "".join(f"{line}\n" for line in lines).encode())


def _require_optuna() -> None:
    if importlib.util.find_spec("optuna") is None:
        raise PipelineError("tuning needs optuna, which is not installed", hint="pip install 'vmfb-pipeline[build,tune]'")


def _jobs(
    origin: Origin,
    imported: Path,
    data: Sequence[TestData],
    asked: Iterable[tuple[Bundle, Executable]],
    folder: Path,
    named: bool,
) -> tuple[list[_Job], list[str]]:
    """What can be tuned here; a line for each target that cannot. `named`: somebody asked for each of them.

    What is fast on a software device need not be on the GPUs that its code is for: that is only done for who asks.
    """
    present = devices.find(folder)
    jobs, lines = [], []
    for bundle, target in asked:
        declared = Gated(target.name, resolve(target).format, target.gates)
        able = [device for device in present if decide([declared], device.facts)[0].accepted]
        if able:
            own = _made(folder / target.name)
            activity.say(f"{target.name}: compiling it as it is")
            source, plain = imported / "model.mlirbc", replace(target, tuning={})
            compiled = compile_stage.compile_targets(source, _made(own / "plain"), bundle, [plain])
            able = [device for device in able if decide([compiled.variants[0].gated], device.facts)[0].accepted]
        if able and not named and all(map(backends.is_software_gpu, able)):
            lines.append(f"{target.name}: only a software device is here, `target={target.name}` tunes for that")
        elif able:
            best = sorted(able, key=lambda device: device.software)[0]
            jobs.append(_Job(origin, imported, data, bundle, target, best, folder / target.name))
        else:
            lines.append(f"{target.name}: no device here runs it")
    return jobs, lines


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _tuned(job: _Job, budget: float) -> list[str]:
    """Tune one target and write its record; what to say of it."""
    ended = time.monotonic() + budget
    kernels, total, left_out = _kernels(job)
    found = _searched(job, kernels, total, time.monotonic() + (ended - time.monotonic()) * _SEARCH)
    head = f"{job.origin.model.name} for {job.target.name} on {job.device.title}"
    lines = [
        head,
        *(f"  {line}" for line in columns([("kernel", "before ms", "after ms", "of a run", "tried", ""), *found.rows])),
    ]
    lines += [f"  {line}" for line in (*found.lines, *left_out)]
    if not found.entries:
        return [*lines, "  nothing faster was found"]
    merged = tuning.merged(job.target.tuning, found.entries)
    faster, said = _whole(job, replace(job.target, tuning=merged))
    lines += [f"  {line}" for line in said]
    if not faster:
        return [*lines, "  the record stays as it was"]
    with disk_errors(str(job.target.record)):
        tuning.save(job.target.record, tuning.merged(tuning.read(job.target.record), found.entries))
    count = len(found.entries)
    return [*lines, f"  {count} {'entry' if count == 1 else 'entries'} into {job.target.record}"]


def _kernels(job: _Job) -> tuple[list[_Kernel], float, list[str]]:
    """The kernels that time goes to, the first most of it; the seconds of a run in all kernels; what was left out, and why."""
    activity.say(f"{job.target.name}: measuring its kernels")
    timings: dict[str, tuple[float, float]] = {}
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for number, data in enumerate(job.data):
        inputs = data.inputs_of(data.draws[0])
        shapes[data.function] = [array.shape for array in arrays.read(inputs)]
        own = _made(job.folder / f"profile-{number}")
        module, one = job.folder / "plain" / "module.vmfb", job.ways[-1]
        for timing in profiling.profile(module, one, data.function, inputs, own, runs=_RUNS, parameters=job.parameters):
            seconds, count = timings.get(timing.symbol, (0.0, 0.0))
            timings[timing.symbol] = (seconds + timing.seconds, count + timing.calls)
    total = sum(seconds for seconds, _ in timings.values())
    target = resolve(replace(job.target, tuning={}))
    front = front_half(job.imported / "model.mlirbc", job.folder, [target], job.bundle.flags, local())
    found, unknown = [], 0
    with mlir.opened(front.sources) as module_:
        mlir.strip_locations(module_)
        dispatches, called = Dispatches(module_, [target], job.bundle.flags), calls.find(module_, shapes)
        pieces = {piece.symbol: (dispatch, piece) for (dispatch, _), piece in dispatches.pieces.items()}
        for symbol, (seconds, count) in sorted(timings.items(), key=lambda one: -one[1][0]):
            if seconds < _SMALL * total or symbol not in pieces:
                continue
            dispatch, piece = pieces[symbol]
            call = called.get(dispatch)
            if call is None or call.bytes > _LARGEST:
                unknown += 1
                continue
            batch = dispatches.batch([piece])
            trials = Trials(batch, target, call)
            places = _places(trials, job.folder / "configured")
            found.append(_Kernel(piece, dispatches.name(symbol), places, trials, seconds, count))
    front.sources.unlink()
    left_out = [f"{unknown} more: how the model calls them is only known when it runs"] if unknown else []
    return found, total, left_out


def _places(trials: Trials, folder: Path) -> tuple[Place, ...]:
    """What the compiler chose for a kernel; nothing for one that has several functions."""
    configured = configure(trials.batch, folder, _PATIENCE)
    with mlir.opened(configured) as module:
        (executable,) = operations(module, "hal.executable")
        several = len(operations(executable, "hal.executable.export")) > 1
        return () if several else lowerings.places(executable)


def _searched(job: _Job, kernels: Sequence[_Kernel], total: float, ended: float) -> _Found:
    """Search each kernel for as long as its part of a run says."""
    from pipeline.tuner.search import Search  # with a library that takes a second to import

    found, target = _Found(), resolve(job.target)
    hints: list[Values] = []
    waiting = sum(kernel.seconds for kernel in kernels)
    for number, kernel in enumerate(kernels, 1):
        left = ended - time.monotonic()
        spare = max(left - _LEAST * (len(kernels) - number + 1), 0.0)  # of what is left when each has had its least
        share = _LEAST + spare * kernel.seconds / waiting
        waiting -= kernel.seconds
        name = tuning.kernel_of(kernel.piece.symbol)
        space = _space(kernel, target)
        row = (kernel.name, f"{kernel.seconds / kernel.calls * 1e3:.3f}", "", f"{kernel.seconds / total:.0%}")
        if space is None or share > left:
            found.rows.append((*row, "", "nothing to choose" if space is None else "no time left"))
            continue

        def tell(part: float, tried: int, number: int = number, kernel: _Kernel = kernel) -> None:
            what = f"{job.target.name}: kernel {number} of {len(kernels)}, {kernel.name}: {tried} tried, best {part:.0%}"
            activity.say(what, ended - time.monotonic())

        tell(1.0, 0)
        known = job.target.tuning.get(name)
        own = _made(job.folder / f"kernel-{number}")
        search = Search(
            kernel.trials, space, job.ways, own, ways.cores(), [known.changes] if known else [], hints[-_HINTS:], tell
        )
        try:
            outcome = search.run(min(share, left))
        except PipelineError as error:
            found.rows.append((*row, "", f"left as it is: {error.what.splitlines()[0]}"))
            continue
        finally:
            shutil.rmtree(own, ignore_errors=True)
        for changes, what in outcome.wrong[:_TOLD]:
            after = changes[-1].after
            found.lines.append(f"{kernel.name}: thrown away, for its numbers are wrong ({what}): {changes[-1].operation} {after}")
        if len(outcome.wrong) > _TOLD:
            found.lines.append(f"{kernel.name}: {len(outcome.wrong) - _TOLD} more were wrong")
        before, after_ms = outcome.before * 1e3, outcome.after * 1e3
        if not outcome.changes:
            found.rows.append((kernel.name, f"{before:.3f}", "", row[3], str(outcome.tried), ""))
            continue
        kinds = ", ".join(dict.fromkeys(p.operation for p in kernel.places if p.operation != "func.func"))
        made_by = toolchain.version()["version"]
        device = job.device.title
        entry = Tuned(
            name, kernel.name, kinds, outcome.changes, round(before, 6), round(after_ms, 6), outcome.rounds, device, made_by
        )
        found.entries.append(entry)
        if outcome.values:
            hints = [*(hint for hint in hints if hint != outcome.values), outcome.values]
        found.rows.append((kernel.name, f"{before:.3f}", f"{after_ms:.3f}", row[3], str(outcome.tried), f"{entry.speed:.2f}×"))
    return found


def _space(kernel: _Kernel, target: Target) -> Space | None:
    written = [region.element for buffer in kernel.trials.call.buffers if buffer.written for region in buffer.regions]
    if not written or not kernel.places:
        return None
    seconds = kernel.seconds / kernel.calls
    return backends.named(target.backend).space(kernel.places, target.attribute, _BYTES.get(written[0], 4), seconds)


def _whole(job: _Job, tuned: Executable) -> tuple[bool, list[str]]:
    """Whether the whole model is right and faster as it is tuned, each in its fastest way; what was measured."""
    activity.say(f"{job.target.name}: the whole model, with and without")
    made = _made(job.folder / "tuned")
    compile_stage.compile_targets(job.imported / "model.mlirbc", made, job.bundle, [tuned])
    times: dict[tuple[str, str], list[float]] = {}
    problem = ""
    for series in range(_SERIES):  # more of them only where the first ones say no: other work on the machine only adds
        for turn in range(_ROUNDS):
            if turn > 1 and min(map(min, times.values())) > _SECONDS:
                break
            for way, kind in itertools.product(job.ways, ("plain", "tuned") if turn % 2 else ("tuned", "plain")):
                seconds, wrong = _latency(job, kind, way, f"{way.uri.partition(':')[0]}-{series}-{turn}-{kind}")
                if wrong:
                    return False, [f"{kind} on {way.title}: {wrong}"]
                times.setdefault((kind, way.uri), []).append(seconds)
        best = {key: min(found) for key, found in times.items()}
        problem = _problem([(best["plain", way.uri], best["tuned", way.uri]) for way in job.ways])
        if not problem:
            break
    lines = [
        f"the model on {way.title}: {best['plain', way.uri] * 1e3:.3f} ms without, {best['tuned', way.uri] * 1e3:.3f} ms tuned"
        for way in job.ways
    ]
    return not problem, [*lines, *([problem] if problem else [])]


def _problem(times: Sequence[tuple[float, float]]) -> str:
    """Why a record is not to be kept, by the seconds without and with it, in each way to run the model; empty if it is."""
    if min(after for _, after in times) >= _WORTH * min(before for before, _ in times):
        return "that is not faster beyond noise"
    if any(after > _NO_WORSE * before for before, after in times):
        return "that is slower in one way"
    return ""


def _latency(job: _Job, kind: str, way: Device, name: str) -> tuple[float, str]:
    """The seconds of all functions together, and what is wrong with the numbers of one."""
    total, module = 0.0, job.folder / kind / "module.vmfb"
    for number, data in enumerate(job.data):
        draw, own = data.draws[0], f"{name}-{number}"
        inputs = [data.inputs_of(draw)]
        ran = devices.run(module, way, data.function, inputs, job.folder, own, parameters=job.parameters, seconds=_SECONDS)
        if ran.error or ran.latency_s is None:
            return 0.0, ran.error or "it was not measured"
        total += ran.latency_s
        if draw.tolerances:
            found = arrays.read(devices.outputs(job.folder, own))
            compared = compare(found, arrays.read(data.outputs_of(draw)), draw.tolerances, spared=draw.spared)
            if compared.problem:
                return 0.0, compared.problem
    return total, ""
