"""What the steps of this run are doing just now, in a few words each: said by whoever does it, shown by the reporter."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

_said: dict[str, tuple[str, float | None]] = {}  # and when it should be done, if somebody dared to say
_thread = threading.local()


@contextmanager
def step(name: str) -> Iterator[None]:
    """What this thread says while the block lasts is about the step `name`."""
    _thread.name = name
    try:
        yield
    finally:
        _said.pop(name, None)
        del _thread.name


def say(text: str, left: float = 0) -> None:
    """Replace what this thread's step is said to be doing, and in how many seconds it may be done. Nothing outside of a step."""
    if name := getattr(_thread, "name", ""):
        _said[name] = text, time.monotonic() + left if left >= 1 else None


def each(what: str, things: Iterable[T], total: int) -> Iterator[T]:
    """The `things`, of which there are `total`. This thread's step says how many came, and how long the rest may take."""
    began = time.monotonic()
    for done, one in enumerate(things, 1):
        yield one
        left = (time.monotonic() - began) / done * (total - done)
        say(f"{done} of {total} {what}", left)


def text(name: str) -> str:
    """What the step `name` last said, with what is left now of the time that it said; empty if it said nothing."""
    said, end = _said.get(name, ("", None))
    return said if end is None else f"{said}, {_until(end - time.monotonic())}"


def _until(left: float) -> str:
    """An estimate counts down; where it was too short, that is said, and counts up."""
    return f"about {left:.0f} s left" if left >= 0.5 else f"{max(-left, 1):.0f} s longer than estimated"
