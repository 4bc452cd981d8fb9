"""A release with all that a release may have: entry points, an open dimension, buckets, and weights of their own.

It is made by the pipeline's stages, but for its import, its test data and its evidence, which are written here.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from iree import runtime as rt

from pipeline import arrays
from pipeline.compare import Tolerance
from pipeline.files import sha256_bytes, sha256_file, write
from pipeline.importers import signature
from pipeline.importers.signature import Signature, Tensor
from pipeline.iree import entry, mlir
from pipeline.layout import Layout, blob_key, release_key
from pipeline.manifest import types as m
from pipeline.manifest.codec import encode
from pipeline.manifest.evidence import Witness
from pipeline.spec.load import load
from pipeline.spec.types import Bundle, Dimension, Entry, Input, Model, PathSource
from pipeline.stages import compile as compile_stage
from pipeline.stages import package, parameters, record
from pipeline.stages.compiled import Compiled
from pipeline.stages.evidence import Evidence, Measured, write_evidence, write_runtimes, write_witness
from pipeline.stages.origin import Origin, Recipe
from pipeline.stages.publish import publish
from pipeline.stages.testdata import Draw, TestData
from pipeline.stages.witnesses import answers
from pipeline.store.open import open_store
from tests.project import DATA, ROOT

TABLE = np.random.default_rng(5).uniform(-1, 1, (8, 8)).astype(np.float32)
T = Dimension("T", 2, 64, 2)
TARGETS = ("vulkan-any", "x86-64-v3", "x86-64")
BUNDLES = ("cpus", "desktop")  # of which the first holds no Vulkan code


def _bucket(size: int) -> Dimension:
    return Dimension("S", size, size)


Specs = Sequence[tuple[str, tuple[int | Dimension, ...], str]]
# Name, function, inputs, outputs.
ENTRIES: Sequence[tuple[str, str, Specs, Specs]] = [
    ("encode", "encode", [("x", (1, T, 8), "float32"), ("mask", (1, T), "float32")], [("y", (1, T, 8), "float32")]),
    *[
        ("main", f"main_{n}", [("x", (_bucket(n), 8), "float32")], [("y", (_bucket(n), 8), "float32")])  # type: ignore[list-item]
        for n in (4, 16)
    ],
    (
        "step",
        "step",
        [("token", (), "int32"), ("state", (8,), "float32"), ("read", (1,), "uint8")],
        [("logits", (8,), "float32"), ("state", (8,), "float32"), ("read", (1,), "uint8")],
    ),
]


def expected(function: str, *given: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    """What a function gives."""
    if function == "encode":
        return [(given[0] * given[1][..., None]) @ TABLE]
    if function == "step":
        token, state, read = given
        new = state * np.float32(0.5) + TABLE[int(token)]
        return [np.sin(new), new, read + np.uint8(1)]
    return [given[0] @ TABLE]


def given(function: str, seed: int = 0, length: int = 6) -> list[np.ndarray[Any, Any]]:
    """Arrays for a function; `length` is T."""
    random = np.random.default_rng(seed)
    if function == "encode":
        return [random.uniform(-1, 1, s).astype(np.float32) for s in ((1, length, 8), (1, length))]
    if function == "step":
        return [np.array(3, np.int32), random.uniform(-1, 1, 8).astype(np.float32), np.array([255 - 5], np.uint8)]
    return [random.uniform(-1, 1, (int(function.removeprefix("main_")), 8)).astype(np.float32)]


def archive(path: Path, weights: Mapping[str, np.ndarray[Any, Any]]) -> Path:
    """An archive of weights at `path`."""
    index = rt.ParameterIndex()
    for name, array in weights.items():
        index.add_buffer(name, array.tobytes())
    index.create_archive_file(str(path))
    return path


def _model(source: Path, digest: str) -> Model:
    def spec(name: str, shape: tuple[int | Dimension, ...], dtype: str) -> Input:
        return Input(name, shape, dtype, 0, 0.0, 1.0, None)

    found = PathSource(source, digest)
    entries = [Entry(n, f, found, tuple(spec(*i) for i in inputs), "baseline") for n, f, inputs, _ in ENTRIES]
    return Model("talk", source, "a test", "Apache-2.0", "mlir", tuple(entries), BUNDLES, "external")


def _import(source: Path, folder: Path, weights: Path) -> None:
    folder.mkdir(parents=True)

    def tensors(specs: Specs) -> tuple[Tensor, ...]:
        return tuple(Tensor(name, dtype, shape) for name, shape, dtype in specs)

    found = [Signature(function, tensors(inputs), tensors(outputs)) for _, function, inputs, outputs in ENTRIES]
    with mlir.opened(source) as module:
        for one in found:
            entry.finish(entry.functions(module)[one.entry], one)
        mlir.strip_locations(module)
        mlir.save(module, folder / "model.mlirbc")
    signature.write_all(folder / "signature.json", found)
    write(folder / "rewrites.json", record.canonical({one.entry: [] for one in found}))
    write(folder / parameters.ARCHIVE, weights.read_bytes())
    write(folder / parameters.NAME, record.canonical(parameters.describe(weights)))
    made = ("model.mlirbc", "signature.json", "rewrites.json", parameters.ARCHIVE, parameters.NAME)
    record.write_record(folder, "by hand", made)


def _verify(compiled: Path) -> None:
    """The evidence and test data that the verify stage leaves, beside what it verifies."""
    for number, (_, function, _, outputs) in enumerate(ENTRIES):
        folder = compiled / str(number)
        folder.mkdir()
        draw = Draw("given", (Tolerance(1e-5, 1e-4),) * len(outputs))
        data = TestData(folder, function, (draw,), tuple(o[0] for o in outputs), (True,) * len(outputs), {})
        arrays.write(data.inputs_of(draw), given(function))
        arrays.write(data.outputs_of(draw), expected(function, *given(function)))
        data.write()
    measured = tuple(Measured(f, 1e-6, 1e-6, 0.1, 1) for _, f, *_ in ENTRIES if f != "step")
    names = [v.gated.name for v in Compiled.read(compiled / "compiled.json").variants]
    found = [Evidence(name, "device", "", device="a CPU", functions=measured) for name in names]
    write_evidence(compiled / "evidence.json", found)
    write_runtimes(compiled / "runtimes.json", [])
    write_witness(compiled / "witness.json", "2026-01-31T12:00:00Z", Witness("a test", "3.13.0", "a system", "a CPU"))
    answers.keep([], compiled)


def make(root: Path, table: np.ndarray[Any, Any] = TABLE) -> Path:
    """The release, published to a store in `root`, whose folder is returned. `root/package` is what was published."""
    root.mkdir(parents=True, exist_ok=True)
    source, layout, spec = DATA / "talk.mlir", Layout(root / "out"), load(ROOT / "targets")
    model = _model(source, sha256_file(source))
    imported, targets = layout.imported("talk"), [spec.executables[name] for name in TARGETS]
    _import(source, imported, archive(root / "weights.irpa", {"table": table, "unused": np.zeros(70_000, np.uint8)}))
    verified = {}
    for name in BUNDLES:
        bundle = Bundle(name, root, "a test", TARGETS, (), "fail")
        folder = verified[name] = layout.compiled("talk", name)
        chosen = targets[1:] if name == "cpus" else targets
        compile_stage.run(Origin(model, (source,) * len(ENTRIES)), imported, folder, bundle, chosen)
        _verify(folder)
    package.run(model, imported, verified, layout.package("talk"), Recipe((source,), {}, "urn:test"))
    publish(layout.package("talk"), open_store(str(root / "store")))
    return root / "store"


def add_wrong(store: Path, real: m.Manifest) -> None:
    """Put a release `talk@wrong` into the store, whose test data says that something else is right for `step`."""
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(8, np.float32))
    data = buffer.getvalue()
    blob = m.Blob("wrong.npy", sha256_bytes(data), len(data))
    write(store / blob_key(blob.sha256), data)
    *others, step = real.entries
    (draw,) = step.reference.draws
    step = replace(step, reference=replace(step.reference, draws=(replace(draw, outputs=(blob, *draw.outputs[1:])),)))
    write(store / release_key("talk", "wrong"), encode(replace(real, version="wrong", entries=(*others, step))))
