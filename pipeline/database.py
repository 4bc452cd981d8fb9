"""doit's memory of what is up to date. Losing it costs a look at the records beside the outputs, never a wrong result."""

from __future__ import annotations

import sqlite3
import sys

from doit.dependency import SqliteDB


class Database(SqliteDB):  # type: ignore[misc]  # doit is untyped
    """doit's sqlite3 backend, for which a full or read-only disk is no reason to end in a traceback."""

    def dump(self) -> None:
        """Save; where that is impossible, say so and let the next run look at the records instead."""
        try:
            super().dump()
        except sqlite3.OperationalError as error:
            self._conn.close()
            print(f"note: what is up to date could not be saved ({error}); the next run will look again", file=sys.stderr)
