"""Manifests as bytes, both directions, and the JSON Schema of them. Strict: an unknown key or version is refused."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from typing import Any, TypeVar

from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes
from pipeline.manifest.types import SCHEMA, Channel, Manifest
from pipeline.names import did_you_mean

T = TypeVar("T", Manifest, Channel)


def encode(document: Manifest | Channel) -> bytes:
    """The canonical bytes: JSON with sorted keys, one space of indentation, a line feed at the end."""
    return (
        json.dumps(dataclasses.asdict(document), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    ).encode()


def content_version(manifest: Manifest) -> str:
    """A version derived from everything in the manifest but its version: `c` and 12 hex digits."""
    return "c" + sha256_bytes(encode(dataclasses.replace(manifest, version="")))[:12]


class _MisfitError(Exception):
    """A value that is not what the format says, with its path."""


def _union(type_: Any) -> tuple[Any, ...]:
    return typing.get_args(type_) if typing.get_origin(type_) in (types.UnionType, typing.Union) else (type_,)


def _decode(type_: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(type_):
        if not isinstance(value, dict):
            raise _MisfitError(f"{path or 'the document'}: must be an object")
        hints = typing.get_type_hints(type_)
        for key in value.keys() - hints.keys():
            raise _MisfitError(f"{path}.{key}: is not a key here, {did_you_mean(key, hints)}".lstrip("."))
        for key in sorted(hints.keys() - value.keys()):
            raise _MisfitError(f"{path}.{key}: is missing".lstrip("."))
        return type_(**{key: _decode(hint, value[key], f"{path}.{key}".lstrip(".")) for key, hint in hints.items()})  # type: ignore[operator]
    if typing.get_origin(type_) is tuple:
        if not isinstance(value, list):
            raise _MisfitError(f"{path}: must be a list")
        item = typing.get_args(type_)[0]
        return tuple(_decode(item, v, f"{path}[{i}]") for i, v in enumerate(value))
    choices = _union(type_)
    if float in choices and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) not in choices:
        raise _MisfitError(f"{path}: {value!r} is no {' or '.join(c.__name__ for c in choices)}")
    if type(value) is int and value < 0:
        raise _MisfitError(f"{path}: must not be negative")
    return value


def decode(type_: type[T], data: bytes, where: str) -> T:
    """The document in `data`, read from `where`. Raises PipelineError naming the path of what does not fit."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise PipelineError(f"not JSON: {error}", where=where) from error
    found = value.get("schema") if isinstance(value, dict) else None
    if found != SCHEMA:
        raise PipelineError(
            f"has schema version {found!r}, this program reads version {SCHEMA}", where=where, hint="upgrade vmfb-pipeline"
        )
    try:
        result: T = _decode(type_, value, "")
    except _MisfitError as error:
        raise PipelineError(f"not a valid {type_.__name__.lower()}: {error}", where=where) from error
    return result


_SCALARS = {str: {"type": "string"}, float: {"type": "number"}, type(None): {"type": "null"}}


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


def json_schema() -> bytes:
    """The JSON Schema (2020-12) of a release manifest; kept in `schema.json` beside this module."""
    definitions: dict[str, Any] = {}
    root = _schema(Manifest, definitions)
    definitions["Manifest"]["properties"]["schema"] = {"const": SCHEMA}
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"vmfb-pipeline release manifest, schema {SCHEMA}",
        **root,
        "$defs": definitions,
    }
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()
