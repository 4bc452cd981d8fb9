"""Convolutions along one dimension: products of the weights with a matrix of all windows.

IREE 3.13 makes no vectors of them, and its own way to products leaves many as they are: 128 to 512 channels, length 101, window 2
takes 0.66 instead of 20 ms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx

from pipeline.importers.rewrites.convolutions import whatever
from pipeline.importers.rewrites.faster.windows import TYPES, are_known, end_of, windows_of
from pipeline.importers.rewrites.graph import Nodes, Scope, attribute
from pipeline.importers.rewrites.pools import axes_of

_LIMIT = 32 << 20  # bytes of the matrix


def change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    """The nodes for a Conv of that kind."""
    if node.op_type != "Conv" or scope.type(node.input[0]) not in TYPES or (attribute(node, "group") or 1) != 1:
        return None
    x, w = scope.sizes(node.input[0]), scope.shape(node.input[1])
    if x is None or w is None or len(x) != 3 or len(w) != 3 or 0 in x or not are_known(node, x[2:]):
        return None
    (axis,), weights = axes_of(node, whatever(x[2:]), w[2:]), scope.constant(node.input[1])
    if weights is None or axis.windows < 1 or axis.before < 0 or axis.after < 0:
        return None
    if None not in x and math.prod(whatever(x[:1])) * w[1] * w[2] * axis.windows * weights.itemsize > _LIMIT:
        return None
    nodes, type_, source = Nodes(node, scope), scope.type(node.input[0]), node.input[0]
    batch, _, size = nodes.sizes(source)
    length = windows_of(nodes, size, axis)
    if axis.before or axis.after:
        source = nodes("Pad", source, nodes.integers(0, 0, axis.before, 0, 0, axis.after), scope.add(np.zeros(()), type_))
    axes, steps = nodes.integers(2), nodes.integers(axis.stride)
    taps = []
    for tap in range(w[2]):
        ends = nodes.listed([end_of(nodes, tap * axis.dilation, axis, length)])
        taps.append(nodes("Slice", source, nodes.integers(tap * axis.dilation), ends, axes, steps))
    windows = nodes("Concat", *taps, axis=1) if len(taps) > 1 else taps[0]
    kernel = scope.add(np.ascontiguousarray(weights.transpose(0, 2, 1)).reshape(w[0], -1), type_)
    if batch == 1:
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
