"""Tuning takes no longer than it may, and starts from what others found."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline import arrays, process
from pipeline.cache import SharedCache
from pipeline.compare import Tolerance
from pipeline.iree import devices, tuning
from pipeline.iree.codegen.pieces import Code
from pipeline.iree.device import Device
from pipeline.iree.gates import Facts
from pipeline.iree.spaces import Space
from pipeline.iree.targets import resolve
from pipeline.iree.tuning import Change, Lowering, Tuned
from pipeline.seal import Seal
from pipeline.spec.load import load
from pipeline.stages import tune, whole
from pipeline.stages.testdata import Draw, TestData
from pipeline.store.open import open_store
from pipeline.tuner import passes, rounds, search
from pipeline.tuner.calls import Call
from pipeline.tuner.deadline import Deadline
from pipeline.tuner.finds import Finds
from pipeline.tuner.kernels import Kernel
from pipeline.tuner.makers import Here, Makers
from pipeline.tuner.outcome import Outcome
from pipeline.tuner.rounds import Timed
from pipeline.tuner.search import Search
from pipeline.tuner.trace import Trace
from tests.project import Project
from tests.test_compile import executables
from tests.waiting import FOREVER

KERNEL, OTHER = "kernel_" + "a" * 32, "kernel_" + "b" * 32
DEVICE = Device("vulkan", "a slow one", "vulkan", "a driver", True, Facts("a slow one", frozenset(), {}))


@dataclass
class Clock:
    """Time as it passes by what is done."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def lowering(number: int) -> Lowering:
    return (Change(0, "linalg.matmul", "lowering_config", "before", f"after {number}"),)


def entry(number: int, speed: float, kernel: str = KERNEL) -> Tuned:
    return Tuned(kernel, "k", "linalg.matmul", lowering(number), speed, 1.0, 3, "CPU", "3.13.0")


class Slow:
    """A kernel that takes seconds, whatever is done with it: a stand-in for Trials. What it is lowered by is in its code."""

    def __init__(self, clock: Clock, compiling: float) -> None:
        self.clock, self.compiling = clock, compiling
        self.call, self.kernel = Call((), (), ()), KERNEL
        self.meeting: threading.Barrier | None = None

    def generate(self, asked: Sequence[Lowering], folder: Path, makers: Makers, deadline: Deadline) -> list[Code]:
        self.clock.now += deadline.within(self.compiling)
        if self.meeting and asked != [()]:
            self.meeting.wait(FOREVER)
            self.meeting = None
        return [Code("", "", "", 0.0, one[0].after.encode() if one else b"") for one in asked]

    def module(self, codes: Sequence[Code], folder: Path) -> Path:
        self.linked = codes
        return folder


def searched(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    seconds: float,
    call: float,
    known: Sequence[Lowering] = (),
    starting: float = 0,
) -> Any:
    """A search of `seconds` for a kernel of which a call takes so long, and a process its time to begin: its outcome, what it
    took, what was measured."""
    clock, measured = Clock(), list[int]()

    def measure(module: Path, of: Call, count: int, ways: Sequence[Device], own: Path, times: int, limit: float) -> Any:
        took = starting + 3 * count * call
        clock.now += min(took, limit)
        if took > limit:
            raise process.TimedOutError("it did not end in time")
        measured.append(count)
        return [[Timed("", call if number == 0 else call / 2, 1.0 if number == 0 else 0.5, 3) for number in range(count)]]

    monkeypatch.setattr(rounds, "measure", measure)
    space = Space({"v": list(range(100))}, lambda values: lowering(values["v"]))
    trials: Any = Slow(clock, 4.0)
    kernel = Kernel(KERNEL, "k", ("linalg.matmul",), trials, space, 2 * call, 2)
    outcome = Search(kernel, [DEVICE], folder, Here(2), known).run(Deadline(seconds, clock))
    return outcome, clock.now, measured


@pytest.mark.parametrize("call", [0.001, 0.3, 1.0, 4.0])
def test_a_search_ends_in_time_and_finds_what_there_was_time_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: float
) -> None:
    outcome, took, measured = searched(monkeypatch, tmp_path / "search", 100, call)
    assert took <= 100
    assert outcome.changes
    assert outcome.before == call
    assert outcome.compiling + outcome.running == pytest.approx(took)
    assert measured[0] == 1  # the untuned one alone, which says how slow it is


def test_what_won_is_measured_again_on_a_busy_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where a process takes long to begin, and a search has to know that before it spends what is left on trying more."""
    outcome, took, _ = searched(monkeypatch, tmp_path / "search", 100, 0.001, starting=8.0)
    assert took <= 100
    assert outcome.changes
    assert outcome.rounds == 6  # twice


def test_a_kernel_that_cannot_even_be_measured_in_time_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(process.TimedOutError):
        searched(monkeypatch, tmp_path / "search", 10, 30.0)


def test_what_is_known_is_confirmed_where_there_is_no_time_for_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    outcome, took, measured = searched(monkeypatch, tmp_path / "search", 10, 0.2, [lowering(7)])
    assert outcome.changes == lowering(7)
    assert outcome.known == 0.5
    assert took <= 10
    assert max(measured) == 2


def search_of(
    monkeypatch: pytest.MonkeyPatch, folder: Path, speed: Callable[[int], float], wrong: Sequence[int] = (), **more: Any
) -> tuple[Search, Slow]:
    """A search among forty lowerings of these speeds, of which some are wrong; no time passes."""

    def measure(module: Path, of: Call, count: int, *_: Any) -> Any:
        numbers = [int(code.data.split()[-1]) for code in trials.linked[1:]]
        parts = [("", 1.0), *(("other numbers" if n in wrong else "", 1 / speed(n)) for n in numbers)]
        return [[Timed(problem, part, part, 3) for problem, part in parts]]

    monkeypatch.setattr(rounds, "measure", measure)
    monkeypatch.setattr(search, "_ASKED", 20)  # each of which takes the library a while
    trials: Any = Slow(Clock(), 0.0)
    space = Space({"v": list(range(40))}, lambda values: lowering(values["v"]))
    kernel = Kernel(KERNEL, "k", (), trials, space, 1e-5, 1)
    return Search(kernel, [DEVICE], folder, **{"makers": Here(2), **more}), trials


def test_a_search_goes_on_where_it_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one, _ = search_of(monkeypatch, tmp_path / "one", lambda number: 1 + number / 100)
    first = replace(one.run(Deadline(math.inf), [{"v": 20}]))
    assert first.ended
    assert first.before / first.after >= 1.2
    second = one.run(Deadline(math.inf), [{"v": 39}, {"other": 1}])
    assert second.changes == lowering(39)
    assert second.before / second.after == pytest.approx(1.39)
    assert second.tried > first.tried
    assert len(one._seen) == second.tried  # each was tried once


def test_what_there_was_no_time_for_is_tried_when_there_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one, trials = search_of(monkeypatch, tmp_path / "one", lambda number: 1.5 if number == 39 else 1.0)
    generate = trials.generate

    def late(asked: Sequence[Lowering], *more: Any) -> Sequence[Code | None]:
        if not asked[0]:
            return generate(asked, *more)
        trials.clock.now += 1000
        return [None] * len(asked)

    monkeypatch.setattr(trials, "generate", late)
    first = replace(one.run(Deadline(500, trials.clock), [{"v": 39}]))
    assert (first.changes, first.refused) == ((), 0)
    monkeypatch.setattr(trials, "generate", generate)
    assert one.run(Deadline(math.inf)).changes == lowering(39)


def test_what_is_made_elsewhere_is_made_while_others_are_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    crew = SimpleNamespace(cores=9, are_elsewhere=True)
    one, trials = search_of(monkeypatch, tmp_path / "one", lambda number: 1 + number / 100, makers=crew)
    trials.meeting = threading.Barrier(3)
    outcome = one.run(Deadline(math.inf))
    assert trials.meeting is None
    assert outcome.changes
    assert len(one._seen) == outcome.tried


def test_an_entry_whose_numbers_are_wrong_is_thrown_away_and_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shared: SharedCache
) -> None:
    """Whether it is the project's own, or the package's, or somebody else's who shares the cache."""
    one, _ = search_of(monkeypatch, tmp_path / "one", lambda number: 1.0, [5])
    one._known = [lowering(5)]
    outcome = one.run(Deadline(math.inf))
    assert [changes for changes, _ in outcome.wrong] == [lowering(5)]
    (target,) = executables("x86-64")
    for packaged in (False, True):
        found, trials = tune._Found(1.0), SimpleNamespace()
        kernel: Any = SimpleNamespace(kernel=KERNEL, name="k", seconds=1.0, calls=1)
        found.add(kernel, outcome, DEVICE, lowering(5))
        assert (found.wrong, found.lost, found.entries) == ([KERNEL], [], [])
        assert "thrown away, for its numbers are wrong (other numbers)" in found.lines[0]
        record, theirs = tmp_path / str(packaged) / "x86-64.json", tmp_path / "package" / "x86-64.json"
        tuning.save(theirs if packaged else record, {KERNEL: entry(5, 2.0)})
        files = (theirs,) if packaged else (record,)
        target = replace(target, tuning={KERNEL: entry(5, 2.0)}, record=record, tuning_files=files)
        job: Any = SimpleNamespace(target=target, folder=tmp_path, trials=trials)
        said = tune._kept(job, found, Finds(None, resolve(target)), Deadline.after(60))
        assert said == ["nothing faster was found", f"1 entry out of {record}"]
        assert [one.changes for one in tuning.read(record).values()] == ([()] if packaged else [])
    finds = Finds(shared, resolve(target))
    finds.add(entry(5, 2.0))
    finds.add(entry(6, 1.5))
    finds.remove(KERNEL, [lowering(5)])
    others = Finds(shared, resolve(target))
    others.fetch([KERNEL])
    assert finds.of(KERNEL) == others.of(KERNEL) == [lowering(6)]


def test_an_entry_without_changes_leaves_a_kernel_as_the_compiler_lowers_it(tmp_path: Path) -> None:
    project = Project(tmp_path)
    before = load(project.targets).executables["x86-64-v3"]
    kernel = next(iter(before.tuning))
    tuning.save(before.record, {kernel: before.tuning[kernel].voided})
    assert {*before.tuning} - {*load(project.targets).executables["x86-64-v3"].tuning} == {kernel}


def timed(*ratios: float) -> list[Timed]:
    return [Timed("", ratio, ratio, 3) for ratio in ratios]


def test_by_several_threads_the_best_counts_and_by_one_the_worst() -> None:
    assert search._part(timed(2.0, 0.5), timed(1.0, 0.6)) == 0.6
    assert search._part(timed(2.0, 0.5), timed(1.2, 0.6)) == math.inf
    assert search._part(timed(0.7)) == 0.7
    assert search._part([Timed("other numbers", 1.0, 0.5, 3)]) == math.inf
    assert search._part([Timed("", 0.0, 0.0, 0)]) == math.inf


@pytest.fixture
def data(tmp_path: Path) -> TestData:
    folder = tmp_path / "data"
    folder.mkdir()
    found = TestData(folder, "main", (Draw("given", (Tolerance(0.0, 1e-4),)),), ("y",), (True,), {})
    for path in (found.inputs_of(found.draws[0]), found.outputs_of(found.draws[0])):
        arrays.write(path, [np.ones(3, np.float32)])
    return found


@pytest.mark.parametrize(("budget", "runs"), [(1000, 4), (70, 2), (45, 0), (130, 3)])
def test_a_slow_model_is_looked_at_as_often_as_there_is_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: TestData, budget: float, runs: int
) -> None:
    clock, ran = Clock(), list[str]()

    def run(module: Path, way: Device, entry: str, inputs: list[Path], folder: Path, name: str, **limits: Any) -> devices.Run:
        takes = 30.0 if len(ran) < 2 else 50.0  # longer than one knew
        clock.now += min(takes, limits["timeout"])
        if limits["timeout"] < takes:
            return devices.Run("it did not end in time", slow=True)
        ran.append(module.name)
        arrays.write(devices.outputs(folder, name), [np.ones(3, np.float32)])
        return devices.Run("", latency_s=2.0 if module.name == whole.PLAIN else 1.5)

    monkeypatch.setattr(devices, "run", run)
    modules = {kind: tmp_path / kind for kind in (whole.PLAIN, whole.TUNED)}
    faster, said = whole.Comparison(modules, [DEVICE], [data], None, tmp_path).run(Deadline(budget, clock))
    assert clock.now <= budget
    assert faster == (runs > 0)
    assert len(ran) == runs or not faster
    assert ("2000.000 ms without, 1500.000 ms tuned" in said[0]) == faster


@pytest.fixture
def shared(tmp_path: Path) -> SharedCache:
    return SharedCache(open_store(str(tmp_path / "shared")), True, Seal("pieces", b"what the builders share"))


def test_what_one_found_another_starts_from(shared: SharedCache) -> None:
    target = resolve(*executables("x86-64"))
    Finds(shared, target).add(entry(1, 1.5))
    Finds(shared, target).add(entry(2, 2.0))
    for number in range(3, 9):
        Finds(shared, target).add(entry(number, 1.1))
    here = Finds(shared, target)
    assert here.of(KERNEL) == []  # nobody asked yet
    here.fetch([KERNEL, OTHER])
    assert here.of(KERNEL) == [lowering(number) for number in (2, 1, 3, 4)]
    assert here.of(OTHER) == []
    elsewhere = Finds(shared, replace(target, attribute="another"))
    elsewhere.fetch([KERNEL])
    assert elsewhere.of(KERNEL) == []
    alone = Finds(None, target)
    alone.add(entry(1, 1.5))
    assert alone.of(KERNEL) == []


@pytest.mark.parametrize("damage", [b"", b"[3]", b'[{"changes": [], "speed": "x"}]', b'[{"changes": [{}], "speed": 1}]'])
def test_what_is_no_find_is_as_if_it_were_not_there(shared: SharedCache, damage: bytes) -> None:
    finds = Finds(shared, resolve(*executables("x86-64")))
    shared.put(finds._key(KERNEL), damage)
    finds.fetch([KERNEL])
    assert finds.of(KERNEL) == []
    finds.add(entry(1, 1.5))
    assert finds.of(KERNEL) == [lowering(1)]


def test_what_is_measured_is_what_builds_would_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries of the package stay in builds, so they stay in the model that is measured; those of the project go."""
    packaged, made = "kernel_" + "c" * 32, list[set[str]]()
    own = {OTHER: entry(2, 1.5, OTHER)}
    (target,) = executables("x86-64")
    target = replace(target, tuning={packaged: entry(3, 1.5, packaged), **own}, record=tmp_path / "x86-64.json")
    tuning.save(target.record, own)
    monkeypatch.setattr(whole.Comparison, "run", lambda *_: (True, ["faster"]))
    untuned = SimpleNamespace(parameters=None)
    job: Any = SimpleNamespace(target=target, ways=[DEVICE], data=[], folder=tmp_path, untuned=untuned)
    job.compile = lambda _kind, asked: made.append({*asked.tuning})
    found = tune._Found(1.0, entries=[entry(1, 2.0)], lost=[OTHER, packaged])
    said = tune._kept(job, found, Finds(None, resolve(target)), Deadline.after(60))
    assert made == [{KERNEL, packaged}]
    assert {*tuning.read(target.record)} == {KERNEL}
    assert said == ["faster", f"1 entry into {target.record}", f"1 entry out of {target.record}"]


def test_time_goes_to_kernels_as_a_run_does_and_less_of_it_to_what_is_known() -> None:
    trials: Any = None
    kernels = [Kernel(KERNEL, "k", (), trials, Space({}, lambda _: None), seconds, 1) for seconds in (3.0, 0.9, 0.1)]
    assert passes.share(kernels, least=10, left=100) == 75
    assert passes.share(kernels, least=10, left=12) == 10
    assert passes.share(kernels, least=4, left=4) == 4
    assert passes.share(kernels, least=10, left=5) > 5  # no time left


@dataclass
class Runs:
    """Searches of kernels that find something better each time, for so many times."""

    clock: Clock
    better: int
    asked: list[tuple[str, float]] = field(default_factory=list)

    def begin(self, kernel: Kernel) -> Any:
        outcome, runs = Outcome(changes=lowering(1), before=1.0, after=1.0), self

        class One:
            def run(self, deadline: Deadline, hints: Sequence[Any]) -> Outcome:
                runs.asked.append((kernel.kernel, deadline.left))
                runs.clock.now += deadline.left if outcome.after > 1 - runs.better / 100 else deadline.left / 2
                outcome.ended = outcome.after <= 1 - runs.better / 100
                outcome.after -= 0 if outcome.ended else 0.01
                return outcome

        return One()


def passes_of(budget: float, better: int = 1000) -> tuple[list[tuple[str, float]], float]:
    """Which kernel was searched for how long, and when all was over."""
    trials: Any = None
    space = Space({}, lambda _: None)
    kernels = [Kernel(name, "k", (), trials, space, seconds, 1) for name, seconds in ((KERNEL, 3.0), (OTHER, 1.0))]
    runs = Runs(Clock(), better)
    passes.run(kernels, runs.begin, lambda _: False, Deadline(budget, runs.clock))
    return runs.asked, runs.clock.now


def test_a_longer_search_begins_as_a_shorter_one() -> None:
    short, long = passes_of(360)[0], passes_of(3600)[0]
    assert short == long[: len(short)] == [(KERNEL, 90), (OTHER, 30), (KERNEL, 180), (OTHER, 60)]
    assert sum(seconds for _, seconds in long) == 3600


def test_the_last_kernel_has_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def tick(self: Clock) -> float:
        self.now += 1e-6
        return self.now

    monkeypatch.setattr(Clock, "__call__", tick)
    assert [kernel for kernel, _ in passes_of(360)[0]] == [KERNEL, OTHER, KERNEL, OTHER]


def test_a_search_ends_where_nothing_better_comes() -> None:
    asked, ended = passes_of(3600, better=1)
    assert len(asked) == 4
    assert ended < 360


def test_the_trace_tells_what_was_found_by_when() -> None:
    clock, used = Clock(), Clock()
    trace = Trace({KERNEL: 0.6, OTHER: 0.3}, clock, used)
    for seconds, kernel, part, tried in ((10, KERNEL, 0.5, 8), (100, OTHER, 1.0, 8), (130, KERNEL, 0.4, 16)):
        clock.now, used.now = seconds, seconds * 2
        trace.note(kernel, part, tried)
    assert [*trace.lines()] == [
        "after 10 s (20 s of CPU): 8 tried, its kernels 1.429×",
        "after 100 s (200 s of CPU): 16 tried, its kernels 1.429×",
        "after 130 s (260 s of CPU): 24 tried, its kernels 1.562×",
    ]
    assert trace.encode().splitlines()[-1] == b"130.0,260.0,24,0.6400"


def test_a_deadline_is_of_its_clock() -> None:
    clock = Clock(5.0)
    deadline = Deadline(15.0, clock)
    assert (deadline.left, deadline.within(3), deadline.within(30)) == (10, 3, 10)
    assert (deadline.sooner(4).left, deadline.sooner(40).left, deadline.before(2).left) == (4, 10, 8)
    clock.now = 20
    assert (deadline.left, deadline.sooner(4).left) == (0, 0)
    assert Deadline(math.inf).left == math.inf
