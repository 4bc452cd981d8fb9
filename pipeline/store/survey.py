"""All of a store, listed once: what its keys are, and what its manifests name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes
from pipeline.layout import (
    INDEX_KEY,
    LEASES,
    PROBE_KEY,
    PRUNING_KEY,
    SITE,
    TRUST,
    belonging_to,
    blob_of,
    channel_of,
    release_key,
    release_of,
    yank_of,
)
from pipeline.manifest.codec import decode
from pipeline.manifest.types import Manifest
from pipeline.store.base import Keeper, Source, Stored

Release = tuple[str, str]  # a model's name and a version
A = TypeVar("A")
B = TypeVar("B")

_AT_A_TIME = 8  # requests
_AHEAD = 1000  # that wait for their turn
_SHOWN = 1000  # strays: a bucket may be full of other things
_BESIDE = {
    "releases": re.compile(r"provenance\.json|bom\.json"),
    "evidence": re.compile(r"index\.json|[0-9a-f]{64}\.(json|[0-9A-Za-z_-]+\.sig)"),
}
_OTHERS = (INDEX_KEY, PROBE_KEY, PRUNING_KEY)


def side_by_side(call: Callable[[A], B], items: Iterable[A]) -> Iterator[tuple[A, B]]:
    """Each item with what `call` returns for it, several at a time, of any number of items."""
    left = iter(items)
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        while some := list(islice(left, _AHEAD)):
            yield from zip(some, pool.map(call, some), strict=True)


@dataclass
class Survey:
    """The keys of a store by what they are.

    `blobs`: size and time, by the digest's bytes. `beside`: what belongs to a release, but its manifest. `strays` are keys of
    others, at most 1000, of which there are `strange`.
    """

    blobs: dict[bytes, tuple[int, float]] = field(default_factory=dict)
    releases: dict[Release, Stored] = field(default_factory=dict)
    beside: dict[Release, list[Stored]] = field(default_factory=dict)
    channels: list[Release] = field(default_factory=list)  # model and channel
    yanks: list[Release] = field(default_factory=list)
    leases: list[Stored] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    strange: int = 0

    def add(self, one: Stored) -> None:
        """Take account of an object."""
        key = one.key
        if digest := blob_of(key):
            self.blobs[bytes.fromhex(digest)] = (one.size, one.written)
        elif release := release_of(key):
            self.releases[release] = one
        elif (belonging := belonging_to(key)) and _BESIDE[key.partition("/")[0]].fullmatch(belonging[2]):
            self.beside.setdefault(belonging[:2], []).append(one)
        elif channel := channel_of(key):
            self.channels.append(channel)
        elif yank := yank_of(key):
            self.yanks.append(yank)
        elif key.startswith(LEASES):
            self.leases.append(one)
        elif key not in _OTHERS and not key.startswith((TRUST, SITE)):
            self.strange += 1
            if len(self.strays) < _SHOWN:
                self.strays.append(key)


def survey(store: Keeper) -> Survey:
    """List the store."""
    found = Survey()
    for one in store.entries(""):
        found.add(one)
    return found


@dataclass(frozen=True)
class Held:
    """What a manifest in the store names: blobs, by their digests' bytes, with their sizes. `sha256` is its own."""

    sha256: str
    size: int
    blobs: Mapping[bytes, int]


def read_held(source: Source, release: Release) -> Held | PipelineError | None:
    """What a release's manifest names; None where there is none, and the error for one that is not as it should be."""
    model, version = release
    key = release_key(model, version)
    found = source.get(key)
    if found is None:
        return None
    where = f"{source.url}/{key}"
    try:
        manifest = decode(Manifest, found.data, where)
    except PipelineError as error:
        return error
    if (manifest.model.name, manifest.version) != release:
        return PipelineError(f"is the manifest of {manifest.model.name} {manifest.version}", where=where)
    named = {bytes.fromhex(blob.sha256): blob.size for blob in manifest.blobs()}
    return Held(sha256_bytes(found.data), len(found.data), named)
