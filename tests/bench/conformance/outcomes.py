"""Many tests: a process for each, a file of their outcomes, and a summary."""

from __future__ import annotations

import json
import random
import re
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

from pipeline import process
from pipeline.consume.facts import to_json
from pipeline.consume.render import columns
from pipeline.errors import PipelineError
from pipeline.files import write
from pipeline.iree import devices
from tests.bench.conformance.case import Outcome
from tests.bench.conformance.suite import Case

OUTCOMES = ("right", "wrong", "refused", "slow", "crashed", "closed")
LIMIT = 180.0  # seconds for one test
MOST = 25  # lines of a table
_cases = process.Forks([sys.executable, "-m", "tests.bench.conformance.case"])


def attempt(wheel: Path, case: Case, facts: Path, folder: Path, targets: Sequence[str] = (), is_open: bool = False) -> Outcome:
    """The outcome of one test, whose work is in `folder`, however its process ends."""
    shutil.rmtree(folder, ignore_errors=True)
    started = time.monotonic()
    log, shapes = folder / "case.log", "open" if is_open else "fixed"
    try:
        ended = _cases.execute([wheel, case.name, facts, folder, shapes, *targets], log, timeout=LIMIT, env={})
    except PipelineError as error:
        if process.interrupted():
            raise
        outcome = Outcome(case.name, "slow", message=error.what)
    else:
        if ended.returncode == 0:
            return Outcome.decode((folder / "outcome.json").read_bytes())
        outcome = Outcome(case.name, "crashed", message=f"{ended.ending}: {process.tail(log, 1).strip()}")
    return replace(outcome, operators=case.operators, stage=_stage(log), seconds=round(time.monotonic() - started, 1))


def _stage(log: Path) -> str:
    """The last stage that a test's process began."""
    words = [line for line in log.read_text("utf-8", "replace").splitlines() if re.fullmatch("[a-z]+", line)]
    return words[-1] if words else ""


class Results:
    """The file of outcomes: one is added when it is known, so that nothing is lost when this process ends."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self.found: dict[str, Outcome] = {}
        for line in path.read_bytes().splitlines() if path.exists() else ():
            try:
                outcome = Outcome.decode(line)
            except (ValueError, KeyError, TypeError):
                continue  # half a line: that test is done again
            self.found[outcome.name] = outcome

    def add(self, outcome: Outcome) -> None:
        """Add an outcome."""
        with self._lock, self._path.open("ab") as file:
            self.found[outcome.name] = outcome
            file.write(outcome.encode())


def run(
    wheel: Path,
    cases: Sequence[Case],
    folder: Path,
    jobs: int,
    tell: Callable[[str], None],
    targets: Sequence[str] = (),
    is_open: bool = False,
) -> list[Outcome]:
    """The outcomes of `cases`, in order. Those that `folder/results.jsonl` has are taken from there; the rest is made in an
    order by chance, so that what there is of it is a sample of all."""
    results, facts = Results(folder / "results.jsonl"), folder / "devices.json"
    write(facts, json.dumps(to_json(devices.find(folder / "devices"))).encode())
    todo = [case for case in cases if case.name not in results.found]
    random.Random(len(todo)).shuffle(todo)

    def one(case: Case) -> Outcome:
        work = folder / "work" / case.name.replace("/", "-")
        outcome = attempt(wheel, case, facts, work, targets, is_open)
        results.add(outcome)
        if outcome.outcome in ("right", "closed"):
            shutil.rmtree(work)
        return outcome

    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(one, case) for case in todo]
        try:
            for number, future in enumerate(as_completed(futures), len(cases) - len(todo) + 1):
                tell(f"{number}/{len(cases)} {_line(future.result())}")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [results.found[case.name] for case in cases]


def _line(outcome: Outcome) -> str:
    stage = f" by {outcome.stage}" if outcome.stage else ""
    without = f" (without {', '.join(outcome.dropped)})" if outcome.dropped else ""
    message = f": {outcome.message}" if outcome.message else ""
    return f"{outcome.name} {outcome.outcome}{stage}{without} {outcome.seconds:.1f} s{message}"


def bad(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Those that must not be: published and wrong, or crashed."""
    return [outcome for outcome in outcomes if outcome.outcome in ("wrong", "crashed")]


def summary(outcomes: Sequence[Outcome], unfit: Mapping[str, str]) -> list[str]:
    """Tables: by outcome, by refusing stage, the most frequent messages, by operator, and what was left out and why."""
    lines = ["", f"{len(outcomes)} tests, {sum(o.seconds for o in outcomes):.0f} s of processes"]
    lines += columns([(str(_count(outcomes, kind)), kind) for kind in OUTCOMES], right=(0,))
    short = [o for o in outcomes if o.outcome == "right" and o.dropped]
    lines += [f"{len(short)} of the right ones without some variant"] if short else []
    settled = sum(bool(o.settled) for o in outcomes if o.outcome == "right")
    lines += [f"{settled} of the right ones with axes, shapes or sizes that the spec gives as values"] if settled else []
    astray = [o.name for o in outcomes if o.reference]
    lines += [f"ONNX Runtime itself differs from: {', '.join(astray)}"] if astray else []
    lines += _frequent("refused by", (o.stage for o in outcomes if o.outcome == "refused"))
    lines += _frequent("why refused", (f"{o.stage}: {_general(o.message)}" for o in outcomes if o.outcome == "refused"))
    lines += _frequent("dropped", (f"{v}: {_general(r)}" for o in outcomes for v, r in o.dropped.items()))
    lines += _frequent("unchecked", (f"{v}: {kind}" for o in outcomes for v, kind in o.unchecked.items()))
    lines += _frequent("left out", unfit.values())
    for outcome in OUTCOMES[:0:-1]:
        named = [o for o in outcomes if o.outcome == outcome not in ("refused", "closed")]
        lines += ["", f"{outcome}:", *(f"  {_line(o)}" for o in named)] if named else []
    return [*lines, "", *_by_operator(outcomes)]


def _count(outcomes: Iterable[Outcome], kind: str) -> int:
    return sum(outcome.outcome == kind for outcome in outcomes)


# What differs from test to test in a message: where the whole of it is, names but not those of operations, paths, numbers.
_PARTICULARS = (
    (r" \((the whole|log:).*", ""),
    (r"\S*/\S+", "…"),
    (r"'[^'.]*'|\"[^\".]*\"|%[^ ,)]+", "…"),
    (r"(?<![\w-])-?\d[\d.e+-]*", "N"),
    (r"\[[^]]*\]", "[…]"),
)


def _general(message: str) -> str:
    """A message without its particulars, to count the same complaint about different tests."""
    for pattern, instead in _PARTICULARS:
        message = re.sub(pattern, instead, message)
    return message[:200]


def _frequent(title: str, messages: Iterable[str]) -> list[str]:
    counted = Counter(messages).most_common()
    if not counted:
        return []
    shown = columns([(str(count), message) for message, count in counted[:MOST]], right=(0,))
    left = sum(count for _, count in counted[MOST:])
    return ["", f"{title}:", *(f"  {line}" for line in shown), *([f"  {left} others"] if left else [])]


def _by_operator(outcomes: Sequence[Outcome]) -> list[str]:
    """A test counts for each of its operators."""
    counts: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        for operator in outcome.operators:
            counts.setdefault(operator, Counter())[outcome.outcome] += 1
    rows = [(name, *(str(counts[name][kind] or "") for kind in OUTCOMES)) for name in sorted(counts)]
    return columns([("operator", *OUTCOMES), *rows], right=range(1, 1 + len(OUTCOMES)))
