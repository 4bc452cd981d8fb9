"""What a published document must be beyond its types: names that are names, files that are covered, proofs that prove."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipeline.manifest.evidence import KINDS, EvidenceDocument, EvidenceIndex
from pipeline.manifest.types import (
    DTYPES,
    MANIFEST_SCHEMA,
    SEGMENT_LIMIT,
    TUNED_SCHEMA,
    Artifact,
    Blob,
    Channel,
    DimensionInfo,
    EntryInfo,
    IdentifiedEntry,
    Identity,
    Index,
    Lease,
    Lock,
    Manifest,
    Pruning,
    SegmentInfo,
    TuningInfo,
    Yank,
)
from pipeline.names import is_file_name, is_name, is_version

NUMBER_LIMIT = (1 << 63) - 1  # what files, disks and other programs can count
DIGEST = re.compile(r"[0-9a-f]{64}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)


class MisfitError(Exception):
    """A value that is not what the format says: `what` is wrong with it, and its `path` in the document."""

    def __init__(self, what: str, path: str = "") -> None:
        super().__init__(what, path)
        self.what, self.path = what, path

    def __str__(self) -> str:
        return f"{self.path or 'the document'}: {self.what}"

    def inside(self, step: str) -> MisfitError:
        """The same, of what has the value at the key or number `step`."""
        dot = "." if self.path and not self.path.startswith("[") else ""
        return MisfitError(self.what, f"{step}{dot}{self.path}")


def _require(holds: bool, path: str, what: str) -> None:
    if not holds:
        raise MisfitError(what, path)


def _check_artifact(artifact: Artifact, path: str) -> None:
    """That names are names, and that segments are of what there is."""
    _require(is_name(artifact.bundle), f"{path}.bundle", f"{artifact.bundle!r} is no name")
    names = [v.name for v in artifact.variants]
    _require(len(set(names)) == len(names), f"{path}.variants", "two have the same name")
    for i, variant in enumerate(artifact.variants):
        _check_tuning(variant.tuning, f"{path}.variants[{i}].tuning")
    for i, segment in enumerate(artifact.segments):
        fits = set(segment.variants) <= set(names)
        _require(fits, f"{path}.segments[{i}]", f"variants {segment.variants} are not all in the artifact")
    _check_segments(artifact.segments, artifact.blob.size, f"{path}.segments")


def _check_tuning(tuning: Sequence[TuningInfo], path: str) -> None:
    _require(len(tuning) <= 1, path, "is there more than once")
    for one in tuning:
        _require(0 < one.tuned <= one.kernels, path, f"{one.tuned} of {one.kernels} kernels cannot be tuned")


def _check_blob(blob: Blob, path: str) -> None:
    _require(is_file_name(blob.name), path, f"{blob.name!r} is no file name")


def _check_segments(segments: Sequence[SegmentInfo], size: int, path: str) -> None:
    """That the segments cover a file of `size` bytes without gaps: a consumer writes where they say."""
    end = 0
    for i, segment in enumerate(segments):
        where = f"{path}[{i}]"
        _require(segment.offset == end, where, f"begins at {segment.offset}, the one before ends at {end}")
        _require(0 < segment.length <= SEGMENT_LIMIT, where, f"has {segment.length} bytes, not 1 to {SEGMENT_LIMIT}")
        end += segment.length
    _require(end == size, path, f"cover {end} bytes, the file has {size}")


def _check_entry(entry: EntryInfo, path: str) -> None:
    """That there is a tolerance for each output, and what `_check_signature` asks for."""
    _require(bool(entry.reference.draws), f"{path}.reference.draws", "there are none")
    for number, draw in enumerate(entry.reference.draws):
        where = f"{path}.reference.draws[{number}]"
        for kind, blobs in (("inputs", draw.inputs), ("outputs", draw.outputs)):
            for i, blob in enumerate(blobs):
                _check_blob(blob, f"{where}.{kind}[{i}]")
        _require(len(draw.tolerances) == len(draw.outputs), f"{where}.tolerances", "are not as many as outputs")
        _require(all(i < len(draw.outputs) for i in draw.spared), f"{where}.spared", "names an output that there is not")
    _check_signature(entry, path)


def _check_signature(entry: EntryInfo | IdentifiedEntry, path: str) -> None:
    """That types are types, and that every dimension that a shape names has a range."""
    ranges: dict[str, DimensionInfo] = {d.name: d for d in entry.dimensions}
    _require(len(ranges) == len(entry.dimensions), f"{path}.dimensions", "two have the same name")
    for name, d in ranges.items():
        _require(0 < d.min <= d.max and d.multiple > 0, f"{path}.dimensions", f"{name} goes from {d.min} to {d.max}")
    for kind, tensors in (("inputs", entry.inputs), ("outputs", entry.outputs)):
        for i, tensor in enumerate(tensors):
            named = {size for size in tensor.shape if isinstance(size, str)}
            _require(named <= ranges.keys(), f"{path}.{kind}[{i}].shape", "names a dimension that has no range")
            _require(tensor.dtype in DTYPES, f"{path}.{kind}[{i}].dtype", f"{tensor.dtype!r:.100} is no type here")


def schema_of(artifacts: Sequence[Artifact]) -> int:
    """The schema of a manifest of these: the oldest that says all of it, for programs that know only that."""
    tuned = any(variant.tuning for artifact in artifacts for variant in artifact.variants)
    return TUNED_SCHEMA if tuned else MANIFEST_SCHEMA


def _check_manifest(manifest: Manifest) -> None:
    schema = schema_of(manifest.artifacts)
    _require(manifest.schema == schema, "schema", f"is {manifest.schema}, and what it says is of {schema}")
    _require(is_name(manifest.model.name), "model.name", f"{manifest.model.name!r} is no name")
    _require(is_version(manifest.version), "version", f"{manifest.version!r} is no version")
    bundles = [a.bundle for a in manifest.artifacts]
    functions = [e.function for e in manifest.entries]
    _require(bool(bundles), "artifacts", "there are none")
    _require(len(set(bundles)) == len(bundles), "artifacts", "two have the same bundle")
    _require(bool(functions), "entries", "there are none")
    _require(len(set(functions)) == len(functions), "entries", "two have the same function")
    _require(len(manifest.parameters) <= 1, "parameters", "are more than one")
    for i, artifact in enumerate(manifest.artifacts):
        _check_artifact(artifact, f"artifacts[{i}]")
        _check_blob(artifact.blob, f"artifacts[{i}].blob")
    for i, entry in enumerate(manifest.entries):
        _check_entry(entry, f"entries[{i}]")
    for i, parameters in enumerate(manifest.parameters):
        _check_blob(parameters.blob, f"parameters[{i}].blob")
        _require(parameters.blob.name.endswith(".irpa"), f"parameters[{i}].blob.name", "does not end in .irpa")
        _check_segments(parameters.segments, parameters.blob.size, f"parameters[{i}].segments")


def _check_index(index: Index) -> None:
    for i, model in enumerate(index.models):
        if not is_name(model.name):
            raise MisfitError(f"{model.name!r:.100} is no name", f"models[{i}].name")


def _require_time(time: str, path: str) -> None:
    _require(bool(_TIME.fullmatch(time)), path, f"{time!r:.100} is no time such as 2026-01-31T12:00:00Z")


def _check_digests(digests: Sequence[str], path: str) -> None:
    for i, digest in enumerate(digests):
        _require(bool(DIGEST.fullmatch(digest)), f"{path}[{i}]", f"{digest!r:.100} is no SHA-256")


def _check_channel(channel: Channel) -> None:
    for i, past in enumerate(channel.history):
        _require(is_version(past.version), f"history[{i}].version", f"{past.version!r:.100} is no version")
        _require_time(past.until, f"history[{i}].until")


def _check_yank(yank: Yank) -> None:
    _require(bool(yank.reason), "reason", "is empty")
    _require_time(yank.made, "made")
    if yank.undone:
        _require_time(yank.undone, "undone")


def _check_lock(lock: Lock) -> None:
    """That each name is there once, and what it means is a release."""
    names = [one.name for one in lock.releases]
    _require(len(set(names)) == len(names), "releases", "has a name twice")
    for i, one in enumerate(lock.releases):
        _require(is_name(one.model), f"releases[{i}].model", f"{one.model!r:.100} is no name")
        _require(is_version(one.version), f"releases[{i}].version", f"{one.version!r:.100} is no version")
        _require(bool(DIGEST.fullmatch(one.manifest)), f"releases[{i}].manifest", f"{one.manifest!r:.100} is no SHA-256")


def _check_evidence(evidence: EvidenceDocument) -> None:
    """That kinds are kinds, and that what is called right is within its limit."""
    _require_time(evidence.made, "made")
    own = evidence.witness.runtime  # which people are told to install
    _require(not own or is_version(own), "witness.runtime", f"{own!r:.100} is no version")
    for i, file in enumerate(evidence.files):
        for j, runtime in enumerate(file.runtimes):
            _require(is_version(runtime.version), f"files[{i}].runtimes[{j}].version", f"{runtime.version!r:.100} is no version")
        for j, proof in enumerate(file.variants):
            where = f"files[{i}].variants[{j}]"
            _require(proof.kind in KINDS, f"{where}.kind", f"{proof.kind!r:.100} is none of {', '.join(KINDS)}")
            for accuracy in proof.accuracy:
                _require(accuracy.better in ("higher", "lower"), f"{where}.accuracy", f"{accuracy.better!r:.100} is no direction")
                is_right = bool(proof.problem) or accuracy.is_within
                _require(is_right and accuracy.samples > 0, f"{where}.accuracy", "is called right, and is beyond its limit")
            known = [f.function for f in proof.functions]
            _require(len(set(known)) == len(known), f"{where}.functions", "has one twice")
            if proof.kind == "untested":
                _require(not known and not proof.problem, where, "is untested, and says what was seen")
            elif not proof.problem:
                _require(bool(known), f"{where}.functions", "are none: nothing was compared")
                for function in proof.functions:
                    is_within = function.of_tolerance <= 1 and function.draws > 0
                    _require(is_within, f"{where}.functions", "is called right, and is beyond its limit")


def check(document: Manifest | Channel | Index | Yank | Lock | Lease | Pruning | EvidenceDocument | EvidenceIndex) -> None:
    """What types do not say. What channels point to is compared with what was asked for, by those who read them."""
    if isinstance(document, Manifest):
        _check_manifest(document)
    elif isinstance(document, Channel):
        _check_channel(document)
    elif isinstance(document, Yank):
        _check_yank(document)
    elif isinstance(document, Lock):
        _check_lock(document)
    elif isinstance(document, Index):
        _check_index(document)
    elif isinstance(document, EvidenceDocument):
        _check_evidence(document)
    elif isinstance(document, EvidenceIndex):
        _check_digests(document.documents, "documents")
    elif isinstance(document, (Lease, Pruning)):
        _check_digests(document.blobs, "blobs")


def check_identity(identity: Identity) -> None:
    """That there are functions, each once, whose signatures can be, and at most one archive of weights."""
    functions = [entry.function for entry in identity.entries]
    _require(bool(functions), "entries", "there are none")
    _require(len(set(functions)) == len(functions), "entries", "two have the same function")
    _require(len(identity.parameters) <= 1, "parameters", "are more than one")
    for i, entry in enumerate(identity.entries):
        _check_signature(entry, f"entries[{i}]")
