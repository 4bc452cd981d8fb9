"""Uploads in parts that were begun: noted in a file until they end, so that the run after a kill can abort them.

A bucket keeps the parts of an upload that nobody ended for ever, counts them, and shows them to nobody.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pipeline.files import opened, write

_lock = threading.Lock()


class Uploads:
    """The uploads that are noted in the file at `path`, which one run at a time uses."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _noted(self) -> list[list[str]]:
        try:
            with opened(self._path) as file:
                noted = json.loads(file.readall())
            return [[str(word) for word in upload] for upload in noted if len(upload) == 4]
        except (OSError, ValueError, TypeError):
            return []

    def _keep(self, uploads: list[list[str]]) -> None:
        if uploads:
            write(self._path, json.dumps(uploads).encode())
        else:
            with suppress(OSError):
                self._path.unlink()

    def note(self, *upload: str) -> None:
        """Note an upload: endpoint, bucket, key, and the server's name of it."""
        with _lock:
            self._keep([*self._noted(), list(upload)])

    def forget(self, *upload: str) -> None:
        """The upload ended."""
        with _lock:
            self._keep([noted for noted in self._noted() if noted != list(upload)])

    def left(self, endpoint: str, bucket: str, abort: Callable[[str, str], bool]) -> None:
        """Let `abort` end each upload of this bucket, by key and name; those of which it says that they ended are forgotten."""
        with _lock:
            noted = self._noted()
            kept = [n for n in noted if n[:2] != [endpoint, bucket] or not abort(n[2], n[3])]
            if kept != noted:
                self._keep(kept)
