"""Stores for tests of the catalogue: any number of made-up releases with real gates, and evidence as real witnesses give it. They
have no blobs, which no page needs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pipeline.files import sha256_bytes
from pipeline.layout import bom_key, channel_key, evidence_key, provenance_key, release_key, yank_key
from pipeline.manifest import evidence as e
from pipeline.manifest import provenance
from pipeline.manifest import types as m
from pipeline.manifest.codec import content_version, decode, encode, reference_digest
from pipeline.store.directory import DirectoryStore
from pipeline.store.index import update_index

REAL = Path(__file__).parent / "data" / "manifests" / "3.json"
NAMES = (
    "attacut",
    "wake-word",
    "attention-f16",
    "vocoder",
    "small-bert",
    "segmenter",
    "denoise",
    "whisper-tiny",
    "ocr",
    "ranker",
)
ABOUT = {
    "attacut": "Splits Thai text into words",
    "wake-word": "Hears the wake word in a second of audio",
    "attention-f16": "One block of attention in half precision",
    "vocoder": "Makes audio of mel spectrograms",
}
LICENCES = ("MIT", "Apache-2.0", "BSD-3-Clause")
_WHERE = {  # by the backend: how it was seen, on what, by which driver
    "vulkan-spirv": ("twin", "llvmpipe (LLVM 15.0.6, 256 bits)", "llvmpipe Mesa 22.3.6 (LLVM 15.0.6)"),
    "llvm-cpu": ("device", "AMD EPYC 7763", ""),
}


def manifest(name: str, number: int = 0, version: str = "", about: str = "", licence: str = "") -> m.Manifest:
    """A release of a model called `name`; others for other numbers, with the gates of real code."""
    base = decode(m.Manifest, REAL.read_bytes(), str(REAL))
    chance = random.Random(f"{name} {number}")
    artifact = base.artifacts[0]
    grown = tuple(_grown(artifact.segments, 1 + 40 * chance.random() + number))
    size = sum(segment.length for segment in grown)
    sha256 = sha256_bytes(f"{name} {number}".encode())
    made = replace(artifact, blob=m.Blob(f"{name}-desktop.vmfb", sha256, size), segments=grown)
    info = m.ModelInfo(name, about or ABOUT.get(name, f"What {name} does"), licence or LICENCES[len(name) % 3], "onnx")
    made_of = replace(base, model=info, artifacts=(made,), version=version)
    return made_of if version else replace(made_of, version=content_version(made_of))


def _grown(segments: tuple[m.SegmentInfo, ...], factor: float) -> Iterator[m.SegmentInfo]:
    """The same parts, so much larger, without gaps."""
    offset = 0
    for segment in segments:
        length = min(int(segment.length * factor), 8 << 20)
        yield replace(segment, offset=offset, length=length)
        offset += length


def document(manifest: m.Manifest, day: str, number: int = 0, cpu: str = "AMD EPYC 7763") -> e.EvidenceDocument:
    """What a build saw of all variants of the first file but those that no device here takes."""
    chance = random.Random(f"{manifest.model.name} {number} {cpu}")
    artifact = manifest.artifacts[0]
    functions = [entry.function for entry in manifest.entries]
    proofs = tuple(_proof(variant, functions, chance, cpu) for variant in artifact.variants)
    witness = e.Witness("vmfb-pipeline 0.1.0", "3.13.0", "Linux 6.1.0 x86_64", cpu)
    weights = tuple(p.blob.sha256 for p in manifest.parameters)
    runtimes = (e.RuntimeInfo("3.12.0", True, f"{artifact.variants[-1].name} on {cpu}"),)
    file = e.FileProof(artifact.bundle, artifact.blob.sha256, proofs, runtimes)
    return e.EvidenceDocument(
        e.EVIDENCE_SCHEMA, manifest.model.name, reference_digest(manifest), weights, f"{day}T12:00:00Z", witness, (file,)
    )


def _proof(variant: m.VariantInfo, functions: list[str], chance: random.Random, cpu: str) -> e.VariantProof:
    kind, device, driver = _WHERE[variant.backend]
    if variant.name == "x86-64-v4":
        reason = "no device of the build takes it: a CPU with AVX-512 would"
        return e.VariantProof(
            variant.name, variant.sha256, "untested", reason, "", "", "", (), (), None, None, None, 0, None, None
        )
    seen = tuple(e.FunctionProof(name, 4, chance.uniform(1e-7, 5e-6), 1e-6, chance.uniform(0.004, 0.4)) for name in functions)
    latency = chance.uniform(0.8e-3, 1.4e-3) * (1 if kind == "device" else 12)
    how = "device" if variant.name == "vulkan-any" else kind
    place, lanes = (device, (8,)) if driver else (cpu, ())
    times = (0.02, latency, latency / 20, 50, 90 << 20, None)
    return e.VariantProof(variant.name, variant.sha256, how, "", "", place, driver, lanes, seen, *times)


def put(store: DirectoryStore, manifest: m.Manifest, *documents: e.EvidenceDocument, finished: str = "") -> None:
    """Put a release's documents where a publisher puts them."""
    name, data = (manifest.model.name, manifest.version), encode(manifest)
    store.create(release_key(*name), data)
    for one in map(encode, documents):
        store.create(evidence_key(*name, sha256_bytes(one)), one)
    definition = {
        "buildType": provenance.BUILD_TYPE,
        "externalParameters": {"specs": {f"targets/models/{name[0]}.yaml": "0" * 64}},
        "resolvedDependencies": [
            {"name": "project", "digest": {"gitCommit": "1f" * 20}, "annotations": {"clean": True}},
            {"name": "vmfb-pipeline", "uri": "pkg:pypi/vmfb-pipeline@0.1.0"},
        ],
    }
    details = {"builder": {"id": "urn:example:builders:one"}, "metadata": {"finishedOn": finished}}
    store.create(provenance_key(*name), provenance.as_bytes(provenance.statement(manifest, data, definition, details)))
    bom = {"bomFormat": "CycloneDX", "specVersion": "1.6", "metadata": {"component": {"type": "data", "name": name[0]}}}
    store.create(bom_key(*name), provenance.as_bytes(provenance.bom_about(bom, manifest, data)))


def point(store: DirectoryStore, manifest: m.Manifest, channel: str = "latest") -> None:
    """Point a channel to a release that is there, and write the index."""
    name, data = (manifest.model.name, manifest.version), encode(manifest)
    pointer = m.Channel(
        m.CHANNEL_SCHEMA, name[0], channel, name[1], m.Blob(release_key(*name), sha256_bytes(data), len(data)), ()
    )
    key = channel_key(name[0], channel)
    found = store.get(key)
    store.replace(key, encode(pointer), found.tag if found else None)
    update_index(store)


def yank(store: DirectoryStore, manifest: m.Manifest, reason: str) -> None:
    """Say that a release is not to be used any more."""
    said = m.Yank(m.SCHEMA, manifest.model.name, manifest.version, reason, "2026-11-02T12:00:00Z", "")
    store.create(yank_key(manifest.model.name, manifest.version), encode(said))


def fill(root: Path, models: int = 4, releases: int = 5) -> DirectoryStore:
    """A store of so many models with so many releases each, the last of which is the latest; the first of all is yanked."""
    store = DirectoryStore(root)
    for number in range(models):
        name = NAMES[number] if number < len(NAMES) else f"model-{number}"
        made = [manifest(name, i) for i in range(releases)]
        for i, one in enumerate(made):
            day = f"2026-{1 + i // 28:02}-{1 + i % 28:02}"
            others = [document(one, day, i, "Intel Xeon Gold 6230")] if i == releases - 1 else []
            put(store, one, document(one, day, i), *others, finished=f"{day}T11:00:00Z")
        if number == 0 and releases > 1:
            yank(store, made[0], "wrong numbers for texts of more than 100 letters")
        point(store, made[-1])
        if releases > 1:
            point(store, made[-2], "stable")
    return store
