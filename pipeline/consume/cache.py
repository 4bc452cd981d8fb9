"""The cache of this user, shared by processes: documents of stores, and files by content that may be there in part.

    blobs/<2>/<id>            a file of its final size; what is not there yet is a hole. Weights are <id>.irpa: tools ask for that
    blobs/<2>/<id>.json       its segments, which of them are there, and what the file looked like when they were
    blobs/<2>/<id>.lock       held by who writes to the file
    stores/<id>/<key>         manifests, channels and indexes, by the digest of the store's URL
    stores/<id>/<key>.sha256  the digest of a manifest when it was first seen: it never changes

Only bytes whose digest was checked are ever written to a file, and a file's state is written after them. A file that does
not look as its state says (its time differs, or this machine was started since) is checked against the digests again.
"""

from __future__ import annotations

import errno
import json
import os
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline import platforms
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import expanded, locked, opened, sha256_bytes, write
from pipeline.layout import release_key
from pipeline.manifest.types import Blob, SegmentInfo

_PATIENCE = 3600.0  # seconds to wait for another process that fetches the same file
WHOLE_LIMIT = 1 << 30
_HEX = "[0-9a-f]"  # in a glob
_ENDINGS = ("", ".irpa")  # of the files' names
_REFUSALS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
_TIDY = 3600.0  # seconds after which the temporary of a staged write belongs to nobody


@dataclass(frozen=True, order=True)
class Stretch:
    """Bytes of a file that are there or not as one."""

    offset: int
    length: int
    sha256: str

    @property
    def end(self) -> int:
        """The offset behind its last byte."""
        return self.offset + self.length


def stretches(segments: Sequence[SegmentInfo]) -> tuple[Stretch, ...]:
    """The stretches of an artifact's segments."""
    return tuple(Stretch(s.offset, s.length, s.sha256) for s in segments)


def whole(blob: Blob) -> tuple[Stretch, ...]:
    """A blob without segments as one stretch. Raises PipelineError above 1 GiB: it is held in memory until verified."""
    if blob.size > WHOLE_LIMIT:
        raise PipelineError(f"{blob.name} has {blob.size} bytes; reference data above {WHOLE_LIMIT >> 30} GiB is not fetched")
    return (Stretch(0, blob.size, blob.sha256),) if blob.size else ()


def default_folder() -> Path:
    """VMFB_CACHE, or `vmfb-pipeline` in the user's cache folder."""
    if named := os.environ.get("VMFB_CACHE"):
        return expanded(named)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "vmfb-pipeline"
    try:
        return platforms.cache_folder() / "vmfb-pipeline"
    except RuntimeError as error:
        raise PipelineError("you have no home folder, so no cache", hint="set VMFB_CACHE to a folder") from error


@contextmanager
def _writable() -> Iterator[None]:
    """Name the way to another cache, where this one must not be written to."""
    try:
        yield
    except PipelineError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _REFUSALS:
            what, hint = f"the cache cannot be written to: {error.what}", "set VMFB_CACHE to a folder that can"
            raise PipelineError(what, where=error.where, hint=hint) from error
        raise


@dataclass(frozen=True)
class State:
    """What a file's state says: its name for people, its stretches, those that are there, and its last look."""

    name: str
    stretches: tuple[Stretch, ...]
    present: frozenset[Stretch]
    modified_ns: int
    boot: str

    def encode(self) -> bytes:
        """As JSON."""
        return json.dumps(
            {
                "name": self.name,
                "stretches": [[s.offset, s.length, s.sha256] for s in self.stretches],
                "present": sorted(s.offset for s in self.present),
                "modified_ns": self.modified_ns,
                "boot": self.boot,
            }
        ).encode()


def _decode(data: bytes) -> State | None:
    try:
        value = json.loads(data)
        all_ = tuple(Stretch(int(o), int(length), str(digest)) for o, length, digest in value["stretches"])
        there = set(value["present"])
        present = frozenset(s for s in all_ if s.offset in there)
        return State(str(value["name"]), all_, present, int(value["modified_ns"]), str(value["boot"]))
    except (ValueError, ArithmeticError, KeyError, TypeError, RecursionError):
        return None  # a state that cannot be read says nothing is there; the file is checked again


def _read(path: Path) -> State | None:
    try:
        with opened(path) as file:
            return _decode(file.readall())
    except OSError:
        return None


@dataclass(frozen=True)
class Entry:
    """A file of the cache. `stretches` cover it without gaps."""

    path: Path
    name: str
    stretches: tuple[Stretch, ...]

    @property
    def size(self) -> int:
        """Of the file when it is whole, in bytes."""
        return self.stretches[-1].end if self.stretches else 0

    @property
    def _state_path(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    @property
    def _lock_path(self) -> Path:
        return self.path.with_name(f"{self.path.name}.lock")

    def _state(self) -> State | None:
        state = _read(self._state_path)
        return state if state and state.stretches == self.stretches else None

    def present(self) -> frozenset[Stretch]:
        """The stretches that are certainly there, found out without reading the file."""
        state = self._state()
        try:
            found = self.path.stat()
        except OSError:
            return frozenset()
        if state is None:
            return frozenset()
        unchanged = (state.modified_ns, state.boot) == (found.st_mtime_ns, platforms.boot()) and found.st_size == self.size
        return state.present if unchanged else frozenset()

    def used(self) -> None:
        """Note that it was used now: `prune` removes the longest unused first."""
        with suppress(OSError):
            os.utime(self._state_path)

    @contextmanager
    def writing(self, waits: Callable[[], None] = lambda: None, sized: bool = True) -> Iterator[Writer]:
        """Write to the file: one process at a time. However the block ends, the state tells what is there.

        `sized`: first make the file as large as the stretches say, which are then a manifest's and not a state's.
        """
        busy = "another process has been fetching this file for an hour"
        with _writable(), locked(self._lock_path, busy, _PATIENCE, waits), disk_errors(str(self.path)):
            descriptor = platforms.open_to_write(self.path)
            writer = Writer(self, descriptor, set(self.present()))
            try:
                if sized:
                    platforms.resize(descriptor, self.size)
                yield writer
            finally:
                writer.close()
                self._settle(descriptor, writer.present)

    def _settle(self, descriptor: int, present: Collection[Stretch]) -> None:
        """Close the file and note what is there. Where nothing tells that the machine was started since, it is synced before."""
        try:
            if not platforms.boot():
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        with suppress(FileNotFoundError):  # somebody has removed it
            modified = self.path.stat().st_mtime_ns  # Windows knows it when the file is closed
            state = State(self.name, self.stretches, frozenset(present), modified, platforms.boot())
            write(self._state_path, state.encode())

    def heal(self) -> tuple[list[Stretch], int]:
        """Check what is there against the digests; what does not match is forgotten, so that it is fetched again.

        Returns the stretches that did not match, and how many bytes do.
        """
        with self.writing(sized=False) as writer:
            state = self._state()
            claimed = writer.present | (set(state.present) if state else set())
            bad = sorted(s for s in claimed if not writer.matches(s))
            writer.present.update(claimed)
            writer.present.difference_update(bad)
            return bad, sum(s.length for s in writer.present)

    def remove(self) -> bool:
        """Remove the file and its state; False if a process is writing to it, or it is not ours to remove."""
        try:
            with locked(self._lock_path, "in use", remove=True), disk_errors(str(self.path)):  # a folder is not ours
                for path in (self._state_path, self.path):
                    path.unlink(missing_ok=True)
        except PipelineError:
            return False
        return True


class Writer:
    """The right to write to a file of the cache. `present` are the stretches that are there."""

    def __init__(self, entry: Entry, descriptor: int, present: set[Stretch]) -> None:
        self._entry, self._descriptor, self.present = entry, descriptor, present
        self._idle = threading.Condition()
        self._writing, self._closed = 0, False

    def put(self, stretch: Stretch, data: memoryview) -> None:
        """Write a stretch whose digest was checked; called by any thread. Nothing once the right has ended."""
        with self._idle:
            if self._closed:
                return
            self._writing += 1
        try:
            with disk_errors(str(self._entry.path)):
                written = 0
                while written < len(data):
                    written += platforms.write_at(self._descriptor, data[written:], stretch.offset + written)
            self.present.add(stretch)
        finally:
            with self._idle:
                self._writing -= 1
                self._idle.notify_all()

    def close(self) -> None:
        """End the right, when no thread is writing: the descriptor's number may be another file's soon."""
        with self._idle:
            self._closed = True
            self._idle.wait_for(lambda: self._writing == 0)

    def recover(self, wanted: Collection[Stretch]) -> list[Stretch]:
        """Find those of `wanted` in the file that its state does not know of, by digest. Returns those not there."""
        for stretch in sorted(set(wanted) - self.present):
            if platforms.may_have_data(self._descriptor, stretch.offset, stretch.end) and self.matches(stretch):
                self.present.add(stretch)
        return sorted(set(wanted) - self.present)

    def matches(self, stretch: Stretch) -> bool:
        """Whether the bytes of `stretch` in the file have its digest."""
        return sha256_bytes(platforms.read_at(self._descriptor, stretch.length, stretch.offset)) == stretch.sha256


@dataclass(frozen=True)
class Usage:
    """A file of the cache for people: bytes there, size when whole, and when it was last used (seconds since 1970)."""

    entry: Entry
    bytes: int
    used: float


class Cache:
    """The cache below `root`."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or default_folder()

    def _document(self, store: str, key: str) -> Path:
        return self.root / "stores" / sha256_bytes(store.encode())[:16] / key

    def document(self, store: str, key: str) -> bytes | None:
        """The document that was last seen at `key` of the store with this URL."""
        try:
            with opened(self._document(store, key)) as file:
                return file.readall()
        except OSError:
            return None

    def keep(self, store: str, key: str, data: bytes) -> None:
        """Remember a document, where there is a cache that can be written to."""
        if self.document(store, key) != data:
            with suppress(PipelineError):
                write(self._document(store, key), data)

    def forget(self, store: str, key: str) -> None:
        """Forget a document that is not there any more, where the cache can be written to."""
        with suppress(OSError):
            self._document(store, key).unlink(missing_ok=True)

    def first_seen(self, store: str, key: str) -> str:
        """The digest that the document at `key`, which never changes, had when it was first seen; empty where it never was."""
        noted = (self.document(store, f"{key}.sha256") or b"").decode("ascii", "replace")
        return noted if re.fullmatch(f"{_HEX}{{64}}", noted) else ""

    def keep_for_good(self, store: str, key: str, data: bytes) -> str:
        """`keep` a document that never changes, and its digest. Returns `first_seen`, as it was before."""
        before = self.first_seen(store, key)
        self.keep(store, f"{key}.sha256", sha256_bytes(data).encode())
        self.keep(store, key, data)
        return before

    def manifests(self, store: str, model: str) -> Iterator[bytes]:
        """Those of a model's releases that were seen."""
        for path in sorted(self._document(store, release_key(model, "")).parent.glob("*/manifest.json")):
            with suppress(OSError), opened(path) as file:
                yield file.readall()

    def entry(self, blob: Blob, parts: tuple[Stretch, ...]) -> Entry:
        """The file for `blob`, whose stretches are `parts`. A manifest with other stretches has another file.

        An archive of weights has a name that says so, by which IREE's runtime knows its format.

        So what one store says of a digest is never believed when another store's release is fetched.
        """
        table = "".join(f"{s.offset} {s.length} {s.sha256}\n" for s in parts)
        identity = sha256_bytes(f"{blob.sha256}\n{table}".encode())
        ending = next((e for e in _ENDINGS if e and blob.name.endswith(e)), "")
        return Entry(self.root / "blobs" / identity[:2] / f"{identity}{ending}", blob.name, parts)

    def _files(self, suffix: str) -> list[Path]:
        """The files of entries, by their names: others may have put theirs into this folder too."""
        blobs = self.root / "blobs"
        found = (path for ending in _ENDINGS for path in blobs.glob(f"{_HEX * 2}/{_HEX * 64}{ending}{suffix}"))
        return [path for path in found if path.name[:2] == path.parent.name and path.is_file()]

    def usages(self) -> list[Usage]:
        """Every file, the last used first."""
        found = []
        for path in self._files(".json"):
            with suppress(OSError):
                used, state = path.stat().st_mtime, _read(path)
                entry = Entry(path.with_suffix(""), state.name if state else "", state.stretches if state else ())
                found.append(Usage(entry, sum(s.length for s in state.present) if state else 0, used))
        return sorted(found, key=lambda u: -u.used)

    def verify(self) -> Iterator[tuple[Entry, int, list[Stretch] | None]]:
        """`Entry.heal` for every file: each with the bytes that are right and the stretches that were not.

        None: its state is damaged, so only a fetch, which has the manifest, can tell what of it is right.
        """
        for usage in self.usages():
            if not usage.entry.stretches:
                yield usage.entry, 0, None
                continue
            bad, right = usage.entry.heal()
            yield usage.entry, right, bad

    def prune(self, max_bytes: int, unused_days: float) -> list[Usage]:
        """Remove the files unused for `unused_days`, then the longest unused until `max_bytes` are left. Returns those."""
        usages = self.usages()
        removed, left, now = [], sum(u.bytes for u in usages), time.time()
        for usage in reversed(usages):
            if (now - usage.used >= unused_days * 86400 or left > max_bytes) and usage.entry.remove():
                removed.append(usage)
                left -= usage.bytes
        self._tidy()
        return removed

    def _tidy(self) -> None:
        """Remove what kills have left: temporaries, and files without a state that nobody writes."""
        temporaries = [
            *self.root.glob(".devices.json.*.part"),
            *(p for e in _ENDINGS for p in self.root.glob(f"blobs/{_HEX * 2}/.{_HEX * 64}{e}.json.*.part")),
            *(p for store in self.root.glob(f"stores/{_HEX * 16}") for p in store.rglob(".*.json.*.part")),
        ]
        for path in temporaries:
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _TIDY:
                    path.unlink()
        for path in self._files(""):
            if not path.with_name(f"{path.name}.json").exists():
                Entry(path, "", ()).remove()
