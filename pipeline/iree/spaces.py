"""The ways in which a kernel can be lowered: knobs, what their values mean as attributes, and guesses at which are good.

What the compiler chose gives a space its form: its pipeline stays, its lists of tile sizes get other numbers. What the compiler
does not take, or makes something slow or wrong of, the tuner finds out; nothing here has to know. Each backend has its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline.iree.tuning import Lowering

Values = Mapping[str, int]


@dataclass(frozen=True)
class Place:
    """An operation of a kernel that says how it is lowered: see `Change`. `loops`: the extents of its loops, None if unknown."""

    index: int
    operation: str
    attributes: Mapping[str, str]
    loops: tuple[int | None, ...]


@dataclass(frozen=True)
class Space:
    """`knobs`: the values that each can have. `lower` says what some values mean; None for what makes no sense.

    `guesses` are what to try first. `part` is what part of the compiler's own lowering's time some values may take, roughly, by a
    model of costs.
    """

    knobs: Mapping[str, Sequence[int]]
    lower: Callable[[Values], Lowering | None]
    guesses: Sequence[Values] = ()
    part: Callable[[Values], float] = lambda _values: 1.0


def numbers(text: str) -> list[int]:
    """The whole numbers of a list in MLIR's text, without its brackets."""
    return [int(number) for number in text.split(",") if number.strip()]


def powers(limit: int, start: int = 1) -> Iterator[int]:
    """Powers of two up to `limit`."""
    while start <= limit:
        yield start
        start *= 2


def ordered(values: Iterable[int]) -> list[int]:
    """Each value once, the smallest first."""
    return sorted(set(values))
