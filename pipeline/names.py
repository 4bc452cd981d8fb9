"""The names users give: of models, targets, bundles, versions and channels, which become file names and keys."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._+-]{0,62}[A-Za-z0-9])?")

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,254}")

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
    """`did you mean 'x'?` for the closest of `known`, or `known: a, b, c`."""
    choices = sorted(known)
    close = closest(word, choices)
    return f"did you mean {close!r}?" if close else f"known: {', '.join(choices) or 'none'}"


def closest(word: str, known: Iterable[str]) -> str:
    """The one of `known` that `word` may be a misspelling of; empty where there is none."""
    close = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return close[0] if close else ""


def numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version of a package, to compare: 3.13.0rc1 has those of 3.13.0."""
    return tuple(int(match[0]) for part in version.split(".") if (match := re.match(r"\d+", part)))
