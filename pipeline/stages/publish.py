"""Publish: blobs by content first, the manifest last and create-only, then evidence, then channel and index by
compare-and-swap."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline import activity
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import sha256_bytes, write
from pipeline.layout import PACKAGED_EVIDENCE, blob_key, channel_key, release_key
from pipeline.manifest.codec import decode, encode
from pipeline.manifest.evidence import EvidenceDocument, EvidenceIndex
from pipeline.manifest.types import CHANNEL_SCHEMA, Blob, Channel, Manifest
from pipeline.names import RULE, is_name, is_version
from pipeline.spec.types import Policy
from pipeline.stages import policy, record
from pipeline.stages.record import canonical
from pipeline.store.base import BrokenTransferError, Store
from pipeline.store.channels import find_channel, move_channel
from pipeline.store.documents import add_evidence
from pipeline.store.index import require_our_index, update_index
from pipeline.store.leases import Claim
from pipeline.store.open import open_to_publish
from pipeline.store.published import look
from pipeline.store.yanks import require_not_yanked
from pipeline.trust.signed import require_keys, sign_changes, signing


def _upload(store: Store, blob: Blob, path: Path) -> bool:
    """Put one blob unless the store has it, to the byte; whether it was sent. It is checked against the manifest on the way."""
    key = blob_key(blob.sha256)
    if store.holds(key, blob.size, blob.sha256):
        return False
    store.upload(key, path, blob.sha256)
    if not store.holds(key, blob.size, blob.sha256):
        hint = "publish again; if that does not help, something changes what is sent to the store"
        raise BrokenTransferError("is not there as it was uploaded", where=f"{store.url}/{key}", hint=hint)
    return True


def _is_published(store: Store, manifest: Manifest, data: bytes) -> bool:
    """Whether this very manifest is in the store. Raises PipelineError if its version has another one."""
    key = release_key(manifest.model.name, manifest.version)
    existing = store.get(key)
    if existing is None:
        return False
    if existing.data != data:
        raise PipelineError(
            f"{manifest.model.name}@{manifest.version} is published already, with other content",
            where=f"{store.url}/{key}",
            hint="releases never change: publish this one under another version",
        )
    return True


def _points(store: Store, manifest: Manifest, channel: str, data: bytes) -> bool:
    """Whether the channel points to this very manifest."""
    try:
        pointer = find_channel(store, manifest.model.name, channel)
    except PipelineError:
        return False  # which is told when it is to move
    return pointer is not None and (pointer.version, pointer.manifest.sha256) == (manifest.version, sha256_bytes(data))


def _create_manifest(store: Store, manifest: Manifest, data: bytes) -> bool:
    key = release_key(manifest.model.name, manifest.version)
    if store.create(key, data):
        return True
    if not _is_published(store, manifest, data):
        raise PipelineError("came and went while it was being published", where=f"{store.url}/{key}", hint="publish again")
    return False


def _add_evidence(store: Store, manifest: Manifest, listed: Path) -> list[str]:
    """Put what was seen when the package was verified, here and by witnesses, beside the release; the keys."""
    with disk_errors(str(listed)):
        index = decode(EvidenceIndex, listed.read_bytes(), str(listed))
        paths = [listed.with_name(f"{sha256}.json") for sha256 in index.documents]
        found = [path.read_bytes() for path in paths]
    for path, data in zip(paths, found, strict=True):
        decode(EvidenceDocument, data, str(path))
    return add_evidence(store, manifest.model.name, manifest.version, *found)


def publish(
    package: Path,
    store: Store,
    version: str = "",
    channel: str = "latest",
    note: Callable[[str], None] = lambda _: None,
    allowed: Callable[[Manifest, Channel | None], Sequence[str]] = lambda _, __: (),
) -> dict[str, object]:
    """Publish the package to `store` under `version` (default: the one derived from its content). Returns the receipt.

    When all but the channel is in the store, `allowed` is asked, with what the channel is then: it says what differs and what
    else is to be known, or raises what keeps the channel from moving.

    Publishing the same again sends nothing. A kill at any moment leaves either no release or a whole one.
    """
    if version and not is_version(version):
        raise PipelineError(f"{version!r} cannot be a version", hint=f"{RULE}; capitals and '+' too")
    if not is_name(channel):
        raise PipelineError(f"{channel!r} cannot be a channel", hint=RULE)
    path = package / "manifest.json"
    with disk_errors(str(path)):
        manifest = decode(Manifest, path.read_bytes(), str(path))
    if version:
        manifest = decode(Manifest, encode(replace(manifest, version=version)), f"version={version}")
    data = encode(manifest)
    key = release_key(manifest.model.name, manifest.version)
    require_keys(store, key, channel_key(manifest.model.name, channel))
    require_not_yanked(store, manifest.model.name, manifest.version)
    is_there = _is_published(store, manifest, data)  # a version that is taken is refused before anything is sent
    blobs = {blob.sha256: blob for blob in manifest.blobs()}
    claim = Claim(store, manifest.model.name, manifest.version, blobs)

    def send() -> int:
        missing = [blob for blob in blobs.values() if _upload(store, blob, package / "blobs" / blob.sha256)]
        for blob in missing:
            note(f"sent {blob.name}, {blob.size} bytes")
        return len(missing)

    sent, created = 0, False
    if is_there and _points(store, manifest, channel, data):
        sent = send()  # what is damaged; nothing removes what a channel needs
    else:
        while claim.renew(note):
            sent += send()
        created = _create_manifest(store, manifest, data)
    evidence = _add_evidence(store, manifest, package / PACKAGED_EVIDENCE)
    differs: list[str] = []

    def asked(before: Channel | None) -> None:
        differs[:] = allowed(manifest, before)

    moved = move(store, manifest, channel, asked, claim)
    sign_changes(store)
    never_change = [f"{store.url}/{k}" for k in (key, *map(blob_key, blobs), *evidence)]
    return {
        "store": store.url,
        "identity": dict(store.identity),
        "release": f"{manifest.model.name}@{manifest.version}",
        "manifest": {"key": key, "sha256": sha256_bytes(data)},
        "channel": channel,
        "objects": [*never_change, f"{store.url}/{channel_key(manifest.model.name, channel)}"],
        "looks": {name: found for name in never_change if (found := look(name))},
        "blobs_sent": sent,
        "manifest_created": created,
        "channel_moved": moved,
        "differs": differs,
    }


def move(
    store: Store,
    manifest: Manifest,
    channel: str,
    allowed: Callable[[Channel | None], None] = lambda _: None,
    claim: Claim | None = None,
    rolled_back: bool = False,
) -> bool:
    """Point the channel at a release that is in the store; whether it pointed elsewhere. `allowed` is asked with what the
    channel is just before it moves, and raises what keeps it from that. `claim`: a lease on it, where there is one already.
    `rolled_back`: what it pointed to is not to be gone back to.

    By the digest of what is there: a manifest of an older schema has other bytes than `encode` makes of it.
    """
    key = release_key(manifest.model.name, manifest.version)
    found = store.get(key)
    if found is None or decode(Manifest, found.data, f"{store.url}/{key}") != manifest:
        raise PipelineError("is not in the store, or is another release there", where=f"{store.url}/{key}", hint="publish it")
    data = found.data
    model, version = manifest.model.name, manifest.version
    pointer = Channel(CHANNEL_SCHEMA, model, channel, version, Blob(key, sha256_bytes(data), len(data)), ())
    require_our_index(store)  # before anything moves

    leased = claim or Claim(store, model, version)

    def asked(before: Channel | None) -> None:
        require_not_yanked(store, model, version)
        allowed(before)
        if not (before and before.manifest == pointer.manifest) and leased.renew(activity.say) and store.get(key) != found:
            what, hint = "was removed by `doit prune` while a channel was to move to it", "publish it again"
            raise PipelineError(what, where=f"{store.url}/{key}", hint=hint)

    moved = move_channel(store, pointer, asked, rolled_back)
    update_index(store, pointer)
    return moved


def run(package: Path, url: str, version: str, channel: str, policies: Mapping[str, Policy], receipt: Path) -> None:
    """Publish to the store at `url` and write the receipt, with what differs from what the channel pointed to.

    Raises PipelineError where the channel may not move there by `policies`, those of bundles: the release is in the store then.
    """
    record.require_intact(package)
    store = signing(open_to_publish(url), url)

    def allowed(manifest: Manifest, pointer: Channel | None) -> Sequence[str]:
        before, release = policy.present(store, pointer), policy.gathered(store, manifest)
        policy.require(policies, release, before, channel, store)
        return [*policy.remarks(policies, release, before), *policy.told(release, before)]

    write(receipt, canonical(publish(package, store, version, channel, activity.say, allowed)))


def read_receipt(path: Path) -> dict[str, object]:
    """The receipt of the last publication."""
    result: dict[str, object] = json.loads(path.read_text())
    return result
