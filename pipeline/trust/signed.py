"""A store whose documents are signed, for who writes to it: it says what is signed, and signs what was written, at the end."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.files import sha256_bytes
from pipeline.layout import TIMESTAMP_KEY, evidence_of, is_signed, moves, release_of
from pipeline.store.base import Body, Keeper, Object, Store, Stored, Unfinished
from pipeline.store.open import address_of
from pipeline.trust.anchors import Anchor, TrustError, anchor_of, require_allowed

if TYPE_CHECKING:
    from tuf.api.metadata import TargetFile

_NOTHING = "nothing is there"  # the tag of what is signed, and was removed by others


def required_anchor(store: Store, name: str) -> Anchor:
    """What is known of the signers of a store. Raises TrustError where that is nothing: nobody signs on top of what anybody
    may have put there."""
    if anchor := anchor_of(name):
        return anchor
    hint = "`vmfb trust add STORE root.json`, with the root that its owner gives you; `doit trust-init` where there is none"
    raise TrustError("no root of trust is known for it here", where=store.url, hint=hint)


class SignedStore:
    """The objects of `inner`. What is put through this is signed when `sign` is called; nothing else ever is.

    What moves is as it was last signed, whatever is there: so nothing that others have put there is built upon.
    """

    def __init__(self, inner: Store, name: str) -> None:
        from pipeline.trust.keys import find_keys
        from pipeline.trust.repository import Repository, read

        anchor = required_anchor(inner, name)
        self.inner, self.url, self._anchor, self._keys = inner, inner.url, anchor, find_keys()
        self._written: dict[str, bytes | None] = {}
        self._hidden: dict[str, str] = {}  # tags of what is there and was never signed, by key
        self._state: Repository = read(inner, anchor, self._keys)

    @property
    def identity(self) -> Mapping[str, str]:
        """That of the store."""
        return self.inner.identity

    def require_keys(self, keys: Iterable[str]) -> None:
        """Raise PipelineError, before anything is written, where this publisher cannot sign what is at these keys."""
        self._state.require(*dict.fromkeys(map(self._state.role_of, keys)), "snapshot", "timestamp")

    def get(self, key: str) -> Object | None:
        """The object at `key`, which is an error where it is not as it is signed; of what is not signed yet, as it is there."""
        found = self.inner.get(key)
        if not is_signed(key):
            return found
        if moves(key):
            return self._moving(key, found)
        target = self._state.find(key)
        if found is None and target and evidence_of(key):
            hint = "somebody has removed it: put it back"
            raise TrustError("is signed, and is not in the store", where=f"{self.url}/{key}", hint=hint)
        if found and target and not _is(found, target):
            hint = "it was changed by others, or is damaged: put back what was signed"
            raise TrustError("is not what was signed", where=f"{self.url}/{key}", hint=hint)
        return found

    def _moving(self, key: str, found: Object | None) -> Object | None:
        """A document that moves, as it was last signed, with the tag of what is there; none where it was never signed."""
        from pipeline.trust.repository import read

        if found and self._written.get(key) == found.data:
            return found
        target = self._state.find(key)
        if not (_is(found, target) if found and target else found is None and target is None):
            self._state = read(self.inner, self._anchor, self._keys)  # another may have signed it since
            target = self._state.find(key)
        if target is None:
            self._hidden[key] = found.tag if found else _NOTHING
            return None
        if found and _is(found, target):
            return found
        signed = self._state.document(key)
        return Object(signed, found.tag if found else _NOTHING) if signed is not None else None

    def signs(self, key: str) -> bool:
        """Whether anything is signed at the key, as far as was seen last."""
        return self._state.find(key) is not None

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
        if moves(key):
            tag = self._hidden.pop(key, None) if tag is None else tag
            tag = None if tag == _NOTHING else tag
        replaced = self.inner.replace(key, data, tag)
        if replaced and is_signed(key):
            self._written[key] = data
        return replaced

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


def _is(found: Object, target: TargetFile) -> bool:
    return len(found.data) == target.length and sha256_bytes(found.data) == target.hashes["sha256"]


class SignedKeeper(SignedStore):
    """A signed store, for those who look after it. Nothing is removed that is signed: it ceases to be first."""

    def __init__(self, inner: Keeper, name: str) -> None:
        super().__init__(inner, name)
        self._keeper, self._lock = inner, threading.Lock()

    def entries(self, prefix: str) -> Iterator[Stored]:
        """What is there."""
        return self._keeper.entries(prefix)

    def unfinished(self) -> Iterator[Unfinished]:
        """The uploads that were begun and not completed."""
        return self._keeper.unfinished()

    def abort(self, upload: Unfinished) -> None:
        """Give one up."""
        self._keeper.abort(upload)

    def remove(self, key: str) -> None:
        """Remove an object; with a release's manifest, all that is signed of the release ceases to be."""
        if is_signed(key):
            self.cease(key)
        self._keeper.remove(key)

    def cease(self, *keys: str) -> None:
        """Let what is at these keys be signed no more; with a release's manifest, nothing of that release."""
        from pipeline.trust.repository import Repository, change

        below: list[str] = []
        for key in keys:
            release = release_of(key)
            below += [f"{kind}/{'/'.join(release)}/" for kind in ("releases", "evidence")] if release else [key]

        def edit(repository: Repository) -> bool:
            self._state = repository
            for name, target in repository.roles.items():
                for one in [one for one in target.signed.targets if one.startswith(tuple(below))]:
                    repository.put(one, None, name)
            return bool(repository.changed)

        with self._lock:
            for key in [key for key in self._written if key.startswith(tuple(below))]:
                del self._written[key]
            if any(self._state.find(key) for key in keys):
                change(self._keeper, self._anchor, self._keys, edit)


def signing(store: Store, url: str) -> Store:
    """`store`, opened by `url`, to be signed with `sign_changes` where it is signed.

    Raises TrustError where it was and is not, where it has to be, and where it is not known who signs it.
    """
    name = address_of(url).name
    return SignedStore(store, name) if _is_signed(store, name) else store


def keeping(store: Keeper, url: str) -> Keeper:
    """As `signing`, of a store that is looked after."""
    name = address_of(url).name
    return SignedKeeper(store, name) if _is_signed(store, name) else store


def _is_signed(store: Store, name: str) -> bool:
    if store.get(TIMESTAMP_KEY) is not None:
        return True
    if anchor_of(name):
        what = "is not signed, though its signers are known here"
        raise TrustError(what, where=store.url, hint="see who changed it; or `vmfb trust remove` it")
    require_allowed(name)
    return False


def counts(store: Store, key: str) -> bool:
    """Whether what is at the key counts: everything does where nothing is signed."""
    return not isinstance(store, SignedStore) or store.signs(key)


def require_keys(store: Store, *keys: str) -> None:
    """Raise PipelineError where the store is signed, and this publisher cannot sign what is at these keys."""
    if isinstance(store, SignedStore):
        store.require_keys(keys)


def sign_changes(store: Store) -> bool:
    """Sign what was written to the store, where it is signed: the last step of whatever changes its documents. Whether it did."""
    return isinstance(store, SignedStore) and store.sign()


def cease(store: Store, *keys: str) -> None:
    """Where the store is signed, let what is at these keys be signed no more, before it is removed."""
    if isinstance(store, SignedKeeper):
        store.cease(*keys)
