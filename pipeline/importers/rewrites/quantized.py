"""Products of quantized integers that IREE 3.13 gets wrong.

Measured: MatMulInteger of uint8 without zero points takes the numbers as signed; with zero points it is right. QLinearConv with
a scale for each channel and a bias is wrong for all types, and crashes the compiler with `auto_pad`. QLinearMatMul of more than
two dimensions is refused; MatMulInteger is not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from pipeline.importers.rewrites.graph import Nodes, Scope, attribute, replaced
from pipeline.importers.rewrites.pools import axes_of


def _change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    if node.op_type == "MatMulInteger" and not (len(node.input) == 4 and all(node.input)):
        return _with_zero_points(node, scope)
    if node.op_type == "QLinearMatMul":
        return _stacked(node, scope)
    if node.op_type == "QLinearConv":
        padded = _with_pads(node, scope)
        return (_per_channel(padded or node, scope) if len(node.input) == 9 else None) or ([padded] if padded else None)
    return None


def _with_pads(node: onnx.NodeProto, scope: Scope) -> onnx.NodeProto | None:
    """The node with pads in numbers; None where it has them already."""
    x, w = scope.shape(node.input[0]), scope.shape(node.input[3])
    if attribute(node, "auto_pad") in (None, b"NOTSET") or x is None or w is None:
        return None
    copy = helper.make_node(node.op_type, node.input, node.output, node.name, kernel_shape=w[2:])
    copy.attribute.extend(a for a in node.attribute if a.name != "kernel_shape")
    axes = axes_of(copy, x[2:])
    kept = [a for a in copy.attribute if a.name not in ("auto_pad", "pads")]
    del copy.attribute[:]
    copy.attribute.extend([*kept, helper.make_attribute("pads", [*(a.before for a in axes), *(a.after for a in axes)])])
    return copy


def _stacked(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = node.input
    ranks = [scope.rank(name) for name in (a, b)]
    if None in ranks or max(rank or 0 for rank in ranks) < 3 or scope.type(a_scale) != TensorProto.FLOAT:
        return None
    nodes = Nodes(node, scope)
    sums = nodes("Cast", nodes("MatMulInteger", a, b, a_zero, b_zero), to=TensorProto.FLOAT)
    scale = nodes("Div", nodes("Mul", a_scale, b_scale), y_scale)
    one = scope.add(np.ones(()), TensorProto.FLOAT)
    nodes("QuantizeLinear", nodes("Mul", sums, scale), one, y_zero, result=node.output[0])
    return nodes


def _with_zero_points(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    given = [*node.input, "", ""][:4]
    zeros = [given[i + 2] or scope.add(np.zeros(()), scope.type(given[i])) for i in (0, 1)]
    return [helper.make_node(node.op_type, [*given[:2], *zeros], node.output, node.name)]


def _per_channel(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias = node.input
    scales, zeros, weights = scope.constant(w_scale), scope.constant(w_zero), scope.constant(w)
    if scales is None or zeros is None or weights is None or scales.size == 1 or np.unique(zeros).size != 1:
        return None
    nodes = Nodes(node, scope)
    column = scope.add(np.array([-1, *[1] * (weights.ndim - 2)]), TensorProto.INT64)
    zero = scope.add(zeros.ravel()[0].reshape(()), scope.type(w_zero))
    sums = nodes("ConvInteger", x, w, x_zero, zero)
    nodes[-1].attribute.extend(node.attribute)
    sums = nodes("Cast", nodes("Add", sums, nodes("Reshape", bias, column)), to=TensorProto.FLOAT)
    scale = nodes("Div", nodes("Mul", x_scale, w_scale), y_scale)
    scaled = nodes("Mul", sums, nodes("Reshape", scale, column))
    nodes("QuantizeLinear", scaled, scope.add(np.ones(()), TensorProto.FLOAT), y_zero, result=node.output[0])
    return nodes


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Zero points where there are none, and such convolutions by ConvInteger; None if there are none."""
    return replaced(model, _change)
