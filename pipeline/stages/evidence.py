"""How each variant was verified, as values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.files import write
from pipeline.manifest.evidence import AccuracyProof, DriverLatency, RuntimeInfo, Witness
from pipeline.stages.record import canonical


@dataclass(frozen=True)
class Measured:
    """What test data of an exported function showed: the largest errors, absolute and relative to the largest reference value,
    the largest part of a tolerance that was used, how many sets were compared, and the seconds of one inference."""

    function: str
    max_abs_error: float
    max_rel_error: float
    of_tolerance: float
    draws: int
    seconds: float | None = None


@dataclass(frozen=True)
class Evidence:
    """How a variant was verified.

    `kind` is `device` (its very bytes ran on a device that its gates accept), `emulator` (on one that QEMU plays), `twin`
    (code lowered the same way ran on a software device) or `untested`, with the `reason`. A `reason` beside the other kinds
    says what the proof leaves out. `functions`: what was measured of each.
    `driver` is empty for the CPU; `subgroup_sizes` are those of the Vulkan device as it ran. The last eight are what
    `manifest.evidence.VariantProof` has.
    """

    variant: str
    kind: str
    reason: str = ""
    device: str = ""
    driver: str = ""
    functions: tuple[Measured, ...] = ()
    subgroup_sizes: tuple[int, ...] = ()
    load_s: float | None = None
    latency_s: float | None = None
    spread_s: float | None = None
    rounds: int = 0
    peak_memory: int | None = None
    matrix_kernels: int | None = None
    accuracy: tuple[AccuracyProof, ...] = ()
    drivers: tuple[DriverLatency, ...] = ()

    @property
    def max_abs_error(self) -> float | None:
        """The largest absolute error of all functions."""
        return max((f.max_abs_error for f in self.functions), default=None)

    @property
    def of_tolerance(self) -> float | None:
        """The largest part of a tolerance that was used."""
        return max((f.of_tolerance for f in self.functions), default=None)

    @property
    def seconds(self) -> float | None:
        """One inference of the first function."""
        return self.functions[0].seconds if self.functions else None


def _both(a: Measured, b: Measured) -> Measured:
    return replace(
        a,
        max_abs_error=max(a.max_abs_error, b.max_abs_error),
        max_rel_error=max(a.max_rel_error, b.max_rel_error),
        of_tolerance=max(a.of_tolerance, b.of_tolerance),
        draws=min(a.draws, b.draws),
    )


def merged(first: Evidence, other: Evidence) -> Evidence:
    """The evidence of two runs on one device, as one: the larger errors, the fewer draws, of the functions that both ran."""
    there = {f.function: f for f in other.functions}
    return replace(
        first,
        reason=first.reason or other.reason,
        functions=tuple(_both(f, there[f.function]) for f in first.functions if f.function in there),
        subgroup_sizes=tuple(sorted({*first.subgroup_sizes, *other.subgroup_sizes})),
    )


def write_evidence(path: Path, evidence: Sequence[Evidence]) -> None:
    """Write as JSON, whole or not at all."""
    write(path, canonical([asdict(e) for e in evidence]))


def write_witness(path: Path, made: str, witness: Witness) -> None:
    """Write who saw it, and when."""
    write(path, canonical({"made": made, "witness": asdict(witness)}))


def read_witness(path: Path) -> tuple[str, Witness]:
    """What `write_witness` wrote."""
    try:
        said = json.loads(path.read_text())
        return said["made"], Witness(**said["witness"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise PipelineError(f"is not of this version: {error}", where=str(path), hint="remove the file, run doit") from error


def write_runtimes(path: Path, tried: Sequence[RuntimeInfo]) -> None:
    """Write as JSON, whole or not at all."""
    write(path, canonical([asdict(info) for info in tried]))


def read_runtimes(path: Path) -> list[RuntimeInfo]:
    """What `write_runtimes` wrote."""
    try:
        return [RuntimeInfo(**item) for item in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError) as error:
        raise PipelineError(f"is not of this version: {error}", where=str(path), hint="remove the file, run doit") from error


def read_evidence(path: Path) -> list[Evidence]:
    """What `write_evidence` wrote."""
    try:
        found = [Evidence(**item) for item in json.loads(path.read_text())]
        found = [replace(e, functions=tuple(Measured(**f) for f in e.functions)) for e in found]  # type: ignore[arg-type]
        found = [replace(e, accuracy=tuple(AccuracyProof(**a) for a in e.accuracy)) for e in found]  # type: ignore[arg-type]
        found = [replace(e, drivers=tuple(DriverLatency(**d) for d in e.drivers)) for e in found]  # type: ignore[arg-type]
    except (OSError, ValueError, TypeError) as error:
        raise PipelineError(
            f"is no evidence of this version: {error}", where=str(path), hint="remove the file, run doit"
        ) from error
    return [replace(e, subgroup_sizes=tuple(e.subgroup_sizes)) for e in found]
