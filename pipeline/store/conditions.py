"""Whether a server obeys the conditions of writes: by these a version has one publisher, and a channel loses no move."""

from __future__ import annotations

import json
import threading
from typing import Protocol, runtime_checkable

from pipeline.errors import PipelineError
from pipeline.layout import PROBE_KEY
from pipeline.store.base import Store

_PROBE = b'{"about": "put by publishers, to see whether the server obeys the conditions of writes"}\n'
_obeyed: set[str] = set()  # by the stores of this run
_lock = threading.Lock()


@runtime_checkable
class Probed(Protocol):
    """A store with conditions of another kind than those of a bucket."""

    def ignored(self) -> list[str]:
        """The names of those that the server ignores. Tried with the object at PROBE_KEY, which is there afterwards."""


def require_conditions(store: Store) -> None:
    """Raise PipelineError, with the name of the condition, where the server ignores one. It is tried once in a run.

    What is there already is put there again, on conditions that do not hold: the same bytes, whoever else tries it meanwhile.
    """
    with _lock:
        asked = json.dumps([store.url, dict(store.identity)], sort_keys=True)
        if asked in _obeyed:
            return
        ignored = store.ignored() if isinstance(store, Probed) else _ignored(store)
        if ignored:
            raise PipelineError(
                f"the server ignores {' and '.join(ignored)}: whoever publishes at the same time would be overwritten",
                where=store.url,
                hint="use a server that has conditional writes, a bucket without versions, or the path of a directory",
            )
        _obeyed.add(asked)


def _ignored(store: Store) -> list[str]:
    ignored = []
    if store.create(PROBE_KEY, _PROBE) and store.create(PROBE_KEY, _PROBE):
        ignored.append("If-None-Match (create what is not there)")
    if store.replace(PROBE_KEY, _PROBE, "0" * 32):
        ignored.append("If-Match (replace what is known)")
    return ignored
