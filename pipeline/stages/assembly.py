"""What a release is made of: a manifest of a model's files, with the blobs that it names."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipeline import arrays
from pipeline.files import copy, sha256_bytes, sha256_file, write
from pipeline.importers import signature
from pipeline.importers.signature import Signature
from pipeline.iree.file import vmfb
from pipeline.iree.toolchain import CODEGEN_FLAGS, LINK_FLAGS
from pipeline.manifest import types as m
from pipeline.manifest.codec import content_version
from pipeline.manifest.rules import schema_of
from pipeline.spec.types import Entry, Model, Source
from pipeline.stages import identity as identities
from pipeline.stages import parameters
from pipeline.stages.compiled import Compiled, Variant
from pipeline.stages.testdata import TestData

# Of all draws of an entry point but the first: what a release carries so that others can verify it.
_DRAWS_LIMIT = 16 << 20  # bytes
_FILE_NAME = re.compile(r"[A-Za-z0-9_]+")


@dataclass(frozen=True)
class File:
    """What a bundle's file is known by: the vmfb at `path`, what it holds, and the test data that it is judged by."""

    path: Path
    compiled: Compiled
    data: tuple[TestData, ...]


def described_source(source: Source) -> m.Source:
    """What a manifest says of where a model's file came from."""
    beside = tuple(m.SourceFile(name, sha256) for name, sha256 in source.data.items())
    return m.Source(source.kind, source.location, source.sha256, beside)


def described_model(model: Model) -> m.ModelInfo:
    """What a manifest says of the model as a whole."""
    return m.ModelInfo(model.name, model.about, model.licence, model.format)


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


def _variant(variant: Variant) -> m.VariantInfo:
    pieces = sorted({(p.offset, p.length, p.sha256) for p in variant.code})
    digest = hashlib.sha256("".join(sha256 for _, _, sha256 in pieces).encode())
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
        tuning=(m.TuningInfo(**asdict(variant.tuning)),) if variant.tuning else (),
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


def segments(path: Path, module: vmfb.Module, compiled: Compiled) -> tuple[m.SegmentInfo, ...]:
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


def _artifact(model: str, bundle: str, file: File, blobs: Path) -> m.Artifact:
    module, sha256 = vmfb.read(file.path), sha256_file(file.path)
    with file.path.open("rb") as source:
        copy(source, blobs / sha256, sha256, str(file.path))
    several = len(file.data) > 1
    told = [f"{one.function}: {one.note}" if several else one.note for one in file.data if one.note]
    return m.Artifact(
        bundle=bundle,
        blob=m.Blob(f"{model}-{bundle}.vmfb", sha256, module.size),
        flags=(*CODEGEN_FLAGS, *LINK_FLAGS, *file.compiled.flags),
        variants=_with_shares([_variant(v) for v in file.compiled.variants]),
        segments=segments(file.path, module, file.compiled),
        dropped=tuple(m.DroppedInfo(d.name, d.reason) for d in file.compiled.dropped),
        notes=(*file.compiled.notes, *dict.fromkeys(told)),
    )


def draws(data: TestData, blobs: Path) -> tuple[m.DrawInfo, ...]:
    """The test data of an entry point; of what was drawn beside what the spec gives, as much as is not too large."""
    prefix = f"{data.function}." if _FILE_NAME.fullmatch(data.function) else ""
    found: list[m.DrawInfo] = []
    room = _DRAWS_LIMIT
    for draw in data.draws:
        paths = (data.inputs_of(draw), data.outputs_of(draw))
        room -= sum(path.stat().st_size for path in paths) if found else 0
        if room < 0:
            break
        name = f"{prefix}{draw.name}." if found else prefix
        inputs, outputs = (_arrays(path, blobs, f"{name}{kind}") for path, kind in zip(paths, ("input", "output"), strict=True))
        tolerances = tuple(m.ToleranceInfo(**asdict(t)) for t in draw.tolerances)
        found.append(m.DrawInfo(draw.name, inputs, outputs, tolerances, draw.spared))
    return tuple(found)


def _entry(
    entry: Entry, identified: m.IdentifiedEntry, rewrites: Sequence[str], data: TestData, signature: Signature, blobs: Path
) -> m.EntryInfo:
    """An entry point with its test data."""
    reference = m.Reference(entry.reference if isinstance(entry.reference, str) else "files", draws(data, blobs))
    return m.EntryInfo(
        name=identified.name,
        function=identified.function,
        source=described_source(entry.source),
        rewrites=tuple(rewrites),
        inputs=identified.inputs,
        outputs=_outputs(identified.outputs, reference.draws[0].outputs, signature, blobs),
        dimensions=identified.dimensions,
        reference=reference,
    )


def _outputs(
    tensors: Sequence[m.TensorInfo], blobs: Sequence[m.Blob], signature: Signature, folder: Path
) -> tuple[m.TensorInfo, ...]:
    """The outputs; a dimension of which the importer found no size is the one of the reference, if all inputs have one shape."""
    import numpy as np

    if any(d.min < d.max for d in signature.dimensions):
        return tuple(tensors)
    shapes = [np.load(folder / b.sha256, mmap_mode="r").shape for b in blobs]
    return tuple(replace(t, shape=tuple(shape)) if None in t.shape else t for t, shape in zip(tensors, shapes, strict=True))


def _archive(imported: Path, outside: m.Parameters, blobs: Path) -> None:
    """The archive of weights as a blob: the same file under another name, where the file system has such names."""
    source, target = imported / parameters.ARCHIVE, blobs / outside.blob.sha256
    try:
        os.link(source, target)
    except OSError:
        with source.open("rb") as file:
            copy(file, target, outside.blob.sha256, str(source))


def assemble(model: Model, imported: Path, files: Mapping[str, File], blobs: Path) -> m.Manifest:
    """The manifest of a release of the model with these files, by their bundles; its blobs are written into `blobs`, each
    named by its digest. Its version is derived from its content."""
    blobs.mkdir(parents=True)
    artifacts = tuple(_artifact(model.name, bundle, file, blobs) for bundle, file in files.items())
    identity, outside = identities.describe(model, imported), parameters.read(imported)
    rewrites = json.loads((imported / "rewrites.json").read_text())
    four = zip(
        model.entries,
        identity.entries,
        next(iter(files.values())).data,
        signature.read_all(imported / "signature.json"),
        strict=True,
    )
    if outside:
        _archive(imported, outside, blobs)
    manifest = m.Manifest(
        schema=schema_of(artifacts),
        model=described_model(model),
        version="",
        entries=tuple(_entry(e, i, rewrites[i.function], d, s, blobs) for e, i, d, s in four),
        compiler=identity.compiler,
        parameters=(outside,) if outside else (),
        artifacts=artifacts,
    )
    return replace(manifest, version=content_version(manifest))
