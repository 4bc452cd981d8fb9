"""A store in a tar file, to read in place: an uncompressed archive of a folder store, as `vmfb bundle` writes it."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from pipeline import platforms
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import sha256_bytes
from pipeline.store.base import DOCUMENT_LIMIT, Body, Object, no_such_object, too_large

# What tarfile raises for an archive that is none, or damaged; headers may nest in headers, and hold numbers of any size.
_ERRORS = (tarfile.TarError, ValueError, ArithmeticError, LookupError, EOFError, RecursionError)
_HEADER = 1 << 20  # bytes, far more than a header takes that gives a long name
_HINT = "copy it again from where it was made, or make it again with `vmfb bundle`"


class _Headers(io.RawIOBase):
    """An archive, of which headers alone are read: a header that claims to be large takes no memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        """As a file does."""
        if not 0 <= size <= _HEADER:
            raise ValueError(f"a header of {size} bytes")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As a file does."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As a file does."""
        return self._file.tell()


@dataclass
class _Part:
    """The bytes of a member from `position` to `end`, of a file."""

    descriptor: int
    position: int
    end: int
    where: str
    ranged: bool = True

    def readinto(self, buffer: memoryview) -> int:
        with disk_errors(self.where):
            data = platforms.read_at(self.descriptor, min(len(buffer), self.end - self.position), self.position)
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


class TarSource:
    """The members of the archive at `path`, by their names; nothing is unpacked.

    Raises PipelineError for what is no such archive, is damaged or cut short, and for members that are neither files nor folders,
    leave the archive by their names, or are there twice.
    """

    def __init__(self, path: Path) -> None:
        self.url = str(path)
        with disk_errors(self.url):
            self._file = path.open("rb")
            size = os.fstat(self._file.fileno()).st_size
        try:
            with disk_errors(self.url):
                self._members = _members(self._file, size, self.url)
        except BaseException:
            self._file.close()
            raise

    def get(self, key: str) -> Object | None:
        """The member of this name; its tag is its digest."""
        if key not in self._members:
            return None
        offset, size = self._members[key]
        if size > DOCUMENT_LIMIT:
            raise too_large(self.url, key)
        with disk_errors(self.url):
            data = platforms.read_at(self._file.fileno(), size, offset)
        if len(data) != size:
            raise PipelineError("was cut short while it was read", where=self.url, hint=_HINT)
        return Object(data, sha256_bytes(data))

    @contextmanager
    def open(self, key: str, offset: int, length: int) -> Iterator[Body]:
        """A part of the member of this name."""
        if key not in self._members:
            raise no_such_object(self.url, key)
        start, size = self._members[key]
        yield _Part(self._file.fileno(), start + min(offset, size), start + min(offset + length, size), self.url)

    def listed(self, prefix: str) -> list[str]:
        """The names that begin so."""
        return sorted(key for key in self._members if key.startswith(prefix))


def _members(file: IO[bytes], size: int, where: str) -> dict[str, tuple[int, int]]:
    """Where each member begins, and its size."""
    found: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", _Headers(file)), mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # or they are kept, of any number
                _add(found, member, size, where)
            end = archive.offset
    except tarfile.ReadError as error:
        hint = "unpack it first, if it is compressed: a store is read in place" if not found else _HINT
        raise PipelineError(f"is no tar file, or damaged: {error}", where=where, hint=hint) from error
    except _ERRORS as error:
        raise PipelineError(f"is damaged: {error}", where=where, hint=_HINT) from error
    file.seek(end)  # an archive ends in zeros; where something else is, tarfile has given up
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise PipelineError("is damaged, or was cut short", where=where, hint=_HINT)
    return found


def _add(found: dict[str, tuple[int, int]], member: tarfile.TarInfo, size: int, where: str) -> None:
    name = member.name.removeprefix("./")
    if member.isdir():
        return
    hint = "a store's archive has files alone; do not use this one"
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.sparse is not None:
        raise PipelineError(f"its member {name} is no plain file", where=where, hint=hint)
    if not name or "\\" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise PipelineError(f"its member {member.name} has no key's name", where=where, hint=hint)
    if name in found:
        raise PipelineError(f"its member {name} is there twice", where=where, hint=hint)
    if member.size < 0 or member.offset_data + member.size > size:
        raise PipelineError(f"its member {name} is cut short", where=where, hint=_HINT)
    found[name] = (member.offset_data, member.size)
