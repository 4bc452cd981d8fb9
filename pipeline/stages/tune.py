"""Tune: lower the kernels that a model spends its time in otherwise, and keep what is faster on a device here in tuning records.

`report.txt` says what was found. A record only says how code is generated: files get it by the next build, which verifies it
as it does all code.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline import activity
from pipeline.cache import shared
from pipeline.consume.render import columns
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import fresh_folder, write
from pipeline.iree import backends, devices, toolchain, tuning
from pipeline.iree.device import Device
from pipeline.iree.devices import ways
from pipeline.iree.gates import Gated, decide
from pipeline.iree.targets import resolve
from pipeline.iree.tuning import Lowering, Tuned
from pipeline.names import did_you_mean
from pipeline.spec.types import Bundle, Executable
from pipeline.stages import compile as compile_stage
from pipeline.stages import parameters, record, testdata, whole
from pipeline.stages.compiled import Compiled
from pipeline.stages.origin import Origin
from pipeline.stages.testdata import TestData
from pipeline.tuner import kernels, makers, passes
from pipeline.tuner.deadline import Deadline
from pipeline.tuner.finds import Finds
from pipeline.tuner.kernels import Hottest, Kernel, Untuned
from pipeline.tuner.outcome import Outcome
from pipeline.tuner.trace import Trace

REPORT, TRACE = "report.txt", "trace.csv"
_LOST = 0.98  # of the untuned time, above which what a record has does not count as faster
_TOLD = 3  # of the ways to lower a kernel that were wrong
_WHOLE = 0.2  # of the time, to look at the whole model
_COMPILING = 0.1  # likewise, to compile it as it is tuned
_LOOKING = 120.0  # seconds that either takes at most, of models that are quick


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
    def untuned(self) -> Untuned:
        """The model as the compiler makes it."""
        inputs = {data.function: data.inputs_of(data.draws[0]) for data in self.data}
        module, flags = self.folder / whole.PLAIN / "module.vmfb", self.bundle.flags
        return Untuned(self.imported / "model.mlirbc", module, flags, parameters.archive(self.imported), inputs)

    @property
    def ways(self) -> list[Device]:
        """The device in the driver's own way and, where there is one, by one thread."""
        return ways.of(self.device)[:2]

    def compile(self, kind: str, target: Executable) -> Compiled:
        """The model for the target, in a folder of this name."""
        return compile_stage.compile_targets(self.imported / "model.mlirbc", _made(self.folder / kind), self.bundle, [target])


@dataclass
class _Found:
    """What came of a target whose kernels take a run so many `seconds`: entries for its record, kernels that are not faster by
    what it has, those whose numbers are `wrong` by that, rows of a table, a line each, and the
    seconds of making and of running code."""

    seconds: float
    entries: list[Tuned] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    rows: list[tuple[str, ...]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    compiling: float = 0.0
    running: float = 0.0

    def leave(self, kernel: Kernel, why: str) -> None:
        """A kernel that was not searched."""
        self._row(kernel, kernel.seconds / kernel.calls, "", "", why)

    def add(self, kernel: Kernel, outcome: Outcome, device: Device, recorded: Lowering) -> None:
        """What came of a kernel, of which the record may have an entry."""
        self.compiling += outcome.compiling
        self.running += outcome.running
        for changes, what in outcome.wrong[:_TOLD]:
            how = f"{changes[-1].operation} {changes[-1].after}"
            self.lines.append(f"{kernel.name}: thrown away, for its numbers are wrong ({what}): {how}")
        if len(outcome.wrong) > _TOLD:
            self.lines.append(f"{kernel.name}: {len(outcome.wrong) - _TOLD} more were wrong")
        after = gained = ""
        if recorded and any(changes == recorded for changes, _ in outcome.wrong):
            self.wrong.append(kernel.kernel)
            gained = "wrong by what the record has"
        if outcome.changes:
            entry = _entry(kernel, outcome, device)
            self.entries.append(entry)
            after, gained = f"{entry.after_ms:.3f}", f"{entry.speed:.2f}×"
        elif recorded and outcome.known is not None and outcome.known > _LOST:
            self.lost.append(kernel.kernel)
            gained = "not faster any more by what the record has"
        self._row(kernel, outcome.before, after, str(outcome.tried), gained)

    def _row(self, kernel: Kernel, before: float, after: str, tried: str, said: str) -> None:
        self.rows.append((kernel.name, f"{before * 1e3:.3f}", after, f"{kernel.seconds / self.seconds:.0%}", tried, said))


def _entry(kernel: Kernel, outcome: Outcome, device: Device) -> Tuned:
    before, after = (round(seconds * 1e3, 6) for seconds in (outcome.before, outcome.after))
    made_by = toolchain.version()["version"]
    return Tuned(
        kernel.kernel,
        kernel.name,
        ", ".join(kernel.operations),
        outcome.changes,
        before,
        after,
        outcome.rounds,
        device.title,
        made_by,
    )


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
    data, deadline = testdata.read_all(reference), Deadline.after(budget)
    known = {target.name: (bundle, target) for bundle, targets in reversed(bundles) for target in targets}
    for name in names:
        if name not in known:
            raise PipelineError(f"target={name}: {origin.model.name} is not built for it: {did_you_mean(name, known)}")
    with disk_errors(str(folder)), fresh_folder(folder):
        jobs, lines = _jobs(origin, imported, data, [known[name] for name in names or known], folder, bool(names))
        if names and lines:
            raise PipelineError("\n".join(lines), where=origin.model.name, hint="code is tuned where it runs")
        for number, job in enumerate(jobs):
            lines += _tuned(job, deadline.sooner(deadline.left / (len(jobs) - number)))
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
            activity.say(f"{target.name}: compiling it as it is")
            job = _Job(origin, imported, data, bundle, target, able[0], _made(folder / target.name))
            gated = job.compile(whole.PLAIN, replace(target, tuning={})).variants[0].gated
            able = [device for device in able if decide([gated], device.facts)[0].accepted]
        if able and not named and all(map(backends.is_software_gpu, able)):
            lines.append(f"{target.name}: only a software device is here, `target={target.name}` tunes for that")
        elif able:
            jobs.append(replace(job, device=sorted(able, key=lambda device: device.software)[0]))
        else:
            lines.append(f"{target.name}: no device here runs it")
    return jobs, lines


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _tuned(job: _Job, deadline: Deadline) -> list[str]:
    """Tune one target and write its record; what to say of it."""
    activity.say(f"{job.target.name}: measuring its kernels")
    budget = deadline.left
    hottest = kernels.find(job.untuned, resolve(replace(job.target, tuning={})), job.ways[-1], job.folder, deadline)
    compiling = min(_COMPILING * budget, _LOOKING)
    looking = max(min(_WHOLE * budget, _LOOKING), min(compiling + whole.expected(hottest.seconds, len(job.ways)), budget / 2))
    finds = Finds(shared(), resolve(job.target))
    found = _search(job, hottest, finds, deadline.before(looking))
    head = ("kernel", "before ms", "after ms", "of a run", "tried", "")
    lines = [*columns([head, *found.rows]), *found.lines]
    lines += [f"{hottest.unknown} more: how the model calls them is only known when it runs"] if hottest.unknown else []
    lines.append(f"{found.compiling:.0f} s making code, {found.running:.0f} s running it")
    lines += _kept(job, found, finds, deadline)
    return [f"{job.origin.model.name} for {job.target.name} on {job.device.title}", *(f"  {line}" for line in lines)]


def _kept(job: _Job, found: _Found, finds: Finds, deadline: Deadline) -> list[str]:
    """Put what was found into the record, if the whole model is right and faster with it; what to say of that.

    Entries by which kernels are not faster are removed in any case, where they are the project's own.
    """
    own = tuning.read(job.target.record)
    lost = [kernel for kernel in found.lost if kernel in own]  # those of the package stay, whatever was seen here
    lost += found.wrong
    faster, lines = _compared(job, found.entries, lost, deadline) if found.entries else (False, ["nothing faster was found"])
    entries, record = found.entries if faster else [], tuning.read(job.target.record)  # which took its time
    elsewhere = {name for path in job.target.tuning_files if path != job.target.record for name in tuning.read(path)}
    voided = [job.target.tuning[kernel].voided for kernel in found.wrong if kernel in elsewhere]
    if not entries and not lost:
        return [*lines, "the record stays as it was"] if found.entries else lines
    with disk_errors(str(job.target.record)):
        tuning.save(job.target.record, tuning.updated(record, [*voided, *entries], lost))
    for entry in entries:
        finds.add(entry)
    lines += [f"{_count(entries)} into {job.target.record}"] if entries else []
    return [*lines, f"{_count(lost)} out of {job.target.record}"] if lost else lines


def _count(entries: Sequence[object]) -> str:
    return f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'}"


def _compared(job: _Job, found: Sequence[Tuned], lost: Sequence[str], deadline: Deadline) -> tuple[bool, list[str]]:
    """Whether the whole model is right and faster as builds would make it with what was found, and without the kernels that have
    `lost`; and what to say of that."""
    activity.say(f"{job.target.name}: the whole model, with and without", deadline.left)
    job.compile(whole.TUNED, replace(job.target, tuning=tuning.updated(job.target.tuning, found, lost)))
    modules = {kind: job.folder / kind / "module.vmfb" for kind in (whole.PLAIN, whole.TUNED)}
    return whole.Comparison(modules, job.ways, job.data, job.untuned.parameters, job.folder).run(deadline)


def _search(job: _Job, hottest: Hottest, finds: Finds, deadline: Deadline) -> _Found:
    """Search each kernel for as long as its part of a run says."""
    from pipeline.tuner.search import Search  # with a library that takes a second to import

    found, every = _Found(hottest.seconds), [kernel for kernel in hottest.kernels if not kernel.is_fixed]
    finds.fetch(kernel.kernel for kernel in every)
    crew, trace = makers.find(ways.cores()), Trace({kernel.kernel: kernel.seconds / hottest.seconds for kernel in every})

    def begin(kernel: Kernel) -> Search:
        what = f"{job.target.name}: kernel {every.index(kernel) + 1} of {len(every)}, {kernel.name}"

        def tell(part: float, tried: int) -> None:
            trace.note(kernel.kernel, part, tried)
            activity.say(f"{what}: {tried} tried, best {part:.0%}", deadline.left)

        tell(1.0, 0)
        known = [*_recorded(job, kernel), *finds.of(kernel.kernel)]
        return Search(kernel, job.ways, _made(job.folder / kernel.kernel), crew, known, tell)

    searched = passes.run(every, begin, lambda kernel: bool(finds.of(kernel.kernel)), deadline)
    for kernel, one in zip(every, searched, strict=True):
        shutil.rmtree(job.folder / kernel.kernel, ignore_errors=True)
        if one.outcome is None:
            found.leave(kernel, one.problem)
        else:
            found.add(kernel, one.outcome, job.device, next(iter(_recorded(job, kernel)), ()))
            finds.remove(kernel.kernel, (changes for changes, _ in one.outcome.wrong))
    for kernel in hottest.kernels:
        if kernel.is_fixed:
            found.leave(kernel, "nothing to choose")
    found.lines += trace.lines()
    write(job.folder / TRACE, trace.encode())
    return found


def _recorded(job: _Job, kernel: Kernel) -> list[Lowering]:
    """What the record has of a kernel, if anything."""
    return [entry.changes] if (entry := job.target.tuning.get(kernel.kernel)) else []
