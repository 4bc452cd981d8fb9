"""All that belongs to a release in a store, beside its blobs: read and checked, to be put into another store as it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.consume.cache import Stretch, stretches, whole
from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes
from pipeline.layout import (
    bom_key,
    evidence_folder,
    evidence_index_key,
    evidence_key,
    evidence_of,
    provenance_key,
    release_key,
    yank_key,
)
from pipeline.manifest.codec import decode
from pipeline.manifest.evidence import EvidenceIndex
from pipeline.manifest.types import Blob, Manifest
from pipeline.store.base import Source, Vouched
from pipeline.store.yanks import read_yank


@dataclass(frozen=True)
class Parts:
    """A release. `data` are the bytes of its manifest, whatever its schema; `beside` and `signatures` are by key, `evidence` are
    documents. `yank`: what says that it is not to be used any more, or was so for a time; `is_yanked`: it is so now."""

    manifest: Manifest
    data: bytes
    beside: Mapping[str, bytes]
    evidence: tuple[bytes, ...]
    signatures: Mapping[str, bytes]
    yank: bytes | None
    is_yanked: bool

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.manifest.model.name}@{self.manifest.version}"

    @property
    def blobs(self) -> dict[str, tuple[Blob, tuple[Stretch, ...]]]:
        """Its blobs by digest, with the stretches by which they are fetched: what the manifest says, or the whole."""
        found = {a.blob.sha256: (a.blob, stretches(a.segments)) for a in self.manifest.artifacts}
        found |= {p.blob.sha256: (p.blob, stretches(p.segments)) for p in self.manifest.parameters}
        return found | {b.sha256: (b, whole(b)) for b in self.manifest.blobs() if b.sha256 not in found}


def gather(source: Source, model: str, version: str, sha256: str, note: Callable[[str], None], doubtful: bool = False) -> Parts:
    """The parts of a release, whose manifest has the digest `sha256`; empty: whichever is there.

    `note` is told of what is left out: evidence that is damaged, and unless it may be `doubtful`, what the source's signers do
    not vouch for. Raises PipelineError where the release is not there, or is another one.
    """
    key = release_key(model, version)
    where = f"{source.url}/{key}"
    found = source.get(key)
    if found is None:
        raise PipelineError("is not in the store", where=where, hint="`vmfb list` shows what is")
    if sha256 not in ("", digest := sha256_bytes(found.data)):
        raise PipelineError(
            f"has the SHA-256 {digest}, and not {sha256}", where=where, hint="the release was damaged or replaced"
        )
    manifest = decode(Manifest, found.data, where)
    if (manifest.model.name, manifest.version) != (model, version):
        raise PipelineError(f"is the manifest of {manifest.model.name} {manifest.version}", where=where)
    beside = {key: _document(source, key) for key in (provenance_key(model, version), bom_key(model, version))}
    evidence, signatures = _evidence(source, model, version, note, doubtful)
    yank = source.get(yank_key(model, version))
    return Parts(
        manifest,
        found.data,
        {key: data for key, data in beside.items() if data is not None},
        evidence,
        signatures,
        yank.data if yank else None,
        read_yank(yank, model, version, source.url) is not None,
    )


def _document(source: Source, key: str) -> bytes | None:
    found = source.get(key)
    return found.data if found else None


def _evidence(
    source: Source, model: str, version: str, note: Callable[[str], None], doubtful: bool
) -> tuple[tuple[bytes, ...], dict[str, bytes]]:
    """The documents, and their signatures by key: those that can be listed."""
    keys = _listed(source, model, version)
    documents: dict[str, bytes] = {}
    for key in filter(evidence_of, keys):
        data = _document(source, key)
        if data is None or key != evidence_key(model, version, sha256_bytes(data)):
            note(f"left out: {key} is {'damaged' if data is not None else 'not there'}")
        elif not doubtful and isinstance(source, Vouched) and (doubt := source.doubt(key, data)):
            note(f"left out: {key}: {doubt}")
        else:
            documents[key] = data
    of = re.compile(rf"({re.escape(evidence_folder(model, version))}[0-9a-f]{{64}})\.[0-9A-Za-z_-]+\.sig")
    signed = (key for key in keys if (match := of.fullmatch(key)) and f"{match[1]}.json" in documents)
    signatures = {key: data for key in signed if (data := _document(source, key)) is not None}
    return tuple(documents.values()), signatures


def _listed(source: Source, model: str, version: str) -> list[str]:
    """The keys of a release's evidence, of a store that cannot be listed those that its own list has."""
    keys = source.listed(evidence_folder(model, version))
    if keys is not None:
        return keys
    found = source.get(key := evidence_index_key(model, version))
    documents = decode(EvidenceIndex, found.data, f"{source.url}/{key}").documents if found else ()
    return [evidence_key(model, version, sha256) for sha256 in documents]
