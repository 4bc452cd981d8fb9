"""The smallest part of a sequence for which something still holds: bisection from both ends, then delta debugging."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

Part = tuple[int, ...]


class Search:
    """Looks for the smallest part that `fails`, until `deadline` (of time.monotonic); `best` is the smallest found so far.

    The whole must fail: it is `best` at first. `is_smallest`: without any one of its elements it passes.
    """

    def __init__(self, count: int, fails: Callable[[Part], bool], deadline: float, found: Callable[[Part], None]) -> None:
        self.best: Part = tuple(range(count))
        self.is_smallest = False
        self._fails, self._deadline, self._found = fails, deadline, found
        self._known: dict[Part, bool] = {}

    def run(self, suspects: Sequence[Sequence[int]] = ()) -> None:
        """Begin with the first of the `suspects` that fails, or with the whole."""
        if not any(self._try(part) for part in suspects):
            self._bisect(lambda whole, count: whole[:count])
            self._bisect(lambda whole, count: whole[len(whole) - count :])
        self._remove()

    @property
    def _is_late(self) -> bool:
        return time.monotonic() > self._deadline

    def _try(self, part: Iterable[int]) -> bool:
        """Whether a part fails; if so, and it is smaller, it is the best by now."""
        wanted = tuple(sorted(part))
        if not wanted or self._is_late:
            return False
        if wanted not in self._known:
            self._known[wanted] = self._fails(wanted)
        if self._known[wanted] and len(wanted) < len(self.best):
            self.best = wanted
            self._found(wanted)
        return self._known[wanted]

    def _bisect(self, end: Callable[[Part, int], Part]) -> None:
        """Find the shortest end that fails, supposing that every longer one does too."""
        whole, passes, fails = self.best, 0, len(self.best)
        while fails - passes > 1:
            middle = (passes + fails) // 2
            if self._try(end(whole, middle)):
                fails = middle
            else:
                passes = middle

    def _remove(self) -> None:
        """Take away pieces, smaller and smaller ones (Zeller's ddmin)."""
        size = max(len(self.best) // 2, 1)
        while not self._is_late:
            starts = range(0, len(self.best), size)
            if any(self._try((*self.best[:start], *self.best[start + size :])) for start in starts):
                size = min(size, max(len(self.best) // 2, 1))
            elif size == 1:
                self.is_smallest = not self._is_late
                return
            else:
                size //= 2
