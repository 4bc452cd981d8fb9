"""When something has to be done."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Deadline:
    """The moment `at` by a `clock` that only goes forward, in seconds."""

    at: float
    clock: Callable[[], float] = time.monotonic

    @staticmethod
    def after(seconds: float) -> Deadline:
        """So many seconds from now."""
        return Deadline(time.monotonic() + seconds)

    @property
    def left(self) -> float:
        """Seconds until then; 0 where it is over."""
        return max(self.at - self.clock(), 0.0)

    def within(self, seconds: float) -> float:
        """So many seconds, or what is left where that is less."""
        return min(seconds, self.left)

    def sooner(self, seconds: float) -> Deadline:
        """In so many seconds from now, or this one where that is sooner."""
        return replace(self, at=min(self.at, self.clock() + seconds))

    def before(self, seconds: float) -> Deadline:
        """So many seconds before this one."""
        return replace(self, at=self.at - seconds)
