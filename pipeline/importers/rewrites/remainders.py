"""Convolutions and pools of a single window that leaves places over: without those places, which IREE 3.13 refuses.

A stride that does not fit leaves places behind the last window. Where an axis has one window only, IREE takes what it reads for
the whole axis ("inferred input/output operand #1 has shape's dimension #2 to be 4, but found 3"). Measured in one to three
dimensions, with padding and without, for Conv of any groups, ConvInteger and all pools; two windows are right.

A pool gets less padding, and fewer values where that is not enough. A convolution gets the values and weights alone that meet:
then it needs no padding, and ConvInteger with more of it before than behind is refused too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.importers.rewrites.graph import Nodes, Scope, attribute, replaced
from pipeline.importers.rewrites.pools import Axis, axes_of

_CONVOLUTIONS = ("Conv", "ConvInteger")
_POOLS = ("MaxPool", "AveragePool", "LpPool")


def _has_remainder(axis: Axis) -> bool:
    return axis.windows == 1 and axis.beyond < axis.after


def _meeting(axis: Axis) -> tuple[range, range]:
    """The weights of the only window that lie on values, and those values."""
    first = -(-axis.before // axis.dilation)
    last = min(axis.kernel - 1, (axis.size - 1 + axis.before) // axis.dilation)
    return range(first, last + 1), range(first * axis.dilation - axis.before, last * axis.dilation - axis.before + 1)


def _cut(nodes: Nodes, scope: Scope, source: str, kept: Sequence[range], sizes: Sequence[int]) -> str:
    """`source`, of these sizes in space, without what is not kept there."""
    if [(part.start, part.stop) for part in kept] == [(0, size) for size in sizes]:
        return source
    numbers = [[part.start for part in kept], [part.stop for part in kept], range(2, 2 + len(kept))]
    result: str = nodes("Slice", source, *(scope.add(np.array(n), TensorProto.INT64) for n in numbers))
    return result


def _convolution(node: onnx.NodeProto, scope: Scope, axes: Sequence[Axis]) -> Nodes | None:
    whole = [(range(axis.kernel), range(axis.size)) for axis in axes]
    met = [_meeting(axis) if _has_remainder(axis) else all_ for axis, all_ in zip(axes, whole, strict=True)]
    weights, values = ([pair[which] for pair in met] for which in (0, 1))
    if not all(weights):
        return None  # the window lies in the padding
    nodes, (x, w) = Nodes(node, scope), node.input[:2]
    x = _cut(nodes, scope, x, values, [axis.size for axis in axes])
    w = _cut(nodes, scope, w, weights, [axis.kernel for axis in axes])
    pads = [0 if _has_remainder(axis) else n for side in ("before", "after") for axis in axes for n in [getattr(axis, side)]]
    nodes(node.op_type, x, w, *node.input[2:], result=node.output[0], pads=pads)
    nodes[-1].attribute.extend(a for a in node.attribute if a.name not in ("pads", "auto_pad", "kernel_shape"))
    return nodes


def _pool(node: onnx.NodeProto, scope: Scope, axes: Sequence[Axis]) -> Nodes:
    nodes, beyond = Nodes(node, scope), [axis.beyond if _has_remainder(axis) else axis.after for axis in axes]
    kept = [range(axis.size + min(n, 0)) for axis, n in zip(axes, beyond, strict=True)]
    x = _cut(nodes, scope, node.input[0], kept, [axis.size for axis in axes])
    pads = [*(axis.before for axis in axes), *(max(n, 0) for n in beyond)]
    nodes(node.op_type, x, result=node.output[0], pads=pads)
    nodes[-1].attribute.extend(a for a in node.attribute if a.name not in ("pads", "auto_pad"))
    return nodes


def _change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    is_pool = node.op_type in _POOLS
    if not (is_pool or node.op_type in _CONVOLUTIONS) or any(node.output[1:]):
        return None  # the places of maxima are numbered in the whole tensor
    shape = scope.shape(node.input[0])
    kernel = (1, 1, *(attribute(node, "kernel_shape") or ())) if is_pool else scope.shape(node.input[1])
    if shape is None or kernel is None or len(shape) != len(kernel):
        return None
    axes = axes_of(node, shape[2:], kernel[2:])
    if not any(map(_has_remainder, axes)):
        return None
    return _pool(node, scope, axes) if is_pool else _convolution(node, scope, axes)


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Such windows without what they leave over; None if there are none."""
    return replaced(model, _change)
