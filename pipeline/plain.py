"""Text from anywhere as it may be shown to people: nothing moves a cursor, colours, turns letters around, hides, or is secret."""

from __future__ import annotations

import re
import reprlib
import unicodedata
from collections.abc import Iterable, Sequence

# Control characters, those that only format (bidirectional ones among them), halves of characters, line and paragraph ends.
_UNSAFE = ("Cc", "Cf", "Cs", "Zl", "Zp")
_JOINERS = "\u200c\u200d"  # of Persian and Indian words, and of emoji

# In any text: what begins like a URL, well written or not. A user of ssh is no secret, and a file has none.
_URL = re.compile(r"(?<![A-Za-z0-9+.-])(?!(?:ssh|file):)([A-Za-z][A-Za-z0-9+.-]+:/{1,3})([^\s'\"<>`]+)")
_LOGIN = re.compile(
    r"(?<![^\s/'\"(])[^\s/:@'\"]{1,256}:(?!:)[^\s/@'\"]{1,256}@(?=[\w.-])"
)  # user:password@ of what lacks the `https://`

_CUT = reprlib.Repr()
_CUT.maxlevel, _CUT.maxlist, _CUT.maxdict = 2, 3, 3
_CUT.maxstring = _CUT.maxlong = _CUT.maxother = 100


def _is_unsafe(character: str) -> bool:
    return unicodedata.category(character) in _UNSAFE and character not in _JOINERS


def is_plain(text: str) -> bool:
    """Whether `text` is one line of what can be seen."""
    return text.isprintable() or not any(map(_is_unsafe, text))


def plain(text: str) -> str:
    """`text` as one line of what can be seen: all else as Python writes it, `\\x1b` or `\\n`. Plain text stays as it is."""
    if text.isprintable():
        return text
    return "".join(c.encode("unicode_escape").decode() if _is_unsafe(c) else c for c in text)


def html_table(rows: Iterable[Sequence[str]]) -> str:
    """What notebooks show of a value: a row each of a heading and of cells, all of them plain text."""
    from html import escape  # only notebooks want it

    told = []
    for head, *others in rows:
        cells = "".join(f"<td>{escape(plain(cell))}</td>" for cell in others)
        told.append(f"<tr><th>{escape(plain(head))}</th>{cells}</tr>")
    return f"<table>{''.join(told)}</table>"


def plain_lines(text: str) -> list[str]:
    """The lines of a text that may have several, each plain."""
    return [plain(line) for line in text.split("\n")]


def shown(value: object) -> str:
    """A value that a document gives, for a message: as Python writes it, cut where it is long."""
    try:
        return f"{_CUT.repr(value):.120}"
    except ValueError:  # how Python refuses to write thousands of digits
        return "a number of thousands of digits"


def _without_user(rest: str) -> str:
    """What is behind the `//` of a URL, without user and password. A password may have any character in it."""
    authority, slash, path = rest.partition("/")
    if "@" in authority:
        return f"{authority.rpartition('@')[2]}{slash}{path}"
    _, colon, port = authority.rpartition(":")
    is_address = not colon or port.isdecimal() or authority.endswith("]")
    return rest if is_address else rest.rpartition("@")[2]


def public_url(url: str) -> str:
    """The URL without what may be secret: user, password, query. Also of text that is no URL."""
    known = url.partition("?")[0].partition("#")[0]
    scheme, separator, rest = known.partition("://")
    if separator:
        return f"{scheme}://{_without_user(rest)}"
    before, _, after = known.rpartition("@")
    return after if ":" in before else known


def without_secrets(text: str) -> str:
    """`text`, whose URLs lose user, password and query."""
    if "@" not in text and "?" not in text:
        return text
    return _LOGIN.sub("", _URL.sub(lambda url: url[1] + _without_user(url[2].partition("?")[0]), text))
