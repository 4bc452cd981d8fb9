"""The search for a faster lowering of one kernel: what to try next is optuna's to say, after guesses by a model of costs."""

from __future__ import annotations

import itertools
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import optuna

from pipeline.errors import PipelineError
from pipeline.files import fresh_folder
from pipeline.iree.codegen.pieces import Code
from pipeline.iree.device import Device
from pipeline.iree.spaces import Space, Values
from pipeline.iree.tuning import Lowering
from pipeline.tuner import rounds
from pipeline.tuner.rounds import Timed
from pipeline.tuner.trials import Trials

_AT_ONCE = 8  # ways that are compiled and measured together
_SLOW, _SLOW_AT_ONCE = 0.05, 3  # seconds of a call, above which they are fewer
_ROUNDS, _SURE = 7, 21  # of measuring, at first and of those that win
_FINALISTS = 3
_WORTH = 0.95  # of the untuned time
_NO_WORSE = 1.05  # by several threads
_ASKED = 200  # trials for a batch, of which most may be known, or not worth the while
_HOPELESS = 3.0  # of the untuned time, as it is estimated: what is not tried
_STALE = 3  # batches that brought nothing better end a search
_BETTER = 0.99
_SEARCHED = 0.85  # of the time; the rest is to measure the best again
_SEED = 16


@dataclass
class Outcome:
    """What was found of a kernel: the best lowering's `changes`, none if nothing is better, and `values`, empty where a record
    had it; seconds of a call, without and with, by one thread where the device has threads.

    `tried` ways were run, of which `wrong` ones gave other numbers: what was lowered how, and what differed; `refused` were not
    compiled, or did not run.
    """

    changes: Lowering = ()
    values: Values = field(default_factory=dict)
    before: float = 0.0
    after: float = 0.0
    rounds: int = 0
    tried: int = 0
    refused: int = 0
    wrong: list[tuple[Lowering, str]] = field(default_factory=list)


def _part(times: Sequence[Timed]) -> float:
    """What part of the untuned time a lowering takes, by the last of the ways to run it; infinite for one that is wrong, or much
    slower by another."""
    if any(one.wrong or not one.rounds for one in times) or any(one.ratio > _NO_WORSE for one in times[:-1]):
        return math.inf
    return times[-1].ratio


class Search:
    """The search for one kernel, on a device in `ways` to run code there: by the last of them, and the others must not lose.

    Its files go into `folder`. `known` lowerings, of a record, are tried first, then `hints`, values that were the best for other
    kernels, as far as they are in this space. `tell` is called with what part of the untuned
    time the best one takes, after how many.
    """

    def __init__(
        self,
        trials: Trials,
        space: Space,
        ways: Sequence[Device],
        folder: Path,
        cores: int,
        known: Sequence[Lowering] = (),
        hints: Sequence[Values] = (),
        tell: Callable[[float, int], None] = lambda _part, _tried: None,
    ) -> None:
        self._trials, self._space, self._ways, self._folder, self._cores = trials, space, ways, folder, cores
        self._say = tell
        self._known = [changes for changes in known if changes]
        self._hints = [
            {name: hint[name] for name in space.knobs}
            for hint in hints
            if all(hint.get(name) in choices for name, choices in space.knobs.items())
        ]
        self._values: dict[Lowering, Values] = {}
        self._seen: dict[Lowering, float] = {}
        self._outcome = Outcome()
        self._numbers = itertools.count()
        self._base: Code | None = None
        self._distributions: dict[str, optuna.distributions.BaseDistribution] = {
            name: optuna.distributions.IntDistribution(0, len(values) - 1) for name, values in space.knobs.items()
        }

    def run(self, seconds: float) -> Outcome:
        """Search for about so long. Raises PipelineError if the compiler's own code of the kernel cannot be made or run."""
        started = time.monotonic()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            optuna.logging.set_verbosity(optuna.logging.ERROR)
            sampler = optuna.samplers.TPESampler(seed=_SEED, multivariate=True, constant_liar=True)
        study = optuna.create_study(sampler=sampler)
        for guess in (*self._hints, *self._space.guesses):
            study.enqueue_trial({name: self._space.knobs[name].index(value) for name, value in guess.items()})
        self._measure(self._known)
        best, stale, batch_seconds, began = self._best(), 0, 0.0, time.monotonic()
        while stale < _STALE and self._batch(study):
            batch_seconds = max(batch_seconds, time.monotonic() - began)
            began = time.monotonic()
            if began - started + batch_seconds > _SEARCHED * seconds:
                break
            stale = 0 if self._best() < _BETTER * best else stale + 1
            best = min(best, self._best())
        self._confirm()
        return self._outcome

    def _best(self) -> float:
        return min([1.0, *self._seen.values()])

    def _batch(self, study: optuna.Study) -> bool:
        """Try some more; False where there is nothing new to try."""
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
            if len(asked) == (_SLOW_AT_ONCE if self._outcome.before > _SLOW else _AT_ONCE):
                break
        self._measure(list(asked))
        for lowering, trials in asked.items():
            for trial in trials:
                _tell(study, trial, self._seen[lowering])
        return bool(asked)

    def _measure(self, asked: Sequence[Lowering]) -> None:
        """Compile, run and measure what is asked: `_seen` then has the part of the untuned time that each takes."""
        self._seen |= dict.fromkeys(asked, math.inf)
        with fresh_folder(self._folder / str(next(self._numbers))) as folder:
            first: list[Lowering] = [] if self._base else [()]
            codes = self._trials.generate([*first, *asked], folder, self._cores)
            if first:
                self._base = codes.pop(0)
            made = {changes: code for changes, code in zip(asked, codes, strict=True) if code}
            self._outcome.refused += len(asked) - len(made)
            self._time(made, folder, _ROUNDS, self._ways[-1:])
        self._say(self._best(), self._outcome.tried)

    def _time(
        self, made: Mapping[Lowering, Code], folder: Path, count: int, ways: Sequence[Device]
    ) -> dict[Lowering, list[Timed]]:
        """What was measured of each; those with which the process ends badly are tried one by one."""
        if self._base is None:
            raise PipelineError("the compiler does not make its code in time")
        try:
            module = self._trials.module([self._base, *made.values()], folder)
            measured = rounds.measure(module, self._trials.call, 1 + len(made), ways, folder, count)
        except PipelineError:
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
        first, *others = zip(*measured, strict=True)
        self._outcome.before = first[-1].seconds
        found = {changes: list(times) for changes, times in zip(made, others, strict=True)}
        for changes, times in found.items():
            self._seen[changes] = _part(times)
            self._outcome.tried += 1
            if wrong := next(filter(None, (one.wrong for one in times)), ""):
                self._outcome.wrong.append((changes, wrong))
        return found

    def _confirm(self) -> None:
        """Keep the best, if it is better in two more measurements, by each way to run it no worse."""
        likely = sorted((part, number, changes) for number, (changes, part) in enumerate(self._seen.items()) if part < _WORTH)
        finalists = [changes for _, _, changes in likely[:_FINALISTS]]
        if not finalists:
            return
        with fresh_folder(self._folder / "confirm") as folder:
            codes = self._trials.generate(finalists, folder, self._cores)
            made = {changes: code for changes, code in zip(finalists, codes, strict=True) if code}
            parts: dict[Lowering, list[float]] = {}
            for number in range(2):
                tried = self._outcome.tried
                with fresh_folder(folder / f"again-{number}") as again:
                    for changes, times in self._time(made, again, _SURE, self._ways).items():
                        parts.setdefault(changes, []).append(_part(times))
                self._outcome.tried = tried
        sure = {changes: max(found) for changes, found in parts.items() if len(found) > 1 and max(found) < _WORTH}
        if sure:
            self._outcome.changes = min(sure, key=lambda changes: sure[changes])
            self._outcome.values = self._values.get(self._outcome.changes, {})
            self._outcome.after = self._outcome.before * sure[self._outcome.changes]
            self._outcome.rounds = 2 * _SURE


def _tell(study: optuna.Study, trial: optuna.trial.Trial, part: float) -> None:
    if part == math.inf:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    else:
        study.tell(trial, math.log(part))
