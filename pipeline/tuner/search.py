"""The search for a faster lowering of one kernel: what to try next is optuna's to say, after guesses by a model of costs."""

from __future__ import annotations

import itertools
import math
import shutil
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import optuna

from pipeline.errors import PipelineError
from pipeline.files import fresh_folder
from pipeline.iree.codegen.pieces import Code
from pipeline.iree.device import Device
from pipeline.iree.spaces import Values
from pipeline.iree.tuning import Lowering
from pipeline.tuner import rounds
from pipeline.tuner.deadline import Deadline
from pipeline.tuner.kernels import Kernel
from pipeline.tuner.makers import Makers
from pipeline.tuner.outcome import Outcome
from pipeline.tuner.rounds import Timed

_AT_ONCE = 8  # ways that are compiled and measured together
_SLOW = 0.05  # seconds of a call, above which measuring it once more is enough
_ROUNDS, _SURE = 7, 21  # of measuring, at first and of those that win
_FINALISTS = 3
_WORTH = 0.95  # of the untuned time
_NO_WORSE = 1.05  # by several threads
_ASKED = 200  # trials for a batch, of which most may be known, or not worth the while
_HOPELESS = 3.0  # of the untuned time, as it is estimated: what is not tried
_STALE = 3  # batches that brought nothing better end a search
_BETTER = 0.99
_START, _MAKING = 1.5, 1.0  # seconds that a process takes before it measures, and the compiler before one knows
_MORE = 0.25  # of what the compiler takes for a lowering, for each one more at a time
_PATIENT, _PATIENCE = 3, 30.0  # times as long as measuring should take, or seconds: other work may keep it from starting
_SEED = 16


def _part(*seen: Sequence[Timed]) -> float:
    """What part of the untuned time a lowering takes, by the last of the ways to run it, the worst of the times it was measured;
    infinite for one that is wrong, or slower by another way whenever it was measured: there other work on the machine counts."""
    if any(one.wrong or not one.rounds for times in seen for one in times):
        return math.inf
    *others, last = zip(*seen, strict=True)
    if any(min(one.ratio for one in way) > _NO_WORSE for way in others):
        return math.inf
    part: float = max(one.ratio for one in last)
    return part


@dataclass(frozen=True)
class _Asked:
    """Lowerings of which code is being made, in a folder, each with the trials that asked for it."""

    trials: dict[Lowering, list[optuna.trial.Trial]]
    folder: Path
    codes: Future[tuple[list[Code | None], float]]


class Search:
    """The search for one kernel, on a device in `ways` to run code there: by the last of them, and the others must not lose.

    Its files go into `folder`, code is made by `makers`. `known` lowerings, of a record or of others who searched, are tried
    first. `tell` is called with what part of the untuned time the best one takes, after how many. From what is known it goes
    another way than from nothing. Whoever makes code elsewhere makes the next ones while these are measured; here that would take
    caches and cores of what is measured.
    """

    def __init__(
        self,
        kernel: Kernel,
        ways: Sequence[Device],
        folder: Path,
        makers: Makers,
        known: Sequence[Lowering] = (),
        tell: Callable[[float, int], None] = lambda _part, _tried: None,
    ) -> None:
        self._trials, self._space, self._ways, self._folder, self._makers = kernel.trials, kernel.space, ways, folder, makers
        self._say = tell
        self._deadline, self._once = Deadline.after(0), kernel.seconds / kernel.calls
        self._known = list(dict.fromkeys(changes for changes in known if changes))
        self._hints: list[Values] = []
        self._study: optuna.Study | None = None
        self._finalists: list[Lowering] = []
        self._part = 0.0  # of the untuned time that the best takes, once it was measured again
        self._values: dict[Lowering, Values] = {}
        self._seen: dict[Lowering, float] = {}
        self._made: dict[Lowering, Code] = {}
        self._batch_before = (0, _MAKING)  # how many lowerings beside the first were made last, and the seconds of that
        self._pace = 1.0  # how many times as long as on a quiet machine measuring took last
        self._linking = 0.0  # seconds that the last module took
        self._outcome = Outcome()
        self._numbers = itertools.count()
        self._base: Code | None = None
        self._distributions: dict[str, optuna.distributions.BaseDistribution] = {
            name: optuna.distributions.IntDistribution(0, len(values) - 1) for name, values in kernel.space.knobs.items()
        }

    def run(self, deadline: Deadline, hints: Sequence[Values] = ()) -> Outcome:
        """Search until then, or until nothing better seems to come; from where the last call stopped, if there was one.

        `hints`, values that were the best for other kernels, are tried first, as far as they are in this space. Raises
        PipelineError if the compiler's own code of the kernel cannot be made or run in time.
        """
        self._deadline, self._outcome.ended = deadline, False
        self._pace = max(1.0, self._pace / 2)  # what kept the machine busy may be over
        if self._study is None:
            self._study = self._begun()
            began = deadline.clock()
            self._measure(self._known[: max(self._room(), 1)])
            self._outcome.least = deadline.clock() - began + self._needed(1)
            if self._known and math.isfinite(part := self._seen[self._known[0]]):
                self._outcome.known = part
        self._enqueue(self._study, hints)
        batches = 1 - -self._makers.cores // _AT_ONCE if self._makers.are_elsewhere else 1
        with ThreadPoolExecutor(batches) as pool:
            self._try(self._study, pool, batches)
        self._confirm()
        self._outcome.after = self._outcome.before * self._part
        return self._outcome

    def _begun(self) -> optuna.Study:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            optuna.logging.set_verbosity(optuna.logging.ERROR)
            seed = _SEED + zlib.crc32(repr(self._known).encode())
            sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
        return optuna.create_study(sampler=sampler)

    def _enqueue(self, study: optuna.Study, hints: Sequence[Values]) -> None:
        """Let the hints that are new be tried next; before the first batch the space's guesses, too."""
        knobs = self._space.knobs
        fit = [{name: hint[name] for name in knobs} for hint in hints if all(hint.get(n) in c for n, c in knobs.items())]
        new = [hint for hint in fit if hint not in self._hints]
        self._hints += new
        for guess in (*new, *(() if study.trials else self._space.guesses)):
            study.enqueue_trial({name: knobs[name].index(value) for name, value in guess.items()})

    def _try(self, study: optuna.Study, pool: ThreadPoolExecutor, most: int) -> None:
        """Ask, make, measure and tell, some ways at a time, in at most so many batches at once, until time is over or nothing
        better comes."""
        best, stale, ahead = self._best(), 0, deque[_Asked]()
        while stale < _STALE:
            while len(ahead) < most and (room := self._room(sum(len(one.trials) for one in ahead))):
                if not (trials := self._asked(study, room)):
                    self._outcome.ended = not ahead
                    break
                ahead.append(self._sent(trials, pool))
            if not ahead:
                return
            self._received(study, ahead.popleft())
            stale = 0 if self._best() < _BETTER * best else stale + 1
            best = min(best, self._best())
        self._outcome.ended = True
        for left in ahead:
            self._received(study, left)

    @property
    def _again(self) -> int:
        """How often what seems best is measured again."""
        return 1 if self._once > _SLOW else 2

    def _sure(self, count: int) -> float:
        """Seconds that it takes to measure so many lowerings again."""
        return self._linking + self._again * self._expected(count, _SURE, len(self._ways))

    def _room(self, sent: int = 0) -> int:
        """How many lowerings can be made and measured, beside those `sent`, and the best again, before time is over."""
        left = self._deadline.left - (self._linking + self._expected(sent, _ROUNDS, 1) if sent else 0)
        return next((count for count in range(_AT_ONCE, 0, -1) if self._needed(count) <= left), 0)

    def _needed(self, count: int) -> float:
        """Seconds that it takes to make and measure so many lowerings, and the best of them again."""
        made, took = self._batch_before
        making = took * (1 + _MORE * count) / (1 + _MORE * made)
        return making + self._expected(count, _ROUNDS, 1) + self._sure(1)

    def _expected(self, count: int, times: int, ways: int) -> float:
        """Seconds that it takes to run so many lowerings, and the untuned one, in so many rounds."""
        return self._pace * (_START + ways * (1 + count) * rounds.expected(self._once, times))

    @contextmanager
    def _counted(self, what: str) -> Iterator[None]:
        """Add what the block takes to the outcome's seconds of this name."""
        began = self._deadline.clock()
        try:
            yield
        finally:
            setattr(self._outcome, what, getattr(self._outcome, what) + self._deadline.clock() - began)

    def _best(self) -> float:
        return min([1.0, *self._seen.values()])

    def _asked(self, study: optuna.Study, room: int) -> dict[Lowering, list[optuna.trial.Trial]]:
        """So many lowerings more to try, each with the trials that asked for it; none where there is nothing new."""
        asked: dict[Lowering, list[optuna.trial.Trial]] = {}
        for _ in range(_ASKED):
            trial = study.ask(self._distributions)
            values = {name: choices[trial.params[name]] for name, choices in self._space.knobs.items()}
            lowering = self._space.lower(values)
            if lowering is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            elif (part := self._space.part(values)) > _HOPELESS:
                _tell(study, trial, part)
            elif not lowering or lowering in self._seen:
                _tell(study, trial, self._seen.get(lowering, 1.0))
            else:
                asked.setdefault(lowering, []).append(trial)
                self._values[lowering] = values
            if len(asked) == room:
                break
        return asked

    def _sent(self, trials: dict[Lowering, list[optuna.trial.Trial]], pool: ThreadPoolExecutor) -> _Asked:
        """Have the code of these lowerings made."""
        self._seen |= dict.fromkeys(trials, math.inf)
        folder = self._folder / str(next(self._numbers))
        folder.mkdir(parents=True)
        return _Asked(trials, folder, pool.submit(self._generate, [*trials], folder))

    def _generate(self, asked: Sequence[Lowering], folder: Path) -> tuple[list[Code | None], float]:
        """The code of these lowerings, and the seconds that it took."""
        began = self._deadline.clock()
        codes = self._trials.generate(asked, folder, self._makers, self._deadline)
        return codes, self._deadline.clock() - began

    def _received(self, study: optuna.Study, asked: _Asked) -> None:
        """Measure what was made, and tell the study."""
        codes, took = asked.codes.result()
        self._batch_before = (len(codes), took)
        self._outcome.compiling += took
        self._look([*asked.trials], codes, asked.folder)
        shutil.rmtree(asked.folder, ignore_errors=True)
        for lowering, trials in asked.trials.items():
            if (
                math.isinf(self._seen[lowering]) and not self._deadline.left
            ):  # there was no time for it: it comes first if there is
                del self._seen[lowering]
                study.enqueue_trial(trials[0].params)
                continue
            for trial in trials:
                _tell(study, trial, self._seen[lowering])

    def _measure(self, known: Sequence[Lowering]) -> None:
        """Make and measure the compiler's own code, and what is known."""
        self._seen |= dict.fromkeys(known, math.inf)
        with fresh_folder(self._folder / str(next(self._numbers))) as folder:
            (self._base, *codes), took = self._generate([(), *known], folder)
            self._batch_before = (len(known), took)
            self._outcome.compiling += took
            self._look(known, codes, folder)

    def _look(self, asked: Sequence[Lowering], codes: Sequence[Code | None], folder: Path) -> None:
        """Run and measure what was made: `_seen` then has the part of the untuned time that each takes."""
        made = {changes: code for changes, code in zip(asked, codes, strict=True) if code}
        self._made |= made
        self._outcome.refused += len(asked) - len(made) if self._deadline.left else 0
        self._time(made, folder, _ROUNDS, self._ways[-1:])
        self._say(self._best(), self._outcome.tried)

    def _time(
        self, made: Mapping[Lowering, Code], folder: Path, count: int, ways: Sequence[Device]
    ) -> dict[Lowering, list[Timed]]:
        """What was measured of each, as far as there was time; those with which the process ends badly are tried one by one."""
        if self._base is None:
            raise PipelineError("the compiler does not make its code in time")
        try:
            measured = self._run(self._module(made, folder), len(made), folder, count, ways)
        except PipelineError:
            if made and not self._deadline.left:
                return {}
            if len(made) > 1:
                found: dict[Lowering, list[Timed]] = {}
                for number, (changes, code) in enumerate(made.items()):
                    with fresh_folder(folder / f"alone-{number}") as alone:
                        found |= self._time({changes: code}, alone, count, ways)
                return found
            if not made:
                raise
            self._outcome.refused += 1
            return {}
        found = dict(zip(made, measured, strict=True))
        for changes, times in found.items():
            self._seen[changes] = _part(times)
            self._outcome.tried += any(one.rounds or one.wrong for one in times)
            if wrong := next(filter(None, (one.wrong for one in times)), ""):
                self._outcome.wrong.append((changes, wrong))
        return found

    def _module(self, made: Mapping[Lowering, Code], folder: Path) -> Path:
        """A module that runs the untuned kernel and these."""
        assert self._base is not None
        began = self._deadline.clock()
        with self._counted("compiling"):
            module = self._trials.module([self._base, *made.values()], folder)
        self._linking = self._deadline.clock() - began
        return module

    def _run(self, module: Path, count: int, folder: Path, times: int, ways: Sequence[Device]) -> list[list[Timed]]:
        """What was measured, in each way, of the `count` lowerings in a module."""
        expected, began = self._expected(count, times, len(ways)), self._deadline.clock()
        seconds = self._deadline.within(max(_PATIENT * expected, _PATIENCE))
        with self._counted("running"):
            measured = rounds.measure(module, self._trials.call, 1 + count, ways, folder, times, seconds)
        self._pace = max(1.0, self._pace * (self._deadline.clock() - began) / expected)
        first, *others = zip(*measured, strict=True)
        self._outcome.before = self._once = first[-1].seconds
        return [list(of_each_way) for of_each_way in others]

    def _confirm(self) -> None:
        """Keep the best, if it is better when measured again, twice where there is time; by each way to run it no worse."""
        found = ((part, number, changes) for number, (changes, part) in enumerate(self._seen.items()) if part < _WORTH)
        likely = sorted(found)[:_FINALISTS]
        while len(likely) > 1 and self._sure(len(likely)) > self._deadline.left:
            likely.pop()
        finalists = [changes for _, _, changes in likely]
        if not set(finalists) - set(self._finalists):  # these were measured again when the search stopped before
            return
        seen: list[list[list[Timed]]] = []
        with fresh_folder(self._folder / "again") as folder, suppress(PipelineError):  # with fewer, or none, in time
            module = self._module({changes: self._made[changes] for changes in finalists}, folder)
            while len(seen) < self._again and self._deadline.left:
                seen.append(self._run(module, len(finalists), folder, _SURE, self._ways))
        if not seen:
            return
        self._finalists = finalists
        parts = {changes: _part(*times) for changes, *times in zip(finalists, *seen, strict=True)}
        best = min(finalists, key=lambda changes: parts[changes])
        if parts[best] < _WORTH:
            self._outcome.changes, self._outcome.values = best, self._values.get(best, {})
            self._part = parts[best]
            self._outcome.rounds = sum(one[finalists.index(best)][-1].rounds for one in seen)


def _tell(study: optuna.Study, trial: optuna.trial.Trial, part: float) -> None:
    if part == math.inf:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    else:
        study.tell(trial, math.log(part))
