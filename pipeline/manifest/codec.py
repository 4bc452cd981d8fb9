"""Manifests as bytes, both directions, and the JSON Schema of them. Strict: an unknown key or version is refused."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import math
import re
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes
from pipeline.manifest.evidence import EVIDENCE_INDEX_SCHEMA, EVIDENCE_SCHEMA, EvidenceDocument, EvidenceIndex
from pipeline.manifest.older import proofs, upgraded, upgraded_channel, upgraded_evidence
from pipeline.manifest.rules import DIGEST, NUMBER_LIMIT, MisfitError, check, check_identity
from pipeline.manifest.types import (
    CHANNEL_SCHEMA,
    MANIFEST_SCHEMA,
    SCHEMA,
    TUNED_SCHEMA,
    Channel,
    Identity,
    Index,
    Lease,
    Lock,
    Manifest,
    Pruning,
    Yank,
)
from pipeline.names import did_you_mean
from pipeline.plain import is_plain, plain, shown

Document = Manifest | Channel | Index | Yank | Lock | Lease | Pruning | EvidenceDocument | EvidenceIndex
T = TypeVar("T", Manifest, Channel, Index, Yank, Lock, Lease, Pruning, EvidenceDocument, EvidenceIndex)

# The newest last. Older ones than these are made one of the first.
_SCHEMAS: dict[type, tuple[int, ...]] = {
    Manifest: (MANIFEST_SCHEMA, TUNED_SCHEMA),
    Channel: (CHANNEL_SCHEMA,),
    Index: (SCHEMA,),
    Yank: (SCHEMA,),
    Lock: (SCHEMA,),
    Lease: (SCHEMA,),
    Pruning: (SCHEMA,),
    EvidenceDocument: (EVIDENCE_SCHEMA,),
    EvidenceIndex: (EVIDENCE_INDEX_SCHEMA,),
}
# What makes a document of an older schema one of this.
_UPGRADES: dict[type, Callable[[dict[str, Any]], dict[str, Any]]] = {
    Manifest: upgraded,
    Channel: upgraded_channel,
    EvidenceDocument: upgraded_evidence,
}

# Of tools, drivers and machines these are the words: they are escaped. In all other texts is nothing that has to be.
_SAID = frozenset(("reason", "problem", "notes", "how", "device", "driver", "program", "system", "cpu"))
_VERSION_DIGITS = {1: 12, 2: 12, 3: 12}  # of derived versions; later ones have 32


def encode(document: Document) -> bytes:
    """The canonical bytes: JSON with sorted keys, one space of indentation, a line feed at the end.

    What `decode` refuses in texts, which may be tools' words, is escaped.
    """
    return _canonical(_plain(document))


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return plain(value)
    if dataclasses.is_dataclass(value):
        said = ((one, getattr(value, one.name)) for one in dataclasses.fields(value))
        return {one.name: _plain(inner) for one, inner in said if inner or not one.metadata.get("optional")}
    return [_plain(inner) for inner in value] if isinstance(value, tuple) else value


def _optional(type_: Any) -> frozenset[str]:
    """The keys that are left out where they are empty: documents of before there were such had none."""
    return frozenset(one.name for one in dataclasses.fields(type_) if one.metadata.get("optional"))


def _canonical(value: Any) -> bytes:
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def content_version(manifest: Manifest) -> str:
    """A version derived from everything in the manifest but its version: `c` and 32 hex digits."""
    return _derived(_plain(manifest), manifest.schema)


def _derived(manifest: dict[str, Any], schema: int) -> str:
    """The version that a manifest of this schema, as it is published, has by its content."""
    return f"c{sha256_bytes(_canonical({**manifest, 'version': ''}))[: _VERSION_DIGITS.get(schema, 32)]}"


def is_derived(version: str) -> bool:
    """Whether a version looks like one that was derived from content."""
    return bool(re.fullmatch("c(?:[0-9a-f]{12}|[0-9a-f]{32})", version))


def _check_version(manifest: dict[str, Any]) -> None:
    """That a version that looks derived is: nobody can publish other content under it."""
    schema, version = manifest["schema"], manifest["version"]
    if re.fullmatch(f"c[0-9a-f]{{{_VERSION_DIGITS.get(schema, 32)}}}", version) and version != (
        derived := _derived(manifest, schema)
    ):
        raise MisfitError(f"{version} is derived from other content than this, which has {derived}", "version")


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


def _union(type_: Any) -> tuple[Any, ...]:
    return typing.get_args(type_) if typing.get_origin(type_) in (types.UnionType, typing.Union) else (type_,)


@functools.cache  # a document may have a million objects of a type
def _reader(type_: Any, lenient: bool = False, said: bool = False) -> Callable[[Any], Any]:
    """What makes a `type_` of a value. `lenient`: keys that are not known are passed over. `said`: its text is escaped."""
    if dataclasses.is_dataclass(type_):
        return _object_reader(type_, lenient)
    if typing.get_origin(type_) is tuple:
        return _list_reader(_reader(typing.get_args(type_)[0], lenient, said))
    return functools.partial(_scalar, _union(type_), said)


def _object_reader(type_: Any, lenient: bool) -> Callable[[Any], Any]:
    hints = typing.get_type_hints(type_)
    readers = {key: _digest if key == "sha256" else _reader(hint, lenient, key in _SAID) for key, hint in hints.items()}
    required = hints.keys() - _optional(type_)

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise MisfitError("must be an object")
        for key in sorted(required - value.keys()):
            raise MisfitError("is missing", key)
        if not lenient and not value.keys() <= hints.keys():
            key = min(value.keys() - hints.keys())
            raise MisfitError(f"is not a key here, {did_you_mean(key, hints)}", f"{key:.100}")
        found = {}
        for key, reader in readers.items():
            try:
                if key in value:
                    found[key] = reader(value[key])
            except MisfitError as error:
                raise error.inside(key) from None
        return type_(**found)

    return read


def _list_reader(item: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if not isinstance(value, list):
            raise MisfitError("must be a list")
        found = []
        for one in value:
            try:
                found.append(item(one))
            except MisfitError as error:
                raise error.inside(f"[{len(found)}]") from None
        return tuple(found)

    return read


def _scalar(choices: tuple[type, ...], said: bool, value: Any) -> Any:
    if float in choices and type(value) is int and abs(value) < 1 << 1000:
        return float(value)
    if type(value) not in choices:
        raise MisfitError(f"{shown(value)} is no {' or '.join(c.__name__ for c in choices)}")
    if type(value) is int and not 0 <= value <= NUMBER_LIMIT:
        raise MisfitError("must not be negative" if value < 0 else f"must not be above {NUMBER_LIMIT}")
    if type(value) is float and not math.isfinite(value):
        raise MisfitError(f"{value} is no number here")
    if type(value) is str and said:
        return plain(value)
    if type(value) is str and not is_plain(value):
        raise MisfitError(f"{value!r:.100} has characters that cannot be shown")
    return value


def _digest(value: Any) -> str:
    text: str = _scalar((str,), False, value)
    if not DIGEST.fullmatch(text):
        raise MisfitError(f"{text!r:.100} is no SHA-256")
    return text


def embedded_evidence(data: bytes, manifest: Manifest) -> EvidenceDocument | None:
    """What a manifest of an older schema, the bytes `data`, says itself of how its variants were verified; None for a newer
    one. Raises PipelineError where that is not as it should be."""
    value = json.loads(data)
    if value["schema"] >= MANIFEST_SCHEMA:
        return None
    where = f"the evidence in the manifest of {manifest.model.name} {manifest.version}"
    try:
        said = _embedded(upgraded(value, 3), manifest)
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
                "variants": [proof for v in artifact["variants"] for proof in proofs(v)],
                "runtimes": [],
            }
            for artifact in value["artifacts"]
        ],
    }


def decode(type_: type[T], data: bytes, where: str) -> T:
    """The document in `data`, read from `where`. Raises PipelineError naming the path of what does not fit."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise PipelineError(f"not JSON: {error}", where=where) from error
    found, known = value.get("schema") if isinstance(value, dict) else None, _SCHEMAS[type_]
    published = value
    if type_ in _UPGRADES and type(found) is int and 0 < found < known[0]:
        value, found = _UPGRADES[type_](copy.deepcopy(value)), known[0]
    if type(found) is not int or found not in known:
        what = f"has schema version {shown(found)}, this program reads version {known[-1]}"
        raise PipelineError(what, where=where, hint="upgrade vmfb-pipeline")
    kind: Any = type_
    try:
        result: T = _reader(kind)(value)
        check(result)
        if type_ is Manifest:
            _check_version(published)
    except MisfitError as error:
        raise PipelineError(f"is no valid {type_.__name__.lower()}: {error}", where=where) from error
    return result


def decode_identity(text: str, where: str) -> Identity:
    """What the vmfb at `where` says of itself. Keys of a newer program are passed over.

    Raises PipelineError naming the path of what is not as it should be: files come from anywhere.
    """
    try:
        found: Identity = _reader(Identity, lenient=True)(json.loads(text))
        check_identity(found)
    except (ValueError, RecursionError, MisfitError) as error:
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
                "required": sorted(hints.keys() - _optional(type_)),
                "additionalProperties": False,
            }
        return {"$ref": f"#/$defs/{name}"}
    if typing.get_origin(type_) is tuple:
        return {"type": "array", "items": _schema(typing.get_args(type_)[0], definitions)}
    choices = _union(type_)
    if len(choices) > 1:
        return {"anyOf": [_schema(c, definitions) for c in choices]}
    return _SCALARS.get(type_, {"type": "integer", "minimum": 0})


_PUBLISHED: dict[type, str] = {
    Manifest: "release manifest",
    EvidenceDocument: "evidence of a release",
    Channel: "channel",
    Yank: "yanked release",
    Lock: "lock",
}


def json_schema(type_: type[Document]) -> bytes:
    """The JSON Schema (2020-12) of a document; beside this module `schema.json` is that of manifests, `evidence.schema.json`
    that of evidence, `channel.schema.json` that of channels, `yank.schema.json` that of what says that a release was yanked, and
    `lock.schema.json` that of locks."""
    definitions: dict[str, Any] = {}
    root, title, known = _schema(type_, definitions), _PUBLISHED[type_], list(_SCHEMAS[type_])
    definitions[type_.__name__]["properties"]["schema"] = {"const": known[0]} if len(known) == 1 else {"enum": known}
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"vmfb-pipeline {title}, schema {' or '.join(map(str, known))}",
        **root,
        "$defs": definitions,
    }
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()
