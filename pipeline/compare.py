"""How far outputs are from their reference, and whether that is too far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Tolerance:
    """How far an output may be from the reference: |error| ≤ absolute + relative × |reference|."""

    absolute: float
    relative: float


@dataclass(frozen=True)
class Comparison:
    """The distance of outputs from the reference; `problem` is empty when every output is within tolerance.

    Errors are the largest over all outputs: absolute, and relative to the largest reference value.
    """

    max_abs: float
    max_rel: float
    problem: str


def _one(index: int, got: np.ndarray[Any, Any], reference: np.ndarray[Any, Any], tolerance: Tolerance) -> Comparison:
    import numpy as np

    if got.shape != reference.shape:
        return Comparison(math.inf, math.inf, f"output {index} has shape {got.shape}, the reference {reference.shape}")
    if got.dtype != reference.dtype and got.dtype.kind in "iu" and reference.dtype.kind in "iu":
        got = got.view(reference.dtype) if got.itemsize == reference.itemsize else got  # MLIR integers carry no sign
    if got.dtype != reference.dtype:
        return Comparison(math.inf, math.inf, f"output {index} is {got.dtype}, the reference {reference.dtype}")
    a, b = got.astype(np.float64), reference.astype(np.float64)
    same = (got == reference) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.abs(a - b))
    error = np.where(np.isnan(error), np.inf, error)
    if reference.dtype.kind in "iu":
        error = np.where(same, 0.0, np.maximum(error, 1.0))  # neighbours above 2^53 are one float64
    largest = float(np.abs(np.where(np.isfinite(b), b, 0)).max(initial=0.0))
    max_abs = float(error.max(initial=0.0))
    max_rel = max_abs / largest if largest else max_abs
    bad = ~(error <= tolerance.absolute + tolerance.relative * np.abs(np.where(np.isfinite(b), b, 0)))
    problem = ""
    if bad.any():
        problem = (
            f"output {index}: {int(bad.sum())} of {bad.size} values are off, by up to {max_abs:.3g} "
            f"(tolerance {tolerance.absolute:g} + {tolerance.relative:g} × |reference|)"
        )
    return Comparison(max_abs, max_rel, problem)


def compare(
    found: Sequence[np.ndarray[Any, Any]], reference: Sequence[np.ndarray[Any, Any]], tolerances: Sequence[Tolerance]
) -> Comparison:
    """Compare outputs with their reference by position; `tolerances` has one for each reference."""
    if len(found) != len(reference):
        return Comparison(math.inf, math.inf, f"{len(found)} outputs, the reference has {len(reference)}")
    results = [_one(i, f, r, t) for i, (f, r, t) in enumerate(zip(found, reference, tolerances, strict=True))]
    return Comparison(
        max((r.max_abs for r in results), default=0.0),
        max((r.max_rel for r in results), default=0.0),
        "; ".join(r.problem for r in results if r.problem),
    )
