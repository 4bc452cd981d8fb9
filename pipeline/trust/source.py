"""A store as those say it is who sign it: what they do not say is not there, and what is there otherwise is an error."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from typing import TypeVar

from pipeline.errors import DeniedError, PipelineError
from pipeline.files import sha256_bytes
from pipeline.layout import (
    INDEX_KEY,
    TIMESTAMP_KEY,
    TRUST,
    WITNESSES_KEY,
    channel_of,
    evidence_digests,
    evidence_folder,
    evidence_index_of,
    evidence_of,
    is_signed,
    moves,
    release_of,
    signature_key,
    signed_document_key,
)
from pipeline.manifest.codec import decode, encode
from pipeline.manifest.evidence import EVIDENCE_INDEX_SCHEMA, EvidenceIndex
from pipeline.manifest.types import SCHEMA, Index, IndexedChannel, IndexedModel
from pipeline.store.base import Body, BrokenTransferError, Object, Source
from pipeline.trust.anchors import Anchor, TrustError, add, anchor_of, remove
from pipeline.trust.view import EVIDENCE, NotReadError, Target, View

T = TypeVar("T")


def _next_root(view: View) -> str:
    """The key of the root after the one that is known."""
    return f"{TRUST}{view.root + 1}.root.json"


class TrustedSource:
    """The objects of `inner`, verified by its signed metadata, which is asked for once, when something is read.

    Blobs are as they are: a signed manifest has their digests.
    """

    def __init__(self, inner: Source, anchor: Anchor) -> None:
        self.url, self._inner, self._anchor = inner.url, inner, anchor
        self._lock = threading.Lock()
        self._now: View | None = None

    def _read(self, ask: Callable[[View], T]) -> T:
        """What the metadata says, of the state in which it was first seen by this."""
        with self._lock:
            if self._now is None:
                self._now = self._current()
            for _ in range(len(self._now.delegations) + 1):
                try:
                    return ask(self._now)
                except NotReadError as lacking:
                    self._now = self._refreshed({*self._now.roles, *lacking.roles}, self._asked_before(self._now))
            raise RuntimeError("a role that was just read is not there: this is a bug")

    def _asked_before(self, view: View) -> dict[str, Object | None]:
        """What need not be asked for again to read more of the same state."""
        timestamp = self._anchor.seen("timestamp")
        if timestamp is None or sha256_bytes(timestamp) != view.timestamp:
            return {}  # another process has seen more since
        return {_next_root(view): None, TIMESTAMP_KEY: Object(timestamp, view.timestamp)}

    def _current(self) -> View:
        """What was last seen, where the store still says the same; else what it says now, verified."""
        before = self._anchor.view()
        if before is None:
            return self._refreshed(set(), {})
        root = _next_root(before)
        try:
            known = {root: self._asked(root), TIMESTAMP_KEY: self._inner.get(TIMESTAMP_KEY)}
            found = known[TIMESTAMP_KEY]
            is_same = known[root] is None and found is not None and sha256_bytes(found.data) == before.timestamp
            return before if is_same and not before.has_expired else self._refreshed(set(), known)
        except BrokenTransferError as error:
            if not before.has_expired:
                raise  # what was last seen of it is good enough, for who asks for that
            hint = "check the network; `--offline` goes by what the cache holds"
            what = f"does not answer ({error.what}), and what was seen of it is too old: it was signed until {before.expires}"
            raise TrustError(what, where=self._anchor.store, hint=hint) from error

    def _asked(self, key: str) -> Object | None:
        """The object; none for who is not told whether there is one."""
        try:
            return self._inner.get(key)
        except DeniedError:
            return None

    def _refreshed(self, roles: set[str], known: Mapping[str, Object | None]) -> View:
        from pipeline.trust.client import refresh  # a fifth of a second, that nothing needs where nothing changed

        if known:
            with suppress(TrustError):  # another process may have seen more since that was asked
                return refresh(self._inner, self._anchor, roles, known)
        return refresh(self._inner, self._anchor, roles, {})

    def find(self, key: str) -> tuple[str, Target] | None:
        """The role that signs `key`, and what it says of it; None where none does."""
        return self._read(lambda view: view.find(key))

    def get(self, key: str) -> Object | None:
        """The object at `key` as it is signed; the list of the store is made of what is signed.

        Of evidence that the store's signers do not name, and of what nobody signs, the object that is there: see `doubt`.
        """
        if key == INDEX_KEY:
            return self._index()
        if release := evidence_index_of(key):
            return self._evidence(key, *release)
        if not is_signed(key):
            return self._inner.get(key)
        if found := self.find(key):
            return self._verified(key, found[1])
        return self._inner.get(key) if key.startswith("evidence/") else None

    def _verified(self, key: str, target: Target) -> Object:
        place = signed_document_key(target.sha256) if moves(key) else key
        found = self._inner.get(place)
        if found is None:
            raise TrustError("is signed, and is not in the store", where=f"{self.url}/{place}", hint="ask who publishes it")
        if (len(found.data), sha256_bytes(found.data)) != (target.length, target.sha256):
            what = f"has the SHA-256 {sha256_bytes(found.data)}, and {target.sha256} is signed"
            raise TrustError(what, where=f"{self.url}/{place}", hint="the store was changed or damaged: tell who publishes it")
        return Object(found.data, target.sha256)

    def doubt(self, key: str, data: bytes) -> str:
        """Why a document of evidence does not count; empty where those who sign the store name it, or a witness has signed it."""
        found = self.find(key)
        if found and found[0] != EVIDENCE and found[1].sha256 == sha256_bytes(data):
            return ""
        told = self.get(WITNESSES_KEY)
        listed = told.tag if told else ""
        with self._lock:
            known = self._anchor.vouched(listed)
        if key in known and (named := evidence_of(key)) and named[2] == sha256_bytes(data):
            return ""
        if not self._is_vouched(key, data, told, found[1].custom if found else {}):
            return "no witness of this store has signed it: it does not count"
        with self._lock:
            self._anchor.keep_vouched(listed, {*self._anchor.vouched(listed), key})
        return ""

    def _is_vouched(self, key: str, data: bytes, told: Object | None, custom: Mapping[str, object]) -> bool:
        from pipeline.trust.witnesses import decode_witnesses, read_signature, vouches

        witnesses = decode_witnesses(told.data if told else None, f"{self.url}/{WITNESSES_KEY}")
        if vouches(witnesses, read_signature(json.dumps(custom.get("signature")).encode()), data):
            return True
        for one in witnesses.keys.values():
            found = self._inner.get(signature_key(key, one.keyid))
            if found and vouches(witnesses, read_signature(found.data), data):
                return True
        return False

    def open(self, key: str, offset: int, length: int) -> AbstractContextManager[Body]:
        """A part of a blob, which whoever asks for it verifies."""
        if is_signed(key):
            raise RuntimeError(f"{key} is read in parts, which cannot be verified: this is a bug")
        return self._inner.open(key, offset, length)

    def listed(self, prefix: str) -> list[str] | None:
        """The keys that are signed; of evidence, which witnesses add to, those that are there too. None where that cannot be
        listed."""
        signed = self._read(lambda view: view.keys(prefix))
        if not prefix.startswith("evidence/"):
            return signed
        there = self._inner.listed(prefix)
        return None if there is None else sorted({*signed, *there})

    def _evidence(self, key: str, model: str, version: str) -> Object:
        """The list of a release's evidence, of what is signed and of what the store's own list says beside that."""
        found = self._inner.get(key)
        listed: tuple[str, ...] = ()
        with suppress(PipelineError):
            listed = decode(EvidenceIndex, found.data, f"{self.url}/{key}").documents if found else ()
        signed = evidence_digests(self._read(lambda view: view.keys(evidence_folder(model, version))), model, version)
        return _object(EvidenceIndex(EVIDENCE_INDEX_SCHEMA, tuple(sorted({*signed, *listed}))))

    def _index(self) -> Object:
        versions: dict[str, list[str]] = {}
        for model, of in filter(None, map(release_of, self.listed("releases/") or ())):
            versions.setdefault(model, []).append(of)
        channels: dict[str, list[IndexedChannel]] = {}
        for key in self.listed("channels/") or ():
            named, found = channel_of(key), self.find(key)
            version: object = found[1].custom.get("version") if found else None
            if named and isinstance(version, str):
                channels.setdefault(named[0], []).append(IndexedChannel(named[1], version))
        names = sorted({*versions, *channels})
        models = tuple(IndexedModel(m, tuple(channels.get(m, ())), tuple(sorted(versions.get(m, ())))) for m in names)
        return _object(Index(SCHEMA, models))


def believe(store: str, root: bytes, inner: Source) -> None:
    """Let this machine believe `store` as it is signed from this root of trust on; if it is not, nothing is changed.

    Raises TrustError then, and PipelineError where that cannot be seen now: it is believed so from now on all the same.
    """
    is_known = anchor_of(store) is not None
    anchor = add(store, root)
    try:
        TrustedSource(inner, anchor).listed("releases/")
    except TrustError as error:
        if not is_known:
            remove(store)
        raise TrustError(f"is not signed so: {error.what}", where=error.where, hint=error.hint) from error


def _object(document: Index | EvidenceIndex) -> Object:
    data = encode(document)
    return Object(data, sha256_bytes(data))
