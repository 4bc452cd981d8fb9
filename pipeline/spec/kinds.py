"""The words in which `keys.py` says what a spec may hold: kinds of values, keys, mappings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Union


@dataclass(frozen=True)
class Text:
    """A text on one line: one of `choices`, or as a whole like the regular expression `pattern`, where those are given.

    The expression is one that Python and JSON Schema read alike. `meant`: choices by what they are called elsewhere.
    """

    choices: tuple[str, ...] = ()
    pattern: str = ""
    meant: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Whole:
    """A whole number from `least` to `most`; None: without such an end."""

    least: int | None = 0
    most: int | None = None


@dataclass(frozen=True)
class Number:
    """A finite number, of `least` or more where that is given."""

    least: float | None = None


@dataclass(frozen=True)
class Listing:
    """A list of things of one kind; `filled`: of one at least, `unique`: of each only one."""

    item: Kind
    filled: bool = False
    unique: bool = False


@dataclass(frozen=True)
class Either:
    """A value of one of these kinds."""

    kinds: tuple[Kind, ...]


@dataclass(frozen=True)
class Anything:
    """A value that the reader alone judges; `schema` is as much as JSON Schema can say of it."""

    schema: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Key:
    """A key of a mapping: in a sentence what it says, and what stands there.

    `default` is meant where the key is missing, unless it is `required`. `only`: it may be there only where another key has
    one of these values. `missing`: what to give, where its kind does not tell.
    """

    about: str
    kind: Kind
    required: bool = False
    default: Any = None
    only: tuple[str, tuple[str, ...]] | None = None
    missing: str = ""


@dataclass(frozen=True)
class Keys:
    """A mapping, called `name` where people read of it, of which `title` says in a few words what it is: its `named` keys.

    Or the names are the user's, like the pattern `names`, and of each the value is as `others` says; `filled`: one at least.
    `cases`: the value of the key `by` decides which further keys there are. `rules`: conditions, as JSON Schema, that the reader
    checks in its own words.
    """

    title: str
    name: str = ""
    named: Mapping[str, Key] = field(default_factory=dict, hash=False)
    others: Key | None = None
    names: str = ""
    filled: bool = False
    by: str = ""
    cases: Mapping[str, Mapping[str, Key]] = field(default_factory=dict, hash=False)
    rules: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)

    def every(self) -> Iterator[tuple[str, Key]]:
        """All keys that have a name, those of cases too."""
        yield from self.named.items()
        for keys in self.cases.values():
            yield from keys.items()

    def key(self, name: str) -> Key:
        """What is said of a key. Raises KeyError for one that nobody described, which is a bug."""
        found = next((key for known, key in self.every() if known == name), self.others)
        if found is None:
            raise KeyError(name)
        return found


Kind = Union[Text, Whole, Number, Listing, Either, Anything, Keys]  # noqa: UP007  # they name it before it is there
