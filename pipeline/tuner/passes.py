"""The time of a search, shared among the kernels of a model: all within a while, then on for twice as long, and so on.

So a longer search begins as a shorter one does, and what is hard to find is looked for when all that is easy was found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.errors import PipelineError
from pipeline.iree.spaces import Values
from pipeline.tuner.deadline import Deadline
from pipeline.tuner.kernels import Kernel
from pipeline.tuner.outcome import Outcome

_FIRST = 120.0  # seconds in which each kernel is searched once
_LEAST, _LEAST_KNOWN = 10.0, 4.0  # seconds for a kernel; with fewer nothing is found, or what is known is not confirmed
_HINTS = 6  # of the last kernels' best, that are tried for the next one


class Search(Protocol):
    """The search for one kernel."""

    def run(self, deadline: Deadline, hints: Sequence[Values]) -> Outcome:
        """Search until then, from where the last call stopped."""


@dataclass
class Searched:
    """What came of a kernel; None, and why, where nothing did."""

    outcome: Outcome | None = None
    problem: str = "no time left"


def run(
    kernels: Sequence[Kernel], begin: Callable[[Kernel], Search], is_known: Callable[[Kernel], bool], deadline: Deadline
) -> list[Searched]:
    """What came of each of the `kernels`, each searched for the part of the time that it has of a run.

    `begin` begins the search for one, `is_known` says whether others found something that only has to be confirmed.
    """
    found, searches = [Searched() for _ in kernels], dict[int, Search]()
    waiting, hints, least, seconds = [*range(len(kernels))], list[Values](), _LEAST, _FIRST
    while waiting and deadline.left:
        until, ran, over = deadline.sooner(seconds), False, set[int]()
        for place, number in enumerate(waiting):
            kernel = kernels[number]
            enough = _LEAST_KNOWN if number not in searches and is_known(kernel) else least
            left = until.left  # which is less a moment later
            part = share([kernels[other] for other in waiting[place:]], enough, left)
            if part > left:
                continue
            ran, before = True, _part(found[number])
            try:
                if number not in searches:
                    searches[number] = begin(kernel)
                outcome = searches[number].run(until.sooner(part), hints[-_HINTS:])
            except PipelineError as error:
                over.add(number)
                found[number].problem = f"left as it is: {error.what.splitlines()[0]}"
                continue
            found[number].outcome = outcome
            least = max(_LEAST, outcome.least)  # this machine may have other work
            if outcome.values:
                hints = [*(hint for hint in hints if hint != outcome.values), outcome.values]
            if outcome.ended and before is not None and (_part(found[number]) or 1.0) >= before:
                over.add(number)
        if not ran and until.left >= deadline.left:
            break
        waiting = [number for number in waiting if number not in over]
        seconds *= 2
    return found


def _part(searched: Searched) -> float | None:
    """What part of the untuned time the best of a kernel takes; None where it was not searched."""
    outcome = searched.outcome
    if outcome is None:
        return None
    return outcome.after / outcome.before if outcome.changes else 1.0


def share(kernels: Sequence[Kernel], least: float, left: float) -> float:
    """Seconds for the first of the kernels that wait: its part of what is left, but no less than brings something."""
    part = left * kernels[0].seconds / sum(kernel.seconds for kernel in kernels)
    return max(part, least)
