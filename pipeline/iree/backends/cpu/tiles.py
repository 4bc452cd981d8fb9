"""Tiles of products of matrices that fill the registers: values that are read are used most often.

The tile is what is summed up in registers, rows × columns; a group is what a work-group computes in such tiles.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

_GROUP = 6144  # results, at most, of a work-group
_READ = 2  # how many multiplications it takes to read a value, where a work-group's matrices do not lie in the nearest cache
# With 16 registers: the rows that are computed at a time, and in how many vectors if they are 1, 2, … 6.
_TALL, _VECTORS = 6, (8, 4, 4, 2, 2, 2)
# With 32 registers: the vectors of 1, 2, … 5 rows, and how many rows there may be in two and in one.
_VECTORS_OF_32, _IN_TWO, _IN_ONE = (8, 8, 8, 4, 4), range(5, 13), range(13, 25)
# There, rows at a time where some are left over, in how many tiles' time those are computed, and in how many vectors' columns.
_SOME, _ROWS_LEFT, _COLUMNS_LEFT = 8, 2.4, 3
FEW = 5  # rows, at most, of which there are tiles for every CPU

Shape = tuple[int, int]


@dataclass(frozen=True)
class Tiles:
    """How a product is divided, and how many terms of its sums are added at a time, if it matters."""

    tile: Shape
    group: Shape
    steps: int = 1


def of_16(shape: Shape, lanes: int, before: int) -> Tiles | None:
    """For a result of this shape, 16 registers and vectors of so many `lanes`, instead of so many groups as there were `before`.

    Groups divide the shape: IREE makes nothing good of what is left over. In a tile of fewer rows sums wait for each other, each
    tile is begun anew, narrow groups read more for each result, and with few of them threads may have nothing to do.
    """
    tall = min(shape[0], _TALL)
    wide = _whole(shape[1], lanes * _VECTORS[tall - 1], 2 * lanes)

    def used(group: Shape) -> float:
        whole, rest = divmod(group[0], tall)
        return group[0] / (whole * tall + (max(rest, tall - 1) if rest else 0) + 1)

    every = [Tiles((tall, wide), group) for group in _groups(shape) if wide and not group[1] % wide]
    return max(every, key=lambda t: (_worth(t.group, shape, before) * used(t.group), math.prod(t.group)), default=None)


def of_few_rows(shape: Shape, lanes: int, before: int) -> Tiles | None:
    """The same for a product of so few rows that IREE fills the registers of no CPU."""
    return of_16(shape, lanes, before) if shape[0] <= FEW else None


def of_32(shape: Shape, lanes: int, before: int) -> Tiles | None:
    """The same with 32 registers and masks, for AVX-512: a tile that divides its group is worth more than a large one.

    Measured on a Zen 4, which makes 59 billion multiplications a second on one thread: any tile of at least eight sums that
    leaves nothing over reaches 58, of float16 49. Where rows are left over 15 to 42, columns 27 to 49; 14 columns of 16 make
    50, and of those that are no power of two only such as one vector holds are of use: 48 columns make 2.
    """

    def used(tiles: Tiles) -> float:
        (tall, wide), (rows, columns) = tiles.tile, tiles.group
        lines = rows // tall + (_ROWS_LEFT if rows % tall else 0)
        vectors = columns // wide * -(-wide // lanes) + (_COLUMNS_LEFT if columns % wide else 0)
        return rows * columns / (lines * tall * vectors * lanes)

    every = [
        Tiles((tall, wide), group, _SOME // 2 if group[0] % tall else 1)
        for tall, wide in _tiles_of_32(shape, lanes)
        for group in _groups(shape)
        if not (group[0] % tall and shape[0] % tall == 0) and not (group[1] % wide and shape[1] % wide == 0)
    ]
    return max(every, key=lambda t: (_worth(t.group, shape, before) * used(t), math.prod(t.group)), default=None)


def _tiles_of_32(shape: Shape, lanes: int) -> Iterator[Shape]:
    rows, columns = shape
    if rows <= FEW:
        wide = _whole(columns, lanes * _VECTORS_OF_32[rows - 1], lanes)
        yield from [(rows, wide)] if wide else []
        return
    several = [n for n in _divisors(rows) if n in _IN_TWO]
    alone = [n for n in _divisors(rows) if n in _IN_ONE]
    tall = max(several or alone or [_SOME])
    if several or not alone:
        yield tall, 2 * lanes
    yield tall, lanes
    yield from [(tall, part)] if (part := max(n for n in _divisors(columns) if n < lanes)) > lanes * 3 // 4 else []


def _whole(columns: int, most: int, least: int) -> int:
    """The widest tile that leaves no column over; 0 if there is none."""
    return next((n for n in (most >> i for i in range(4)) if n >= least and not columns % n), 0)


def _groups(shape: Shape) -> Iterator[Shape]:
    return ((m, n) for m, n in itertools.product(*map(_divisors, shape)) if m * n <= _GROUP)


def _worth(group: Shape, shape: Shape, before: int) -> float:
    groups = math.prod(n // m for n, m in zip(shape, group, strict=True))
    read = 1 + _READ * sum(1 / n for n in group)
    return float(min(1, groups / before) ** 0.25 / read)


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, min(number, _GROUP) + 1) if not number % n]
