"""Begin to sign a store: keys, the root of trust, and the metadata of all that the store holds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from securesystemslib.signer import Key
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from pipeline.errors import PipelineError, disk_errors
from pipeline.files import sha256_bytes, write
from pipeline.layout import TIMESTAMP_KEY, channel_of, evidence_of, is_signed, release_of
from pipeline.manifest.codec import decode
from pipeline.manifest.evidence import EvidenceDocument
from pipeline.manifest.types import Channel, Manifest
from pipeline.store.base import Store
from pipeline.trust import anchors
from pipeline.trust.client import root_lines, trust_errors
from pipeline.trust.keys import ONLINE, Keys, find_keys, key_folder, make_key, public_keys
from pipeline.trust.repository import DAYS, DEFAULT_DAYS, Repository, metadata_key, sign
from pipeline.trust.source import believe
from pipeline.trust.view import EVIDENCE, TARGETS

EVIDENCE_PATHS = ("evidence/*/*/*",)


@dataclass(frozen=True)
class Setup:
    """How a store is to be signed: so many root keys, of which `threshold` have to sign; the days for which roles do."""

    roots: int = 1
    threshold: int = 1
    days: Mapping[str, int] = field(default_factory=lambda: DEFAULT_DAYS)

    def __post_init__(self) -> None:
        if not 1 <= self.threshold <= self.roots:
            raise PipelineError(
                f"threshold={self.threshold} of roots={self.roots} keys cannot be", hint="1 to the number of keys"
            )


def begin(store: Store, name: str, setup: Setup) -> list[str]:
    """Sign all that the store holds. What is to be told. Raises PipelineError where it is signed already.

    Nothing counts before the last step; a run that was killed is done again, with the keys that it made.
    """
    folder = key_folder()
    if store.get(TIMESTAMP_KEY) is not None:
        return _join(store, name, folder)
    keys_of = {
        "root": _keys("root", setup.roots, folder),
        TARGETS: _keys(TARGETS, 1, folder),
        ONLINE: _keys(ONLINE, 1, folder),
    }
    keys = find_keys()
    with trust_errors(name):
        root, data = _root(store, keys, keys_of, setup)
        repository = _empty(store, name, root, keys, keys_of[ONLINE])
        held, left = _hold(repository)
        repository.changed |= {TARGETS, EVIDENCE}
        write(folder / "root.json", data)
        if not repository.commit():
            raise PipelineError("was signed by another meanwhile", where=name, hint="`vmfb trust add` it, with that root.json")
    anchors.add(name, data)
    return [
        f"{name} is signed from now on: {held} documents",
        *(f"  not signed: {line}" for line in left),
        *root_lines(data, str(folder / "root.json")),
        f"keys are in {folder}: keep root*.pem where no network is, {ONLINE}.pem where `doit trust-refresh` runs",
        f"give {folder / 'root.json'} to those who fetch, by a way that they trust: vmfb trust add STORE root.json",
    ]


def _join(store: Store, name: str, folder: Path) -> list[str]:
    """What a run does that was killed when all but this machine's knowledge was done; else it is an error."""
    path = folder / "root.json"
    with disk_errors(str(path)):
        data = path.read_bytes() if path.is_file() else b""
    if data and anchors.anchor_of(name) is None:
        believe(name, data, store)
        return [f"{name} was signed already; this machine believes {path} now", *root_lines(data, str(path))]
    hint = "`doit trust-rotate` changes who signs; `vmfb trust add` makes its signers known to a machine"
    raise PipelineError("is signed already", where=name, hint=hint)


def _keys(name: str, count: int, folder: Path) -> list[Key]:
    """The public keys that are named so; as many as are needed are made where there is none."""
    return public_keys(name) or [make_key(folder, name).public_key for _ in range(count)]


def _root(store: Store, keys: Keys, of: Mapping[str, Sequence[Key]], setup: Setup) -> tuple[Metadata[Root], bytes]:
    """The first root of trust; the one that a killed run has put there, where it has these keys."""
    root = Root(consistent_snapshot=True, unrecognized_fields={DAYS: dict(setup.days)})
    for role, name in (("root", "root"), (TARGETS, TARGETS), ("snapshot", ONLINE), ("timestamp", ONLINE)):
        for key in of[name]:
            root.add_key(key, role)
    root.roles["root"].threshold = setup.threshold
    metadata = Metadata(root)
    sign(metadata, setup.days["root"], keys, "root", of["root"])
    root.verify_delegate("root", metadata.signed_bytes, metadata.signatures)
    data = metadata.to_bytes()
    if store.create(metadata_key("root", 1), data):
        return metadata, data
    found = store.get(metadata_key("root", 1))
    before = Metadata[Root].from_bytes(found.data if found else b"")
    before.signed.expires = root.expires
    if found is None or before.signed.roles != root.roles or before.signed.keys != root.keys:
        what = "there is a root of trust of other keys"
        raise PipelineError(what, where=f"{store.url}/{metadata_key('root', 1)}", hint="remove it, if nobody knows it")
    return Metadata[Root].from_bytes(found.data), found.data


def _empty(store: Store, name: str, root: Metadata[Root], keys: Keys, online: Sequence[Key]) -> Repository:
    """Metadata that says that there is nothing, to be changed and signed."""
    role = DelegatedRole(EVIDENCE, [key.keyid for key in online], 1, False, list(EVIDENCE_PATHS))
    top = Targets(delegations=Delegations({key.keyid: key for key in online}, {EVIDENCE: role}))
    roles = {TARGETS: Metadata(top), EVIDENCE: Metadata(Targets())}
    snapshot, timestamp = Metadata(Snapshot()), Metadata(Timestamp(snapshot_meta=MetaFile(1)))
    for signed in (*(one.signed for one in roles.values()), snapshot.signed, timestamp.signed):
        signed.version = 0  # the first that is written is 1
    anchor = anchors.Anchor(name, Path())
    return Repository(store, anchor, keys, root, timestamp, snapshot, roles, None)


def _hold(repository: Repository) -> tuple[int, list[str]]:
    """Name all that the store holds as its targets; how many, and what is not as its key says, with why."""
    store, held, left = repository.store, 0, []
    for key in filter(is_signed, store.keys("")):
        found = store.get(key)
        if found is None:
            continue
        try:
            _require_right(key, found.data)
        except PipelineError as error:
            left.append(f"{key}: {error.what}")
            continue
        repository.put(key, found.data)
        held += 1
    return held, left


def _require_right(key: str, data: bytes) -> None:
    """Raise PipelineError for a document that is not what its key says."""
    if release := release_of(key):
        manifest = decode(Manifest, data, key)
        if (manifest.model.name, manifest.version) != release:
            raise PipelineError("is the manifest of another release", where=key)
    elif channel := channel_of(key):
        pointer = decode(Channel, data, key)
        if (pointer.model, pointer.channel) != channel:
            raise PipelineError("is the pointer of another channel", where=key)
    elif document := evidence_of(key):
        decode(EvidenceDocument, data, key)
        if sha256_bytes(data) != document[2]:
            raise PipelineError("does not have the digest that it is named by", where=key)
    elif not re.fullmatch(r"(releases|yanked)/[^/]+/[^/]+(/[^/]+)?\.json", key):
        raise PipelineError("is no document that this program knows", where=key)
