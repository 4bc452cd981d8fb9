"""What the steps of this run are doing just now, in a few words each: said by whoever does it, shown by the reporter."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_texts: dict[str, str] = {}
_thread = threading.local()


@contextmanager
def step(name: str) -> Iterator[None]:
    """What this thread says while the block lasts is about the step `name`."""
    _thread.name = name
    try:
        yield
    finally:
        _texts.pop(name, None)
        del _thread.name


def say(text: str) -> None:
    """Replace what this thread's step is said to be doing. Nothing outside of a step."""
    if name := getattr(_thread, "name", ""):
        _texts[name] = text


def text(name: str) -> str:
    """What the step `name` last said; empty if nothing."""
    return _texts.get(name, "")
