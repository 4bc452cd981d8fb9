"""8-bit products that ONNX Runtime saturates on some CPUs are exact in the reference, whatever the CPU."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.importers import onnxruntime, saturation

KINDS = {"u": (np.uint8, TensorProto.UINT8, 0, 256), "s": (np.int8, TensorProto.INT8, -128, 128)}


def full(kind: str, *shape: int) -> np.ndarray:
    """Numbers at the ends of an 8-bit type, where pairs of products are largest."""
    dtype, _, low, high = KINDS[kind]
    return np.random.default_rng(3).choice([low, low + 1, high - 1], shape).astype(dtype)


def ran(nodes: list[onnx.NodeProto], kind: str, x: np.ndarray, constants: dict[str, np.ndarray]) -> np.ndarray:
    value = helper.make_tensor_value_info("x", KINDS[kind][1], x.shape)
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", [value], [helper.make_tensor_value_info("y", TensorProto.INT32, None)], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return onnxruntime.session(model).run(None, {"x": x})[0]


@pytest.mark.parametrize("zero", [None, 7])
@pytest.mark.parametrize("kinds", ["uu", "us", "su", "ss"])
def test_products_are_exact(kinds: str, zero: int | None) -> None:
    a, b = full(kinds[0], 37, 64), full(kinds[1], 64, 48)
    points = {} if zero is None else {"z": np.array(zero, a.dtype), "v": np.array(zero, b.dtype)}
    node = helper.make_node("MatMulInteger", ["x", "w", *points], ["y"])
    wanted = (a.astype(int) - (zero or 0)) @ (b.astype(int) - (zero or 0))
    np.testing.assert_array_equal(ran([node], kinds[0], a, {"w": b, **points}), wanted)


@pytest.mark.parametrize("kinds", ["uu", "us", "su", "ss"])
def test_convolutions_are_exact(kinds: str) -> None:
    x, w = full(kinds[0], 1, 8, 10, 10), full(kinds[1], 16, 8, 3, 3)
    windows = np.lib.stride_tricks.sliding_window_view(x.astype(int), (3, 3), axis=(2, 3))
    wanted = np.einsum("nchwij,ocij->nohw", windows, w.astype(int))
    np.testing.assert_array_equal(ran([helper.make_node("ConvInteger", ["x", "w"], ["y"])], kinds[0], x, {"w": w}), wanted)


def test_factors_that_are_computed_are_moved_too() -> None:
    a = full("u", 9, 16)
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.INT32),
        helper.make_node("Sub", ["wide", "half"], ["low"]),
        helper.make_node("Cast", ["low"], ["b"], to=TensorProto.INT8),
        helper.make_node("Transpose", ["b"], ["t"]),
        helper.make_node("MatMulInteger", ["x", "t"], ["y"]),
    ]
    wanted = a.astype(int) @ (a.astype(int) - 128).T
    np.testing.assert_array_equal(ran(nodes, "u", a, {"half": np.array(128, np.int32)}), wanted)


def test_other_models_are_left_alone() -> None:
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [], [])
    assert saturation.without(helper.make_model(graph)) is None
