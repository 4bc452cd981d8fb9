"""Downloading a file whole: streamed to the disk, resumed where a connection breaks, checked against its digest.

Until it is whole it lies in a hidden file, which outlives a kill: the next run goes on where this one stopped.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

from pipeline import activity, process
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import other_content, put
from pipeline.store.base import BrokenTransferError, File

_CHUNK = 1 << 20
_ATTEMPTS = 6  # in a row that bring less than _PROGRESS
_PROGRESS = 16 << 10  # bytes
_BACKOFF = 0.2  # seconds, doubled each time


@dataclass
class _Arrived:
    """What has arrived, in a file that is to have the digest `wanted`.

    `joined`: it came by several connections, which may have seen different files.
    """

    file: FileIO
    wanted: str
    size: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)
    tag: str = ""
    joined: bool = False

    def recover(self) -> None:
        """Count what an earlier run left."""
        self.file.seek(0)
        while data := self.file.read(_CHUNK):
            self.digest.update(data)
            self.size += len(data)

    def is_right(self) -> bool:
        return self.digest.hexdigest() == self.wanted

    def restart(self) -> None:
        self.file.truncate(0)
        self.size, self.digest, self.tag, self.joined = 0, hashlib.sha256(), "", False

    def append(self, data: memoryview) -> None:
        self.digest.update(data)
        self.size += len(data)
        try:
            while data:
                data = data[self.file.write(data) :]
        except OSError:  # a full disk: what is here must not keep it full
            self.restart()
            raise


def _say(name: str, arrived: int, size: int | None, begun: float, first: int) -> None:
    of = f" of {size / 1e6:.0f}" if size else ""
    speed = (arrived - first) / max(time.monotonic() - begun, 0.1)
    activity.say(f"{name}: {arrived / 1e6:.0f}{of} MB", (size - arrived) / speed if size and speed else 0)


def _read(file: File, arrived: _Arrived, name: str) -> None:
    """One connection: from what has arrived to the end of the file."""
    with file.rest(arrived.size, arrived.tag) as rest:
        if rest.offset != arrived.size:
            arrived.restart()
        arrived.tag, arrived.joined = rest.tag, arrived.size > 0
        buffer, begun, first = memoryview(bytearray(_CHUNK)), time.monotonic(), arrived.size
        while count := rest.body.readinto(buffer):
            process.pause(0)
            arrived.append(buffer[:count])
            _say(name, arrived.size, rest.size, begun, first)
        if rest.size is not None and arrived.size != rest.size:
            raise BrokenTransferError(f"it ended at byte {arrived.size} of {rest.size}", where=file.url)


def _fetch(file: File, arrived: _Arrived, name: str) -> None:
    """As many connections as it takes."""
    failures, furthest = 0, arrived.size
    while True:
        try:
            return _read(file, arrived, name)
        except BrokenTransferError as error:
            if arrived.is_right():
                return None
            # Only what was never reached before is progress: a server without ranges begins anew each time.
            failures = failures + 1 if arrived.size < furthest + _PROGRESS else 1
            furthest = max(furthest, arrived.size)
            if failures >= _ATTEMPTS:
                hint = error.hint or "run the same command again: it goes on where it broke, if the server can"
                raise PipelineError(f"{error.what}, {_ATTEMPTS} times", where=error.where or file.url, hint=hint) from error
            process.pause(_BACKOFF * 2 ** (failures - 1))


def download(file: File, path: Path, sha256: str, partial: Path, hint: str) -> None:
    """Put the file at `path`, whole and of the digest `sha256`, or raise PipelineError and leave nothing there.

    `partial` is where it lies until then: in the same file system, and used for this digest only. What joins several
    connections and has another digest is fetched once more from its beginning.
    """
    with disk_errors(str(path)):
        for folder in (path.parent, partial.parent):
            folder.mkdir(parents=True, exist_ok=True)
        with FileIO(partial, "a+") as opened:
            arrived = _Arrived(opened, sha256)
            arrived.recover()
            try:
                if not arrived.is_right():
                    _fetch(file, arrived, path.name)
                if not arrived.is_right() and arrived.joined:
                    arrived.restart()
                    _fetch(file, arrived, path.name)
                if not arrived.is_right():
                    found = arrived.digest.hexdigest()
                    arrived.restart()
                    raise other_content(found, sha256, file.url, hint)
            finally:
                if not arrived.size and not arrived.is_right():
                    partial.unlink()
    put(partial, path)
