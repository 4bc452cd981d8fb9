"""Which words of what is printed have a colour, and whether a stream is to have any: at most four, never in a file or a pipe."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from typing import TextIO

from pipeline import platforms

CHOICES = ("auto", "always", "never")
_GREEN, _RED, _YELLOW, _CYAN = 32, 31, 33, 36
_WORDS: Mapping[str, int] = {
    **dict.fromkeys(("✓",), _GREEN),
    **dict.fromkeys(("✗", "error:", "WRONG", "DROPPED"), _RED),
    **dict.fromkeys(("!", "note:"), _YELLOW),
    **dict.fromkeys(("→",), _CYAN),
}
_FIRST = re.compile(r"^(\s*)(✓|✗|→|!|error:|note:)(?= )")
_ANYWHERE = re.compile(r"(?<=  )(WRONG|DROPPED)(?=  |$)")
_chosen = "auto"


def choose(mode: str) -> None:
    """Take one of CHOICES for this process, before what the environment says."""
    global _chosen
    _chosen = mode


def wanted(stream: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether `stream` is to have colours: by what was chosen, then NO_COLOR, FORCE_COLOR, and whether it is a terminal."""
    if _chosen != "auto":
        return _chosen == "always"
    if environment.get("NO_COLOR"):
        return False
    if environment.get("FORCE_COLOR"):
        return True
    return stream.isatty() and environment.get("TERM") != "dumb" and platforms.terminal_takes_colors()


def _colored(match: re.Match[str]) -> str:
    word = match[match.re.groups]
    return f"{match[0].removesuffix(word)}\x1b[{_WORDS[word]}m{word}\x1b[0m"


def painted(line: str, stream: TextIO | None = None) -> str:
    """A line that is plain already, with colours where `stream` (default: standard output) is to have any."""
    if not wanted(stream or sys.stdout):
        return line
    return _ANYWHERE.sub(_colored, _FIRST.sub(_colored, line))
