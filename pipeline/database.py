"""How doit remembers what is up to date. Losing it costs a look at the records beside the outputs, never a wrong result."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

from doit.dependency import DatabaseException, FileChangedChecker, SqliteDB

from pipeline.files import sha256_file
from pipeline.terminal import say


class Database(SqliteDB):  # type: ignore[misc]  # doit is untyped
    """doit's sqlite3 backend, for which a full or read-only disk is no reason to end in a traceback."""

    def __init__(self, name: str, *arguments: Any, **options: Any) -> None:
        try:
            super().__init__(name, *arguments, **options)
        except (DatabaseException, sqlite3.DatabaseError):
            try:
                Path(name).unlink()
                say(f"note: {name} was damaged and is begun anew; what is built is looked at again")
            except OSError:  # it is not there, and cannot be made; or may not be touched
                say(f"note: {name} cannot be opened: nothing is known to be up to date")
                name = ":memory:"
            super().__init__(name, *arguments, **options)

    def dump(self) -> None:
        """Save; where that is impossible, say so and let the next run look at the records instead."""
        try:
            super().dump()
        except sqlite3.OperationalError as error:
            self._conn.close()
            say(f"note: what is up to date could not be saved ({error}); the next run will look again")


class Checker(FileChangedChecker):  # type: ignore[misc]  # doit is untyped
    """Whether a file changed: by its time, and where that differs by its digest, made once for all tasks that name it."""

    _digests: dict[tuple[str, int, int, int], str] = {}  # noqa: RUF012  # of this run

    def _digest(self, path: str, found: os.stat_result) -> str:
        key = (path, found.st_size, found.st_mtime_ns, found.st_ino)
        if key not in self._digests:
            self._digests[key] = sha256_file(Path(path))
        return self._digests[key]

    def check_modified(self, file_path: str, file_stat: os.stat_result, state: tuple[int, int, str]) -> bool:
        """Whether the file differs from `state`, which `get_state` returned."""
        modified_ns, size, digest = state
        if (file_stat.st_mtime_ns, file_stat.st_size) == (modified_ns, size):
            return False
        return file_stat.st_size != size or self._digest(file_path, file_stat) != digest

    def get_state(self, dep: str, current_state: tuple[int, int, str] | None) -> tuple[int, int, str] | None:
        """The file's time (ns), size (bytes) and SHA-256; None where `current_state` is still that."""
        found = Path(dep).stat()
        if current_state and tuple(current_state[:2]) == (found.st_mtime_ns, found.st_size):
            return None
        return found.st_mtime_ns, found.st_size, self._digest(dep, found)
