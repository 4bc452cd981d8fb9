"""ONNX's Cast from floating-point numbers to integers is right on every target: with `corrections`, and not without."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from pipeline.iree import compiler, devices
from pipeline.iree.backends.cpu import corrections as cpu
from pipeline.iree.backends.vulkan import corrections as vulkan
from pipeline.iree.device import Device
from pipeline.iree.file import choice
from pipeline.iree.gates import decide
from pipeline.iree.targets import resolve
from pipeline.iree.toolchain import CompilerRefusedError
from pipeline.spec.types import Input
from tests.test_compile import executables, on, present  # noqa: F401  # a fixture

TARGETS = ("vulkan-any", "x86-64-v4", "x86-64-v3", "x86-64")
# None of these is outside of what uint8 holds.
VALUES = np.concatenate([np.linspace(0, 255.75, 60), [0.99, -0.99, -0.0, 0.5]]).astype(np.float16)
TYPES: Mapping[str, int] = {"uint8": TensorProto.UINT8, "int32": TensorProto.INT32, "int64": TensorProto.INT64}


def casts(path: Path, kind: str) -> None:
    nodes = [helper.make_node("Cast", ["x"], [name], to=to) for name, to in TYPES.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT16 if kind == "float16" else TensorProto.FLOAT, VALUES.shape)
    results = [helper.make_tensor_value_info(name, to, VALUES.shape) for name, to in TYPES.items()]
    graph = helper.make_graph(nodes, "g", [x], results)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def wrong(folder: Path, present: list[Device], kind: str) -> set[tuple[str, str]]:  # noqa: F811
    """The targets and integer types whose results are not what C makes of the same cast."""
    from pipeline.importers import onnx as importer

    casts(folder / "casts.onnx", kind)
    importer.convert(folder / "casts.onnx", folder, [Input("x", VALUES.shape, kind, 0, 0.0, 1.0, None)])
    found = executables(*TARGETS)
    made = compiler.compile_module(folder / "model.mlirbc", folder, [resolve(e) for e in found], {e.name: () for e in found})
    np.savez(folder / "inputs.npz", **{"0": VALUES.astype(kind)})
    bad = set()
    for driver in ("local-task", "vulkan"):
        device = on(present, driver)
        for index, decision in enumerate(decide(made.variants, device.facts)):
            if decision.accepted:
                name = decision.variant
                choice.force(folder / "module.vmfb", index, folder / f"{name}.vmfb")
                run = devices.run(folder / f"{name}.vmfb", device, "main", [folder / "inputs.npz"], folder, name)
                assert not run.error
                with np.load(devices.outputs(folder, name)) as arrays:
                    results = [arrays[str(i)].view(type_) for i, type_ in enumerate(TYPES)]
                bad |= {(name, type_) for type_, r in zip(TYPES, results, strict=True) if (r != np.trunc(VALUES)).any()}
    return bad


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_casts_to_integers_are_right(tmp_path: Path, present: list[Device], kind: str) -> None:  # noqa: F811
    assert not wrong(tmp_path, present, kind)


def test_they_would_be_wrong_without(
    tmp_path: Path,
    present: list[Device],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If one of these is right, the compiler was mended."""
    monkeypatch.setattr(cpu, "convert_through_i32", lambda _variant: None)
    monkeypatch.setattr(vulkan, "convert_through_float", lambda _variant: None)
    monkeypatch.setenv("PIPELINE_CACHE_DIR", str(tmp_path / "cache"))  # the wrong code must not stay anywhere
    assert {("vulkan-any", "int64"), ("x86-64", "uint8")} <= wrong(tmp_path, present, "float16")


def test_vectors_of_emulated_integers_would_not_compile_without(
    tmp_path: Path,
    present: list[Device],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vulkan, "_emulates_i64", lambda _function: False)
    monkeypatch.setenv("PIPELINE_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(CompilerRefusedError, match=r"needs vector\.extract of vector<1xi64>"):
        wrong(tmp_path, present, "float32")
