"""What a model's vmfb and its manifest both say of it: its entry points, with their signatures and sources."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.importers.signature import Signature, Tensor, read_all
from pipeline.iree import toolchain
from pipeline.manifest import types as m
from pipeline.plain import plain
from pipeline.spec.types import Dimension, Model
from pipeline.stages import parameters


def tensors(found: Sequence[Tensor]) -> tuple[m.TensorInfo, ...]:
    """Inputs or outputs as the manifest says them."""
    return tuple(
        m.TensorInfo(plain(t.name), t.dtype, tuple(size.name if isinstance(size, Dimension) else size for size in t.shape))
        for t in found
    )


def dimensions(signature: Signature) -> tuple[m.DimensionInfo, ...]:
    """The ranges of the signature's named dimensions."""
    return tuple(m.DimensionInfo(d.name, d.min, d.max, d.multiple) for d in signature.dimensions)


def describe(model: Model, imported: Path) -> m.Identity:
    """What the vmfbs of an imported model are to say of themselves; the bundle's flags are for the compiler to add."""
    signatures, outside = read_all(imported / "signature.json"), parameters.read(imported)
    entries = tuple(
        m.IdentifiedEntry(
            entry.name,
            signature.entry,
            entry.source.sha256,
            tuple(m.SourceFile(name, sha256) for name, sha256 in entry.source.data.items()),
            tensors(signature.inputs),
            tensors(signature.outputs),
            dimensions(signature),
        )
        for entry, signature in zip(model.entries, signatures, strict=True)
    )
    compiler = m.Compiler("iree-base-compiler", **toolchain.version())
    return m.Identity(model.name, compiler, (), entries, (outside.blob,) if outside else ())
