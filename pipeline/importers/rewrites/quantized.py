"""Products of quantized integers that IREE 3.13 gets wrong.

Measured: MatMulInteger of uint8 without zero points takes the numbers as signed; with zero points it is right. QLinearConv with
a scale for each channel and a bias is wrong for all types.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from pipeline.importers.rewrites.graph import Nodes, Scope, replaced


def _change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    if node.op_type == "MatMulInteger" and not (len(node.input) == 4 and all(node.input)):
        return _with_zero_points(node, scope)
    if node.op_type == "QLinearConv" and len(node.input) == 9:
        return _per_channel(node, scope)
    return None


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
