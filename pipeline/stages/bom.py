"""A release's bill of materials: CycloneDX 1.6, with the model, its files, where it comes from, and what compiled it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from cyclonedx.factory.license import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType, Pedigree
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

from pipeline.manifest import provenance
from pipeline.manifest.types import EntryInfo, Manifest, TensorInfo
from pipeline.stages.provenance import COMPILER, Program, needed

_RELEASE = "release"  # what the release itself is called inside the document
_FILES = "vmfb-pipeline:files-sha256"


def make(manifest: Manifest, data: bytes, made: str, own: Program, programs: Sequence[Program]) -> dict[str, Any]:
    """The document about the `manifest`, which is `data` as it is published; `made` then, UTC, by `own` and `programs`."""
    model = Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=_RELEASE,
        name=manifest.model.name,
        version=manifest.version,
        description=manifest.model.about or None,
        licenses=[LicenseFactory().make_from_string(manifest.model.licence)] if manifest.model.licence else None,
        components=_files(manifest),
        pedigree=Pedigree(ancestors=_sources(manifest), notes="the model as its authors publish it"),
    )
    bom = Bom(components=[_library(program) for program in programs])
    bom.metadata.component = model
    bom.metadata.tools.components.add(_library(own))
    compiler = next((c for c in bom.components if c.name == COMPILER), None)
    if compiler:
        bom.register_dependency(model, [compiler])
        bom.register_dependency(compiler, [c for c in bom.components if c.name in needed(COMPILER)])
    document: dict[str, Any] = json.loads(make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string())
    document["metadata"]["timestamp"] = made
    document["metadata"]["component"]["modelCard"] = _card(manifest)  # which the library does not know
    return provenance.bom_about(document, manifest, data)


def _sha256(digest: str) -> list[HashType]:
    return [HashType(alg=HashAlgorithm.SHA_256, content=digest)]


def _files(manifest: Manifest) -> list[Component]:
    """The release's files, each once."""
    blobs = {blob.sha256: blob for blob in manifest.blobs()}
    return [
        Component(
            type=ComponentType.FILE,
            bom_ref=f"sha256:{blob.sha256}",
            name=blob.name,
            hashes=_sha256(blob.sha256),
            properties=[Property(name="vmfb-pipeline:size", value=str(blob.size))],
        )
        for blob in blobs.values()
    ]


def _sources(manifest: Manifest) -> list[Component]:
    """The files that the model was imported from."""
    found: dict[str, Component] = {}
    for entry in manifest.entries:
        source = entry.source
        named = {source.sha256: source.location, **{file.sha256: f"{source.location}: {file.name}" for file in source.files}}
        for sha256, name in named.items():
            is_url = source.kind in ("https", "s3")
            at = [ExternalReference(type=ExternalReferenceType.DISTRIBUTION, url=XsUri(source.location))] if is_url else []
            found.setdefault(
                sha256,
                Component(
                    type=ComponentType.FILE,
                    bom_ref=f"source-sha256:{sha256}",
                    name=name,
                    hashes=_sha256(sha256),
                    external_references=at,
                ),
            )
    return list(found.values())


def _library(program: Program) -> Component:
    return Component(
        type=ComponentType.LIBRARY,
        bom_ref=program.purl,
        name=program.name,
        version=program.version,
        purl=PackageURL("pypi", None, program.name, program.version),
        properties=[Property(name=_FILES, value=program.sha256)] if program.sha256 else [],
    )


def _card(manifest: Manifest) -> dict[str, Any]:
    """What is known of the model as CycloneDX's model card has it: what it is for, what it takes and gives."""
    parameters: dict[str, Any] = {
        "inputs": [{"format": text} for text in _formats(manifest.entries, "inputs")],
        "outputs": [{"format": text} for text in _formats(manifest.entries, "outputs")],
    }
    return {"modelParameters": {**({"task": manifest.model.about} if manifest.model.about else {}), **parameters}}


def _formats(entries: Sequence[EntryInfo], which: str) -> list[str]:
    found: dict[str, None] = {}
    for entry in entries:
        tensors: Sequence[TensorInfo] = getattr(entry, which)
        prefix = f"{entry.name} " if len(entries) > 1 else ""
        for tensor in tensors:
            shape = "x".join("?" if size is None else str(size) for size in tensor.shape)
            found[f"{prefix}{tensor.name}: {shape or 'scalar'} {tensor.dtype}"] = None
    return list(found)
