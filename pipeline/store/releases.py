"""Releases as they are put into a store: blobs by content first, the manifest create-only, then the channels that point to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline import activity
from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes
from pipeline.layout import blob_key, release_key
from pipeline.manifest.codec import decode
from pipeline.manifest.types import CHANNEL_SCHEMA, Blob, Channel, Manifest
from pipeline.store.base import BrokenTransferError, Store
from pipeline.store.channels import find_channel, move_channel
from pipeline.store.index import require_our_index, update_index
from pipeline.store.leases import Claim
from pipeline.store.yanks import require_not_yanked


def upload_blob(store: Store, blob: Blob, path: Path) -> bool:
    """Put one blob unless the store has it, to the byte; whether it was sent. It is checked against the manifest on the way."""
    key = blob_key(blob.sha256)
    if store.holds(key, blob.size, blob.sha256):
        return False
    store.upload(key, path, blob.sha256)
    if not store.holds(key, blob.size, blob.sha256):
        hint = "publish again; if that does not help, something changes what is sent to the store"
        raise BrokenTransferError("is not there as it was uploaded", where=f"{store.url}/{key}", hint=hint)
    return True


def is_published(store: Store, manifest: Manifest, data: bytes) -> bool:
    """Whether this manifest, whose bytes are `data`, is in the store. Raises PipelineError if its version has another one."""
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


def points(store: Store, manifest: Manifest, channel: str, data: bytes) -> bool:
    """Whether the channel points to this very manifest."""
    try:
        pointer = find_channel(store, manifest.model.name, channel)
    except PipelineError:
        return False  # which is told when it is to move
    return pointer is not None and (pointer.version, pointer.manifest.sha256) == (manifest.version, sha256_bytes(data))


def create_manifest(store: Store, manifest: Manifest, data: bytes) -> bool:
    """Put the manifest; whether it was not there. Raises PipelineError if its version has another one."""
    key = release_key(manifest.model.name, manifest.version)
    if store.create(key, data):
        return True
    if not is_published(store, manifest, data):
        raise PipelineError("came and went while it was being published", where=f"{store.url}/{key}", hint="publish again")
    return False


def move(
    store: Store,
    manifest: Manifest,
    channel: str,
    allowed: Callable[[Channel | None], None] = lambda _: None,
    claim: Claim | None = None,
    rolled_back: bool = False,
) -> bool:
    """Point the channel at a release that is in the store, and write the index; whether it pointed elsewhere. See `point`."""
    require_our_index(store)  # before anything moves
    moved, pointer = point(store, manifest, channel, allowed, claim, rolled_back)
    update_index(store, pointer)
    return moved


def point(
    store: Store,
    manifest: Manifest,
    channel: str,
    allowed: Callable[[Channel | None], None] = lambda _: None,
    claim: Claim | None = None,
    rolled_back: bool = False,
) -> tuple[bool, Channel]:
    """Point the channel at a release that is in the store; whether it pointed elsewhere, and what it points to.

    `allowed` is asked with what the channel is just before it moves, and raises what keeps it from that. `claim`: a lease on it,
    where there is one already. `rolled_back`: what it pointed to is not to be gone back to.

    By the digest of what is there: a manifest of an older schema has other bytes than `encode` makes of it.
    """
    key = release_key(manifest.model.name, manifest.version)
    found = store.get(key)
    if found is None or decode(Manifest, found.data, f"{store.url}/{key}") != manifest:
        raise PipelineError("is not in the store, or is another release there", where=f"{store.url}/{key}", hint="publish it")
    data = found.data
    model, version = manifest.model.name, manifest.version
    pointer = Channel(CHANNEL_SCHEMA, model, channel, version, Blob(key, sha256_bytes(data), len(data)), ())
    leased = claim or Claim(store, model, version)

    def asked(before: Channel | None) -> None:
        require_not_yanked(store, model, version)
        allowed(before)
        if not (before and before.manifest == pointer.manifest) and leased.renew(activity.say) and store.get(key) != found:
            what, hint = "was removed by `doit prune` while a channel was to move to it", "publish it again"
            raise PipelineError(what, where=f"{store.url}/{key}", hint=hint)

    return move_channel(store, pointer, asked, rolled_back), pointer
