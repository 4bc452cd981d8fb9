"""Package: everything verified about a model → `manifest.json` and the blobs it names, ready to be published."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from pipeline import arrays
from pipeline.errors import disk_errors
from pipeline.files import copy, fresh_folder, sha256_bytes, sha256_file, write
from pipeline.importers.signature import Signature, Tensor
from pipeline.iree.file import vmfb
from pipeline.iree.toolchain import CODEGEN_FLAGS, LINK_FLAGS
from pipeline.manifest import types as m
from pipeline.manifest.codec import content_version, encode
from pipeline.spec.types import Model
from pipeline.stages import record
from pipeline.stages.compiled import Compiled, Variant
from pipeline.stages.evidence import Evidence, read_evidence
from pipeline.stages.testdata import TestData

# The VM bytecode of one release is not promised to load in an older one.
MINIMUM_RUNTIME = "3.13.0"


def _arrays(path: Path, folder: Path, kind: str) -> tuple[m.Blob, ...]:
    """Write each array of an .npz as a .npy into `folder`; the blobs by position."""
    import numpy as np

    blobs = []
    for number, array in enumerate(arrays.read(path)):
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(array).reshape(array.shape))
        data = buffer.getvalue()
        blob = m.Blob(f"{kind}_{number}.npy", sha256_bytes(data), len(data))
        write(folder / blob.sha256, data)
        blobs.append(blob)
    return tuple(blobs)


def _variant(variant: Variant, evidence: Evidence) -> m.VariantInfo:
    pieces = sorted({(p.offset, p.length, p.sha256) for p in variant.code})
    digest = hashlib.sha256("".join(sha256 for _, _, sha256 in pieces).encode())
    known = {k: v for k, v in asdict(evidence).items() if k not in ("variant", "seconds")}
    return m.VariantInfo(
        name=variant.gated.name,
        backend=variant.backend,
        device=variant.device,
        flags=variant.flags,
        attribute=variant.attribute,
        format=variant.gated.format,
        gates=tuple(str(g) for g in variant.gated.gates),
        size=sum(length for _, length, _ in pieces),
        sha256=digest.hexdigest(),
        shares=tuple(sorted({p.owner for p in variant.code} - {variant.gated.name})),
        evidence=m.EvidenceInfo(**known),
    )


def _with_shares(variants: Sequence[m.VariantInfo]) -> tuple[m.VariantInfo, ...]:
    """Make sharing mutual: the owner of shared code names those who use it."""
    users: dict[str, set[str]] = {v.name: set(v.shares) for v in variants}
    for variant in variants:
        for owner in variant.shares:
            users[owner].add(variant.name)
    return tuple(replace(v, shares=tuple(sorted(users[v.name]))) for v in variants)


def _users(compiled: Compiled) -> dict[int, list[str]]:
    """Offset of a piece of code → the variants that need it, in order."""
    users: dict[int, set[str]] = {}
    for variant in compiled.variants:
        for piece in variant.code:
            users.setdefault(piece.offset, set()).add(variant.gated.name)
    for format_, code in compiled.warm_ups.items():
        users[code.offset].update(v.gated.name for v in compiled.variants if v.gated.format == format_)
    return {offset: [v.gated.name for v in compiled.variants if v.gated.name in names] for offset, names in users.items()}


def _segments(path: Path, module: vmfb.Module, compiled: Compiled) -> tuple[m.SegmentInfo, ...]:
    """The file in stretches: neighbours with the same users are one, up to SEGMENT_LIMIT; ZIP headers go with what follows."""
    users = _users(compiled)
    parts: list[tuple[str, int, list[str]]] = []  # kind, end, variants
    for segment in sorted(module.segments, key=lambda s: s.offset):
        if not parts:
            parts.append(("head", segment.offset, []))
        kind = "code" if segment.offset in users else "data"
        part = (kind, segment.offset + segment.length, users.get(segment.offset, []))
        if parts[-1][0] == kind and parts[-1][2] == part[2]:
            parts.pop()
        parts.append(part)
    if (end := parts[-1][1] if parts else 0) < module.size:
        parts.append(("directory" if end else "head", module.size, []))
    segments, offset = [], 0
    with path.open("rb") as file:
        for kind, end, variants in parts:
            while offset < end:
                data = file.read(min(m.SEGMENT_LIMIT, end - offset))
                segments.append(m.SegmentInfo(kind, offset, len(data), sha256_bytes(data), tuple(variants)))
                offset += len(data)
    return tuple(segments)


def _artifact(model: str, bundle: str, verified: Path, data: TestData, blobs: Path) -> tuple[m.Artifact, Compiled]:
    path = verified / "module.vmfb"
    compiled = Compiled.read(verified / "compiled.json")
    evidence = {e.variant: e for e in read_evidence(verified / "evidence.json")}
    module = vmfb.read(path)
    blob = m.Blob(f"{model}-{bundle}.vmfb", sha256_file(path), module.size)
    with path.open("rb") as file:
        copy(file, blobs / blob.sha256, blob.sha256, str(path))
    artifact = m.Artifact(
        bundle=bundle,
        blob=blob,
        flags=(*CODEGEN_FLAGS, *LINK_FLAGS, *compiled.flags),
        variants=_with_shares([_variant(v, evidence[v.gated.name]) for v in compiled.variants]),
        segments=_segments(path, module, compiled),
        dropped=tuple(m.DroppedInfo(d.name, d.reason) for d in compiled.dropped),
        notes=(*compiled.notes, *([data.note] if data.note else [])),
    )
    return artifact, compiled


def _tensors(tensors: Sequence[Tensor], blobs: Sequence[m.Blob], folder: Path) -> tuple[m.TensorInfo, ...]:
    """The signature's tensors; a dimension that the importer left open is the one the reference has."""
    import numpy as np

    shapes = [np.load(folder / b.sha256, mmap_mode="r").shape for b in blobs]
    return tuple(
        m.TensorInfo(t.name, t.dtype, tuple(shape) if None in t.shape else t.shape)
        for t, shape in zip(tensors, shapes, strict=True)
    )


def _rewrites(imported: Path) -> tuple[str, ...]:
    return tuple(json.loads((imported / "rewrites.json").read_text()))


def _reference(model: Model, data: TestData, blobs: Path) -> m.Reference:
    """The draw that the spec gives, and what it must give."""
    kind, given = model.reference if isinstance(model.reference, str) else "files", data.draws[0]
    inputs, outputs = _arrays(data.inputs_of(given), blobs, "input"), _arrays(data.outputs_of(given), blobs, "output")
    return m.Reference(kind, inputs, outputs, tuple(m.ToleranceInfo(**asdict(t)) for t in given.tolerances))


def run(model: Model, imported: Path, verified: Mapping[str, Path], folder: Path) -> None:
    """Write `manifest.json` and `blobs/<sha256>` into `folder`, from the verified folder of each of the model's bundles."""
    data = {bundle: TestData.read(path) for bundle, path in verified.items()}
    files = [imported / "signature.json", imported / "rewrites.json"]
    for bundle, path in verified.items():
        files += [*(path / name for name in ("module.vmfb", "compiled.json", "evidence.json")), *data[bundle].files()]
    for path in verified.values():
        record.require_intact(path)
    source = m.Source(model.source.kind, model.source.location, model.source.sha256)
    info = m.ModelInfo(model.name, model.about, model.licence, model.format, source, _rewrites(imported))
    key = record.key(files, model=asdict(info), bundles=list(verified), revision=record.REVISIONS["package"])
    if record.is_current(folder, key):
        return
    with disk_errors(str(folder)), fresh_folder(folder):
        blobs = folder / "blobs"
        made = [_artifact(model.name, bundle, path, data[bundle], blobs) for bundle, path in verified.items()]
        reference = _reference(model, next(iter(data.values())), blobs)
        signature = Signature.read(imported / "signature.json")
        manifest = m.Manifest(
            schema=m.MANIFEST_SCHEMA,
            model=info,
            version="",
            signature=m.SignatureInfo(
                signature.entry,
                _tensors(signature.inputs, reference.inputs, blobs),
                _tensors(signature.outputs, reference.outputs, blobs),
            ),
            compiler=m.Compiler("iree-base-compiler", **made[0][1].compiler),
            runtime=m.Runtime("iree-base-runtime", MINIMUM_RUNTIME),
            reference=reference,
            artifacts=tuple(artifact for artifact, _ in made),
        )
        manifest = replace(manifest, version=content_version(manifest))
        write(folder / "manifest.json", encode(manifest))
        record.write_record(folder, key, ["manifest.json", *(f"blobs/{b.sha256}" for b in manifest.blobs())])
