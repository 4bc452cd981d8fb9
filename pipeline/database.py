"""doit's memory of what is up to date. Losing it costs a look at the records beside the outputs, never a wrong result."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path
from typing import Any

from doit.dependency import DatabaseException, SqliteDB


class Database(SqliteDB):  # type: ignore[misc]  # doit is untyped
    """doit's sqlite3 backend, for which a full or read-only disk is no reason to end in a traceback."""

    def __init__(self, name: str, *arguments: Any, **options: Any) -> None:
        try:
            super().__init__(name, *arguments, **options)
        except (DatabaseException, sqlite3.DatabaseError):
            print(f"note: {name} was damaged and is begun anew; what is built is looked at again", file=sys.stderr)
            Path(name).unlink()
            super().__init__(name, *arguments, **options)

    def dump(self) -> None:
        """Save; where that is impossible, say so and let the next run look at the records instead."""
        try:
            super().dump()
        except sqlite3.OperationalError as error:
            self._conn.close()
            print(f"note: what is up to date could not be saved ({error}); the next run will look again", file=sys.stderr)
