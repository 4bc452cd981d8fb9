"""Convolutions along one dimension: products of the weights with a matrix of all windows.

IREE 3.13 makes no vectors of them, and its own way to products leaves many as they are: 128 to 512 channels, length 101, window 2
takes 0.66 instead of 20 ms.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from pipeline.importers.rewrites.graph import Nodes, Scope, attribute
from pipeline.importers.rewrites.pools import axes_of

_LIMIT = 32 << 20  # bytes of the matrix


def change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    """The nodes for a Conv of that kind."""
    if node.op_type != "Conv" or (attribute(node, "group") or 1) != 1:
        return None
    x, w = scope.shape(node.input[0]), scope.shape(node.input[1])
    if x is None or w is None or len(x) != 3 or len(w) != 3 or 0 in x:
        return None
    (axis,) = axes_of(node, x[2:], w[2:])
    length = axis.windows
    weights = scope.constant(node.input[1])
    if weights is None or length < 1 or axis.before < 0 or axis.after < 0:
        return None
    if x[0] * w[1] * w[2] * length * weights.itemsize > _LIMIT:
        return None
    nodes, type_, source = Nodes(node, scope), scope.type(node.input[0]), node.input[0]
    if axis.before or axis.after:
        source = nodes("Pad", source, nodes.integers(0, 0, axis.before, 0, 0, axis.after), scope.add(np.zeros(()), type_))
    taps = [_tap(nodes, source, tap * axis.dilation, axis.stride, length) for tap in range(w[2])]
    windows = nodes("Concat", *taps, axis=1) if len(taps) > 1 else taps[0]
    kernel = scope.add(np.ascontiguousarray(weights.transpose(0, 2, 1)).reshape(w[0], -1), type_)
    if x[0] == 1:
        product = nodes("MatMul", kernel, nodes.shaped(windows, [w[1] * w[2], length]))
        product = nodes.shaped(product, [1, w[0], length])
    else:
        product = nodes("MatMul", kernel, windows)
    if len(node.input) > 2 and node.input[2]:
        bias = nodes.shaped(node.input[2], [1, w[0], 1])
        nodes("Add", product, bias, result=node.output[0])
    else:
        nodes("Identity", product, result=node.output[0])
    return nodes


def _tap(nodes: Nodes, source: str, first: int, stride: int, length: int) -> str:
    end = first + (length - 1) * stride + 1
    return nodes("Slice", source, nodes.integers(first), nodes.integers(end), nodes.integers(2), nodes.integers(stride))
