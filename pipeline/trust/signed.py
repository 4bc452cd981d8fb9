"""A store whose documents are signed, for who writes to it: it says what is signed, and signs what was written, at the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import cast

from pipeline.files import sha256_bytes
from pipeline.layout import TIMESTAMP_KEY, evidence_of, is_signed, moves, signed_document_key
from pipeline.store.base import Body, Keeper, Object, Store, Stored, Unfinished
from pipeline.store.open import address_of
from pipeline.trust.anchors import Anchor, TrustError, anchor_of, require_allowed


def required_anchor(store: Store, name: str) -> Anchor:
    """What is known of the signers of a store. Raises TrustError where that is nothing: nobody signs on top of what anybody
    may have put there."""
    if anchor := anchor_of(name):
        return anchor
    hint = "`vmfb trust add STORE root.json`, with the root that its owner gives you; `doit trust-init` where there is none"
    raise TrustError("no root of trust is known for it here", where=store.url, hint=hint)


class SignedStore:
    """The objects of `inner`. What is put through this is signed when `sign` is called; nothing else ever is."""

    def __init__(self, inner: Store, name: str) -> None:
        from pipeline.trust.keys import find_keys
        from pipeline.trust.repository import Repository, read

        anchor = required_anchor(inner, name)
        self.inner, self.url, self._anchor, self._keys = inner, inner.url, anchor, find_keys()
        self._written: dict[str, bytes | None] = {}
        self._state: Repository = read(inner, anchor, self._keys)

    @property
    def identity(self) -> Mapping[str, str]:
        """That of the store."""
        return self.inner.identity

    def require_keys(self, keys: Iterable[str]) -> None:
        """Raise PipelineError, before anything is written, where this publisher cannot sign what is at these keys."""
        self._state.require(*dict.fromkeys(map(self._state.role_of, keys)), "snapshot", "timestamp")

    def get(self, key: str) -> Object | None:
        """The object at `key`. A document that moves is read as it was last signed, with the tag of what is there."""
        found = self.inner.get(key)
        if found is None and evidence_of(key) and self._state.find(key):
            hint = "somebody has removed it: put it back"
            raise TrustError("is signed, and is not in the store", where=f"{self.url}/{key}", hint=hint)
        if found is None or not is_signed(key):
            return found
        if moves(key):
            from pipeline.trust.repository import read

            self._state = read(self.inner, self._anchor, self._keys)
        target = self._state.find(key)
        if target is None:
            return found
        signed = self.inner.get(signed_document_key(target.hashes["sha256"])) if moves(key) else found
        if signed is None or not _is(signed.data, target.length, target.hashes["sha256"]):
            hint = "it was changed by others, or is damaged: put back what was signed"
            raise TrustError("is not what was signed", where=f"{self.url}/{key}", hint=hint)
        return Object(signed.data, found.tag)

    def doubt(self, key: str, data: bytes) -> str:
        """Why a document of evidence does not count; empty where it does."""
        from pipeline.trust.source import TrustedSource

        return "" if self._written.get(key) == data else TrustedSource(self.inner, self._anchor).doubt(key, data)

    def open(self, key: str, offset: int, length: int) -> AbstractContextManager[Body]:
        """A part of a blob."""
        return self.inner.open(key, offset, length)

    def listed(self, prefix: str) -> list[str] | None:
        """The keys that are there; and of evidence, those that should be."""
        there = self.inner.listed(prefix)
        return there if there is None or not prefix.startswith("evidence/") else sorted({*there, *self._state.every(prefix)})

    def keys(self, prefix: str) -> list[str]:
        """The keys that are there."""
        return self.inner.keys(prefix)

    def holds(self, key: str, size: int, sha256: str) -> bool:
        """Whether a blob is there."""
        return self.inner.holds(key, size, sha256)

    def upload(self, key: str, path: Path, sha256: str) -> None:
        """Put a blob."""
        self.inner.upload(key, path, sha256)

    def create(self, key: str, data: bytes) -> bool:
        """Put `data` where nothing is; what is there already, the same, is to be signed too."""
        created = self.inner.create(key, data)
        if is_signed(key) and (created or ((found := self.inner.get(key)) and found.data == data)):
            self._written[key] = data
        return created

    def replace(self, key: str, data: bytes, tag: str | None) -> bool:
        """Put `data` in the place of what has this tag."""
        replaced = self.inner.replace(key, data, tag)
        if replaced and is_signed(key):
            self._written[key] = data
        return replaced

    def entries(self, prefix: str) -> Iterator[Stored]:
        """Every object below a prefix."""
        return self._keeper.entries(prefix)

    def remove(self, key: str) -> None:
        """Remove an object; `sign` says so."""
        self._keeper.remove(key)
        if is_signed(key):
            self._written[key] = None

    def unfinished(self) -> Iterator[Unfinished]:
        """The uploads that were begun and not completed."""
        return self._keeper.unfinished()

    def abort(self, upload: Unfinished) -> None:
        """Give up such an upload."""
        self._keeper.abort(upload)

    @property
    def _keeper(self) -> Keeper:
        return cast(Keeper, self.inner)  # who removes has opened one

    def forget_missing(self) -> None:
        """What is signed and was removed, by who was killed before that was signed, is signed no more by `sign`."""
        there = {key for prefix in ("releases/", "evidence/") for key in self.inner.keys(prefix)}
        for key in (key for prefix in ("releases/", "evidence/") for key in self._state.every(prefix)):
            if key not in there:
                self._written[key] = None

    def sign(self) -> bool:
        """Sign what was written since; whether anything was new. Then it is read as a consumer does."""
        from pipeline.trust.repository import Repository, change
        from pipeline.trust.source import TrustedSource
        from pipeline.trust.upkeep import adopt
        from pipeline.trust.view import EVIDENCE

        def edit(repository: Repository) -> bool:
            self._state = repository
            for key, data in self._written.items():
                if not moves(key) or self._is_there(key, data):  # who has moved it since then signs that
                    repository.put(key, data)
            if EVIDENCE in repository.roles and repository.can_sign(EVIDENCE):
                for model in {key.split("/")[1] for key in self._written}:
                    adopt(repository, f"evidence/{model}/")
            return bool(repository.changed)

        signed = bool(self._written) and change(self.inner, self._anchor, self._keys, edit)
        self._written.clear()
        if signed:
            TrustedSource(self.inner, self._anchor).listed("releases/")
        return signed

    def _is_there(self, key: str, data: bytes | None) -> bool:
        found = self.inner.get(key)
        return (found.data if found else None) == data


def _is(data: bytes, length: int, sha256: str) -> bool:
    return len(data) == length and sha256_bytes(data) == sha256


def signing(store: Store, url: str) -> Store:
    """`store`, opened by `url`, to be signed with `sign_changes` where it is signed.

    Raises TrustError where it was and is not, where it has to be, and where it is not known who signs it.
    """
    name = address_of(url).name
    if store.get(TIMESTAMP_KEY) is not None:
        return SignedStore(store, name)
    if anchor_of(name):
        what = "is not signed, though its signers are known here"
        raise TrustError(what, where=store.url, hint="see who changed it; or `vmfb trust remove` it")
    require_allowed(name)
    return store


def keeping(store: Keeper, url: str) -> Keeper:
    """`signing` for who removes."""
    return cast(Keeper, signing(store, url))


def require_keys(store: Store, *keys: str) -> None:
    """Raise PipelineError where the store is signed, and this publisher cannot sign what is at these keys."""
    if isinstance(store, SignedStore):
        store.require_keys(keys)


def sign_changes(store: Store) -> bool:
    """Sign what was written to the store, where it is signed: the last step of whatever changes its documents. Whether it did."""
    return isinstance(store, SignedStore) and store.sign()


def sign_removals(store: Keeper) -> None:
    """Sign that what was removed is not there any more, now or by one that was killed before it came to that."""
    if isinstance(store, SignedStore):
        store.forget_missing()
        store.sign()
