"""How each variant was verified, as values, and how outputs are compared with the reference."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.compare import Comparison
from pipeline.compare import compare as compare_arrays
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


def compare(found: Path, reference: Path, model: Model) -> Comparison:
    """Compare two .npz files of outputs, whose arrays are named by position, by the model's tolerances."""
    import numpy as np

    def arrays(path: Path) -> list[np.ndarray[Any, Any]]:
        with np.load(path) as archive:
            return [archive[name] for name in sorted(archive, key=int)]

    wanted = arrays(reference)
    return compare_arrays(arrays(found), wanted, [model.tolerance_for(str(array.dtype)) for array in wanted])


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
