"""What was made once and need not be made again: bytes by key, on this machine and, if wanted, shared in a store.

A cache is never believed: an entry begins with a tag over its key and content (`seal`), and one that does not match is as if it
were not there. By a key that the builders share, where anybody else may write to the cache. And a cache never fails a build: one
that cannot be used is mentioned once, and left out from then on.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pipeline import platforms, seal
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import expanded, locked
from pipeline.plain import public_url
from pipeline.seal import Seal
from pipeline.store.base import Object, Store
from pipeline.store.open import open_store

T = TypeVar("T")
R = TypeVar("R")
_log = logging.getLogger(__name__)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_DEFAULT_SIZE = "4G"
_AT_ONCE = 16  # requests to a store


class LocalCache:
    """Entries as files in `folder`, used by any number of processes at once. Keeps the last used up to `limit` bytes.

    A folder that nobody but this user writes to needs no key; into another one entries go sealed by `seal`, or not at all.
    """

    def __init__(self, folder: Path, limit: int, seal: Seal | None = None) -> None:
        self.folder, self.limit = folder, limit
        self._usable = True
        self._given, self._seal = seal, Seal("local")
        self._checked = False
        self._lock = threading.Lock()

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key

    def _give_up(self, error: OSError | PipelineError) -> None:
        with self._lock:
            said, self._usable = not self._usable, False
        if not said:
            _log.warning("the cache %s cannot be used (%s): going on without it, see PIPELINE_CACHE_DIR", self.folder, error)

    def _check(self) -> None:
        """Raise PipelineError if others may write to the folder and there is no key; OSError if it is not there."""
        if not self._checked:
            if not platforms.is_own(self.folder.stat()):
                if not self._given:
                    raise PipelineError(f"others may write to it: `rm -r` it, or share a key, {seal.VARIABLE}")
                self._seal = self._given
            self._checked = True

    def private(self, name: str) -> Path:
        """A folder of this name in the cache's, for what is believed as it is there, as programs are. It may not be there yet.

        Raises PipelineError if others than this user may write to it.
        """
        path = self.folder / name
        with disk_errors(str(path)):
            for folder in (self.folder, path):
                if folder.exists() and not platforms.is_own(folder.stat()):
                    hint = f"`rm -r {self.folder}`, or choose another folder by PIPELINE_CACHE_DIR"
                    raise PipelineError("others may write to this folder", where=str(folder), hint=hint)
            _make(self.folder)
            _make(path)
        return path

    def get(self, key: str) -> bytes | None:
        """The entry of `key`, or None. A damaged one, or one of a stranger, is removed."""
        path = self._path(key)
        if not self._usable:
            return None
        try:
            with path.open("rb") as file:
                self._check()
                # In a folder that was open to others once, there may be files of theirs.
                ours = self._seal.secret or platforms.is_own(os.fstat(file.fileno()))
                data = self._seal.opened(key, file.read()) if ours else None
            if data is None:
                path.unlink(missing_ok=True)
            else:
                os.utime(path)  # for `trim`: used just now
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, PipelineError) as error:
            self._give_up(error)
            return None
        return data

    def put(self, key: str, data: bytes) -> None:
        """Keep `data`, unless it alone would take an eighth of the cache. Others see the entry whole or not at all."""
        if len(data) > self.limit // 8 or not self._usable:
            return
        path = self._path(key)
        try:
            _make(self.folder)
            _make(path.parent)
            self._check()
            # Not synced: half an entry, after a power cut, is found out when it is read.
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(self._seal.sealed(key, data))
                os.replace(name, path)
            finally:
                Path(name).unlink(missing_ok=True)
        except (OSError, PipelineError) as error:
            self._give_up(error)

    def remember(self, key: str, make: Callable[[], bytes]) -> bytes:
        """The entry of `key`, made and put if there is none."""
        data = self.get(key)
        if data is None:
            self.put(key, data := make())
        return data

    def trim(self) -> None:
        """Remove what was not used for the longest time, if there is too much. Where another process does that, nothing."""
        with suppress(PipelineError, OSError), locked(self.folder / ".lock", "busy"):
            found = [(s.st_mtime, s.st_size, p) for p in self.folder.glob("??/*") if (s := p.stat())]
            # What is being written is nobody's to remove, but for what a killed process left behind.
            entries = [e for e in found if e[2].suffix != ".part" or e[0] < time.time() - 3600]
            excess = sum(size for _, size, _ in entries) - self.limit
            if excess > 0:
                excess += self.limit // 10  # not again for the next entry
                for _, size, path in sorted(entries):
                    path.unlink(missing_ok=True)
                    excess -= size
                    if excess <= 0:
                        break

    def clear(self) -> None:
        """Remove every entry."""
        for path in self.folder.glob("??/*"):
            path.unlink(missing_ok=True)


def _make(folder: Path) -> None:
    """Make a folder that, whatever the umask, nobody else writes to."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)


class SharedCache:
    """Entries in a store, sealed by the builders' key. Whatever goes wrong with it, it is left alone from then on, and said once.

    Each key has a place of its own, so that those who have another one, or had none, are not in the way.
    """

    def __init__(self, store: Store, writable: bool, seal: Seal) -> None:
        self.store = store
        self._readable, self._writable = True, writable
        self._seal = seal
        self._forged: dict[str, str] = {}
        self._lock = threading.Lock()

    def _key(self, key: str) -> str:
        return f"{self._seal.purpose}/{self._seal.name}/{key[:2]}/{key}"

    def _give_up(self, doing: str, error: PipelineError) -> None:
        with self._lock:
            if doing == "read" and self._readable:
                self._readable = self._writable = False
                _log.warning("the cache %s cannot be read (%s): going on without it", self.store.url, error.what)
            elif doing == "written" and self._writable:
                self._writable = False
                _log.warning("the cache %s cannot be written (%s): going on with reading it", self.store.url, error.what)

    def _get(self, key: str) -> Object | None:
        if not self._readable:
            return None
        try:
            return self.store.get(self._key(key))
        except PipelineError as error:
            self._give_up("read", error)
            return None

    def get(self, key: str) -> bytes | None:
        """The entry of `key`, or None. One that is not authentic is noted, to be replaced by `put`."""
        if (found := self._get(key)) is None:
            return None
        data = self._seal.opened(key, found.data)
        if data is None:
            self._forged[key] = found.tag
        return data

    def condemn(self, key: str) -> None:
        """Let the next `put` replace what is there: it is wrong, whole as it is."""
        if found := self._get(key):
            self._forged[key] = found.tag

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The entries there are of `keys`. How many are there and not authentic is said."""
        first, rest = keys[:1], keys[1:]  # one alone, so that a store that does not answer is waited for once
        found = {key: self.get(key) for key in first}
        if rest and self._readable:
            found |= dict(zip(rest, _each(self.get, rest), strict=True))
        warn_of_strangers(self.store.url, sum(key in self._forged for key in keys), len(keys))
        return {key: data for key, data in found.items() if data is not None}

    def put(self, key: str, data: bytes) -> bool:
        """Keep `data`, if nothing sound is there already; whether it is there now."""
        if not self._writable:
            return False
        try:
            if tag := self._forged.pop(key, None):
                return self.store.replace(self._key(key), self._seal.sealed(key, data), tag)
            self.store.create(self._key(key), self._seal.sealed(key, data))
        except PipelineError as error:
            self._give_up("written", error)
            return False
        return True

    def put_many(self, entries: Mapping[str, bytes]) -> dict[str, bytes]:
        """Keep `entries`; those that could not be kept."""
        kept = _each(lambda item: self.put(*item), list(entries.items()))
        return {key: data for (key, data), done in zip(entries.items(), kept, strict=True) if not done}


def warn_of_strangers(where: str, strange: int, asked: int) -> None:
    """Say how many of the entries asked for are not authentic, if there are any."""
    if strange:
        _log.warning(
            "%s: %d of %d entries are damaged, or by no builder that has this key: they are made anew", where, strange, asked
        )


def _each(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(function, items))


class Cache:
    """The local cache before the shared one: what the shared one has is copied here."""

    def __init__(self, local: LocalCache, shared: SharedCache | None = None) -> None:
        self.local, self.shared = local, shared

    def get(self, keys: Iterable[str]) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """The entries there are of `keys`: those that were here, and those that the shared cache had."""
        here, missing = {}, []
        for key in dict.fromkeys(keys):
            if (data := self.local.get(key)) is None:
                missing.append(key)
            else:
                here[key] = data
        there = self.shared.get_many(missing) if self.shared and missing else {}
        for key, data in there.items():
            self.local.put(key, data)
        return here, there

    def put(self, entries: Mapping[str, bytes]) -> None:
        """Keep `entries` in both."""
        for key, data in entries.items():
            self.local.put(key, data)
        if self.shared:
            self.shared.put_many(entries)


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+)\s*([KMGT]?)(i?B)?", text.strip(), re.IGNORECASE)
    if not match:
        raise PipelineError(f"{text!r} is no size", where="PIPELINE_CACHE_SIZE", hint="write it like 500M or 4G")
    return int(match[1]) * _UNITS[match[2].upper()]


@functools.cache
def _local(folder: Path, limit: int, seal: Seal | None) -> LocalCache:
    return LocalCache(folder, limit, seal)  # one for this process, so that it says once that it cannot be used


def _user_folder() -> Path:
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base)
    try:
        return Path.home() / ".cache"
    except RuntimeError:  # a user without a home
        return Path(os.devnull)


def local() -> LocalCache:
    """This machine's cache: PIPELINE_CACHE_DIR, or in the user's cache folder; of PIPELINE_CACHE_SIZE.

    Raises PipelineError for a size or a PIPELINE_CACHE_KEY that is none.
    """
    named = os.environ.get("PIPELINE_CACHE_DIR")
    folder = expanded(named) if named else _user_folder() / "vmfb-pipeline" / "pieces"
    return _local(folder, _size(os.environ.get("PIPELINE_CACHE_SIZE") or _DEFAULT_SIZE), seal.from_environment("local"))


def shared() -> SharedCache | None:
    """The shared cache, PIPELINE_CACHE (`s3://…` or a directory), if there is one; only read with PIPELINE_CACHE_READ_ONLY."""
    url = os.environ.get("PIPELINE_CACHE")
    return shared_at(url, not os.environ.get("PIPELINE_CACHE_READ_ONLY")) if url else None


def shared_at(url: str, writable: bool) -> SharedCache | None:
    """The shared cache at `url`; None, which is said, where there can be none, or there is no key.

    Raises PipelineError for a PIPELINE_CACHE_KEY that is none.
    """
    ours = seal.from_environment("pieces")
    if not ours:
        without = f"without {seal.VARIABLE} anybody's code could be in it: going on without it; {seal.MAKE_KEY}"
        _log.warning("the cache %s is not used: %s", public_url(url), without)
        return None
    try:
        if url.startswith("hf://"):
            raise PipelineError("every piece would be a commit there", where=public_url(url))
        return SharedCache(open_store(url), writable, ours)
    except PipelineError as error:
        _log.warning("the cache %s cannot be used (%s): going on without it, see PIPELINE_CACHE", public_url(url), error.what)
        return None


def from_environment() -> Cache:
    """The caches that the environment variables name."""
    return Cache(local(), shared())
