"""Reading one YAML document strictly: every problem is noted with file, path inside it and what to do, none is raised."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from pipeline.files import is_file
from pipeline.names import did_you_mean
from pipeline.store.base import public_url

_T = TypeVar("_T")

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_TYPES = {str: "text", int: "a whole number", float: "a number", list: "a list", dict: "a mapping"}


class _StrictLoader(_Loader):  # type: ignore[misc]  # the base is chosen at run time
    """SafeLoader that refuses a key given twice."""


def _mapping(loader: Any, node: Any) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is not text: quote it", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice: remove one", key_node.start_mark)
        seen.add(key)
    result: dict[Any, Any] = loader.construct_mapping(node, deep=True)
    return result


_StrictLoader.add_constructor("tag:yaml.org,2002:map", _mapping)


@dataclass
class Problems:
    """The problems of all files read so far."""

    found: list[str] = field(default_factory=list)

    def add(self, path: Path, where: str, what: str) -> None:
        """Note that `what` is wrong at `where` inside the file `path`."""
        self.found.append(f"{path}: {where}: {what}" if where else f"{path}: {what}")


def read(path: Path, problems: Problems) -> Fields | None:
    """The top-level mapping of the YAML file at `path`; None, and a problem noted, if there is none."""
    try:
        data = yaml.load(path.read_bytes(), Loader=_StrictLoader)  # noqa: S506  # the strict loader is a safe loader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        problems.add(path, f"line {mark.line + 1}" if mark else "", f"{error.problem}")
        return None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problems.add(path, "", f"not YAML: {error}")
        return None
    except OSError as error:
        problems.add(path, "", f"cannot be read: {error.strerror}")
        return None
    if not isinstance(data, dict):
        problems.add(path, "", "must be a mapping of keys to values")
        return None
    return Fields(path, "", data, problems)


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return True


@dataclass
class Fields:
    """A mapping being read: each accessor takes one key, notes what is wrong with it, and returns a usable value."""

    path: Path
    where: str
    data: Mapping[str, Any]
    problems: Problems
    known: set[str] = field(default_factory=set)

    def problem(self, key: str, what: str) -> None:
        """Note a problem with `key`, or with the mapping itself where `key` is empty."""
        self.problems.add(self.path, ".".join(p for p in (self.where, key) if p), what)

    def _take(self, key: str, kind: type, default: Any, required: bool) -> Any:
        self.known.add(key)
        value = self.data.get(key)
        if value is None:
            if required:
                self.problem(key, f"is missing: give {_TYPES[kind]}")
            return default
        accepted = (int, float) if kind is float else kind
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            hint = ": YAML reads an exponent only after a point, as in 1.0e-3" if kind is float and _is_number(value) else ""
            shown = public_url(value) if isinstance(value, str) else value
            self.problem(key, f"must be {_TYPES[kind]}, not {shown!r}{hint}")
            return default
        return value

    def text(self, key: str, default: str | None = None, choices: Iterable[str] | None = None) -> str:
        """A text; required unless there is a `default`; one of `choices` if those are given."""
        value: str = self._take(key, str, default or "", default is None)
        if choices is not None and value and value not in (known := list(choices)):
            self.problem(key, f"{value!r} is unknown: {did_you_mean(value, known)}")
        return value.strip()

    def integer(self, key: str, default: int | None, signed: bool = False) -> int:
        """A whole number, of 0 or more unless it is `signed`; required unless there is a default."""
        value: int = self._take(key, int, default or 0, default is None)
        if value < 0 and not signed:
            self.problem(key, f"must not be negative, but is {value}")
        return value

    def number(self, key: str, default: float | None) -> float:
        """A number; required unless there is a default."""
        try:
            value = float(self._take(key, float, default or 0.0, default is None))
        except OverflowError:  # of a whole number
            value = math.inf
        if not math.isfinite(value):
            self.problem(key, f"must be a finite number, not {value}")
            return default or 0.0
        return value

    def anything(self, key: str) -> Any:
        """Whatever stands at `key`."""
        self.known.add(key)
        return self.data[key]

    def items(self, key: str, required: bool = False) -> list[Any]:
        """A list; empty where the key is absent; `required` also refuses an empty one."""
        value: list[Any] = self._take(key, list, [], required)
        if required and not value and isinstance(self.data.get(key), list):
            self.problem(key, "must not be empty")
        return value

    def texts(self, key: str, required: bool = False) -> tuple[str, ...]:
        """A list of texts without repetition."""
        values = self.items(key, required)
        for index, value in enumerate(values):
            if not isinstance(value, str):
                self.problem(f"{key}[{index}]", f"must be text, not {value!r}")
            elif value in values[:index]:
                self.problem(f"{key}[{index}]", f"{value!r} stands twice: remove one")
        return tuple(v for v in values if isinstance(v, str))

    def parsed(self, key: str, parse: Callable[[str], _T]) -> tuple[_T, ...]:
        """A list of texts, each through `parse`, whose ValueErrors become problems."""
        result = []
        for index, text in enumerate(self.texts(key)):
            try:
                result.append(parse(text))
            except ValueError as error:
                self.problem(f"{key}[{index}]", str(error))
        return tuple(result)

    def sub(self, key: str, required: bool = False) -> Fields | None:
        """The mapping at `key`, or None."""
        value = self._take(key, dict, None, required)
        return None if value is None else Fields(self.path, f"{self.where}.{key}".lstrip("."), value, self.problems)

    def subs(self, key: str) -> list[Fields]:
        """The list of mappings at `key`."""
        result = []
        for index, value in enumerate(self.items(key, required=True)):
            if isinstance(value, dict):
                result.append(Fields(self.path, f"{self.where}.{key}[{index}]".lstrip("."), value, self.problems))
            else:
                self.problem(f"{key}[{index}]", f"must be a mapping, not {value!r}")
        return result

    def digest(self, key: str = "sha256") -> str:
        """A SHA-256 in 64 lower-case hex digits."""
        value = self.text(key)
        if value and not re.fullmatch(r"[0-9a-f]{64}", value):
            self.problem(key, "must be 64 lower-case hex digits: the output of sha256sum")
        return value

    def file(self, key: str, default: str | None = None) -> Path:
        """An existing file, its path relative to the folder of this document."""
        text = self.text(key, default)
        path = self.path.parent / text
        if text and not is_file(str(path)):
            self.problem(key, f"there is no file {path}")
        return path

    def done(self) -> None:
        """Note every key that no accessor asked for."""
        for key in self.data.keys() - self.known:
            self.problem(key, f"is not a key here: {did_you_mean(key, self.known)}")
