"""Releases of any size for the tests of moving them: their files are noise, all else is real."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.files import sha256_bytes, write
from pipeline.layout import BOM, PACKAGED_EVIDENCE, PROVENANCE
from pipeline.manifest import provenance
from pipeline.manifest import types as m
from pipeline.manifest.codec import content_version, decode, encode, reference_digest
from pipeline.manifest.evidence import EVIDENCE_INDEX_SCHEMA, EVIDENCE_SCHEMA, EvidenceDocument, EvidenceIndex, Witness
from pipeline.stages.publish import publish
from pipeline.store.base import Store

VARIANTS = ("gpu", "cpu")
REFERENCE = m.Reference("files", (m.DrawInfo("given", (), (), (), ()),))


def artifact(data: bytes, segment: int, bundle: str = "desktop") -> m.Artifact:
    """An artifact in segments of `segment` bytes: a head, then data, gpu code, data, cpu code, …, and a directory."""
    segments = []
    kinds = [("data", ()), ("code", ("gpu",)), ("data", ()), ("code", ("cpu",))]
    for i, offset in enumerate(range(0, len(data), segment)):
        part = data[offset : offset + segment]
        kind, users = ("head", ()) if i == 0 else kinds[i % 4]
        if offset + segment >= len(data):
            kind, users = "directory", ()
        segments.append(m.SegmentInfo(kind, offset, len(part), sha256_bytes(part), users))
    variants = tuple(
        m.VariantInfo(name, "llvm-cpu", name, (), "", format_, (), 0, "0" * 64, ())
        for name, format_ in (("gpu", "vulkan-spirv-fb"), ("cpu", "embedded-elf-x86_64"))
    )
    return m.Artifact(
        bundle, m.Blob(f"noise-{bundle}.vmfb", sha256_bytes(data), len(data)), (), variants, tuple(segments), (), ()
    )


def parameters(data: bytes, segment: int) -> m.Parameters:
    """Weights outside the file, in segments of `segment` bytes."""
    parts = [(offset, data[offset : offset + segment]) for offset in range(0, len(data), segment)]
    segments = tuple(m.SegmentInfo("data", offset, len(part), sha256_bytes(part), ()) for offset, part in parts)
    return m.Parameters("model", m.Blob("noise.irpa", sha256_bytes(data), len(data)), segments)


def unseen(manifest: m.Manifest) -> EvidenceDocument:
    """The document of a witness who ran nothing of the release."""
    weights = tuple(p.blob.sha256 for p in manifest.parameters)
    witness = Witness("a test", "3", "a system", "a CPU")
    made = "2026-01-31T12:00:00Z"
    return EvidenceDocument(EVIDENCE_SCHEMA, manifest.model.name, reference_digest(manifest), weights, made, witness, ())


def package_evidence(folder: Path, *documents: EvidenceDocument) -> list[str]:
    """Write the documents into a package that has its manifest, and where that comes from; the names of all files."""
    found = {sha256_bytes(data): data for data in map(encode, documents)}
    made = {f"evidence/{sha256}.json": data for sha256, data in found.items()}
    made[PACKAGED_EVIDENCE] = encode(EvidenceIndex(EVIDENCE_INDEX_SCHEMA, tuple(sorted(found))))
    made |= _origin((folder / "manifest.json").read_bytes())
    for name, data in made.items():
        write(folder / name, data)
    return list(made)


def _origin(data: bytes) -> dict[str, bytes]:
    """What a package says of where it comes from, which is nothing."""
    manifest = decode(m.Manifest, data, "a package")
    definition = {"buildType": provenance.BUILD_TYPE, "externalParameters": {}}
    said = provenance.statement(manifest, data, definition, {"builder": {"id": "urn:test"}})
    bom = {"bomFormat": "CycloneDX", "specVersion": "1.6", "metadata": {"component": {"type": "data", "name": "x"}}}
    documents = {PROVENANCE: said, BOM: provenance.bom_about(bom, manifest, data)}
    return {name: provenance.as_bytes(document) for name, document in documents.items()}


def make(
    folder: Path, size: int, segment: int, seed: int = 0, compiler: str = "3.13.0", weights: bytes = b"", name: str = "noise"
) -> tuple[m.Manifest, bytes]:
    """A package of a model in `folder`, as the package stage writes it, and the bytes of its file."""
    data = np.random.default_rng(seed).bytes(size)
    made = artifact(data, segment)
    source = m.Source("path", "noise.mlir", "0" * 64, ())
    manifest = m.Manifest(
        schema=m.MANIFEST_SCHEMA,
        model=m.ModelInfo(name, "about", "MIT", "mlir"),
        version="",
        entries=(m.EntryInfo("main", "main", source, (), (), (), (), REFERENCE),),
        compiler=m.Compiler("iree-base-compiler", compiler, "c"),
        parameters=(parameters(weights, segment),) if weights else (),
        artifacts=(made,),
    )
    manifest = replace(manifest, version=content_version(manifest))
    for blob, content in zip(manifest.blobs(), (data, weights), strict=False):
        write(folder / "blobs" / blob.sha256, content)
    write(folder / "manifest.json", encode(manifest))
    package_evidence(folder, unseen(manifest))
    return manifest, data


def release(
    store: Store, folder: Path, size: int = 1 << 20, segment: int = 1 << 16, seed: int = 0, weights: bytes = b""
) -> tuple[m.Manifest, bytes]:
    """`make`, published to `store`."""
    made = make(folder, size, segment, seed, weights=weights)
    publish(folder, store)
    return made
