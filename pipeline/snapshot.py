"""Whether anything at all has changed since `doit` found nothing to do: one look at every file, before doit's own work.

Like a build system's no-op it trusts size, time and inode. Any doubt means that doit looks properly, as if this were not here.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.result import asked_for
from pipeline.spec import defaults

_PACKAGE = Path(__file__).parent


def _look(path: str) -> list[int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116  # thousands of times
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ino]


def _walk(folder: str) -> list[str]:
    """The folder, and everything below it but what Python caches: a new file shows in its folder's time."""
    found = [folder]
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir() and entry.name != "__pycache__":
                found += _walk(entry.path)
            elif entry.is_file():
                found.append(entry.path)
    return found


def _any_lacks(receipts: Iterable[str]) -> bool:
    from pipeline.store.published import any_lacks  # takes its time, for what is asked over a network

    return any_lacks(map(Path, receipts))


class Snapshot:
    """What `path` remembers of the last run that had nothing to do, on a machine with this fingerprint."""

    def __init__(self, path: Path, machine: str) -> None:
        self._path = path
        self._circumstances: dict[str, Any] = {
            "arguments": sys.argv[1:],
            "environment": {name: value for name, value in os.environ.items() if name.startswith("PIPELINE_")},
            "machine": machine,
            "compiler": importlib.metadata.version("iree-base-compiler"),
        }

    def leave_if_it_holds(self) -> None:
        """Say that everything is up to date and end the process, if nothing changed; else remember how the specs look now.

        Where a result for programs is asked for, that is doit's to give.
        """
        started = time.monotonic()
        count = None if asked_for(sys.argv[1:]) else self._count()
        if count is not None:
            sys.stdout.write(f"{count} up to date in {time.monotonic() - started:.1f} s\n")
            raise SystemExit(0)
        own = [name for name in ("dodo.py", "pyproject.toml", "doit.cfg") if _look(name)]
        read = (*own, *_walk("targets"), *_walk(str(_PACKAGE)), *_walk(str(defaults.folder())))
        self._read = {name: _look(name) for name in read if not name.endswith(".pyc")}

    def _count(self) -> int | None:
        try:
            known = json.loads(self._path.read_text())
            same = known["circumstances"] == self._circumstances
            if same and all(_look(name) == found for name, found in known["files"].items()):
                return None if known["receipts"] and _any_lacks(known["receipts"]) else int(known["count"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # there is none, or it is damaged
        return None

    def take(self, files: Iterable[str], count: int, receipts: Iterable[str]) -> None:
        """Remember that `count` tasks, which read and made `files`, had nothing to do. Not if a spec changed meanwhile.

        `receipts`, among the files, are of what was published where only a request can tell whether it is there.
        """
        looks = {**{name: _look(name) for name in files}, **self._read}
        if all(looks.values()) and all(_look(name) == found for name, found in self._read.items()):
            content = {"circumstances": self._circumstances, "files": looks, "receipts": [*receipts], "count": count}
            self._path.write_text(json.dumps(content))  # half of it is not JSON, and then nothing is believed
