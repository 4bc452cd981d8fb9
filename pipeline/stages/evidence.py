"""How each variant was verified, as values, and how outputs are compared with the reference."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.files import write
from pipeline.spec.types import Model
from pipeline.stages.record import canonical


@dataclass(frozen=True)
class Evidence:
    """How a variant was verified.

    `kind` is `device` (its very bytes ran on a device that its gates accept), `twin` (code lowered the same way ran on
    a software device) or `untested`, with the `reason`. A `reason` beside the other kinds says what the proof leaves
    out. Errors are the largest over all outputs: absolute, and relative to the largest reference value. `driver` is
    empty for the CPU.
    """

    variant: str
    kind: str
    reason: str = ""
    device: str = ""
    driver: str = ""
    runtime: str = ""
    max_abs_error: float | None = None
    max_rel_error: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Comparison:
    """The distance of outputs from the reference; `problem` is empty when every output is within tolerance."""

    max_abs: float
    max_rel: float
    problem: str


def _one(index: int, found: object, wanted: object, model: Model) -> Comparison:
    import numpy as np

    got, reference = np.asarray(found), np.asarray(wanted)
    if got.shape != reference.shape:
        return Comparison(math.inf, math.inf, f"output {index} has shape {got.shape}, the reference {reference.shape}")
    if got.dtype != reference.dtype and got.dtype.kind in "iu" and reference.dtype.kind in "iu":
        got = got.view(reference.dtype) if got.itemsize == reference.itemsize else got  # MLIR integers carry no sign
    if got.dtype != reference.dtype:
        return Comparison(math.inf, math.inf, f"output {index} is {got.dtype}, the reference {reference.dtype}")
    tolerance = model.tolerance_for(str(reference.dtype))
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


def compare(found: Path, reference: Path, model: Model) -> Comparison:
    """Compare two .npz files of outputs by the model's tolerances."""
    import numpy as np

    with np.load(found) as mine, np.load(reference) as theirs:
        if sorted(mine) != sorted(theirs):
            return Comparison(math.inf, math.inf, f"{len(mine.files)} outputs, the reference has {len(theirs.files)}")
        results = [_one(int(n), mine[n], theirs[n], model) for n in sorted(theirs, key=int)]
    return Comparison(
        max((r.max_abs for r in results), default=0.0),
        max((r.max_rel for r in results), default=0.0),
        "; ".join(r.problem for r in results if r.problem),
    )


def write_evidence(path: Path, evidence: Sequence[Evidence]) -> None:
    """Write as JSON, whole or not at all."""
    write(path, canonical([asdict(e) for e in evidence]))


def read_evidence(path: Path) -> list[Evidence]:
    """What `write_evidence` wrote."""
    try:
        return [Evidence(**item) for item in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError) as error:
        raise PipelineError(
            f"not evidence of this version: {error}", where=str(path), hint="remove the file, run doit"
        ) from error
