"""How each variant was verified, as values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.files import write
from pipeline.stages.record import canonical


@dataclass(frozen=True)
class Evidence:
    """How a variant was verified.

    `kind` is `device` (its very bytes ran on a device that its gates accept), `emulator` (on one that QEMU plays), `twin`
    (code lowered the same way ran on a software device) or `untested`, with the `reason`. A `reason` beside the other kinds
    says what the proof leaves out. Errors are the largest over all outputs: absolute, and relative to the largest reference
    value; `of_tolerance` is the largest part of a tolerance that was used, `draws` how many sets of test data were compared.
    `driver` is empty for the CPU; `subgroup_sizes` are those of the Vulkan device as it ran. `seconds`: one inference.
    """

    variant: str
    kind: str
    reason: str = ""
    device: str = ""
    driver: str = ""
    runtime: str = ""
    max_abs_error: float | None = None
    max_rel_error: float | None = None
    of_tolerance: float | None = None
    draws: int = 0
    subgroup_sizes: tuple[int, ...] = ()
    seconds: float | None = None


def _most(a: float | None, b: float | None) -> float | None:
    return b if a is None else a if b is None else max(a, b)


def merged(first: Evidence, other: Evidence) -> Evidence:
    """The evidence of two runs on one device, as one: the larger errors, the fewer draws."""
    return replace(
        first,
        reason=first.reason or other.reason,
        max_abs_error=_most(first.max_abs_error, other.max_abs_error),
        max_rel_error=_most(first.max_rel_error, other.max_rel_error),
        of_tolerance=_most(first.of_tolerance, other.of_tolerance),
        draws=min(first.draws, other.draws),
        subgroup_sizes=tuple(sorted({*first.subgroup_sizes, *other.subgroup_sizes})),
    )


def write_evidence(path: Path, evidence: Sequence[Evidence]) -> None:
    """Write as JSON, whole or not at all."""
    write(path, canonical([asdict(e) for e in evidence]))


def read_evidence(path: Path) -> list[Evidence]:
    """What `write_evidence` wrote."""
    try:
        found = [Evidence(**item) for item in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError) as error:
        raise PipelineError(
            f"not evidence of this version: {error}", where=str(path), hint="remove the file, run doit"
        ) from error
    return [replace(e, subgroup_sizes=tuple(e.subgroup_sizes)) for e in found]
