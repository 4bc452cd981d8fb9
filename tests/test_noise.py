"""How far a reference itself moves, where its floats are inside branches or are rounded to integers on their way."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
from onnx import TensorProto, numpy_helper

from pipeline.importers import verges
from pipeline.importers.onnxruntime import Others, session, widened

BRANCHES = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[2] x, bool[1] which) => (float[2] y) {
        y = If (which) <
            then_branch = a () => (float[2] p) { p = Sigmoid(x) },
            else_branch = b () => (float[2] q) { q = Neg(x) }
        >
    }"""
EXACT = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (uint8[64] x, float s, float r, uint8 z) => (uint8[64] y) {
        a = DequantizeLinear(x, s, z)
        b = Identity(a)
        y = QuantizeLinear(b, r, z)
    }"""
TOKENS = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (int64[16] tokens) => (float[16] y) {
        f = Gather(table, tokens)
        x = Relu(f)
        q, s, z = DynamicQuantizeLinear(x)
        y = DequantizeLinear(q, s, z)
    }"""


def tokens(table: list[float]) -> onnx.ModelProto:
    model = onnx.parser.parse_model(TOKENS)
    model.graph.initializer.append(numpy_helper.from_array(np.array(table, np.float32), "table"))
    return model


def test_branches_are_computed_in_float64_too() -> None:
    """Their results have types of their own, which ONNX Runtime compares."""
    model = onnx.parser.parse_model(BRANCHES)
    x, which = np.array([0.1, -8.5]), np.array([True])
    (found,) = session(widened(model, TensorProto.DOUBLE)).run(None, {"x": x, "which": which})
    assert found.dtype == np.float64
    assert np.allclose(found, 1 / (1 + np.exp(-x)), 1e-14)
    assert any(outputs[0].dtype == np.float64 for outputs in Others(model).run([x.astype(np.float32), which]))


def test_a_number_between_two_integers_goes_either_way() -> None:
    """Of tokens and few weights nothing else would move."""
    places, whole = np.arange(16), np.arange(2, 16)
    between = tokens([0, 255, *(whole + 0.5)])  # the scale is 1
    (given,) = session(between).run(None, {"tokens": places})
    assert np.array_equal(given, [0, 255, *np.round(whole + 0.5)])
    others = [outputs[0] for outputs in Others(between).run([places])]
    assert any(np.abs(other - given).max() > 0.9 for other in others)
    clear = tokens([0, 255, *(whole + 0.25)])
    (given,) = session(clear).run(None, {"tokens": places})
    assert all(np.allclose(outputs[0], given, 1e-6) for outputs in Others(clear).run([places]))


def test_what_no_order_of_roundings_changes_is_rounded_as_the_operator_says() -> None:
    """A half goes to the even integer, and to no other."""
    assert verges.moved(onnx.parser.parse_model(EXACT), 0) is None


def test_only_what_rounds_is_copied() -> None:
    assert verges.moved(onnx.parser.parse_model(BRANCHES), 0) is None
    moved = verges.moved(tokens([0.0] * 16), 0)
    assert moved is not None
    onnx.checker.check_model(moved, full_check=True)
