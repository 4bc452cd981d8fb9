"""Releases in one file, for machines without a network: a tar of a folder store, the same bytes for the same ones."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import platforms
from pipeline.consume.cache import Stretch
from pipeline.consume.fetch import Progress
from pipeline.consume.parts import Parts
from pipeline.consume.transfer import transfer
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import sha256_bytes, staged
from pipeline.layout import (
    INDEX_KEY,
    blob_key,
    channel_key,
    evidence_index_key,
    evidence_key,
    release_key,
    yank_key,
)
from pipeline.manifest.codec import encode
from pipeline.manifest.evidence import EVIDENCE_INDEX_SCHEMA, EvidenceIndex
from pipeline.manifest.types import CHANNEL_SCHEMA, SCHEMA, Blob, Channel, Index, IndexedChannel, IndexedModel
from pipeline.store.base import Source

_BLOCK, _RECORD = tarfile.BLOCKSIZE, tarfile.RECORDSIZE


def documents(releases: Sequence[tuple[Parts, Sequence[str]]]) -> dict[str, bytes]:
    """What a store has of releases, beside their blobs, by key: each with the channels that point to it."""
    found: dict[str, bytes] = {}
    models: dict[str, tuple[list[str], dict[str, str]]] = {}
    for parts, channels in releases:
        model, version = parts.manifest.model.name, parts.manifest.version
        key = release_key(model, version)
        found[key] = parts.data
        found |= {**parts.beside, **parts.signatures}
        found |= {evidence_key(model, version, sha256_bytes(data)): data for data in parts.evidence}
        digests = tuple(sorted(map(sha256_bytes, parts.evidence)))
        found[evidence_index_key(model, version)] = encode(EvidenceIndex(EVIDENCE_INDEX_SCHEMA, digests))
        if parts.yank is not None:
            found[yank_key(model, version)] = parts.yank
        versions, pointers = models.setdefault(model, ([], {}))
        versions.append(version)
        for channel in () if parts.is_yanked else channels:
            blob = Blob(key, sha256_bytes(parts.data), len(parts.data))
            found[channel_key(model, channel)] = encode(Channel(CHANNEL_SCHEMA, model, channel, version, blob, ()))
            pointers[channel] = version
    indexed = (
        IndexedModel(name, tuple(IndexedChannel(c, v) for c, v in sorted(pointers.items())), tuple(sorted(versions)))
        for name, (versions, pointers) in sorted(models.items())
    )
    found[INDEX_KEY] = encode(Index(SCHEMA, tuple(indexed)))
    return found


@dataclass(frozen=True)
class _Member:
    key: str
    offset: int  # of its bytes
    header: bytes
    size: int


def _layout(sizes: Mapping[str, int]) -> tuple[list[_Member], int]:
    """Where each member comes, in alphabetical order, and the size of the archive."""
    members, at = [], 0
    for key, size in sorted(sizes.items()):
        info = tarfile.TarInfo(key)
        info.size, info.mode = size, 0o644
        header = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        members.append(_Member(key, at + len(header), header, size))
        at += len(header) + -(-size // _BLOCK) * _BLOCK
    return members, -(-(at + 2 * _BLOCK) // _RECORD) * _RECORD


def write_bundle(
    source: Source,
    path: Path,
    found: Mapping[str, bytes],
    blobs: Mapping[str, tuple[Blob, tuple[Stretch, ...]]],
    progress: Progress,
) -> int:
    """Write documents, by key, and blobs of the source, by digest, into an archive at `path`; its size in bytes.

    It is there when all of it is. Blobs come straight to where they belong, each stretch when it was verified.
    """
    named = {blob_key(sha256): one for sha256, one in blobs.items()}
    members, size = _layout({**{key: len(data) for key, data in found.items()}, **{k: b.size for k, (b, _) in named.items()}})
    with staged(path) as temporary, disk_errors(str(path)), temporary.open("rb+") as file:
        out = _Archive(file.fileno(), size)
        progress.begin(path.name, sum(blob.size for blob, _ in named.values()))
        try:
            for member in members:
                out.put(memoryview(member.header), member.offset - len(member.header))
                if member.key in found:
                    out.put(memoryview(found[member.key]), member.offset)
                else:
                    _bring(source, member, named[member.key][1], out, progress)
        finally:
            progress.end()
    return size


def _bring(source: Source, member: _Member, parts: Sequence[Stretch], out: _Archive, progress: Progress) -> None:
    def put(stretch: Stretch, data: memoryview) -> None:
        out.put(data, member.offset + stretch.offset)

    transfer(source, member.key, parts, put, progress.advance)


class _Archive:
    """A file of this size, to be written to by any thread."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        platforms.resize(descriptor, size)

    def put(self, data: memoryview, offset: int) -> None:
        """Write the bytes there."""
        written = 0
        while written < len(data):
            written += platforms.write_at(self._descriptor, data[written:], offset + written)


def require_bundle_name(text: str) -> Path:
    """The path of a bundle. Raises PipelineError for a name that does not end as such a file's does."""
    if not text.endswith(".tar"):
        raise PipelineError(f"{text!r} is no name of a bundle", where="--output", hint="give -o FILE.tar")
    return Path(text)
