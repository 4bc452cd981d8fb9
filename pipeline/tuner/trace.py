"""What a search had found by when."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

_FIRST = 60.0  # seconds, of which it is told what was found until then


def cpu() -> float:
    """Seconds of CPU that this process and those that it waited for had."""
    return sum(os.times()[:4])


@dataclass(frozen=True)
class Mark:
    """After so many seconds, of which CPUs here worked for `cpu`, so many ways were `tried`, and the kernels of a run took `part`
    of their untuned time by the best of them, as they were measured at first."""

    seconds: float
    cpu: float
    tried: int
    part: float


class Trace:
    """The marks of a search that begins here, of kernels that take these `shares` of a run."""

    def __init__(
        self, shares: Mapping[str, float], clock: Callable[[], float] = time.monotonic, used: Callable[[], float] = cpu
    ) -> None:
        self._shares, self._clock, self._used = shares, clock, used
        self._began, self._had = clock(), used()
        self._parts: dict[str, float] = {}
        self._tried: dict[str, int] = {}
        self.marks: list[Mark] = []

    def note(self, kernel: str, part: float, tried: int) -> None:
        """The best of what was tried of a kernel takes this part of its untuned time."""
        self._parts[kernel], self._tried[kernel] = part, tried
        saved = sum((1 - part) * self._shares[name] for name, part in self._parts.items())
        passed, used = self._clock() - self._began, self._used() - self._had
        self.marks.append(Mark(passed, used, sum(self._tried.values()), 1 - saved))

    def encode(self) -> bytes:
        """All marks, as a table with commas."""
        rows = [f"{mark.seconds:.1f},{mark.cpu:.1f},{mark.tried},{mark.part:.4f}" for mark in self.marks]
        return "".join(f"{row}\n" for row in ("seconds,cpu,tried,part", *rows)).encode()

    def lines(self) -> Iterator[str]:
        """What was found after one minute, two, four and so on, and at last."""
        after, told = _FIRST, Mark(0.0, 0.0, 0, 1.0)
        for mark in self.marks:
            while mark.seconds > after:
                yield _told(told)
                after *= 2
            told = mark
        yield _told(told)


def _told(mark: Mark) -> str:
    return f"after {mark.seconds:.0f} s ({mark.cpu:.0f} s of CPU): {mark.tried} tried, its kernels {1 / mark.part:.3f}×"
