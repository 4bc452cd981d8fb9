"""Convolutions over open sizes, as products of matrices: IREE 3.13 makes vectors only of those whose sizes it knows.

Measured for x86-64-v3, five convolutions of 3 × 3 at 96 × 160: 48 ms with open sizes, 6 ms with fixed ones, and 5 ms with open
ones as products of matrices. A matrix holds the windows of one row of the kernel, so it takes as many times the memory of the
values as the kernel is wide, not as it has places: that was as fast. A product for each place takes no more memory
than the values, and twice the time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.importers.rewrites.convolutions import whatever
from pipeline.importers.rewrites.graph import Nodes, Scope, attribute, replaced
from pipeline.importers.rewrites.pools import Axis, axes_of

_TYPES = (TensorProto.FLOAT, TensorProto.DOUBLE)  # sums of less would be rounded from row to row
_ROWS, _WIDTH = 16, 16  # of a kernel: beyond, there is too much code, and too large a matrix
_END = np.iinfo(np.int64).max


def _change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    if node.op_type != "Conv" or (attribute(node, "group") or 1) != 1 or scope.type(node.input[0]) not in _TYPES:
        return None
    sizes, shape = scope.sizes(node.input[0]), scope.shape(node.input[1])
    if sizes is None or shape is None or None not in sizes or not 3 <= len(sizes) == len(shape):
        return None
    *rows, width = shape[2:]
    steps = any(n > 1 for n in attribute(node, "strides") or [])
    ends_unknown = (attribute(node, "auto_pad") or b"").startswith(b"SAME") and steps and None in sizes[2:]
    if math.prod(rows) > _ROWS or width > _WIDTH or ends_unknown or (weights := scope.constant(node.input[1])) is None:
        return None
    nodes, type_ = Nodes(node, scope), scope.type(node.input[0])
    axes, count = axes_of(node, whatever(sizes[2:]), shape[2:]), len(rows) + 1
    x = nodes("Transpose", node.input[0], perm=[0, *range(2, count + 2), 1])
    if any(axis.before or axis.after for axis in axes):
        pads = [0, *(a.before for a in axes), 0, 0, *(a.after for a in axes), 0]
        x = nodes("Pad", x, nodes.integers(*pads), scope.add(np.zeros(()), type_))
    by_place = np.moveaxis(weights, (1, 0), (-2, -1))
    total = ""
    for place in itertools.product(*map(range, rows)):
        row = x
        for number, (axis, index) in enumerate(zip(axes, place, strict=False)):
            row = _seen(nodes, row, number + 1, axis, index)
        parts = [_seen(nodes, row, count, axes[-1], index) for index in range(width)]
        windows = nodes("Concat", *parts, axis=count + 1) if width > 1 else parts[0]
        product = nodes("MatMul", windows, scope.add(by_place[place].reshape(width * shape[1], shape[0]), type_))
        total = nodes("Add", total, product) if total else product
    if len(node.input) > 2 and node.input[2]:
        total = nodes("Add", total, node.input[2])
    nodes("Transpose", total, perm=[0, count + 1, *range(1, count + 1)], result=node.output[0])
    return nodes


def _seen(nodes: Nodes, x: str, number: int, axis: Axis, index: int) -> str:
    """What the kernel's place `index` on an axis meets of it, window by window."""
    first, reach = index * axis.dilation, (axis.kernel - 1) * axis.dilation
    if not reach and axis.stride == 1:
        return x
    end = first - reach if first < reach else _END
    return nodes("Slice", x, *(nodes.integers(n) for n in (first, end, number, axis.stride)))


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Such convolutions as products; None if there are none."""
    return replaced(model, _change)
