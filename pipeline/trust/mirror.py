"""The signed metadata of a store, taken as it is into a copy of the store: nobody signs anything for that."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.layout import TIMESTAMP_KEY, TRUST, moves, release_of, signed_document_key
from pipeline.store.base import Source, Store
from pipeline.trust.anchors import TrustError

_ROOTS = 1024  # versions of the root, far more than any store has


@dataclass(frozen=True)
class Signatures:
    """The metadata in one state: `timestamp`, and by key all that it leads to, which never changes."""

    timestamp: bytes
    files: Mapping[str, bytes]

    @property
    def root(self) -> bytes:
        """The first root of trust: which store it is."""
        return self.files[_root_key(1)]


def _root_key(version: int) -> str:
    return f"{TRUST}{version}.root.json"


def read_signatures(source: Source) -> Signatures | None:
    """The metadata of a store; None where it is not signed. Raises TrustError where a part of it is missing or damaged."""
    timestamp = source.get(TIMESTAMP_KEY)
    if timestamp is None:
        return None
    files: dict[str, bytes] = {}

    def take(key: str) -> bytes:
        found = source.get(key)
        if found is None:
            raise TrustError("is named by the signed metadata, and is not there", where=f"{source.url}/{key}", hint="try again")
        files[key] = found.data
        return found.data

    take(_root_key(1))
    for version in range(2, _ROOTS):
        if (root := source.get(_root_key(version))) is None:
            break
        files[_root_key(version)] = root.data
    where = f"{source.url}/{TIMESTAMP_KEY}"
    for key in _named(timestamp.data, where):
        for role in _named(take(key), where):
            for document in _documents(take(role), where):
                take(document)
    return Signatures(timestamp.data, files)


def put_signatures(store: Store, signatures: Signatures) -> bool:
    """Put them into a copy of the store, the timestamp last; whether that was another. An older one is never put.

    Raises TrustError where the copy has other metadata of the same name: it was signed by others.
    """
    for key, data in signatures.files.items():
        if not store.create(key, data) and (found := store.get(key)) and found.data != data:
            raise TrustError("is another one there", where=f"{store.url}/{key}", hint="copy into an empty store")
    there = store.get(TIMESTAMP_KEY)
    if there and _version(there.data, store.url) >= _version(signatures.timestamp, store.url):
        return False
    if not store.replace(TIMESTAMP_KEY, signatures.timestamp, there.tag if there else None):
        raise TrustError("was changed by another meanwhile", where=f"{store.url}/{TIMESTAMP_KEY}", hint="run it again")
    return True


def may_be_copy(store: Store, signatures: Signatures, releases: Iterable[str]) -> bool:
    """Whether these signatures may go into a store: not where others sign it.

    Raises TrustError where nobody does, and it has releases beside those at the keys `releases`: these would be hidden then.
    """
    if store.get(TIMESTAMP_KEY) is not None:
        found = store.get(_root_key(1))
        return found is not None and found.data == signatures.root
    if others := sorted(filter(release_of, set(store.keys("releases/")) - set(releases))):
        what = f"is not signed, and has what the signed store that is to be copied there has not, like {others[0]}"
        raise TrustError(what, where=store.url, hint="copy into an empty store; or copy releases by their names, without --all")
    return True


def _signed(data: bytes, where: str) -> dict[str, Any]:
    try:
        return dict(json.loads(data)["signed"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TrustError("leads to what is no signed metadata", where=where, hint="the store is damaged") from error


def _named(data: bytes, where: str) -> list[str]:
    """The keys of the metadata that other metadata names."""
    try:
        meta = _signed(data, where)["meta"].items()
        return [f"{TRUST}{int(one['version'])}.{name}" for name, one in meta if "/" not in name]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrustError("leads to what names no metadata", where=where, hint="the store is damaged") from error


def _documents(data: bytes, where: str) -> list[str]:
    """The keys of the documents that move, as metadata has signed them."""
    try:
        targets = _signed(data, where)["targets"].items()
        return [signed_document_key(str(one["hashes"]["sha256"])) for key, one in targets if moves(key)]
    except (KeyError, TypeError, AttributeError) as error:
        raise TrustError("leads to what names no documents", where=where, hint="the store is damaged") from error


def _version(data: bytes, where: str) -> int:
    try:
        return int(_signed(data, where)["version"])
    except (KeyError, ValueError, TypeError) as error:
        raise TrustError("has a timestamp without a version", where=where) from error
