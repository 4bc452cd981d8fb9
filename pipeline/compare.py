"""How far outputs are from their reference, how far they may be, and whether that is too far.

What is right for an output depends on the output: an error of 1e-4 is nothing beside 1000 and everything beside 1e-5. So a
tolerance is in units of the output's own size, and of the noise that the reference itself shows.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Tolerance:
    """How far an output may be from its reference: each value, and all values together.

    Each: |error| ≤ absolute + relative × |reference| + scaled × size. All: the root mean square of error / size ≤ rms; None
    asks for no such thing. The size of a value is the root mean square of the reference around it: see `sizes`.
    """

    absolute: float
    relative: float
    scaled: float = 0.0
    rms: float | None = None


@dataclass(frozen=True)
class Comparison:
    """The distance of outputs from the reference; `problem` is empty when every output is within its tolerance.

    Errors are the largest over all outputs: absolute, and relative to the largest reference value. `of_tolerance` is the largest
    part of a tolerance that was used: more than 1 is too far.
    """

    max_abs: float
    max_rel: float
    of_tolerance: float
    problem: str


# (each, all together): for a value and for the root mean square, in units of the output's size. What a few hundred roundings
# and the approximations of exp, tanh or erf on GPUs explain; a tenth or less of what computing in the next narrower type does.
_ROUNDING: Mapping[str, tuple[float, float]] = {
    "float64": (1e-9, 1e-10),
    "float32": (1e-4, 5e-5),
    "float16": (1e-2, 2e-3),
    "bfloat16": (8e-2, 1.6e-2),
}
# An output may be this many times as far off as its reference moves when the inputs move by one unit in the last place.
_NOISE = 4.0
# Of an output that one unit in the last place moves by more than this part of its size, nothing can be said.
_UNSTABLE = 0.1
_SLICE = 16  # values that make a size


def sizes(reference: Array) -> Array:
    """The size of each value: the smallest root mean square of the slices it is in, one for each axis, and of the whole.

    An output may hold things of different sizes, such as pixels and probabilities: each is measured by its own. Slices of
    fewer than 16 values do not count, and no size is below a thousandth of the whole's. Infinities and NaN count as 0. For
    integers and booleans it is 1.
    """
    import numpy as np

    if reference.dtype.kind not in "fc":
        return np.ones(reference.shape)
    values = reference.astype(np.float64)
    square = np.square(np.where(np.isfinite(values), values, 0.0))
    whole = math.sqrt(float(square.mean())) if square.size else 0.0
    result = np.full(reference.shape, whole)
    for axis, count in enumerate(reference.shape):
        if reference.ndim > 1 and count > 1 and square.size // count >= _SLICE:
            others = tuple(a for a in range(reference.ndim) if a != axis)
            result = np.minimum(result, np.sqrt(square.mean(axis=others, keepdims=True)))
    least: Array = np.maximum(result, whole / 1000)
    return least


def _errors(got: Array, reference: Array) -> Array:
    """|got - reference|, infinite where only one of them is finite or a number."""
    import numpy as np

    a, b = got.astype(np.float64), reference.astype(np.float64)
    same = (got == reference) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.abs(a - b))
    error = np.where(np.isnan(error), np.inf, error)
    if reference.dtype.kind in "iu":
        error = np.where(same, 0.0, np.maximum(error, 1.0))  # neighbours above 2^53 are one float64
    return error


def _rms(values: Array) -> float:
    import numpy as np

    with np.errstate(over="ignore"):
        return math.sqrt(float(np.square(values).mean())) if values.size else 0.0


def _ratio(error: Array, by: Array) -> Array:
    import numpy as np

    with np.errstate(divide="ignore", invalid="ignore"):
        result: Array = np.where(error == 0, 0.0, error / by)
        return result


def noise(reference: Array, moved: Sequence[Array]) -> tuple[float, float]:
    """How far a reference moves, in units of its size: a single value at most, and the root mean square.

    `moved` are the same output for inputs that differ by a unit in the last place, or computed in a wider type. Values that
    are not finite in both say nothing.
    """
    import numpy as np

    each, together = 0.0, 0.0
    for other in moved:
        finite = np.isfinite(reference.astype(np.float64)) & np.isfinite(other.astype(np.float64))
        distance = np.where(
            finite, _ratio(np.abs(other.astype(np.float64) - reference.astype(np.float64)), sizes(reference)), 0.0
        )
        distance = np.where(np.isfinite(distance), distance, 0.0)
        each, together = max(each, float(distance.max(initial=0.0))), max(together, _rms(distance))
    return each, together


def tolerance_for(reference: Array, precision: str, moved: Sequence[Array] = ()) -> Tolerance:
    """The tolerance of an output, from its reference, the coarsest type it is computed in, and what `noise` takes.

    Integers and booleans must be exact, but for as far as the reference itself moves.
    """
    each, together = noise(reference, moved)
    if reference.dtype.kind not in "fc":
        return Tolerance(each, 0.0, 0.0, together * _NOISE)
    rounding, rounding_rms = _ROUNDING[precision or str(reference.dtype)]
    return Tolerance(0.0, rounding, rounding + _NOISE * each, rounding_rms + _NOISE * together)


def is_unstable(reference: Array, tolerance: Tolerance) -> bool:
    """Whether the reference moves so far with the last place of its inputs that it tells nothing."""
    import numpy as np

    size = 1.0 if reference.dtype.kind == "f" else _rms(reference.astype(np.float64))
    return tolerance.rms is not None and tolerance.rms > _NOISE * _UNSTABLE * size > 0


def tolerances_for(
    outputs: Sequence[Array], precisions: Sequence[str] = (), moved: Sequence[Sequence[Array]] = ()
) -> list[Tolerance]:
    """`tolerance_for` each of a model's outputs, computed in their own types unless `precisions` says another.

    What moves so far that it has another shape says nothing of noise.
    """
    whole = [other for other in moved if [a.shape for a in other] == [a.shape for a in outputs]]
    coarsest = precisions or [""] * len(outputs)
    return [tolerance_for(array, coarsest[i], [other[i] for other in whole]) for i, array in enumerate(outputs)]


def _one(name: str, got: Array, reference: Array, tolerance: Tolerance) -> Comparison:
    import numpy as np

    if got.shape != reference.shape:
        return Comparison(math.inf, math.inf, math.inf, f"{name} has shape {got.shape}, the reference {reference.shape}")
    if got.dtype != reference.dtype and got.dtype.kind in "iu" and reference.dtype.kind in "iu":
        got = got.view(reference.dtype) if got.itemsize == reference.itemsize else got  # MLIR integers carry no sign
    if got.dtype != reference.dtype:
        return Comparison(math.inf, math.inf, math.inf, f"{name} is {got.dtype}, the reference {reference.dtype}")
    error, size = _errors(got, reference), sizes(reference)
    with np.errstate(invalid="ignore"):
        magnitude = np.abs(np.where(np.isfinite(reference), reference, 0).astype(np.float64))
    allowed = tolerance.absolute + tolerance.relative * magnitude + tolerance.scaled * size
    each = _ratio(error, allowed)
    together = _rms(_ratio(error, size)) if tolerance.rms is not None else 0.0
    largest, max_abs = float(magnitude.max(initial=0.0)), float(error.max(initial=0.0))
    of_tolerance = max(float(each.max(initial=0.0)), float(_ratio(np.array(together), np.array(tolerance.rms or 0.0))))
    problem = ""
    if (bad := each > 1).any():
        worst = np.unravel_index(int(each.argmax()), each.shape)
        problem = (
            f"{name}: {int(bad.sum())} of {bad.size} values are off, the worst is {_said(got[worst])} instead of "
            f"{_said(reference[worst])}, where ±{allowed[worst]:.2g} is allowed"
        )
    elif of_tolerance > 1:
        problem = f"{name}: the whole is off by {together:.2g} of its size, where {tolerance.rms:.2g} is allowed"
    return Comparison(max_abs, max_abs / largest if largest else max_abs, of_tolerance, problem)


def _said(value: Any) -> str:
    """A number for people: integers whole, for they may differ in the last digit."""
    return f"{value:.6g}" if value.dtype.kind == "f" else str(value)


def compare(
    found: Sequence[Array],
    reference: Sequence[Array],
    tolerances: Sequence[Tolerance],
    names: Sequence[str] = (),
    spared: Collection[int] = (),
) -> Comparison:
    """Compare outputs with their reference by position; `tolerances` has one for each, `names` are what messages call them.

    Outputs whose number is in `spared` are not looked at.
    """
    if len(found) != len(reference):
        return Comparison(math.inf, math.inf, math.inf, f"{len(found)} outputs, the reference has {len(reference)}")
    called = names or [f"output {i}" for i in range(len(reference))]
    numbered = enumerate(zip(called, found, reference, tolerances, strict=True))
    results = [_one(*four) for index, four in numbered if index not in spared]
    return Comparison(
        max((r.max_abs for r in results), default=0.0),
        max((r.max_rel for r in results), default=0.0),
        max((r.of_tolerance for r in results), default=0.0),
        _first([r.problem for r in results if r.problem]),
    )


def _first(problems: Sequence[str]) -> str:
    more = len(problems) - 1
    return "".join(problems[:1]) + (f" (and {more} more output{'s' if more > 1 else ''})" if more > 0 else "")
