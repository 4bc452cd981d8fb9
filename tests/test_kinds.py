"""Kinds of model that compilers get wrong, through the whole pipeline: right on every variant, or refused with the reason.

What is published is then run here with other numbers than it was verified with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from pipeline.compare import compare, tolerances_for
from pipeline.importers.onnxruntime import precisions, session
from pipeline.iree import devices
from pipeline.iree.device import Device
from pipeline.iree.file import choice
from pipeline.iree.gates import decide, select
from pipeline.stages.compiled import Compiled
from tests.project import Project
from tests.test_compile import DESKTOP, present  # noqa: F401  # a fixture

MARKS = (pytest.mark.slow, pytest.mark.thorough)  # a build of half a minute each
CPU = ("x86-64-v4", "x86-64-v3", "x86-64")
Array = np.ndarray
Built = tuple[list[onnx.NodeProto], list[onnx.TensorProto]]
node = helper.make_node


def constant(name: str, array: object) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def normal(*shape: int) -> Array:
    return np.random.default_rng(11).standard_normal(shape).astype(np.float32)


def integers(low: int, high: int, dtype: str, *shape: int) -> Array:
    return np.random.default_rng(12).integers(low, high, shape).astype(dtype)


@dataclass(frozen=True)
class Kind:
    """A model: `inputs` as a spec says them, outputs by name and dtype. `says`: why it is refused; empty where it is published.

    `without`: variants that are dropped.
    """

    build: Callable[[], Built]
    inputs: tuple[dict[str, object], ...]
    outputs: tuple[tuple[str, str], ...] = (("y", "float32"),)
    without: tuple[str, ...] = ()
    says: str = ""
    opset: int = 17


def x(dtype: str, *shape: int, **data: object) -> dict[str, object]:
    return {"name": "x", "shape": list(shape), "dtype": dtype, **data}


def dequantized_product() -> Built:
    scales = [constant("s", np.float32(3e-8)), constant("z", np.int8(-5))]
    return [node("DequantizeLinear", ["w", "s", "z"], ["f"]), node("MatMul", ["x", "f"], ["y"])], scales


def integer_product(rows: int, columns: int) -> Callable[[], Built]:
    def build() -> Built:
        weights = [
            constant("w", integers(0, 256, "uint8", rows, columns)),
            constant("a", np.uint8(117)),
            constant("b", np.uint8(3)),
        ]
        return [node("MatMulInteger", ["x", "w", "a", "b"], ["y"])], weights

    return build


def cast_convolution() -> Built:
    nodes = [node("Cast", ["x"], ["f"], to=TensorProto.FLOAT), node("Conv", ["f", "w"], ["y"], kernel_shape=[3, 3], group=4)]
    return nodes, [constant("w", normal(4, 1, 3, 3))]


def strided_convolution() -> Built:
    nodes = [node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])]
    return nodes, [constant("w", normal(8, 4, 3, 3))]


def softmax(axis: int) -> Callable[[], Built]:
    return lambda: ([node("Softmax", ["x"], ["y"], axis=axis)], [])


def mean_and_difference() -> Built:
    return [node("ReduceMean", ["x"], ["m"], axes=[1], keepdims=1), node("Sub", ["x", "m"], ["y"])], []


def average_pool() -> Built:
    return [node("GlobalAveragePool", ["x"], ["y"])], []


def halves() -> Built:
    nodes = [node("Mul", ["x", "k"], ["y"]), node("Cast", ["x"], ["f"], to=TensorProto.FLOAT)]
    return [*nodes, node("Mul", ["f", "big"], ["z"])], [constant("k", np.float16(0.75)), constant("big", np.float32(1e4))]


def time_of_day() -> Built:
    nodes = [node("Cast", ["x"], ["d"], to=TensorProto.DOUBLE), node("Div", ["d", "day"], ["q"]), node("Floor", ["q"], ["l"])]
    nodes += [node("Sub", ["q", "l"], ["r"]), node("Cast", ["r"], ["y"], to=TensorProto.FLOAT)]
    return nodes, [constant("day", np.float64(3600))]


def doubles() -> Built:
    return [node("MatMul", ["x", "w"], ["y"])], [constant("w", normal(7, 5).astype(np.float64))]


def unsigned_cast() -> Built:
    return [node("Cast", ["x"], ["y"], to=TensorProto.UINT8)], []


def unsigned_division() -> Built:
    return [node("Div", ["x", "k"], ["y"])], [constant("k", np.uint8(7))]


def unsigned_maximum() -> Built:
    return [node("Max", ["x", "k"], ["m"]), node("ReduceMax", ["m"], ["y"], axes=[1], keepdims=0)], [constant("k", np.uint8(90))]


def unsigned_pool() -> Built:
    return [node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2])], []


def suppression() -> Built:
    limits = [
        constant("k", np.array([9])),
        constant("i", np.array([0.5], np.float32)),
        constant("t", np.array([0.1], np.float32)),
    ]
    return [node("NonMaxSuppression", ["x", "s", "k", "i", "t"], ["y"])], limits


def not_numbers() -> Built:
    return [node("Sqrt", ["x"], ["y"])], []


def wrong_neighbour() -> Built:
    """ONNX Runtime and IREE round a tie of coordinates differently: it is to be as ONNX Runtime says."""
    options = {"coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_ceil"}
    return [node("Resize", ["x", "", "", "s"], ["y"], mode="nearest", **options)], [constant("s", np.array([1, 1, 1, 6]))]


def four_bits() -> Built:
    weights = helper.make_tensor("w", TensorProto.INT4, [32, 16], integers(-8, 8, "int64", 32, 16).ravel().tolist())
    nodes = [node("DequantizeLinear", ["w", "s"], ["f"], axis=0, block_size=16), node("MatMul", ["x", "f"], ["y"])]
    return nodes, [weights, constant("s", normal(2, 16) ** 2)]


def rates() -> Built:
    nodes = [node("Cast", ["sr"], ["f"], to=TensorProto.FLOAT), node("Div", ["x", "f"], ["y"])]
    return nodes, []


def nothing_tested() -> Built:
    return [node("Greater", ["x", "k"], ["y"])], [constant("k", np.float32(2000))]


def small_probabilities() -> Built:
    return [node("MatMul", ["x", "w"], ["h"]), node("Softmax", ["h"], ["y"])], [constant("w", normal(16, 5000) / 8)]


def fused_layer() -> Built:
    """As ONNX Runtime's optimizer writes a layer of a transformer."""
    nodes = [
        node("Attention", ["x", "w", "b"], ["a"], domain="com.microsoft", num_heads=2, unidirectional=1),
        node("SkipLayerNormalization", ["a", "x", "g", "g"], ["n"], domain="com.microsoft", epsilon=1e-5),
        node("FusedMatMul", ["n", "u"], ["h"], domain="com.microsoft", transB=1, alpha=0.5),
        node("BiasGelu", ["h", "g"], ["y"], domain="com.microsoft"),
    ]
    weights = {"w": normal(16, 48) / 4, "b": normal(48), "g": normal(16), "u": normal(16, 16) / 4}
    return nodes, [constant(name, array) for name, array in weights.items()]


KINDS = {
    "fused-layer": Kind(fused_layer, (x("float32", 2, 5, 16, low=-1, high=1),)),
    "dequantized-product": Kind(
        dequantized_product,
        (x("float32", 48, 31, low=-1, high=1), {"name": "w", "shape": [31, 70], "dtype": "int8", "low": -127, "high": 128}),
    ),
    "integer-product": Kind(integer_product(16, 33), (x("uint8", 5, 16, low=0, high=256),), (("y", "int32"),)),
    "integer-product-of-whole-vectors": Kind(integer_product(64, 64), (x("uint8", 8, 64, low=0, high=256),), (("y", "int32"),)),
    "cast-convolution": Kind(cast_convolution, (x("uint8", 1, 4, 11, 11, low=0, high=256),)),
    "strided-convolution": Kind(strided_convolution, (x("float32", 2, 4, 10, 10),)),
    "softmax-first": Kind(softmax(0), (x("float32", 3, 4, 5),)),
    "softmax-last": Kind(softmax(2), (x("float32", 3, 4, 40),)),
    "half-mean": Kind(mean_and_difference, (x("float16", 2, 3000),), (("y", "float16"),)),
    "half-pool": Kind(average_pool, (x("float16", 1, 3, 50, 50),), (("y", "float16"),)),
    "subnormal-halves": Kind(halves, (x("float16", 99, high=5e-5),), (("y", "float16"), ("z", "float32"))),
    "time-of-day": Kind(time_of_day, (x("int64", 20, low=1700000000, high=1800000000),), without=("vulkan-any",)),
    "doubles": Kind(doubles, (x("float64", 3, 7),), (("y", "float64"),), without=("vulkan-any",)),
    "unsigned-cast": Kind(unsigned_cast, (x("float32", 50),), (("y", "uint8"),)),
    "unsigned-division": Kind(unsigned_division, (x("uint8", 60, low=0, high=256),), (("y", "uint8"),)),
    "unsigned-maximum": Kind(unsigned_maximum, (x("uint8", 6, 20, low=0, high=256),), (("y", "uint8"),)),
    "unsigned-pool": Kind(unsigned_pool, (x("uint8", 1, 2, 9, 9, low=0, high=256),), (("y", "uint8"),)),
    "not-numbers": Kind(not_numbers, (x("float32", 4, 9, low=-1, high=1),)),
    "small-probabilities": Kind(small_probabilities, (x("float32", 4, 16, low=-1, high=1),)),
    "suppression": Kind(
        suppression,
        (
            x("float32", 1, 30, 4, low=0, high=1),
            {"name": "s", "shape": [1, 1, 30], "dtype": "float32", "low": 0.2, "high": 1},
        ),
        (("y", "int64"),),
        says="onnx.NonMaxSuppression (node 'y') is compiled for some data only",
    ),
    "wrong-neighbour": Kind(wrong_neighbour, (x("float32", 1, 1, 1, 20, low=1, high=2),)),
    "four-bits": Kind(four_bits, (x("float32", 3, 32, low=-1, high=1),), opset=21),
    "rates": Kind(rates, ({"name": "sr", "shape": [], "dtype": "int64", "value": 16000}, x("float32", 3, 32, low=-1, high=1))),
    "nothing-tested": Kind(nothing_tested, (x("float32", 12),), (("y", "bool"),), says="output 'y' is False everywhere"),
}


def model(kind: Kind) -> onnx.ModelProto:
    def value(name: str, dtype: str, shape: object) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)

    nodes, weights = kind.build()
    inputs = [value(str(i["name"]), str(i["dtype"]), i["shape"]) for i in kind.inputs]
    graph = helper.make_graph(nodes, "g", inputs, [value(*output, None) for output in kind.outputs], weights)
    domains = [helper.make_opsetid("", kind.opset), helper.make_opsetid("com.microsoft", 1)]
    made = helper.make_model(graph, opset_imports=domains, ir_version=10)
    return onnx.shape_inference.infer_shapes(made)


def project(folder: Path, name: str, kind: Kind) -> tuple[Project, onnx.ModelProto]:
    made = Project(folder, bundle={"targets": list(DESKTOP), "on_failure": "drop"})
    path = made.targets / "models" / f"{name}.onnx"
    onnx.save(found := model(kind), path)
    spec = {
        "about": "a kind of model",
        "licence": "Apache-2.0",
        "format": "onnx",
        "source": {"kind": "path", "path": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()},
        "inputs": list(kind.inputs),
        "bundles": ["desktop"],
    }
    (made.targets / "models" / f"{name}.yaml").write_text(yaml.safe_dump(spec))
    return made, found


def other_data(kind: Kind) -> list[Array]:
    generator = np.random.default_rng(77)
    arrays = []
    for spec in kind.inputs:
        if "value" in spec:
            arrays.append(np.full(spec["shape"], spec["value"], str(spec["dtype"])))  # type: ignore[call-overload]
            continue
        low, high = float(spec.get("low", 0)), float(spec.get("high", 90))  # type: ignore[arg-type]
        arrays.append((low + (high - low) * generator.random(spec["shape"])).astype(str(spec["dtype"])))  # type: ignore[call-overload]
    return arrays


def outputs_everywhere(made: Project, name: str, inputs: Path, found: list[Device], folder: Path) -> dict[str, list[Array]]:
    """What every variant that runs here gives."""
    verified = made.layout.verified(name, "desktop")
    gated = [v.gated for v in Compiled.read(verified / "compiled.json").variants]
    results = {}
    for device in found:
        for index, decision in enumerate(decide(gated, device.facts)):
            if not decision.accepted or (device.driver == "vulkan" and decision.variant != select(gated, device.facts)):
                continue
            module = folder / f"{decision.variant}.vmfb"
            choice.force(verified / "module.vmfb", index, module)
            ran = devices.run(module, device, "main", [inputs], folder, decision.variant)
            assert not ran.error
            with np.load(devices.outputs(folder, decision.variant)) as arrays:
                results[decision.variant] = [arrays[key] for key in sorted(arrays, key=int)]
    return results


@pytest.mark.parametrize("name", [pytest.param(k, marks=MARKS[k != "half-mean"]) for k in KINDS])
def test_right_everywhere_or_refused_with_the_reason(name: str, tmp_path: Path, present: list[Device]) -> None:  # noqa: F811
    kind = KINDS[name]
    made, graph = project(tmp_path / "project", name, kind)
    result = made.doit()
    assert "Traceback" not in result.stdout + result.stderr
    if kind.says:
        assert result.returncode in (1, 2)
        assert kind.says in result.stdout
        assert not made.layout.store.exists()
        return
    assert result.returncode == 0, result.stdout
    compiled = Compiled.read(made.layout.verified(name, "desktop") / "compiled.json")
    assert {d.name for d in compiled.dropped} == set(kind.without), result.stdout
    arrays = other_data(kind)
    taken = [a for a, spec in zip(arrays, kind.inputs, strict=True) if "value" not in spec]
    np.savez(tmp_path / "inputs.npz", **{str(n): a for n, a in enumerate(taken)})
    names = [str(i["name"]) for i in kind.inputs]
    expected = session(graph).run(None, dict(zip(names, arrays, strict=True)))
    results = outputs_everywhere(made, name, tmp_path / "inputs.npz", present, tmp_path)
    levels = [target.gated for target in compiled.variants if target.gated.name in CPU]
    cpu = next(device for device in present if device.driver == "local-task")
    here = {decision.variant for decision in decide(levels, cpu.facts) if decision.accepted}
    assert {"x86-64"} - {*kind.without} <= here <= {*results}
    for variant, outputs in results.items():
        problem = compare(outputs, expected, tolerances_for(expected, precisions(graph))).problem
        assert not problem, f"{variant}: {problem}"
