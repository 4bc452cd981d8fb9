"""The logs of tools: each begins with its command, and of one that grows too long the middle is cut out, which it says."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pipeline import platforms
from pipeline.errors import disk_errors

LIMIT = 16 << 20  # bytes, above which a log is cut
_HEAD, _TAIL = 1 << 20, 4 << 20  # bytes of it that stay
LOOK = 0.2  # seconds between two looks at a log that is being written


class Log:
    """A new log at `path`, which tools append to. What was there, a link too, is replaced. Raises PipelineError."""

    def __init__(self, path: Path, words: Sequence[str], more: str = "") -> None:
        self.path, self._cut = path, 0
        with disk_errors(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            path.write_bytes(f"$ {shlex.join(words)}{more}\n".encode(errors="backslashreplace"))
        self.limit()

    def limit(self) -> None:
        """Cut the middle out if it is too long, though a tool writes on. What that writes at this very moment may go with it.

        Where another's open file cannot be cut (Windows) it grows on.
        """
        if not platforms.OPEN_FILES_CAN_GO:
            return
        with suppress(OSError):  # it is nobody's work to keep logs short: a full disk, for instance, is told elsewhere
            size = os.stat(self.path).st_size  # noqa: PTH116  # several times a second
            if size <= LIMIT:
                return
            with self.path.open("rb") as read, self.path.open("ab", buffering=0) as file:
                read.seek(size - _TAIL)
                tail = read.read()[-_TAIL:]
                self._cut += os.fstat(file.fileno()).st_size - _HEAD - _TAIL
                file.truncate(_HEAD)
                file.write(f"\n… {self._cut} bytes of this log were cut out here …\n".encode() + tail)
