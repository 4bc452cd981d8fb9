"""Line charts as values: where each line goes in a picture of 360 × 180, which a template draws."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 360, 180
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 26
HUES = 8  # lines that can be told apart; the others are in the table
_STEPS = 4  # lines of the grid, at most
_LEAST, _MOST = 1e-300, 1e300  # values on a scale: what is beyond, as only a forged document has it, is drawn there
_WIDE = 60.0  # times the smallest value, from where on a scale of powers of ten tells more


@dataclass(frozen=True)
class Series:
    """A line: a value for each label, None where there is none; `texts` are the values for people."""

    name: str
    values: tuple[float | None, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Mark:
    """A place in the picture, and what is there."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Line:
    """A series as it is drawn: `path` is SVG's, `marks` its values, `hue` its colour from 1 on."""

    name: str
    hue: int
    path: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Chart:
    """A chart of `series` over `labels`, the oldest first, with the picture's lines, its grid and what is below it."""

    title: str
    labels: tuple[str, ...]
    series: tuple[Series, ...]
    lines: tuple[Line, ...]
    grid: tuple[Mark, ...]
    ends: tuple[Mark, ...]


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high`, by powers of ten where it is `logarithmic`, and where the grid is."""

    low: float
    high: float
    logarithmic: bool
    steps: tuple[float, ...]

    def part(self, value: float) -> float:
        """Where the value is, from 0 at the lower end to 1."""
        value = _drawn(value)
        if self.logarithmic:
            return (math.log10(value) - math.log10(self.low)) / (math.log10(self.high) - math.log10(self.low))
        return (value - self.low) / (self.high - self.low)


def scale(values: Sequence[float]) -> Scale:
    """A scale on which all these values, of which there is one at least, can be seen."""
    values = [_drawn(value) for value in values]
    top, positive = max(values), [value for value in values if value > 0]
    if top <= 0:
        return Scale(0.0, 1.0, False, (0.0, 1.0))
    if len(positive) == len(values) and top / min(positive) > _WIDE:
        low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(top))
        every = -(-(high - low) // _STEPS)
        return Scale(10.0**low, 10.0**high, True, tuple(10.0**power for power in range(low, high + 1, every)))
    step = _nice(top / _STEPS)
    count = math.ceil(top / step - 1e-9)
    return Scale(0.0, step * count, False, tuple(step * number for number in range(count + 1)))


def _drawn(value: float) -> float:
    return min(max(value, _LEAST), _MOST) if value > 0 else value


def _nice(step: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= step * (1 - 1e-9))


def chart(title: str, labels: Sequence[str], series: Sequence[Series], text: Scaled) -> Chart | None:
    """The chart, or None where there is not one value; `text` says a value of the grid for people."""
    known = [value for one in series for value in one.values if value is not None and math.isfinite(value)]
    if not known:
        return None
    fits = scale(known)
    grid = tuple(Mark(_LEFT, _y(fits, value), text(value)) for value in fits.steps)
    lines = tuple(_line(one, hue, fits, len(labels)) for hue, one in enumerate(series[:HUES], 1))
    ends = tuple(Mark(_x(i, len(labels)), HEIGHT - 8, labels[i]) for i in sorted({0, len(labels) - 1}))
    return Chart(title, tuple(labels), tuple(series), lines, grid, ends)


class Scaled:
    """How values of a kind are said: in one unit for a whole chart."""

    def __init__(self, unit: str, factor: float = 1.0) -> None:
        self.unit, self.factor = unit, factor

    def __call__(self, value: float) -> str:
        """The value for people."""
        return f"{value * self.factor:.3g} {self.unit}".rstrip()


def bytes_scaled(values: Sequence[float]) -> Scaled:
    """Bytes in the unit that fits the largest."""
    top = max(values, default=0.0)
    return next((Scaled(unit, 1 / size) for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if top >= size), Scaled("B"))


def _x(index: int, count: int) -> float:
    room = WIDTH - _LEFT - _RIGHT
    return round(_LEFT + room * (index / (count - 1) if count > 1 else 0.5), 1)


def _y(fits: Scale, value: float) -> float:
    return round(HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * fits.part(value), 1)


def _line(series: Series, hue: int, fits: Scale, count: int) -> Line:
    marks = tuple(_marks(series, fits, count))
    path = " ".join(f"{'L' if i else 'M'}{mark.x:g} {mark.y:g}" for i, mark in enumerate(marks))
    return Line(series.name, hue, path, marks)


def _marks(series: Series, fits: Scale, count: int) -> Iterator[Mark]:
    for index, (value, text) in enumerate(zip(series.values, series.texts, strict=True)):
        if value is not None and math.isfinite(value):
            yield Mark(_x(index, count), _y(fits, value), text)
