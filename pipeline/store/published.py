"""Whether what a receipt says was published is in the store still: by a look at each file, or one request to a bucket."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes
from pipeline.store.base import Store
from pipeline.store.open import open_store

_AT_ONCE = 16  # requests
_stores: dict[str, Store | PipelineError] = {}  # of this run, opened once; one that does not answer is asked once
_lock = threading.Lock()


def look(path: str) -> list[int] | None:
    """The size (bytes) and time (ns) of a file, which tell whether it was written since; None where there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116  # for every object of a store
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def lacks(path: Path) -> str:
    """What keeps the store from being as the receipt at `path` says, in words; empty where nothing does."""
    try:
        receipt = json.loads(path.read_text())
        url, objects, looks = receipt["store"], receipt["objects"], receipt["looks"]
        identity, key, sha256 = receipt["identity"], receipt["manifest"]["key"], receipt["manifest"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return "there is no receipt of it"
    return _lacking(url, identity, key, sha256) if "://" in url else _lacking_files(objects, looks)


def any_lacks(paths: Iterable[Path]) -> bool:
    """Whether any receipt tells what is not so."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return any(pool.map(lacks, paths))


def _lacking_files(objects: Iterable[str], looks: Mapping[str, list[int]]) -> str:
    for name in objects:
        if (found := look(name)) is None:
            return f"{name} is not in the store any more"
        if found != looks.get(name, found):  # of those that never change
            return f"{name} changed in the store"
    return ""


def _lacking(url: str, identity: Mapping[str, str], key: str, sha256: str) -> str:
    """By what names the store, and the manifest's bytes: without them, nothing of a release is of use."""
    try:
        store = _opened(url)
        now = store.identity
        if changed := [f"{name} was {identity.get(name)!r}, is {now[name]!r}" for name in now if identity.get(name) != now[name]]:
            return f"{url} may be another store: {', '.join(changed)}"
        found = store.get(key)
    except PipelineError as error:
        with _lock:
            _stores[url] = error
        return f"{url} could not be asked: {error.what}"
    if found is None:
        return f"{url}/{key} is not in the store any more"
    return "" if sha256_bytes(found.data) == sha256 else f"{url}/{key} changed in the store"


def _opened(url: str) -> Store:
    with _lock:
        if url not in _stores:
            _stores[url] = open_store(url)
        store = _stores[url]
    if isinstance(store, PipelineError):
        raise store
    return store
