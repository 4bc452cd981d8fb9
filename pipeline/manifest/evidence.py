"""What is published about how a release was verified: documents beside it, by any number of witnesses. A public format.

A document never changes and is named by its digest. It names the file, and the code of every variant, that was run by their
digests, so that what is said of one cannot be passed for what is said of another. Errors are absolute and relative to the largest
reference value, times are seconds, memory is bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

EVIDENCE_SCHEMA = 2
EVIDENCE_INDEX_SCHEMA = 1
_ROUNDING = 1e-9  # of scores: 0.913 - 0.903 is more than 0.01
# How a variant's code was seen at work, the weakest first.
KINDS = ("untested", "twin", "emulator", "device")


@dataclass(frozen=True)
class Witness:
    """The machine and the programs that looked: `program` is this package with its version, `runtime` IREE's version."""

    program: str
    runtime: str
    system: str
    cpu: str


@dataclass(frozen=True)
class FunctionProof:
    """What `draws` sets of test data of an exported `function` showed: the largest errors, and the largest part of a tolerance
    that was used."""

    function: str
    draws: int
    max_abs_error: float
    max_rel_error: float
    of_tolerance: float


@dataclass(frozen=True)
class AccuracyProof:
    """How well an exported `function` did on a data set of `samples`: its `score` by the `metric`, the score of the model's
    `evaluator` on the same samples (`reference`), and how much worse than that it may be (`limit`). `better` is `higher` or
    `lower`. Data set and metric have the digest `sha256`: scores of the same may be compared."""

    function: str
    metric: str
    better: str
    score: float
    reference: float
    evaluator: str
    samples: int
    limit: float
    sha256: str

    @property
    def is_within(self) -> bool:
        """Whether the score is as good as it must be."""
        worse = (self.score - self.reference) * (1 if self.better == "lower" else -1)
        return math.isfinite(self.score) and worse <= self.limit + _ROUNDING


@dataclass(frozen=True)
class DriverLatency:
    """A way to run a CPU's code: IREE's `driver` with so many `threads`, 0 for as many as it takes by itself. `latency_s` is the
    median of `rounds` inferences of the first function, `spread_s` the distance of their quartiles."""

    driver: str
    threads: int
    latency_s: float
    spread_s: float
    rounds: int


@dataclass(frozen=True)
class VariantProof:
    """What was seen of a variant, whose code has the digest `sha256` that the manifest gives.

    `kind`: its very bytes ran on a `device` that its gates accept, or on one that an `emulator` plays; code lowered the same
    way, its `twin`, ran on a software device; or it is `untested`. A `reason` says why not, or what the proof leaves out. A
    `problem` says how it is wrong there. `functions` are those that were compared; a right one has all that there was time for.

    `latency_s` is the median of `rounds` inferences of the first function, `spread_s` the distance of their quartiles, `load_s`
    the time to load the file, `peak_memory` the most that the process had, `matrix_kernels` how many kernels use matrix cores;
    null where that was not measured. `subgroup_sizes` are those of the Vulkan device as it ran. `accuracy`: of the functions
    that have a data set, where it was tried. `drivers`: the ways in which a CPU was tried, each measured alone.
    """

    variant: str
    sha256: str
    kind: str
    reason: str
    problem: str
    device: str
    driver: str
    subgroup_sizes: tuple[int, ...]
    functions: tuple[FunctionProof, ...]
    load_s: float | None
    latency_s: float | None
    spread_s: float | None
    rounds: int
    peak_memory: int | None
    matrix_kernels: int | None
    accuracy: tuple[AccuracyProof, ...] = ()
    drivers: tuple[DriverLatency, ...] = ()


@dataclass(frozen=True)
class RuntimeInfo:
    """A version of IREE's runtime that was tried with a file: it `works`, fails, or null where it could not be tried.

    `how`: which variant ran where, with the largest error; what the runtime says of the failure; or why it was not tried.
    """

    version: str
    works: bool | None
    how: str


@dataclass(frozen=True)
class FileProof:
    """What was seen of the file of a bundle, whose digest is `sha256`. Of a variant there may be several proofs: one a device.

    `runtimes` are versions of the runtime that it was tried with beside the witness's own.
    """

    bundle: str
    sha256: str
    variants: tuple[VariantProof, ...]
    runtimes: tuple[RuntimeInfo, ...] = ()


@dataclass(frozen=True)
class EvidenceDocument:
    """What a witness saw of a release at the time `made` (UTC, as in 2026-01-31T12:00:00Z).

    It holds for a release, whatever its version is, that has these files, the weights with the digests `parameters`, and test
    data with the digest `reference`.
    """

    schema: int
    model: str
    reference: str
    parameters: tuple[str, ...]
    made: str
    witness: Witness
    files: tuple[FileProof, ...]


@dataclass(frozen=True)
class EvidenceIndex:
    """The digests of a release's documents, in alphabetical order: for stores that cannot be listed. Made from the keys."""

    schema: int
    documents: tuple[str, ...]
