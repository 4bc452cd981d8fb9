"""Powers: IREE 3.13 lowers those of integers to nothing, and those of other numbers to exp(exponent × log(base)).

Measured: an integer base with a constant exponent does not compile ("math.fpowi op operand #0 must be floating-point-like"), with
another the result is that of float32. A float base with an exponent that is not one constant number is NaN where the
base is negative, and 0⁰ is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.importers.rewrites.graph import Nodes, Scope, replaced

_FLOATS = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE)
_INTEGERS = (TensorProto.INT32, TensorProto.INT64)


def _change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    if node.op_type != "Pow":
        return None
    base, exponent = node.input
    type_, constant = scope.type(base), scope.constant(exponent)
    single = constant is not None and constant.size == 1
    if type_ in _INTEGERS and constant is not None and single and constant.ravel()[0] in range(64):
        return _product(node, scope, int(constant.ravel()[0]), constant.shape)
    if type_ in _FLOATS and not single:
        return _signed(node, scope)
    return None


def _product(node: onnx.NodeProto, scope: Scope, exponent: int, shape: tuple[int, ...]) -> Nodes:
    """An integer base, multiplied by squaring. The exponent's shape is part of the result's."""
    nodes = Nodes(node, scope)
    square = node.input[0]
    result = nodes("Add", nodes("Sub", square, square), scope.add(np.ones(shape, np.int64), scope.type(square)))
    while exponent:
        result = nodes("Mul", result, square) if exponent & 1 else result
        square = nodes("Mul", square, square) if exponent > 1 else square
        exponent >>= 1
    nodes("Identity", result, result=node.output[0])
    return nodes


def _signed(node: onnx.NodeProto, scope: Scope) -> Nodes:
    """A float base: the power of its magnitude, negative for odd exponents, NaN for those between integers, 1 for 0."""
    nodes, (base, exponent), type_ = Nodes(node, scope), node.input, scope.type(node.input[0])
    zero, one, half, nan = (scope.add(np.array(value), type_) for value in (0, 1, 0.5, np.nan))
    if scope.type(exponent) != type_:
        exponent = nodes("Cast", exponent, to=type_)
    magnitude = nodes("Pow", nodes("Abs", base), exponent)
    negative = nodes("Less", base, zero)
    halves = nodes("Mul", exponent, half)
    # Not floor(x) = x: LLVM makes a call to truncf of that, which nothing provides.
    even, integer = (nodes("Equal", nodes("Sub", value, nodes("Floor", value)), zero) for value in (halves, exponent))
    signed = nodes("Where", integer, nodes("Neg", magnitude), nan)
    result = nodes("Where", nodes("And", negative, nodes("Not", even)), signed, magnitude)
    nodes("Where", nodes("Equal", exponent, zero), one, result, result=node.output[0])
    return nodes


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Powers as products, or with the sign apart; None if there are none of these."""
    return replaced(model, _change)
