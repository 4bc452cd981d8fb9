"""The names users give: of models, targets, bundles, versions and channels, which become file names and keys."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

NAME = "[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?"  # as a whole; `..` must not be in it

_NAME = re.compile(NAME)
_VERSION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._+-]{0,62}[A-Za-z0-9])?")

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,254}")

_COMPARED, _LISTED = 2000, 40

RULE = "lower-case letters, digits, '.', '_' and '-', at most 64, letter or digit first and last"


def is_name(text: str) -> bool:
    """Whether `text` may name a model, target, bundle or channel (see RULE)."""
    return bool(_NAME.fullmatch(text)) and ".." not in text


def is_version(text: str) -> bool:
    """Whether `text` may be a release's version: like a name, with capitals and '+' allowed."""
    return bool(_VERSION.fullmatch(text)) and ".." not in text


def is_file_name(text: str) -> bool:
    """Whether `text` may name a file in a folder of the user's: no path, not hidden."""
    return bool(_FILE_NAME.fullmatch(text))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?` for the closest of `known`, or `known: a, b, c`; of very many, those that begin alike are looked at."""
    choices = sorted(known)
    close = closest(word, choices)
    more = f" and {len(choices) - _LISTED} more" if len(choices) > _LISTED else ""
    return f"did you mean {close!r}?" if close else f"known: {', '.join(choices[:_LISTED]) or 'none'}{more}"


def closest(word: str, known: Iterable[str]) -> str:
    """The one of `known` that `word` may be a misspelling of, empty where there is none; see `did_you_mean`."""
    choices = sorted(known)
    near = choices if len(choices) <= _COMPARED else [c for c in choices if c[:2] == word[:2]][:_COMPARED]
    close = difflib.get_close_matches(word, near, n=1, cutoff=0.6)
    return close[0] if close else ""


def numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version of a package, to compare: 3.13.0rc1 has those of 3.13.0. Of each at most 18 digits count."""
    return tuple(int(match[0]) for part in version.split(".") if (match := re.match(r"[0-9]{1,18}", part)))


def whole_number(text: str) -> int | None:
    """The number in a text from anywhere, as servers and command lines give them: decimal digits, at most 18; else None."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None
