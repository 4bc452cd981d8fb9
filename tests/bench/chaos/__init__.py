"""What goes wrong, by the thousand, counted: kills, faulty requests, racing publishers, damaged documents and files."""

from __future__ import annotations

import os
import sys
from pathlib import Path


class ViolatedError(AssertionError):
    """Something that must hold did not."""


def require(holds: object, what: str) -> None:
    """Raise ViolatedError unless `holds`."""
    if not holds:
        raise ViolatedError(what)


def descriptors() -> int:
    """How many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def silence() -> None:
    """Let this process, a child, say nothing: its errors are what is wanted."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.dup2(null, sys.stderr.fileno())
