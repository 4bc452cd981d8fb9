"""Convolutions of planes: products of the weights with a matrix of all windows, which is copies of the padded plane as one line.

Where lines have their padding, the window's places lie at the same distance from each other everywhere, so each row of the matrix
is a stretch of memory; what is computed at the padding is left out of the result. IREE 3.13 makes such a matrix value by value,
and reads widths that are powers of two badly. Where that is less to read and write, the matrix has the columns of the window
only, and a product for each line is summed up: 32 to 16 channels of 64 × 64 take 0.64 ms instead of 0.76 at once and IREE's 1.7.
Sums of float16 would be rounded on the way.

Where windows move by more than one, the plane is first parted into those of the values that lie so far apart, whose windows move
by one: 8 to 32 channels of 172 × 264, 5 × 5, every third, take 4 instead of 45 ms on AVX-512 with one thread. A matrix larger
than a core's own cache is made for some lines at a time: 32 to 32 channels of 450 × 60 take 6.3 instead of 9.4 ms so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from pipeline.arrays import Array
from pipeline.importers.rewrites.convolutions import whatever
from pipeline.importers.rewrites.faster.windows import OF_ONE_SUM, cost_of_row, row
from pipeline.importers.rewrites.graph import Nodes, Scope, attribute
from pipeline.importers.rewrites.pools import Axis, axes_of

_LIMIT = 32 << 20  # bytes of the matrix
_STRIP = 1 << 20  # bytes of it, from which on it is made for some lines of the plane at a time
_PARTS = 32  # copies, at most, of all such matrices: each is a kernel
_WASTE = 1.5  # times the results, at most, are computed
_FEWEST = 8  # channels that are made of float16: of 3 Vulkan code is one so large that a driver takes minutes to compile it
_VECTOR = 64  # bytes
_PARTIAL = 0.67  # results for each row of the matrix, up to which sums are made of several products


def change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    """The nodes for a Conv of that kind."""
    if node.op_type != "Conv" or scope.type(node.input[0]) not in OF_ONE_SUM or (attribute(node, "group") or 1) != 1:
        return None
    x, w = scope.shape(node.input[0]), scope.shape(node.input[1])
    if x is None or w is None or len(x) != 4 or len(w) != 4 or x[0] != 1 or 0 in x:
        return None
    if scope.type(node.input[0]) == TensorProto.FLOAT16 and w[0] < _FEWEST:
        return None
    axes, weights = axes_of(node, whatever(x[2:]), w[2:]), scope.constant(node.input[1])
    if weights is None or any(a.windows < 1 or a.before < 0 or a.after < 0 for a in axes):
        return None
    if np.prod(w[2:]) * np.prod([a.stride for a in axes]) == 1:
        return None
    down, across = axes
    several = scope.type(node.input[0]) != TensorProto.FLOAT16 and down.stride == 1 and w[0] <= _PARTIAL * w[1] * w[3]
    places = across.kernel * (1 if several else down.kernel)
    taken = w[1] * places * weights.itemsize  # bytes of a column of the matrix
    strips = max(1, min(-(-taken * down.windows * across.windows // _STRIP), _PARTS // places, down.windows))
    lines, width = _sizes(-(-down.windows // strips), _sized(across), min(weights.itemsize, 4), weights[0].size)
    strips = -(-down.windows // lines)
    if lines * strips * width > _WASTE * down.windows * across.windows or taken * lines * width > _LIMIT:
        return None
    nodes, type_ = Nodes(node, scope), scope.type(node.input[0])
    height = max(lines * strips + _sized(down) - down.windows, _sized(down)) + 1  # a line more, into which the last windows reach
    after = [height * down.stride - x[2] - down.before, width * across.stride - x[3] - across.before]
    pads = nodes.integers(0, 0, down.before, across.before, 0, 0, *after)
    line = nodes("Pad", node.input[0], pads, scope.add(np.zeros(()), type_))
    if down.stride * across.stride > 1:
        line = nodes.shaped(line, [x[1], height, down.stride, width, across.stride])
        line = nodes("Transpose", line, perm=[0, 2, 4, 1, 3])
    line = nodes.shaped(line, [x[1], down.stride * across.stride * height * width])
    plane = _Plane(line, height * width, down, across, width, lines * width)
    parts = [(_by_lines if several else _at_once)(nodes, scope, plane, weights, i * plane.length) for i in range(strips)]
    found = nodes("Concat", *parts, axis=1) if strips > 1 else parts[0]
    if len(node.input) > 2 and node.input[2]:
        found = nodes("Add", found, nodes.shaped(node.input[2], [w[0], 1]))
    found = nodes.shaped(found, [1, w[0], lines * strips, width])
    ends = nodes.integers(down.windows, across.windows)
    nodes("Slice", found, nodes.integers(0, 0), ends, nodes.integers(2, 3), result=node.output[0])
    return nodes


def _sized(axis: Axis) -> int:
    """The places on an axis, of each of those that a window steps over."""
    reached = axis.windows + (axis.kernel - 1) * axis.dilation // axis.stride
    return max(reached, -(-(axis.size + axis.before) // axis.stride))


@dataclass(frozen=True)
class _Plane:
    """A padded plane as one line, whose windows begin at `length` places; `width` is that of the plane.

    Where windows move by more than one, there are as many planes of a `size` in the line, each of what lies that far apart.
    """

    line: str
    size: int
    down: Axis
    across: Axis
    width: int
    length: int

    def first(self, i: int, j: int) -> int:
        """Where in the line the place of the window lies that the first window has there."""
        (y, lower), (x, right) = (
            divmod(i * self.down.dilation, self.down.stride),
            divmod(j * self.across.dilation, self.across.stride),
        )
        return (lower * self.across.stride + right) * self.size + y * self.width + x


def _at_once(nodes: Nodes, scope: Scope, plane: _Plane, weights: Array, begin: int) -> str:
    """One product, with a matrix of all places of the window, for the windows from `begin` on."""
    first = [plane.first(i, j) + begin for i, j in np.ndindex(plane.down.kernel, plane.across.kernel)]
    kernel = np.ascontiguousarray(weights.transpose(0, 2, 3, 1)).reshape(len(weights), -1)
    return nodes("MatMul", _constant(scope, kernel), _moved(nodes, plane.line, first, plane.length))


def _by_lines(nodes: Nodes, scope: Scope, plane: _Plane, weights: Array, begin: int) -> str:
    """A product for each line of the window, summed up: they are with the same matrix, of its columns, read at other places."""
    step, first = plane.down.dilation * plane.width, [plane.first(0, j) + begin for j in range(plane.across.kernel)]
    span, most = (plane.down.kernel - 1) * step + plane.length, plane.size - max(n % plane.size for n in first)
    span = row(span, min(weights.itemsize, 4), len(first) * weights.shape[1], most)
    matrix = _moved(nodes, plane.line, first, span)
    found = ""
    for i in range(plane.down.kernel):
        part = matrix
        if span > plane.length:
            part = nodes("Slice", matrix, nodes.integers(i * step), nodes.integers(i * step + plane.length), nodes.integers(1))
        kernel = np.ascontiguousarray(weights[:, :, i].transpose(0, 2, 1)).reshape(len(weights), -1)
        term = nodes("MatMul", _constant(scope, kernel), part)
        found = nodes("Add", term, found) if found else term
    return found


def _constant(scope: Scope, values: Array) -> str:
    return scope.add(values, helper.np_dtype_to_tensor_dtype(values.dtype))


def _moved(nodes: Nodes, line: str, first: Sequence[int], length: int) -> str:
    """The stretches of a line that begin there, as the rows of a matrix."""
    axis = nodes.integers(1)
    parts = [nodes("Slice", line, nodes.integers(n), nodes.integers(n + length), axis) for n in first]
    return nodes("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]


def _sizes(lines: int, width: int, itemsize: int, rows: int) -> tuple[int, int]:
    """The best plane of at least this size, for a matrix of so many rows."""
    several = ((n, m) for n in range(lines, lines + 4) for m in range(width, width + _VECTOR // itemsize))
    return min(several, key=lambda s: cost_of_row(s[0] * s[1], itemsize, rows))
