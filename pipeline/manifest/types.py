"""What is published about a release. A public format: these names and meanings do not change.

Sizes, offsets and lengths are bytes; digests are SHA-256 in lower-case hex. Gates are text that `Gate.parse` reads.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.plain import html_table

MANIFEST_SCHEMA = 4
TUNED_SCHEMA = 5  # of manifests that say what is tuned, which older programs do not read
CHANNEL_SCHEMA = 2
SCHEMA = 1  # of all others but manifests and evidence
HISTORY_LIMIT = 50  # releases that a channel remembers
# Of a stretch of a file that is verified as one: what a break of the connection costs at most.
SEGMENT_LIMIT = 8 << 20
# numpy's names of what inputs and outputs may be of.
DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)


@dataclass(frozen=True)
class Blob:
    """A file in the store, under the key of its digest."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True)
class SourceFile:
    """A file that belongs to a model's file, such as weights beside an ONNX file."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Source:
    """Where the model file came from: `location` is for people, `sha256` is what was compiled, with the `files` beside it."""

    kind: str
    location: str
    sha256: str
    files: tuple[SourceFile, ...]


@dataclass(frozen=True)
class ModelInfo:
    """The model."""

    name: str
    about: str
    licence: str
    format: str


@dataclass(frozen=True)
class DimensionInfo:
    """A dimension of inputs that has a name: its sizes go from `min` to `max` and are multiples of `multiple`."""

    name: str
    min: int
    max: int
    multiple: int


@dataclass(frozen=True)
class TensorInfo:
    """An input or output: numpy dtype; of its shape a number, the name of a dimension, or null where only the run tells."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True)
class Compiler:
    """What compiled the artifacts."""

    package: str
    version: str
    commit: str


@dataclass(frozen=True)
class ToleranceInfo:
    """How far an output may be from its reference: each value, and all values together.

    Each: |error| ≤ absolute + relative × |reference| + scaled × size. All: the root mean square of error / size ≤ rms, where
    that is not null. The size of a value is the smallest root mean square of the reference's slices that it is in, one along
    each axis, of at least 16 values each, and of the whole; at least a thousandth of the whole's; 1 for integers.
    """

    absolute: float
    relative: float
    scaled: float
    rms: float | None


@dataclass(frozen=True)
class DrawInfo:
    """A set of test inputs and the outputs they must give, .npy files by position, with the outputs' tolerances in order.

    `spared` are the positions of outputs of which it tells nothing.
    """

    name: str
    inputs: tuple[Blob, ...]
    outputs: tuple[Blob, ...]
    tolerances: tuple[ToleranceInfo, ...]
    spared: tuple[int, ...]


@dataclass(frozen=True)
class Reference:
    """The test data of an entry point; its first draw is the one that was given, others were made. `kind`: who computed the
    outputs.

    `onnxruntime`, `jax`, `torch`, `litert`, `files` (given with the model) or `baseline` (the weakest CPU variant of the first
    artifact).
    """

    kind: str
    draws: tuple[DrawInfo, ...]


@dataclass(frozen=True)
class EntryInfo:
    """An entry point: what callers ask for by `name` is the exported `function`, its inputs and outputs in order.

    Entries that share a name are buckets: one function for each size of a dimension, the smallest first. `rewrites` are the
    changes to the graph without which IREE would get it wrong, by name.
    """

    name: str
    function: str
    source: Source
    rewrites: tuple[str, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    dimensions: tuple[DimensionInfo, ...]
    reference: Reference


@dataclass(frozen=True)
class TuningInfo:
    """How much of a variant's code is lowered by a tuning record: `tuned` of its `kernels`, by entries of digest `sha256`."""

    tuned: int
    kernels: int
    sha256: str


@dataclass(frozen=True)
class VariantInfo:
    """One target's code. `flags` went into its target attribute. `size` and `sha256` are over its code in file order,
    shared code included.

    `shares` names the variants that some of its code is identical with, to the byte. `tuning` is one where some of it is tuned,
    and is left out where none is: only manifests of schema 5 have it.
    """

    name: str
    backend: str
    device: str
    flags: tuple[str, ...]
    attribute: str
    format: str
    gates: tuple[str, ...]
    size: int
    sha256: str
    shares: tuple[str, ...]
    tuning: tuple[TuningInfo, ...] = field(default=(), metadata={"optional": True})


@dataclass(frozen=True)
class SegmentInfo:
    """A stretch of the file that is fetched and verified as one, at most 8 MiB; a file's segments cover it without gaps.

    `kind` is `head` (what the file is: functions, gates), `data` (constants), `code`, or `directory` (names of the parts for
    ZIP tools, which nothing needs to run). `variants`: which ones need it to load and run; empty for what all need.
    """

    kind: str
    offset: int
    length: int
    sha256: str
    variants: tuple[str, ...]


@dataclass(frozen=True)
class DroppedInfo:
    """A target of the bundle that the artifact does not hold, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Artifact:
    """A fat vmfb: variants in order of preference, segments in file order.

    `notes` say what was done for this model that is not done for every model.
    """

    bundle: str
    blob: Blob
    flags: tuple[str, ...]
    variants: tuple[VariantInfo, ...]
    segments: tuple[SegmentInfo, ...]
    dropped: tuple[DroppedInfo, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Parameters:
    """Weights that are not in the vmfbs: an archive (.irpa) that IREE's runtime reads under the name `scope`.

    All artifacts need it. Its segments cover it without gaps.
    """

    scope: str
    blob: Blob
    segments: tuple[SegmentInfo, ...]


@dataclass(frozen=True)
class Manifest:
    """A release of a model. `parameters` are none or one.

    How its variants were verified, and on which runtimes it runs, others say: see `manifest.evidence`.
    """

    schema: int
    model: ModelInfo
    version: str
    entries: tuple[EntryInfo, ...]
    compiler: Compiler
    parameters: tuple[Parameters, ...]
    artifacts: tuple[Artifact, ...]

    def _repr_html_(self) -> str:
        """What notebooks show."""
        rows = [("release", f"{self.model.name}@{self.version}"), ("about", self.model.about), ("licence", self.model.licence)]
        rows.append(("compiler", f"{self.compiler.package} {self.compiler.version}"))
        rows += [(a.bundle, f"{a.blob.size / 1e6:.1f} MB: {', '.join(v.name for v in a.variants)}") for a in self.artifacts]
        return html_table(rows)

    def blobs(self) -> tuple[Blob, ...]:
        """Every blob the release needs, artifacts and parameters first."""
        draws = (draw for entry in self.entries for draw in entry.reference.draws)
        data = (blob for draw in draws for blob in (*draw.inputs, *draw.outputs))
        return (*(a.blob for a in self.artifacts), *(p.blob for p in self.parameters), *data)


@dataclass(frozen=True)
class IdentifiedEntry:
    """An entry point as a vmfb tells of it: see `EntryInfo`; `sha256` is that of its source, with the `files` beside it."""

    name: str
    function: str
    sha256: str
    files: tuple[SourceFile, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    dimensions: tuple[DimensionInfo, ...]


@dataclass(frozen=True)
class Identity:
    """What a vmfb says of itself, apart from any manifest: the model, what compiled it, and the weights that it needs."""

    model: str
    compiler: Compiler
    flags: tuple[str, ...]
    entries: tuple[IdentifiedEntry, ...]
    parameters: tuple[Blob, ...]


@dataclass(frozen=True)
class PastRelease:
    """A release that a channel pointed to, whose manifest has the digest `sha256`, until the time `until` (UTC, as in
    2026-01-31T12:00:00Z). `rolled_back`: it was left by a rollback, and is not what the next one goes back to."""

    version: str
    sha256: str
    until: str
    rolled_back: bool


@dataclass(frozen=True)
class Channel:
    """A mutable pointer to a release: the version, and the key and digest of its manifest.

    `history`: what it pointed to before, the last first, at most 50.
    """

    schema: int
    model: str
    channel: str
    version: str
    manifest: Blob
    history: tuple[PastRelease, ...]


@dataclass(frozen=True)
class Yank:
    """Why a release is not to be used any more, since the time `made` (UTC); until the time `undone`, if that is not empty."""

    schema: int
    model: str
    version: str
    reason: str
    made: str
    undone: str


@dataclass(frozen=True)
class LockedRelease:
    """What a name, as a user gives it, means: a version, whose manifest has the digest `manifest`."""

    name: str
    model: str
    version: str
    manifest: str


@dataclass(frozen=True)
class Lock:
    """What names mean, once and for all, as it was seen in `store` (a URL or a path). In alphabetical order of names."""

    schema: int
    store: str
    releases: tuple[LockedRelease, ...]


@dataclass(frozen=True)
class Lease:
    """What a publisher is about to put into a store, or to point to: a release, and blobs by their digests. For a day from when
    it was written, `doit prune` leaves them."""

    schema: int
    model: str
    version: str
    blobs: tuple[str, ...]


@dataclass(frozen=True)
class Pruning:
    """What `doit prune` is removing at this moment: releases, as `MODEL@VERSION`, and blobs by their digests; nothing where none
    is at work. `turn` is another each time, and empty where none is: then releases are what one left that was killed."""

    schema: int
    turn: str
    releases: tuple[str, ...]
    blobs: tuple[str, ...]


@dataclass(frozen=True)
class IndexedChannel:
    """A channel and the version it points to."""

    channel: str
    version: str


@dataclass(frozen=True)
class IndexedModel:
    """A model's channels and versions, both in alphabetical order."""

    name: str
    channels: tuple[IndexedChannel, ...]
    versions: tuple[str, ...]


@dataclass(frozen=True)
class Index:
    """What a store holds, in alphabetical order. Made from the other keys, and can be made again from them."""

    schema: int
    models: tuple[IndexedModel, ...]
