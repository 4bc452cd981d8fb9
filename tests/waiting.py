"""Waiting for what must come, however slow the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable

FOREVER = 1800.0  # seconds, after which it is not slow but hangs


def wait_for(what: Callable[[], object]) -> None:
    """Return when `what()` is true."""
    deadline = time.monotonic() + FOREVER
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)
