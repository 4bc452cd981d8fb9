"""Convolutions of planes: products of the weights with a matrix of all windows, which is copies of the padded plane as one line.

Where lines have their padding, the window's places lie at the same distance from each other everywhere, so each row of the matrix
is a stretch of memory; what is computed at the padding is left out of the result. IREE 3.13 makes such a matrix value by value,
and reads widths that are powers of two badly. 32 to 16 channels of 64 × 64 take 0.74 instead of 1.7 ms, 64 to 64 of 16 × 16 0.31
instead of 0.47, 16 to 32 of 160 × 160 7.1 instead of 11.5.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.importers.rewrites.convolutions import whatever
from pipeline.importers.rewrites.faster.windows import OF_ONE_SUM, cost_of_row
from pipeline.importers.rewrites.graph import Nodes, Scope, attribute
from pipeline.importers.rewrites.pools import axes_of

_LIMIT = 32 << 20  # bytes of the matrix
_WASTE = 1.5  # times the results, at most, are computed
_FEWEST = 8  # channels that are made of float16: of 3 Vulkan code is one so large that a driver takes minutes to compile it
_VECTOR = 64  # bytes


def change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    """The nodes for a Conv of that kind."""
    if node.op_type != "Conv" or scope.type(node.input[0]) not in OF_ONE_SUM or (attribute(node, "group") or 1) != 1:
        return None
    x, w = scope.shape(node.input[0]), scope.shape(node.input[1])
    if x is None or w is None or len(x) != 4 or len(w) != 4 or x[0] != 1 or 0 in x or np.prod(w[2:]) == 1:
        return None
    if scope.type(node.input[0]) == TensorProto.FLOAT16 and w[0] < _FEWEST:
        return None
    axes, weights = axes_of(node, whatever(x[2:]), w[2:]), scope.constant(node.input[1])
    if weights is None or any(a.windows < 1 or a.before < 0 or a.after < 0 or a.stride > 1 for a in axes):
        return None
    down, across = axes
    width = across.windows + (across.kernel - 1) * across.dilation
    lines, width = _sizes(down.windows, width, min(weights.itemsize, 4), weights[0].size)
    length = lines * width
    if length > _WASTE * down.windows * across.windows or w[1] * w[2] * w[3] * length * weights.itemsize > _LIMIT:
        return None
    nodes, type_ = Nodes(node, scope), scope.type(node.input[0])
    height = lines + (down.kernel - 1) * down.dilation + 1  # a line more, into which the last windows reach
    after = [height - x[2] - down.before, width - x[3] - across.before]
    pads = nodes.integers(0, 0, down.before, across.before, 0, 0, *after)
    line = nodes.shaped(nodes("Pad", node.input[0], pads, scope.add(np.zeros(()), type_)), [x[1], height * width])
    taps = []
    for i, j in np.ndindex(*w[2:]):
        first = i * down.dilation * width + j * across.dilation
        taps.append(nodes("Slice", line, nodes.integers(first), nodes.integers(first + length), nodes.integers(1)))
    kernel = scope.add(np.ascontiguousarray(weights.transpose(0, 2, 3, 1)).reshape(w[0], -1), type_)
    found = nodes("MatMul", kernel, nodes("Concat", *taps, axis=0))
    if len(node.input) > 2 and node.input[2]:
        found = nodes("Add", found, nodes.shaped(node.input[2], [w[0], 1]))
    found = nodes.shaped(found, [1, w[0], lines, width])
    ends = nodes.integers(down.windows, across.windows)
    nodes("Slice", found, nodes.integers(0, 0), ends, nodes.integers(2, 3), result=node.output[0])
    return nodes


def _sizes(lines: int, width: int, itemsize: int, rows: int) -> tuple[int, int]:
    """The best plane of at least this size, for a matrix of so many rows."""
    several = ((n, m) for n in range(lines, lines + 4) for m in range(width, width + _VECTOR // itemsize))
    return min(several, key=lambda s: cost_of_row(s[0] * s[1], itemsize, rows))
