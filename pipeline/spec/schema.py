"""The JSON Schemas of specs, which editors complete and check by: made of `keys.py`, kept beside it as `NAME.schema.json`.

They know what can be known of one file without the others: keys, kinds and choices. The reader knows all else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.spec.keys import SPECS
from pipeline.spec.kinds import Anything, Either, Key, Keys, Kind, Listing, Number, Text, Whole

Schema = dict[str, Any]


def schema(name: str) -> bytes:
    """The schema of one of SPECS as JSON (draft 7, which editors know best)."""
    keys = SPECS[name]
    writer = _Writer()
    document = {"$schema": "http://json-schema.org/draft-07/schema#", "title": keys.title, **writer.mapping(keys)}
    return (json.dumps({**document, "definitions": writer.definitions}, indent=1, ensure_ascii=False) + "\n").encode()


def shipped(name: str) -> Path:
    """Where the package has it."""
    return Path(__file__).with_name(f"{name}.schema.json")


def beside(targets: Path, name: str) -> Path:
    """Where `vmfb init` puts it in a project."""
    return targets / ".schemas" / f"{name}.schema.json"


class _Writer:
    """Kinds as JSON Schema; mappings that have a name as definitions."""

    def __init__(self) -> None:
        self.definitions: dict[str, Schema] = {}

    def of(self, kind: Kind) -> Schema:
        """What a value of this kind is."""
        match kind:
            case Text(choices=()):
                return {"type": "string", **({"pattern": f"^({kind.pattern})$"} if kind.pattern else {})}
            case Text():
                return {"enum": list(kind.choices)}
            case Whole():
                return {"type": "integer", **_ends(minimum=kind.least, maximum=kind.most)}
            case Number():
                return {"type": "number", **_ends(minimum=kind.least)}
            case Listing():
                more = {"minItems": 1} if kind.filled else {}
                return {"type": "array", "items": self.of(kind.item), **more, **({"uniqueItems": True} if kind.unique else {})}
            case Either():
                return {"anyOf": [self.of(one) for one in kind.kinds]}
            case Anything():
                return dict(kind.schema)
            case Keys():
                return self._defined(kind) if kind.name else self.mapping(kind)

    def _defined(self, keys: Keys) -> Schema:
        name = keys.name.replace(" ", "-")
        if name not in self.definitions:
            self.definitions[name] = {}  # its place, before those that it names
            self.definitions[name] = {"description": keys.title, **self.mapping(keys)}
        return {"allOf": [{"$ref": f"#/definitions/{name}"}]}  # beside `$ref` alone, nothing else would count

    def _key(self, key: Key) -> Schema:
        default = {} if key.default is None else {"default": key.default}
        return {"description": key.about, **self.of(key.kind), **default}

    def mapping(self, keys: Keys) -> Schema:
        """What a mapping is. One that `extends` another may leave out anything."""
        if keys.others:
            names = {"propertyNames": {"pattern": f"^({keys.names})$"}} if keys.names else {}
            least = {"minProperties": 1} if keys.filled else {}
            return {"type": "object", **names, **least, "additionalProperties": self._key(keys.others)}
        # What one case has, all may have, and each case forbids the others': so an editor knows every key.
        known = {**{name: True for name, _ in keys.every()}, **{name: self._key(key) for name, key in keys.named.items()}}
        rules = [*_only(keys.named), *keys.rules, *self._cases(keys)]
        needed: Schema = {"required": _required(keys.named)}
        if "extends" in keys.named:
            rules, needed = [{"if": {"required": ["extends"]}, "else": needed}, *rules], {}
        return {
            "type": "object",
            "properties": known,
            "additionalProperties": False,
            **needed,
            **({"allOf": rules} if rules else {}),
        }

    def _cases(self, keys: Keys) -> Iterable[Schema]:
        every = {name for case in keys.cases.values() for name in case}
        for value, case in keys.cases.items():
            others: Schema = dict.fromkeys(sorted(every - case.keys()), False)
            yield {
                "if": {"properties": {keys.by: {"const": value}}, "required": [keys.by]},
                "then": {
                    "properties": {**{name: self._key(key) for name, key in case.items()}, **others},
                    "required": _required(case),
                },
            }


def _ends(**ends: float | None) -> Schema:
    return {name: value for name, value in ends.items() if value is not None}


def _required(keys: Mapping[str, Key]) -> list[str]:
    return [name for name, key in keys.items() if key.required]


def _only(keys: Mapping[str, Key]) -> Iterable[Schema]:
    for name, key in keys.items():
        if key.only:
            other, values = key.only
            yield {"if": {"required": [name]}, "then": {"properties": {other: {"enum": list(values)}}}}
