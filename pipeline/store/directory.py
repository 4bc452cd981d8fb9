"""A store in a directory, with the same keys and the same promises as a bucket."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePath

from pipeline import platforms
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import opened, sha256_bytes, sha256_file, staged, write
from pipeline.store.base import DOCUMENT_LIMIT, Body, Object, Stored, Unfinished, no_such_object, too_large, wrong_digest

_FILE, _FOLDER = 0o644, 0o755  # the modes of what is published, whatever the umask


@dataclass(frozen=True)
class _FileBody:
    file: io.FileIO
    where: str
    ranged: bool = True

    def readinto(self, buffer: memoryview) -> int:
        with disk_errors(self.where):
            return self.file.readinto(buffer)


class DirectoryStore:
    """Objects are files below `root`, which is made on the first write."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)
        self.identity: dict[str, str] = {}

    def _path(self, key: str) -> Path:
        if (path := PurePath(key)).anchor or ".." in path.parts:
            raise PipelineError(f"the key {key!r} leaves the store", where=self.url)
        return self.root / key

    def _make_folder(self, key: str) -> None:
        """Make the folder of an object. Everybody may read what is new of it, as the objects: a web server is another user."""
        folder = self._path(key).parent
        with disk_errors(self.url):
            missing = [f for f in (folder, *folder.parents) if not f.exists()]
            for new in reversed(missing):
                with suppress(FileExistsError):  # another has made it meanwhile
                    new.mkdir()
                    new.chmod(stat.S_IMODE(new.stat().st_mode) | _FOLDER)  # a group's right to write stays

    def get(self, key: str) -> Object | None:
        """The object at `key`; its tag is its digest."""
        with disk_errors(self.url):
            try:
                with opened(self._path(key)) as file, io.BufferedReader(file) as reader:
                    data = reader.read(DOCUMENT_LIMIT + 1)
            except (FileNotFoundError, NotADirectoryError):
                return None
        if len(data) > DOCUMENT_LIMIT:
            raise too_large(self.url, key)
        return Object(data, sha256_bytes(data))

    @contextmanager
    def open(self, key: str, offset: int, length: int) -> Iterator[Body]:
        """The file, from `offset` on."""
        with disk_errors(self.url):
            try:
                file = opened(self._path(key))
            except (FileNotFoundError, NotADirectoryError):
                raise no_such_object(self.url, key) from None
            with file:
                file.seek(offset)
                yield _FileBody(file, f"{self.url}/{key}")

    def keys(self, prefix: str) -> list[str]:
        """The paths of all files below the folder that `prefix` names, as keys."""
        with disk_errors(self.url):
            found = self._path(prefix).rglob("*")
            return sorted(p.relative_to(self.root).as_posix() for p in found if not p.name.startswith(".") and p.is_file())

    def entries(self, prefix: str) -> Iterator[Stored]:
        """The files below the folder, but hidden ones, which are no objects."""
        with disk_errors(self.url):
            for folder, _, names in os.walk(self._path(prefix)):
                for path in (Path(folder, name) for name in names if not name.startswith(".")):
                    with suppress(FileNotFoundError):
                        found = path.stat()
                        if stat.S_ISREG(found.st_mode):
                            yield Stored(path.relative_to(self.root).as_posix(), found.st_size, found.st_mtime)

    def remove(self, key: str) -> None:
        """Unlink the file. Its folder stays: another may be about to put a file into it."""
        with disk_errors(self.url):
            self._path(key).unlink(missing_ok=True)

    def unfinished(self) -> Iterator[Unfinished]:
        """The temporaries of writes that a kill has left, or that go on at this moment."""
        with disk_errors(self.url):
            for path in self.root.rglob(".*.part"):
                with suppress(FileNotFoundError):
                    yield Unfinished(path.relative_to(self.root).as_posix(), "", path.stat().st_mtime)

    def abort(self, upload: Unfinished) -> None:
        """Unlink it."""
        self.remove(upload.key)

    def holds(self, key: str, size: int, sha256: str) -> bool:
        """By the digest of the file, which is read if it has the right size."""
        path = self._path(key)
        with disk_errors(self.url):
            try:
                return path.stat().st_size == size and sha256_file(path) == sha256
            except (FileNotFoundError, NotADirectoryError):
                return False

    def listed(self, prefix: str) -> list[str]:
        """`keys`."""
        return self.keys(prefix)

    def upload(self, key: str, path: Path, sha256: str) -> None:
        """Copy the file, then rename it into place."""
        digest = hashlib.sha256()
        self._make_folder(key)
        with staged(self._path(key), _FILE) as temporary, disk_errors(self.url):
            with path.open("rb") as source, temporary.open("wb") as out:
                while chunk := source.read(1 << 20):
                    digest.update(chunk)
                    out.write(chunk)
            if digest.hexdigest() != sha256:
                raise wrong_digest(path, digest.hexdigest())

    def create(self, key: str, data: bytes) -> bool:
        """A name is either made or found taken: no moment in which half of the file can be seen."""
        path = self._path(key)
        self._make_folder(key)
        with disk_errors(self.url):
            # Not named by the process: its threads would write over each other's, and link the wrong one.
            temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
            try:
                write(temporary, data, _FILE)
                platforms.name_anew(temporary, path)
            except FileExistsError:
                return False
            finally:
                temporary.unlink(missing_ok=True)
        return True

    def replace(self, key: str, data: bytes, tag: str | None) -> bool:
        """Compare and replace under a lock that all writers of this store take."""
        self._make_folder(key)
        with disk_errors(self.url), os.fdopen(platforms.open_to_write(self.root / ".lock"), "ab") as lock:
            platforms.lock(lock.fileno(), wait=True)
            current = self.get(key)
            if (current.tag if current else None) != tag:
                return False
            write(self._path(key), data, _FILE)
        return True
