"""Reading one YAML document strictly: every problem is noted with file, path inside it and what to do, none is raised."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml

from pipeline.files import is_file
from pipeline.names import did_you_mean
from pipeline.plain import is_plain, plain, public_url, shown
from pipeline.spec.kinds import Either, Key, Keys, Kind, Listing, Number, Text, Whole

_T = TypeVar("_T")
_K = TypeVar("_K", Text, Whole, Number, Listing, Keys)

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_NOT_PLAIN = "has characters that cannot be shown: an escape, a line feed inside, a sign that turns text around, …"
_TYPES = {str: "text", int: "a whole number", float: "a number", list: "a list", dict: "a mapping"}


_TAG = "tag:yaml.org,2002:"
_LIMIT = 4 << 20  # bytes of a file; far above any real one
_LARGEST, _HUGE = 1 << 63, 10**4000  # numbers that other programs do not count; whose digits Python does not write


def _refusal(what: str, node: Any) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, what, node.start_mark)


class _StrictLoader(_Loader):  # type: ignore[misc]  # the base is chosen at run time
    """SafeLoader that refuses a key given twice, and knows texts, numbers, booleans, lists and mappings. A day is a text."""

    yaml_implicit_resolvers: ClassVar[dict[Any, Any]] = {
        first: [(tag, pattern) for tag, pattern in known if tag != f"{_TAG}timestamp"]
        for first, known in _Loader.yaml_implicit_resolvers.items()
    }
    yaml_constructors: ClassVar[dict[Any, Any]] = {
        tag: make
        for tag, make in _Loader.yaml_constructors.items()
        if tag is None or tag.removeprefix(_TAG) in ("null", "str", "seq", "map")
    }

    def scalar(self, node: Any) -> Any:
        """A number or a boolean, by SafeLoader, whose errors for what is none are of any kind."""
        try:
            value = _Loader.yaml_constructors[node.tag](self, node)
        except (ValueError, ArithmeticError, LookupError, AttributeError) as error:
            what = f"{shown(node.value)} is no {node.tag.removeprefix(_TAG)} that can be read"
            raise _refusal(what, node) from error
        if isinstance(value, int) and abs(value) >= _HUGE:
            raise _refusal("the number is too large", node)
        return value


def _mapping(loader: Any, node: Any) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise _refusal(f"the key {shown(key)} is not text: quote it", key_node)
        if key in seen:
            raise _refusal(f"the key {shown(key)} stands twice: remove one", key_node)
        if not is_plain(key):
            raise _refusal(f"the key {shown(key)} {_NOT_PLAIN}", key_node)
        seen.add(key)
    result: dict[Any, Any] = loader.construct_mapping(node, deep=True)
    return result


_StrictLoader.add_constructor(f"{_TAG}map", _mapping)
for _kind in ("int", "float", "bool"):
    _StrictLoader.add_constructor(f"{_TAG}{_kind}", _StrictLoader.scalar)


def _alias(data: bytes) -> str:
    """The name of an alias in a document, which may grow without end; empty where there is none."""
    events = yaml.parse(data, Loader=_Loader) if b"*" in data else ()
    return next((str(event.anchor) for event in events if isinstance(event, yaml.AliasEvent)), "")


@dataclass
class Problems:
    """The problems of all files read so far."""

    found: list[str] = field(default_factory=list)

    def add(self, path: Path, where: str, what: str) -> None:
        """Note that `what` is wrong at `where` inside the file `path`."""
        self.found.append(plain(f"{path}: {where}: {what}" if where else f"{path}: {what}"))


def read(path: Path, keys: Keys, problems: Problems) -> Fields | None:
    """The top-level mapping of the YAML file at `path`, which has `keys`; None, and a problem noted, if there is none."""
    try:
        with path.open("rb") as file:
            text = file.read(_LIMIT + 1)
        if len(text) > _LIMIT:
            problems.add(path, "", f"is larger than {_LIMIT >> 20} MiB, which no spec is")
            return None
        if alias := _alias(text):
            problems.add(path, "", f"has the alias *{alias}: write out what it stands for")
            return None
        data = yaml.load(text, Loader=_StrictLoader)  # noqa: S506  # the strict loader is a safe loader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = text.splitlines()[mark.line : mark.line + 1] if mark else []
        tab = ": YAML is indented with spaces, write them instead of the tab" if any(b"\t" in one for one in line) else ""
        problems.add(path, f"line {mark.line + 1}" if mark else "", f"{error.problem}{tab}")
        return None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problems.add(path, "", f"is no YAML: {error}")
        return None
    except OSError as error:
        problems.add(path, "", f"cannot be read: {error.strerror}")
        return None
    if not isinstance(data, dict):
        problems.add(path, "", "must be a mapping of keys to values")
        return None
    return Fields(path, "", data, keys, problems)


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return True


def _at_least(least: float) -> str:
    return f"must be {least:g} or more" if least else "must not be negative"


@dataclass
class Fields:
    """A mapping being read: each accessor takes one key, notes what is wrong with it, and returns a usable value.

    `keys` says of each key whether it is required, its default and its choices. What depends on other keys is told the accessor.
    """

    path: Path
    where: str
    data: Mapping[str, Any]
    keys: Keys
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
                self.problem(key, f"is missing: give {self.keys.key(key).missing or _TYPES[kind]}")
            return default
        accepted = (int, float) if kind is float else kind
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            hint = ": YAML reads an exponent only after a point, as in 1.0e-3" if kind is float and _is_number(value) else ""
            said = public_url(value) if isinstance(value, str) else value
            self.problem(key, f"must be {_TYPES[kind]}, not {shown(said)}{hint}")
            return default
        return self._plain(key, value)

    def _plain(self, key: str, value: Any) -> Any:
        """The value of `key`; a problem noted if it is a text with more in it than can be seen on one line."""
        if isinstance(value, str) and not is_plain(value.strip()):
            self.problem(key, _NOT_PLAIN)
            return "".join(sign for sign in value if is_plain(sign))  # nothing else is wrong with it for that
        return value

    def _said(self, key: str, kind: type[_K]) -> tuple[Key, _K]:
        """What `keys` say of a key, and of a value of this kind there."""
        described = self.keys.key(key)
        kinds: tuple[Kind, ...] = described.kind.kinds if isinstance(described.kind, Either) else (described.kind,)
        return described, next(one for one in kinds if isinstance(one, kind))

    def text(self, key: str, default: str | None = None, choices: Iterable[str] | None = None, required: bool = False) -> str:
        """A text; one of its choices, or of these, if there are any."""
        described, kind = self._said(key, Text)
        value: str = self._take(key, str, default or described.default or "", required or described.required)
        known = list(kind.choices if choices is None else choices)
        if value and value not in known and (kind.choices or choices is not None):
            meant = kind.meant.get(value)
            self.problem(key, f"{value!r} is unknown: {did_you_mean(meant or value, known)}")
        return value.strip()

    def integer(self, key: str, required: bool = False) -> int:
        """A whole number, between its ends."""
        described, kind = self._said(key, Whole)
        value: int = self._take(key, int, described.default, required or described.required)
        if value is None:
            return 0
        if kind.least is not None and value < kind.least:
            self.problem(key, f"{_at_least(kind.least)}, but is {shown(value)}")
        elif kind.most is not None and value > kind.most:
            self.problem(key, f"must be at most {kind.most}")
        elif abs(value) >= _LARGEST:
            self.problem(key, f"is too large: {shown(value)}")
        return max(-_LARGEST, min(value, _LARGEST))  # for those who check it next

    def number(self, key: str, default: float | None = None, required: bool = False) -> float:
        """A number, of its least or more."""
        described, kind = self._said(key, Number)
        default = described.default if default is None else default
        try:
            value = float(self._take(key, float, default or 0.0, required or described.required))
        except OverflowError:  # of a whole number
            value = math.inf
        if not math.isfinite(value):
            self.problem(key, f"must be a finite number, not {value}")
            return default or 0.0
        if kind.least is not None and value < kind.least:
            self.problem(key, _at_least(kind.least))
        return value

    def anything(self, key: str) -> Any:
        """Whatever stands at `key`."""
        self.known.add(key)
        return self._plain(key, self.data[key])

    def items(self, key: str, required: bool = False) -> list[Any]:
        """A list; empty where the key is absent."""
        described, kind = self._said(key, Listing)
        value: list[Any] = self._take(key, list, [], required or described.required)
        if kind.filled and not value and isinstance(self.data.get(key), list):
            self.problem(key, "must not be empty")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts without repetition."""
        values = self.items(key)
        for index, value in enumerate(values):
            if not isinstance(value, str):
                self.problem(f"{key}[{index}]", f"must be text, not {shown(value)}")
            elif self._plain(f"{key}[{index}]", value) in values[:index]:
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
        described, kind = self._said(key, Keys)
        value = self._take(key, dict, None, required or described.required)
        return None if value is None else Fields(self.path, f"{self.where}.{key}".lstrip("."), value, kind, self.problems)

    def subs(self, key: str, required: bool = False) -> list[Fields]:
        """The list of mappings at `key`."""
        result = []
        kind = self._said(key, Listing)[1].item
        assert isinstance(kind, Keys)
        for index, value in enumerate(self.items(key, required)):
            if isinstance(value, dict):
                result.append(Fields(self.path, f"{self.where}.{key}[{index}]".lstrip("."), value, kind, self.problems))
            else:
                self.problem(f"{key}[{index}]", f"must be a mapping, not {shown(value)}")
        return result

    def digest(self, key: str = "sha256") -> str:
        """A SHA-256 in 64 lower-case hex digits."""
        value = self.text(key)
        if value and not re.fullmatch(self._said(key, Text)[1].pattern, value):
            self.problem(key, "must be 64 lower-case hex digits: the output of sha256sum")
        return value

    def file(self, key: str) -> Path:
        """An existing file, its path relative to the folder of this document."""
        text = self.text(key)
        path = self.path.parent / text
        if text and not is_file(str(path)):
            self.problem(key, f"there is no file {path}")
        return path

    def done(self) -> None:
        """Note every key that no accessor asked for."""
        for key in self.data.keys() - self.known:
            self.problem(key, f"is not a key here: {did_you_mean(key, self.known)}")
