"""Publish: blobs by content first, then the manifest, create-only, then where it comes from and evidence, then channel and index
by compare-and-swap."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pipeline import activity
from pipeline.consume.render import size
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import sha256_bytes, write
from pipeline.layout import (
    BOM,
    INDEX_KEY,
    PACKAGED_EVIDENCE,
    PROVENANCE,
    blob_key,
    bom_key,
    channel_key,
    provenance_key,
    release_key,
)
from pipeline.manifest import provenance
from pipeline.manifest.codec import decode, encode, is_derived
from pipeline.manifest.evidence import EvidenceDocument, EvidenceIndex
from pipeline.manifest.types import Channel, Index, Manifest
from pipeline.names import RULE, is_name, is_version
from pipeline.spec.types import Policy
from pipeline.stages import policy, record
from pipeline.stages.record import canonical
from pipeline.store.base import Store
from pipeline.store.channels import read_channel
from pipeline.store.documents import add_evidence
from pipeline.store.leases import Claim
from pipeline.store.open import open_to_publish
from pipeline.store.published import look
from pipeline.store.releases import create_manifest, is_published, move, points, upload_blob
from pipeline.store.yanks import find_yank, require_not_yanked
from pipeline.trust.signed import require_keys, sign_changes, signing


def _add_origin(store: Store, manifest: Manifest, data: bytes, package: Path) -> list[str]:
    """Put where the release comes from and what it is made of beside its manifest, unless that is there already; the keys.

    After the manifest: else what is said of a release that was given up could stand beside another one of the same version. And
    before the channel, so that what it points to has them.
    """
    name = (manifest.model.name, manifest.version)
    kinds = (
        (PROVENANCE, provenance_key(*name), provenance.statement_about, provenance.require_about),
        (BOM, bom_key(*name), provenance.bom_about, provenance.require_bom_of),
    )
    for file, key, about, require in kinds:
        path, where = package / file, f"{store.url}/{key}"
        with disk_errors(str(path)):
            document = provenance.read(path.read_bytes(), str(path))
        if store.create(key, provenance.as_bytes(about(document, manifest, data))):
            continue
        found = store.get(key)
        if found is None:
            raise PipelineError("came and went while it was being published", where=where, hint="publish again")
        try:
            require(provenance.read(found.data, where), sha256_bytes(data), where)
        except PipelineError as error:
            hint = "somebody else put it there: find out who, remove it, and publish again"
            raise PipelineError(error.what, where=error.where, hint=hint) from error
    return [key for _, key, _, _ in kinds]


def _add_evidence(store: Store, manifest: Manifest, listed: Path) -> list[str]:
    """Put what was seen when the package was verified, here and by witnesses, beside the release; the keys."""
    with disk_errors(str(listed)):
        index = decode(EvidenceIndex, listed.read_bytes(), str(listed))
        paths = [listed.with_name(f"{sha256}.json") for sha256 in index.documents]
        found = [path.read_bytes() for path in paths]
    for path, data in zip(paths, found, strict=True):
        decode(EvidenceDocument, data, str(path))
    return add_evidence(store, manifest.model.name, manifest.version, *found)


def _version_of(store: Store, manifest: Manifest, channel: str) -> str:
    """The version by which the model's channels know this very content already: one that was given, or the derived one.

    What the channel points to comes first, then what it pointed to, then the other channels. Whoever gave content a version shall
    not find a second one of it in the channel because somebody ran `doit` without `version=`.
    """
    model, known, index = manifest.model.name, list[str](), store.get(INDEX_KEY)
    channels = [channel]
    with suppress(PipelineError):  # damaged, or of a newer program: told when it is to change
        models = decode(Index, index.data, INDEX_KEY).models if index else ()
        channels += [pointed.channel for one in models if one.name == model for pointed in one.channels]
    for name in dict.fromkeys(
        filter(is_name, channels)
    ):  # the index says which there are; what they are themselves, which are signed
        current = store.get(channel_key(model, name))
        with suppress(PipelineError):
            if pointer := read_channel(current, model, name, store.url):
                known += [pointer.version, *(past.version for past in pointer.history if name == channel)]
    same = list[str]()
    for version in dict.fromkeys(known):
        found = store.get(release_key(model, version)) if not is_derived(version) else None
        if version == manifest.version or (found and found.data == encode(replace(manifest, version=version))):
            same.append(version)
    good = (version for version in same if not find_yank(store, model, version))
    return next(good, same[0] if same else manifest.version)  # one that is withdrawn is refused by that name


def publish(
    package: Path,
    store: Store,
    version: str = "",
    channel: str = "latest",
    note: Callable[[str], None] = lambda _: None,
    allowed: Callable[[Manifest, Channel | None], Sequence[str]] = lambda _, __: (),
) -> dict[str, object]:
    """Publish the package to `store` under `version`. Returns the receipt.

    Without a version it is the one that channels know this content by, or else the one derived from the content.

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
    if version := version or _version_of(store, manifest, channel):
        manifest = decode(Manifest, encode(replace(manifest, version=version)), f"version={version}")
    data = encode(manifest)
    key = release_key(manifest.model.name, manifest.version)
    require_keys(store, key, channel_key(manifest.model.name, channel))
    require_not_yanked(store, manifest.model.name, manifest.version)
    is_there = is_published(store, manifest, data)  # a version that is taken is refused before anything is sent
    blobs = {blob.sha256: blob for blob in manifest.blobs()}
    claim = Claim(store, manifest.model.name, manifest.version, blobs)

    def send() -> int:
        sent = 0
        for number, blob in enumerate(blobs.values(), 1):
            note(f"{number} of {len(blobs)} files: {blob.name}, {size(blob.size)}")
            sent += upload_blob(store, blob, package / "blobs" / blob.sha256)
        return sent

    sent, created = 0, False
    if is_there and points(store, manifest, channel, data):
        sent = send()  # what is damaged; nothing removes what a channel needs
    else:
        while claim.renew(note):
            sent += send()
        created = create_manifest(store, manifest, data)
    origin = _add_origin(store, manifest, data, package)
    evidence = _add_evidence(store, manifest, package / PACKAGED_EVIDENCE)
    differs: list[str] = []

    def asked(before: Channel | None) -> None:
        differs[:] = allowed(manifest, before)

    moved = move(store, manifest, channel, asked, claim)
    sign_changes(store)
    never_change = [f"{store.url}/{k}" for k in (key, *map(blob_key, blobs), *origin, *evidence)]
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


def run(package: Path, url: str, version: str, channel: str, policies: Mapping[str, Policy], receipt: Path) -> None:
    """Publish to the store at `url` and write the receipt, with what differs from what the channel pointed to.

    Raises PipelineError where the channel may not move there by `policies`, those of bundles: the release is in the store then.
    """
    record.require_intact(package)
    store = signing(open_to_publish(url, unfinished=receipt.with_name("uploads.json")), url)

    def allowed(manifest: Manifest, pointer: Channel | None) -> Sequence[str]:
        before, release = policy.present(store, pointer), policy.gathered(store, manifest)
        policy.require(policies, release, before, channel, store)
        return [*policy.remarks(policies, release, before), *policy.told(release, before)]

    write(receipt, canonical(publish(package, store, version, channel, activity.say, allowed)))


def read_receipt(path: Path) -> dict[str, object]:
    """The receipt of the last publication."""
    result: dict[str, object] = json.loads(path.read_text())
    return result
