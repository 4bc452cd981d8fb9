"""Files on this machine: digests, staged writes that appear whole or not at all, locks."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import IO

from pipeline import platforms
from pipeline.errors import PipelineError, disk_errors

# What zipfile raises for an archive that is damaged, or encrypted, or packed in a way that it does not know.
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError)

_CHUNK = 1 << 20
_BLOCK = 1 << 16  # NTFS has holes of no less


def sha256_bytes(data: bytes | memoryview) -> str:
    """The SHA-256 of `data`, as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def opened(path: Path) -> FileIO:
    """The file at `path`, to read. Raises OSError for what is no regular file, such as a pipe, which would be waited for."""
    return FileIO(platforms.open_to_read(path), "r")


def sha256_file(path: Path) -> str:
    """The SHA-256 of the file at `path`, as 64 lower-case hex digits, read in pieces of 256 KiB."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_file(name: str) -> bool:
    """Whether there is a file of this name. (`Path.is_file` raises an error for a name that no file can have.)"""
    try:
        return Path(name).is_file()
    except OSError:
        return False


def expanded(name: str) -> Path:
    """The path with `~` replaced by the home folder; the `~name` of no user is a name like any other."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


@contextmanager
def staged(path: Path, mode: int | None = None) -> Iterator[Path]:
    """A temporary path beside `path` to write to; renamed onto `path`, synced, when the block ends without an error.

    Whatever happens, `path` holds its old content or the whole new one. The temporary is removed on any error. Who may read it
    says `mode`, from when it has its name on; None: the user's umask, as for any file.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")
    with disk_errors(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666 if mode is None else 0o600))
    try:
        yield temporary
        put(temporary, path, mode)
    finally:
        temporary.unlink(missing_ok=True)


def put(temporary: Path, path: Path, mode: int | None = None) -> None:
    """Rename a file that is complete onto `path`, in the same file system, when it is safely on the disk."""
    with disk_errors(str(path)):
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if mode is not None:
            temporary.chmod(mode)
        platforms.replace(temporary, path)


def write(path: Path, data: bytes, mode: int | None = None) -> None:
    """Put `data` at `path`, whole or not at all; `mode` as for `staged`."""
    with staged(path, mode) as temporary, disk_errors(str(path)):
        temporary.write_bytes(data)


def other_content(found: str, expected: str, what: str, hint: str) -> PipelineError:
    """The error for a file whose SHA-256 is not the expected one."""
    return PipelineError(f"the SHA-256 is {found}, but {expected} was expected", where=what, hint=hint)


def copy(source: IO[bytes], path: Path, expected_sha256: str, what: str, hint: str = "") -> None:
    """Stream `source` to `path`, which appears only if the SHA-256 of the bytes is `expected_sha256`."""
    digest = hashlib.sha256()
    with staged(path) as temporary, disk_errors(str(path)), temporary.open("wb") as out:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            out.write(chunk)
        if digest.hexdigest() != expected_sha256:
            raise other_content(digest.hexdigest(), expected_sha256, what, hint)


def copy_sparse(source: IO[bytes], target: IO[bytes]) -> None:
    """Copy a file to an empty one, both open. Holes stay holes; what is all zeros may become one."""
    platforms.resize(target.fileno(), os.fstat(source.fileno()).st_size)
    for start, end in platforms.data_ranges(source.fileno()):
        for offset in range(start, end, _BLOCK):
            data = platforms.read_at(source.fileno(), min(_BLOCK, end - offset), offset)
            if data != bytes(len(data)):
                target.seek(offset)
                target.write(data)


def _same_file(file: IO[bytes], path: Path) -> bool:
    if not platforms.OPEN_FILES_CAN_GO:
        return True
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def locked(
    path: Path, busy: str, patience: float = 0, waits: Callable[[], None] = lambda: None, remove: bool = False
) -> Iterator[int]:
    """Hold an exclusive lock on `path` (created if missing); PipelineError with the text `busy` if another keeps it.

    Waits `patience` seconds for it, and calls `waits` once if it has to. Yields the descriptor: the kernel drops the lock
    when the last process that has it open ends, so a killed holder leaves nothing behind. `remove`: the file goes with the lock.
    """
    deadline = time.monotonic() + patience
    while True:
        with disk_errors(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.fdopen(platforms.open_to_write(path), "ab")
        with file:
            if not platforms.lock(file.fileno(), wait=False):
                if time.monotonic() >= deadline:
                    raise PipelineError(busy, where=str(path)) from None
                waits()
                waits = lambda: None  # noqa: E731
                time.sleep(0.1)
                continue
            if not _same_file(file, path):  # but one that its holder has removed since
                continue
            yield file.fileno()
            if remove and platforms.OPEN_FILES_CAN_GO:
                with disk_errors(str(path)):
                    path.unlink(missing_ok=True)
        if remove and not platforms.OPEN_FILES_CAN_GO:
            with suppress(OSError):  # another waits for it: it stays, as it would not on other systems
                path.unlink()
        return


@contextmanager
def fresh_folder(path: Path) -> Iterator[Path]:
    """An empty folder at `path`, whatever was there before. Without a record in it, nothing believes what it holds."""
    with disk_errors(str(path)):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
    yield path


def remove_leftovers(folder: Path) -> None:
    """Delete the temporaries of staged writes that a kill left anywhere below `folder`."""
    for leftover in folder.rglob(".*.part"):
        leftover.unlink(missing_ok=True)
