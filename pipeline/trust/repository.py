"""The metadata of a store for those who sign it: read and verified, changed, signed, written so that a kill leaves old or new."""

from __future__ import annotations

import datetime
import json
import random
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from securesystemslib.signer import Key
from tuf.api.exceptions import BadVersionNumberError, DownloadHTTPError, RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, T, TargetFile, Targets, Timestamp

from pipeline.errors import DeniedError, PipelineError
from pipeline.files import sha256_bytes
from pipeline.layout import TIMESTAMP_KEY, TRUST, channel_of, moves, signed_document_key
from pipeline.names import did_you_mean, whole_number
from pipeline.store.base import Object, Store
from pipeline.trust.anchors import Anchor, TrustError
from pipeline.trust.client import trust_errors
from pipeline.trust.keys import Keys
from pipeline.trust.view import EVIDENCE, TARGETS, Delegation

TOP = ("root", TARGETS, "snapshot", "timestamp")
DAYS = "x-vmfb-days"  # in the root: for how many days each role signs
DEFAULT_DAYS: Mapping[str, int] = {"root": 365, TARGETS: 365, EVIDENCE: 90, "snapshot": 30, "timestamp": 7}
_ATTEMPTS = 40
_TAKEN = 200  # versions that were written and never became the present one


def read_days(text: str) -> dict[str, int]:
    """The days of `timestamp:7,snapshot:30`, by role. Raises PipelineError for anything else."""
    days: dict[str, int] = {}
    for word in filter(None, text.split(",")):
        role, _, number = word.partition(":")
        if role not in DEFAULT_DAYS:
            raise PipelineError(f"days={word:.60}: there is no such role", hint=did_you_mean(role, DEFAULT_DAYS))
        if not (count := whole_number(number)) or count > 36500:
            raise PipelineError(f"days={word:.60}: is no number of days", hint="write days=timestamp:7,snapshot:30")
        days[role] = count
    return days


@dataclass
class Repository:
    """The metadata of a store in one state, verified: that it is signed, and no older than what was seen here before.

    What has expired is read all the same: here it is signed anew. `tag` is the state of its timestamp, for `replace`.
    """

    store: Store
    anchor: Anchor
    keys: Keys
    root: Metadata[Root]
    timestamp: Metadata[Timestamp]
    snapshot: Metadata[Snapshot]
    roles: dict[str, Metadata[Targets]]
    tag: str | None
    changed: set[str] = field(default_factory=set)  # roles of `roles`, and "snapshot"

    @property
    def targets(self) -> Targets:
        """Those of the top."""
        return self.roles[TARGETS].signed

    def delegations(self) -> list[Delegation]:
        """The roles that sign a part of the targets."""
        roles = (self.targets.delegations.roles if self.targets.delegations else None) or {}
        return [Delegation(name, tuple(role.paths or ())) for name, role in roles.items()]

    def role_of(self, key: str) -> str:
        """The role that signs what publishers put at `key`."""
        return next((d.role for d in self.delegations() if d.role != EVIDENCE and d.fits(key)), TARGETS)

    def find(self, key: str) -> TargetFile | None:
        """What is signed of `key`."""
        names = [TARGETS, *(d.role for d in self.delegations() if d.fits(key))]
        return next((found for name in names if (found := self.roles[name].signed.targets.get(key))), None)

    def document(self, key: str) -> bytes | None:
        """The bytes of a document that moves, as they are signed; None where none are. Raises TrustError where others are there,
        or none: what a publisher reads is what it signs again."""
        if (target := self.find(key)) is None:
            return None
        sha256 = target.hashes["sha256"]
        found = self.store.get(signed_document_key(sha256))
        if found is None or (len(found.data), sha256_bytes(found.data)) != (target.length, sha256):
            where, hint = f"{self.store.url}/{signed_document_key(sha256)}", "put it back: it was changed or removed by others"
            raise TrustError("is signed, and is not there as it was signed", where=where, hint=hint)
        return found.data

    def every(self, prefix: str) -> dict[str, TargetFile]:
        """All that is signed below a prefix."""
        found: dict[str, TargetFile] = {}
        for name in (TARGETS, *(d.role for d in self.delegations())):
            for key, target in self.roles[name].signed.targets.items():
                if key.startswith(prefix):
                    found.setdefault(key, target)
        return found

    def put(self, key: str, data: bytes | None, role: str = "", custom: Mapping[str, Any] | None = None) -> None:
        """Name the bytes as what is at `key`, or that nothing is. What moves is put where it stays, too."""
        role = role or self.role_of(key)
        targets = self.roles[role].signed.targets
        if data is None:
            if targets.pop(key, None):
                self.changed.add(role)
            return
        told = {**_told(key, data), **(custom or {})}
        target = TargetFile(len(data), {"sha256": sha256_bytes(data)}, key, {"custom": told} if told else None)
        if moves(key):
            keep_document(self.store, data)
        if targets.get(key) != target:
            targets[key] = target
            self.changed.add(role)

    def days(self, role: str) -> int:
        """For how many days a role signs."""
        days = self.root.signed.unrecognized_fields.get(DAYS, {})
        return int(days.get(role) or days.get(TARGETS) or DEFAULT_DAYS.get(role, DEFAULT_DAYS[TARGETS]))

    def keys_of(self, role: str) -> tuple[list[Key], int]:
        """The keys of a role, and how many have to sign."""
        delegator = self.root.signed if role in TOP else self.targets
        found = delegator.get_delegated_role(role)
        return [delegator.get_key(keyid) for keyid in found.keyids], found.threshold

    def can_sign(self, role: str) -> bool:
        """Whether enough keys of a role are here."""
        keys, threshold = self.keys_of(role)
        return len(self.keys.of(role, keys)) >= threshold

    def require(self, *roles: str) -> None:
        """Raise PipelineError where the keys of any of the roles are not here."""
        for role in roles:
            if not self.can_sign(role):
                keys, threshold = self.keys_of(role)
                names = ", ".join(key.keyid[:16] + "…" for key in keys)
                what = f"it is signed, and the keys to sign as `{role}` are not here: {threshold} of {names}"
                hint = f"looked at: {self.keys.named or 'nothing'}; PIPELINE_KEYS names folders with *.pem, or ROLE=URI"
                raise PipelineError(what, where=self.anchor.store, hint=hint)

    def sign(self, role: str, metadata: Metadata[Any]) -> bytes:
        """Sign as `role`, until it has to be signed again, and see that it counts; the bytes."""
        self.require(role)
        keys, _ = self.keys_of(role)
        sign(metadata, self.days(role), self.keys, role, keys)
        (self.root.signed if role in TOP else self.targets).verify_delegate(role, metadata.signed_bytes, metadata.signatures)
        return metadata.to_bytes()

    def commit(self) -> bool:
        """Sign and write what changed; False if another has changed the store since this was read: then all is to be done
        again. The moment that counts is the last, when the timestamp is replaced."""
        with trust_errors(self.anchor.store):
            for role in sorted(self.changed - {"snapshot"} - {TARGETS}) + [TARGETS] * (TARGETS in self.changed):
                self.snapshot.signed.meta[f"{role}.json"] = self._create(role, self.roles[role])
            self.timestamp.signed.snapshot_meta = self._create("snapshot", self.snapshot)
            self.timestamp.signed.version += 1
            data = self.sign("timestamp", self.timestamp)
            return self.store.replace(TIMESTAMP_KEY, data, self.tag)

    def touch(self) -> bool:
        """`commit` where nothing is new but the timestamp."""
        with trust_errors(self.anchor.store):
            self.timestamp.signed.version += 1
            return self.store.replace(TIMESTAMP_KEY, self.sign("timestamp", self.timestamp), self.tag)

    def _create(self, role: str, metadata: Metadata[Any]) -> MetaFile:
        """Write the next version of a role that nobody has written, perhaps in vain; what names it."""
        for _ in range(_TAKEN):
            metadata.signed.version += 1
            data = self.sign(role, metadata)
            if self.store.create(metadata_key(role, metadata.signed.version), data):
                return named(metadata, data)
        where = f"{self.store.url}/{metadata_key(role, metadata.signed.version)}"
        raise PipelineError(f"and {_TAKEN} versions before it are there, and not in use", where=where, hint="remove them")


def sign(metadata: Metadata[Any], days: int, keys: Keys, role: str, of: Collection[Key]) -> None:
    """Sign anew, for so many days, with those of `keys` that are among `of`."""
    metadata.signed.expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    metadata.signatures.clear()
    for signer in keys.of(role, of):
        try:
            metadata.sign(signer, append=True)
        except UnsignedMetadataError as error:
            hint = "check the key, and who may use it"
            raise PipelineError(
                f"the key {signer.public_key.keyid[:16]}… did not sign: {error}", where=role, hint=hint
            ) from error


def metadata_key(role: str, version: int) -> str:
    """The key of a version of a role's metadata."""
    return f"{TRUST}{version}.{role}.json"


def named(metadata: Metadata[Any], data: bytes) -> MetaFile:
    """What names these bytes in the metadata above."""
    return MetaFile(metadata.signed.version, len(data), {"sha256": sha256_bytes(data)})


def keep_document(store: Store, data: bytes) -> None:
    """Put the bytes of a document that moves where they stay."""
    key = signed_document_key(sha256_bytes(data))
    if not store.create(key, data):
        found = store.get(key)
        if found is None or found.data != data:
            store.replace(key, data, found.tag if found else None)  # it is named by its digest: anything else is damage


def _told(key: str, data: bytes) -> dict[str, Any]:
    """What is said of a document beside its digest: of a channel, the version that it points to, for lists."""
    if not channel_of(key):
        return {}
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        return {"version": str(json.loads(data)["version"])}
    return {}


def _read(store: Store, kind: type[T], key: str, name: MetaFile | None = None) -> tuple[Metadata[T], bytes, str]:
    found = store.get(key)
    if found is None:
        raise DownloadHTTPError(f"{key} is not there", 404)
    if name:
        name.verify_length_and_hashes(found.data)
    metadata = Metadata[T].from_bytes(found.data)
    if metadata.signed.type != kind.type:
        raise RepositoryError(f"{key} is {metadata.signed.type}, not {kind.type}")
    return metadata, found.data, found.tag


def _next(store: Store, version: int) -> Object | None:
    try:
        return store.get(metadata_key("root", version))
    except DeniedError:  # how S3 says that there is none, to who may not list
        return None


def newest_root(store: Store, anchor: Anchor, last: int = 0) -> Metadata[Root]:
    """The root that follows, step by step, from the one that is known here; none after the version `last`, if that is given."""
    root = Metadata[Root].from_bytes(anchor.root)
    while root.signed.version != last and (found := _next(store, root.signed.version + 1)):
        new = Metadata[Root].from_bytes(found.data)
        for one in (root.signed, new.signed):
            one.verify_delegate("root", new.signed_bytes, new.signatures)
        if new.signed.version != root.signed.version + 1:
            raise BadVersionNumberError(f"root {root.signed.version + 1} says that it is {new.signed.version}")
        root = new
    return root


def read(store: Store, anchor: Anchor, keys: Keys, last: int = 0) -> Repository:
    """The metadata of `store` as it is now, by the root `last` or the newest. Raises TrustError for what is not signed, or older
    than what was seen here."""
    with trust_errors(anchor.store):
        seen = {role: anchor.seen(role) for role in ("timestamp", "snapshot")}  # first: others see more meanwhile
        root = newest_root(store, anchor, last)

        def verified(metadata: Metadata[T], role: str, by: Root | Targets) -> Metadata[T]:
            by.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
            return metadata

        timestamp, _, tag = _read(store, Timestamp, TIMESTAMP_KEY)
        verified(timestamp, "timestamp", root.signed)
        name = timestamp.signed.snapshot_meta
        snapshot = verified(_read(store, Snapshot, metadata_key("snapshot", name.version), name)[0], "snapshot", root.signed)
        _require_not_older(seen, root.signed, timestamp.signed, snapshot.signed)
        found: dict[str, Metadata[Targets]] = {}

        def role(name: str, by: Root | Targets) -> Metadata[Targets]:
            meta = snapshot.signed.meta[f"{name}.json"]
            metadata = verified(_read(store, Targets, metadata_key(name, meta.version), meta)[0], name, by)
            if metadata.signed.version != meta.version:
                raise BadVersionNumberError(f"{name} {meta.version} says that it is {metadata.signed.version}")
            found[name] = metadata
            return metadata

        try:
            top = role(TARGETS, root.signed).signed
            for name_ in (top.delegations.roles or {}) if top.delegations else ():
                role(name_, top)
        except KeyError as error:
            raise TrustError(f"has metadata that does not name {error}", where=anchor.store) from error
        return Repository(store, anchor, keys, root, timestamp, snapshot, found, tag)


def _require_not_older(known: Mapping[str, bytes | None], root: Root, timestamp: Timestamp, snapshot: Snapshot) -> None:
    """Raise BadVersionNumberError where the store is in an older state than is `known` here: nobody signs on top of that."""
    for role, now in (("timestamp", timestamp), ("snapshot", snapshot)):
        with suppress(RepositoryError):  # what was seen is signed by keys that are not believed any more: it says nothing
            if not (seen := known[role]):
                continue
            before = Metadata[Any].from_bytes(seen)
            root.verify_delegate(role, before.signed_bytes, before.signatures)
            if now.version < before.signed.version:
                break
            if isinstance(before.signed, Snapshot) and isinstance(now, Snapshot):
                lower = [n for n, m in before.signed.meta.items() if n not in now.meta or now.meta[n].version < m.version]
                if lower:
                    break
    else:
        return
    raise BadVersionNumberError(f"its {role} is older")


def change(store: Store, anchor: Anchor, keys: Keys, edit: Callable[[Repository], bool]) -> bool:
    """Let `edit` change what the store says, and sign that; again on top of it where another was faster. False where `edit` says
    that there is nothing to do."""
    for attempt in range(_ATTEMPTS):
        repository = read(store, anchor, keys)
        if not edit(repository):
            return False
        if repository.commit() if repository.changed else repository.touch():
            return True
        time.sleep(random.uniform(0, 0.05 * min(attempt + 1, 10)))  # noqa: S311  # others are at it too
    where = f"{store.url}/{TIMESTAMP_KEY}"
    raise PipelineError(f"changed {_ATTEMPTS} times while it was being signed", where=where, hint="run the same command again")
