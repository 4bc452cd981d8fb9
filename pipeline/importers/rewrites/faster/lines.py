"""Convolutions along one dimension: products of the weights with a matrix of all windows.

IREE 3.13 makes no vectors of them, and its own way to products leaves many as they are: 128 to 512 channels, length 101, window 2
takes 0.66 instead of 20 ms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx

from pipeline.arrays import Array
from pipeline.importers.rewrites.convolutions import whatever
from pipeline.importers.rewrites.faster.windows import TYPES, VECTOR, are_known, end_of, row, windows_of
from pipeline.importers.rewrites.graph import Nodes, Scope, Size, attribute
from pipeline.importers.rewrites.pools import Axis, axes_of

_LIMIT = 32 << 20  # bytes of the matrix
_WASTE = 1.2  # times the results, at most, are computed
_BLOCK = 8  # values, at least
_SHORT = 64  # windows of a line, at most, where there are several lines
_DEEP, _WIDE = 64, 32  # values of a window and outputs, at least, there


def change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    """The nodes for a Conv of that kind."""
    if node.op_type != "Conv" or scope.type(node.input[0]) not in TYPES or (attribute(node, "group") or 1) != 1:
        return None
    x, w = scope.sizes(node.input[0]), scope.shape(node.input[1])
    if x is None or w is None or len(x) != len(w) or len(x) not in (3, 4) or 0 in x or not are_known(node, x[2:]):
        return None
    (*others, axis), weights = axes_of(node, whatever(x[2:]), w[2:]), scope.constant(node.input[1])
    if weights is None or axis.windows < 1 or axis.before < 0 or axis.after < 0:
        return None
    if None not in x and math.prod(whatever(x[:1])) * weights[0].size * axis.windows * weights.itemsize > _LIMIT:
        return None
    nodes = Nodes(node, scope)
    if x[0] != 1 and None not in x[1:] and _pays(axis.windows, weights) and all(_is_flat(other) for other in others):
        found = _of_rows(nodes, node, scope, axis, weights)
    elif others:
        return None
    elif x[:2] == (1, 1) and None not in x and (block := math.gcd(axis.stride, w[2])) >= _BLOCK and axis.dilation == 1:
        found = _of_blocks(nodes, node, scope, axis, weights, block)
    else:
        found = _of_taps(nodes, node, scope, axis, weights)
    if len(node.input) > 2 and node.input[2]:
        nodes("Add", found, nodes.shaped(node.input[2], [1, w[0], *([1] * len(w[2:]))]), result=node.output[0])
    else:
        nodes("Identity", found, result=node.output[0])
    return nodes


def _is_flat(axis: Axis) -> bool:
    """Whether there is one value and one window on an axis."""
    return axis.size == axis.kernel == axis.windows == 1 and not axis.before and not axis.after


def _of_blocks(nodes: Nodes, node: onnx.NodeProto, scope: Scope, axis: Axis, weights: Array, block: int) -> str:
    """The sums of one channel: windows are whole blocks of values, which windows have in common, and are rows of the matrix."""
    type_, count, steps = scope.type(node.input[0]), weights.shape[2] // block, axis.stride // block
    size, source = ((axis.windows - 1) * steps + count) * block, node.input[0]
    given = axis.before + (scope.shape(source) or ())[2] + axis.after
    if axis.before or axis.after:
        source = nodes("Pad", source, nodes.integers(0, 0, axis.before, 0, 0, axis.after), scope.add(np.zeros(()), type_))
    if size < given:  # the last values, which no window reaches
        source = nodes("Slice", source, nodes.integers(0), nodes.integers(size), nodes.integers(2))
    source = nodes.shaped(source, [size // block, block])
    parts = []
    for first in range(count):
        ends = nodes.integers(first + (axis.windows - 1) * steps + 1)
        parts.append(nodes("Slice", source, nodes.integers(first), ends, nodes.integers(0), nodes.integers(steps)))
    windows = nodes("Concat", *parts, axis=1) if count > 1 else parts[0]
    outputs = weights.shape[0]
    columns = row(outputs, weights.itemsize, weights.shape[2])
    kernel = np.pad(weights[:, 0].T, [(0, 0), (0, columns - outputs)])
    product = nodes("MatMul", windows, scope.add(np.ascontiguousarray(kernel), type_))
    product = nodes("Slice", product, nodes.integers(0), nodes.integers(outputs), nodes.integers(1))
    return nodes.shaped(nodes("Transpose", product, perm=[1, 0]), [1, outputs, axis.windows])


def _pays(windows: int, weights: Array) -> bool:
    """Whether several lines are faster as one product: where so few windows leave parts of vectors over, and much is summed up.

    Measured on AVX-512: 16 lines of 32 to 200 channels, length 21, window 5 take 0.19 instead of 0.27 ms; 64 of 8 to 8 channels
    would take 0.017 instead of 0.010.
    """
    odd = windows * weights.itemsize % VECTOR != 0 and windows <= _SHORT
    return odd and weights[0].size >= _DEEP and weights.shape[0] >= _WIDE


def _of_rows(nodes: Nodes, node: onnx.NodeProto, scope: Scope, axis: Axis, weights: Array) -> str:
    """The sums of several short lines, as one product: its rows are their windows. One for each would have too few columns."""
    type_, source, (outputs, channels), taps = scope.type(node.input[0]), node.input[0], weights.shape[:2], axis.kernel
    weights = weights.reshape(outputs, channels, taps)
    batch, _, *others, size = nodes.sizes(source)
    source = nodes.shaped(source, [batch, channels, size]) if others else source
    source = nodes("Transpose", source, perm=[0, 2, 1])
    if axis.before or axis.after:
        source = nodes("Pad", source, nodes.integers(0, axis.before, 0, 0, axis.after, 0), scope.add(np.zeros(()), type_))
    parts = []
    for tap in range(taps):
        first = tap * axis.dilation
        ends = nodes.integers(first + (axis.windows - 1) * axis.stride + 1)
        parts.append(nodes("Slice", source, nodes.integers(first), ends, nodes.integers(1), nodes.integers(axis.stride)))
    windows = nodes("Concat", *parts, axis=2) if taps > 1 else parts[0]
    windows = nodes("Reshape", windows, nodes.integers(-1, channels * taps))
    columns = row(outputs, weights.itemsize, channels * taps)
    kernel = np.pad(weights.transpose(2, 1, 0).reshape(channels * taps, outputs), [(0, 0), (0, columns - outputs)])
    product = nodes("MatMul", windows, scope.add(np.ascontiguousarray(kernel), type_))
    if columns > outputs:
        product = nodes("Slice", product, nodes.integers(0), nodes.integers(outputs), nodes.integers(1))
    product = nodes("Transpose", nodes.shaped(product, [batch, axis.windows, outputs]), perm=[0, 2, 1])
    return nodes.shaped(product, [batch, outputs, 1, axis.windows]) if others else product


def _of_taps(nodes: Nodes, node: onnx.NodeProto, scope: Scope, axis: Axis, weights: Array) -> str:
    """The sums, with a matrix whose rows are the values that one place of the windows meets."""
    type_, source, outputs = scope.type(node.input[0]), node.input[0], weights.shape[0]
    batch, channels, size = nodes.sizes(source)
    length, taps = windows_of(nodes, size, axis), weights.shape[2]
    made: Size = length
    if batch == 1 and isinstance(length, int):
        made = row(length, weights.itemsize, channels * taps if isinstance(channels, int) else taps)
        made = made if made <= _WASTE * length else length
    more = axis.stride * (made - length) if isinstance(made, int) and isinstance(length, int) else 0
    if axis.before or axis.after or more:
        pads = nodes.integers(0, 0, axis.before, 0, 0, axis.after + more)
        source = nodes("Pad", source, pads, scope.add(np.zeros(()), type_))
    axes, steps = nodes.integers(2), nodes.integers(axis.stride)
    parts = []
    for tap in range(taps):
        ends = nodes.listed([end_of(nodes, tap * axis.dilation, axis, made)])
        parts.append(nodes("Slice", source, nodes.integers(tap * axis.dilation), ends, axes, steps))
    windows = nodes("Concat", *parts, axis=1) if taps > 1 else parts[0]
    kernel = scope.add(np.ascontiguousarray(weights.transpose(0, 2, 1)).reshape(outputs, -1), type_)
    if batch != 1:
        return nodes("MatMul", kernel, windows)
    product = nodes("MatMul", kernel, nodes.shaped(windows, [weights.shape[1] * taps, made]))
    product = nodes.shaped(product, [1, outputs, made])
    return nodes("Slice", product, nodes.integers(0), nodes.listed([length]), axes) if more else product
