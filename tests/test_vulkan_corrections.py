"""Small models that IREE's own Vulkan code computes wrong: right with the corrections, wrong without the one that is for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.importers import onnx as importer
from pipeline.iree import devices, mlir
from pipeline.iree.backends.vulkan import barriers
from pipeline.iree.compiler import compile_module
from pipeline.iree.device import Device
from pipeline.iree.targets import resolve
from pipeline.spec.types import Input
from tests.test_compile import executables, on, present  # noqa: F401  # a fixture

Arrays = Mapping[str, np.ndarray]
TARGETS = [("vulkan-any", 0), ("amd-rdna3", 8), ("nvidia-ampere", 8)]


def model(nodes: list[onnx.NodeProto], inputs: Arrays, weights: Arrays) -> onnx.ModelProto:
    """A model of `nodes` whose output is y."""
    values = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in inputs.items()]
    graph = helper.make_graph(nodes, "g", values, [], [numpy_helper.from_array(a, n) for n, a in weights.items()])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    known = {v.name: v for v in onnx.shape_inference.infer_shapes(made).graph.value_info}
    made.graph.output.append(known["y"])
    return made


def case(name: str) -> tuple[onnx.ModelProto, Arrays]:
    """The model of this name, and what goes in."""
    draw = np.random.default_rng(9)
    node = helper.make_node

    def numbers(*shape: int) -> Any:
        return draw.standard_normal(shape).astype(np.float32)

    inputs: Arrays = {"x": numbers(8, 12, 12)}
    weights: Arrays = {}
    match name:
        case "softmax":
            inputs = {"x": numbers(2, 1, 32)}
            nodes = [node("Softmax", ["x"], ["y"], axis=0)]
        case "norm":  # the same threads sum and divide
            nodes = [node("LpNormalization", ["x"], ["y"], axis=1, p=1)]
        case "argmin":
            inputs = {"x": numbers(3, 8, 2, 4)}
            nodes = [node("ArgMin", ["x"], ["y"], axis=2, keepdims=0)]
        case "dequantized":
            inputs = {"x": numbers(64, 33), "w": draw.integers(-127, 128, (33, 214)).astype(np.int8)}
            weights = {"s": np.float32(0.02), "z": np.int8(3)}
            nodes = [node("DequantizeLinear", ["w", "s", "z"], ["f"]), node("MatMul", ["x", "f"], ["y"])]
        case "large":
            inputs = {"x": numbers(7, 771)}
            weights = {"w": draw.integers(-127, 128, (771, 779)).astype(np.int8), "s": np.full(779, 0.001, np.float32)}
            weights["z"] = np.zeros(779, np.int8)
            nodes = [node("DequantizeLinear", ["w", "s", "z"], ["f"], axis=1), node("MatMul", ["x", "f"], ["y"])]
        case "depthwise":
            inputs = {"x": draw.integers(0, 256, (1, 8, 17, 17)).astype(np.uint8)}
            weights = {"w": numbers(8, 1, 3, 3)}
            nodes = [node("Cast", ["x"], ["f"], to=TensorProto.FLOAT)]
            nodes.append(node("Conv", ["f", "w"], ["y"], kernel_shape=[3, 3], strides=[2, 2], group=8))
        case "batch":
            inputs = {"a": numbers(2, 5, 7), "b": numbers(2, 7, 32).astype(np.float16)}
            nodes = [node("Cast", ["b"], ["f"], to=TensorProto.FLOAT), node("MatMul", ["a", "f"], ["y"])]
    return model(nodes, inputs, weights), inputs


def error(folder: Path, device: Device, name: str, target: str, lanes: int) -> float:
    """How far the output is from the right one, as a part of the largest number in it."""
    made, arrays = case(name)
    onnx.save(made, folder / "case.onnx")
    inputs = [Input(n, a.shape, str(a.dtype), 0, 0.0, 1.0, None) for n, a in arrays.items()]
    importer.convert(folder / "case.onnx", folder, inputs)
    compile_module(folder / "model.mlirbc", folder, [resolve(*executables(target), lanes=lanes)], {target: ()})
    np.savez(folder / "inputs.npz", **{str(i): a for i, a in enumerate(arrays.values())})
    run = devices.run(folder / "module.vmfb", device, "main", [folder / "inputs.npz"], folder, "run")
    assert not run.error
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, dict(arrays))
    with np.load(devices.outputs(folder, "run")) as outputs:
        return float(np.abs(outputs["0"].astype(float) - wanted).max() / np.abs(wanted).max())


@pytest.mark.thorough
@pytest.mark.parametrize(("target", "lanes"), TARGETS)
@pytest.mark.parametrize("name", ["softmax", "norm", "argmin", "dequantized", "large", "depthwise", "batch"])
def test_are_right(tmp_path: Path, present: list[Device], name: str, target: str, lanes: int) -> None:  # noqa: F811
    assert error(tmp_path, on(present, "vulkan"), name, target, lanes) < 1e-5


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("softmax", ["barriers.synchronize"]),
        ("norm", ["barriers._split"]),
        ("argmin", ["barriers.synchronize"]),
        ("dequantized", ["corrections.fuse_producers", "barriers.synchronize"]),
        ("batch", ["barriers.leave_out_idle_threads"]),
    ],
)
def test_are_wrong_without_a_correction(
    tmp_path: Path,
    present: list[Device],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    missing: list[str],
) -> None:
    for correction in missing:
        monkeypatch.setattr(f"pipeline.iree.backends.vulkan.{correction}", lambda _: False)
    monkeypatch.setenv("PIPELINE_CACHE_DIR", str(tmp_path / "cache"))  # the wrong code must not stay anywhere
    assert not error(tmp_path, on(present, "vulkan"), name, "vulkan-any", 0) < 1e-2


OWN_BARRIER = """spirv.module Logical GLSL450 {
  spirv.GlobalVariable @m : !spirv.ptr<!spirv.struct<(!spirv.array<8 x i32>)>, Workgroup>
  spirv.func @f() "None" {
    %0 = spirv.Constant 0 : i32
    %1 = spirv.Constant 1 : i32
    %m = spirv.mlir.addressof @m : !spirv.ptr<!spirv.struct<(!spirv.array<8 x i32>)>, Workgroup>
    %a = spirv.AccessChain %m[%0, %0] : !spirv.ptr<!spirv.struct<(!spirv.array<8 x i32>)>, Workgroup>, i32, i32 -> !spirv.ptr<i32, Workgroup>
    %b = spirv.AccessChain %m[%0, %1] : !spirv.ptr<!spirv.struct<(!spirv.array<8 x i32>)>, Workgroup>, i32, i32 -> !spirv.ptr<i32, Workgroup>
    spirv.Store "Workgroup" %a, %0 : i32
    {barrier}
    %v = spirv.Load "Workgroup" %b : i32
    spirv.Return
  }
}"""  # noqa: E501


@pytest.mark.parametrize("barrier", ["", "spirv.ControlBarrier <Workgroup>, <Workgroup>, <AcquireRelease|WorkgroupMemory>"])
def test_a_kernel_gets_a_barrier_if_it_has_none(barrier: str) -> None:
    with mlir.parsed(OWN_BARRIER.replace("{barrier}", barrier).encode()) as module:
        barriers.synchronize(module)
        assert len(mlir.operations(module, "spirv.ControlBarrier")) == 1
        assert module.operation.verify()
