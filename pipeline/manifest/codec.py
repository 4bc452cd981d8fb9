"""Manifests as bytes, both directions, and the JSON Schema of them. Strict: an unknown key or version is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import re
import types
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes
from pipeline.manifest.evidence import EVIDENCE_SCHEMA, KINDS, EvidenceDocument, EvidenceIndex
from pipeline.manifest.types import (
    DTYPES,
    MANIFEST_SCHEMA,
    SCHEMA,
    SEGMENT_LIMIT,
    Artifact,
    Blob,
    Channel,
    DimensionInfo,
    EntryInfo,
    IdentifiedEntry,
    Identity,
    Index,
    Manifest,
    SegmentInfo,
)
from pipeline.names import did_you_mean, is_file_name, is_name, is_version

T = TypeVar("T", Manifest, Channel, Index, EvidenceDocument, EvidenceIndex)

_DIGEST = re.compile(r"[0-9a-f]{64}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_SCHEMAS = {
    Manifest: MANIFEST_SCHEMA,
    Channel: SCHEMA,
    Index: SCHEMA,
    EvidenceDocument: EVIDENCE_SCHEMA,
    EvidenceIndex: EVIDENCE_SCHEMA,
}


def encode(document: Manifest | Channel | Index | EvidenceDocument | EvidenceIndex) -> bytes:
    """The canonical bytes: JSON with sorted keys, one space of indentation, a line feed at the end."""
    return (
        json.dumps(dataclasses.asdict(document), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    ).encode()


def content_version(manifest: Manifest) -> str:
    """A version derived from everything in the manifest but its version: `c` and 32 hex digits."""
    return "c" + sha256_bytes(encode(dataclasses.replace(manifest, version="")))[:32]


def reference_digest(manifest: Manifest) -> str:
    """A digest of all test data of a release, with the tolerances: what evidence was found with.

    It stays what it is when later schemas say more: so these are the names of the first that had it.
    """
    said = [
        [entry.function, draw.name]
        + [[blob.sha256 for blob in blobs] for blobs in (draw.inputs, draw.outputs)]
        + [[[t.absolute, t.relative, t.scaled, t.rms] for t in draw.tolerances], list(draw.spared)]
        for entry in manifest.entries
        for draw in entry.reference.draws
    ]
    return sha256_bytes(json.dumps(said, separators=(",", ":"), allow_nan=False).encode())


class _MisfitError(Exception):
    """A value that is not what the format says, with its path."""


def _union(type_: Any) -> tuple[Any, ...]:
    return typing.get_args(type_) if typing.get_origin(type_) in (types.UnionType, typing.Union) else (type_,)


def _decode(type_: Any, value: Any, path: str, lenient: bool = False) -> Any:
    """`value` as a `type_`. `lenient`: keys that are not known are passed over."""
    if dataclasses.is_dataclass(type_):
        if not isinstance(value, dict):
            raise _MisfitError(f"{path or 'the document'}: must be an object")
        hints = typing.get_type_hints(type_)
        for key in () if lenient else value.keys() - hints.keys():
            raise _MisfitError(f"{path}.{key}: is not a key here, {did_you_mean(key, hints)}".lstrip("."))
        for key in sorted(hints.keys() - value.keys()):
            raise _MisfitError(f"{path}.{key}: is missing".lstrip("."))
        decoded = {key: _decode(hint, value[key], f"{path}.{key}".lstrip("."), lenient) for key, hint in hints.items()}
        return type_(**decoded)  # type: ignore[operator]
    if typing.get_origin(type_) is tuple:
        if not isinstance(value, list):
            raise _MisfitError(f"{path}: must be a list")
        item = typing.get_args(type_)[0]
        return tuple(_decode(item, v, f"{path}[{i}]", lenient) for i, v in enumerate(value))
    choices = _union(type_)
    if float in choices and type(value) is int and abs(value) < 1 << 1000:
        return float(value)
    if type(value) not in choices:
        raise _MisfitError(f"{path}: {value!r:.100} is no {' or '.join(c.__name__ for c in choices)}")
    if type(value) is int and value < 0:
        raise _MisfitError(f"{path}: must not be negative")
    if type(value) is float and not math.isfinite(value):
        raise _MisfitError(f"{path}: {value} is no number here")
    if path.endswith("sha256") and not _DIGEST.fullmatch(value):
        raise _MisfitError(f"{path}: {value!r:.100} is no SHA-256")
    return value


def _require(holds: bool, path: str, what: str) -> None:
    if not holds:
        raise _MisfitError(f"{path}: {what}")


def _check_artifact(artifact: Artifact, path: str) -> None:
    """That names are names, and that segments are of what there is."""
    _require(is_name(artifact.bundle), f"{path}.bundle", f"{artifact.bundle!r} is no name")
    names = [v.name for v in artifact.variants]
    _require(len(set(names)) == len(names), f"{path}.variants", "two have the same name")
    for i, segment in enumerate(artifact.segments):
        fits = set(segment.variants) <= set(names)
        _require(fits, f"{path}.segments[{i}]", f"variants {segment.variants} are not all in the artifact")
    _check_segments(artifact.segments, artifact.blob.size, f"{path}.segments")


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


def _check_manifest(manifest: Manifest) -> None:
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
        _require(is_name(model.name), f"models[{i}].name", f"{model.name!r} is no name")


def _check_evidence(evidence: EvidenceDocument) -> None:
    """That kinds are kinds, and that what is called right is within its limit."""
    _require(bool(_TIME.fullmatch(evidence.made)), "made", f"{evidence.made!r:.100} is no time such as 2026-01-31T12:00:00Z")
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


def _check(document: Manifest | Channel | Index | EvidenceDocument | EvidenceIndex) -> None:
    """What types do not say. Channels are compared whole with what was asked for, by those who read them."""
    if isinstance(document, Manifest):
        _check_manifest(document)
    elif isinstance(document, Index):
        _check_index(document)
    elif isinstance(document, EvidenceDocument):
        _check_evidence(document)
    elif isinstance(document, EvidenceIndex):
        for i, digest in enumerate(document.documents):
            _require(bool(_DIGEST.fullmatch(digest)), f"documents[{i}]", f"{digest!r:.100} is no SHA-256")


def _second(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest of schema 1 as one of schema 2, which says more."""
    manifest["model"] = {"rewrites": [], **manifest["model"]}
    manifest["reference"]["tolerances"] = [{"scaled": 0.0, "rms": None, **t} for t in manifest["reference"]["tolerances"]]
    for artifact in manifest["artifacts"]:
        artifact.setdefault("notes", [])
        for variant in artifact["variants"]:
            variant["evidence"] = {"of_tolerance": None, "draws": 1, "subgroup_sizes": [], **variant["evidence"]}
    return manifest


def _third(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest of schema 2 as one of schema 3, which may have several entry points."""
    signature, model = manifest.pop("signature"), manifest["model"]
    function = signature.pop("entry")
    entry = {"name": function, "function": function, "dimensions": [], **signature, "reference": manifest.pop("reference")}
    entry |= {"source": {**model.pop("source"), "files": []}, "rewrites": model.pop("rewrites")}
    for artifact in manifest["artifacts"]:
        for variant in artifact["variants"]:
            variant["evidence"] = [{"function": function, **variant["evidence"]}]
    return {**manifest, "entries": [entry], "parameters": []}


def _fourth(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest of schema 3 as one of schema 4, beside which evidence is, and which may have several draws of test data."""
    manifest.pop("runtime")
    for entry in manifest["entries"]:
        reference = entry["reference"]
        draw = {key: reference.pop(key) for key in ("inputs", "outputs", "tolerances")}
        reference["draws"] = [{"name": "given", "spared": [], **draw}]
    for artifact in manifest["artifacts"]:
        for variant in artifact["variants"]:
            variant.pop("evidence")
    return manifest


def _upgraded(manifest: dict[str, Any], newest: int = MANIFEST_SCHEMA) -> dict[str, Any]:
    """A manifest of an older schema as one of this. Where it is not what it should be, as it is."""
    steps = {1: _second, 2: _third, 3: _fourth}
    with contextlib.suppress(KeyError, TypeError, AttributeError, ValueError):
        for schema in range(manifest["schema"], newest):
            manifest = steps[schema](manifest)
    return {**manifest, "schema": newest}


def embedded_evidence(data: bytes, manifest: Manifest) -> EvidenceDocument | None:
    """What a manifest of an older schema, the bytes `data`, says itself of how its variants were verified; None for a newer
    one. Raises PipelineError where that is not as it should be."""
    value = json.loads(data)
    if value["schema"] >= MANIFEST_SCHEMA:
        return None
    where = f"the evidence in the manifest of {manifest.model.name} {manifest.version}"
    try:
        said = _embedded(_upgraded(value, 3), manifest)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise PipelineError(f"is damaged: {type(error).__name__}: {error}", where=where) from error
    return decode(EvidenceDocument, json.dumps(said).encode(), where)


def _embedded(value: dict[str, Any], manifest: Manifest) -> dict[str, Any]:
    """What a manifest of schema 3 says of its evidence, as a document."""
    runtimes = [e["runtime"] for a in value["artifacts"] for v in a["variants"] for e in v["evidence"]]
    return {
        "schema": EVIDENCE_SCHEMA,
        "model": manifest.model.name,
        "reference": reference_digest(manifest),
        "parameters": [p.blob.sha256 for p in manifest.parameters],
        "made": "1970-01-01T00:00:00Z",  # these do not say when
        "witness": {"program": "", "runtime": max(runtimes, default=""), "system": "", "cpu": ""},
        "files": [
            {
                "bundle": artifact["bundle"],
                "sha256": artifact["blob"]["sha256"],
                "variants": [proof for v in artifact["variants"] for proof in _proofs(v)],
                "runtimes": [],
            }
            for artifact in value["artifacts"]
        ],
    }


def _proofs(variant: dict[str, Any]) -> list[dict[str, Any]]:
    """What a manifest of schema 3 says of a variant: as one proof for what was seen on one device."""
    found: dict[str, dict[str, Any]] = {}
    measured = ("max_abs_error", "max_rel_error", "of_tolerance")
    for said in variant["evidence"]:
        same = {key: said[key] for key in ("kind", "reason", "device", "driver", "subgroup_sizes")}
        unknown = dict.fromkeys(("load_s", "latency_s", "spread_s", "peak_memory", "matrix_kernels"))
        proof = {
            "variant": variant["name"],
            "sha256": variant["sha256"],
            "problem": "",
            "rounds": 0,
            "accuracy": [],
            **unknown,
            **same,
        }
        kept = found.setdefault(json.dumps(same, sort_keys=True), {**proof, "functions": []})
        if said["kind"] != "untested":
            numbers = {key: said[key] or 0.0 for key in measured}
            if said["of_tolerance"] is None:  # which the first schema did not say: at most all of it, for it was right
                numbers["of_tolerance"] = 1.0
            kept["functions"].append({"function": said["function"], "draws": max(said["draws"], 1), **numbers})
    return list(found.values())


def decode(type_: type[T], data: bytes, where: str) -> T:
    """The document in `data`, read from `where`. Raises PipelineError naming the path of what does not fit."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise PipelineError(f"not JSON: {error}", where=where) from error
    found, newest = value.get("schema") if isinstance(value, dict) else None, _SCHEMAS[type_]
    if type_ is Manifest and type(found) is int and 0 < found < newest:
        value, found = _upgraded(value), newest
    if found != newest:
        raise PipelineError(
            f"has schema version {found!r}, this program reads version {newest}", where=where, hint="upgrade vmfb-pipeline"
        )
    try:
        result: T = _decode(type_, value, "")
        _check(result)
    except _MisfitError as error:
        raise PipelineError(f"not a valid {type_.__name__.lower()}: {error}", where=where) from error
    return result


def decode_identity(text: str, where: str) -> Identity:
    """What the vmfb at `where` says of itself. Keys of a newer program are passed over.

    Raises PipelineError naming the path of what is not as it should be: files come from anywhere.
    """
    try:
        found: Identity = _decode(Identity, json.loads(text), "", lenient=True)
        functions = [entry.function for entry in found.entries]
        _require(bool(functions), "entries", "there are none")
        _require(len(set(functions)) == len(functions), "entries", "two have the same function")
        _require(len(found.parameters) <= 1, "parameters", "are more than one")
        for i, entry in enumerate(found.entries):
            _check_signature(entry, f"entries[{i}]")
    except (ValueError, RecursionError, _MisfitError) as error:
        raise PipelineError(f"what it says of itself is damaged: {error}", where=where) from error
    return found


_SCALARS = {str: {"type": "string"}, bool: {"type": "boolean"}, float: {"type": "number"}, type(None): {"type": "null"}}


def _schema(type_: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    if dataclasses.is_dataclass(type_):
        name = type_.__name__  # type: ignore[union-attr]
        if name not in definitions:
            definitions[name] = {}
            hints = typing.get_type_hints(type_)
            definitions[name] = {
                "description": " ".join((type_.__doc__ or "").split()),
                "type": "object",
                "properties": {
                    key: {"pattern": "^[0-9a-f]{64}$", "type": "string"} if key == "sha256" else _schema(hint, definitions)
                    for key, hint in hints.items()
                },
                "required": sorted(hints),
                "additionalProperties": False,
            }
        return {"$ref": f"#/$defs/{name}"}
    if typing.get_origin(type_) is tuple:
        return {"type": "array", "items": _schema(typing.get_args(type_)[0], definitions)}
    choices = _union(type_)
    if len(choices) > 1:
        return {"anyOf": [_schema(c, definitions) for c in choices]}
    return _SCALARS.get(type_, {"type": "integer", "minimum": 0})


_PUBLISHED: dict[type, tuple[str, int]] = {
    Manifest: ("release manifest", MANIFEST_SCHEMA),
    EvidenceDocument: ("evidence of a release", EVIDENCE_SCHEMA),
}


def json_schema(type_: type[Manifest] | type[EvidenceDocument]) -> bytes:
    """The JSON Schema (2020-12) of a document; beside this module `schema.json` is that of manifests, `evidence.schema.json`
    that of evidence."""
    definitions: dict[str, Any] = {}
    root, (title, schema) = _schema(type_, definitions), _PUBLISHED[type_]
    definitions[type_.__name__]["properties"]["schema"] = {"const": schema}
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"vmfb-pipeline {title}, schema {schema}",
        **root,
        "$defs": definitions,
    }
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()
