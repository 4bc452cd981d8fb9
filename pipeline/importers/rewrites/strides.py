"""Convolutions and pools of a single window that leaves values over: without those.

Measured in one to three dimensions, with groups or none: where an axis has one window of more than one value, without dilation,
that does not reach the end, IREE 3.13 refuses the node ("inferred input/output operand #1 has shape's dimension …"). With more
windows or dilation, or if the window reaches the end, values that are left over do no harm, whatever pads and `auto_pad` are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from pipeline.importers.rewrites.graph import Nodes, Scope, attribute, replaced
from pipeline.importers.rewrites.pools import Axis, axes_of

_WEIGHTS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
_POOLS = frozenset(["AveragePool", "LpPool", "MaxPool"])
_ABOUT_PADS = frozenset(["auto_pad", "pads"])


def _axes(node: onnx.NodeProto, scope: Scope) -> list[Axis] | None:
    """How the windows of a node lie; None if it has none, or it is not known."""
    shape = scope.shape(node.input[0]) if node.input else None
    if shape is None:
        return None
    if node.op_type in _POOLS:
        places = len(node.output) > 1 and bool(node.output[1])  # are counted in the whole tensor
        return None if places or attribute(node, "ceil_mode") else axes_of(node, shape[2:])
    kernel = scope.shape(node.input[_WEIGHTS[node.op_type]]) if node.op_type in _WEIGHTS else None
    if kernel is None:
        return None
    sized = helper.make_node(node.op_type, [], [], kernel_shape=kernel[2:])
    sized.attribute.extend(a for a in node.attribute if a.name != "kernel_shape")
    return axes_of(sized, shape[2:])


def _is_short(axis: Axis) -> bool:
    return axis.windows == 1 and axis.kernel > 1 and axis.dilation == 1 and axis.beyond < axis.after


def _change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    axes = _axes(node, scope)
    if axes is None or not any(map(_is_short, axes)) or any(axis.size + axis.beyond < 1 for axis in axes):
        return None
    nodes, source = Nodes(node, scope), node.input[0]
    behind = [axis.beyond if _is_short(axis) else axis.after for axis in axes]
    if any(n < 0 for n in behind):
        ends = [axis.size + min(n, 0) for axis, n in zip(axes, behind, strict=True)]
        starts, places = [0] * len(axes), range(2, 2 + len(axes))
        source = nodes("Slice", source, *(scope.add(np.array(n), TensorProto.INT64) for n in (starts, ends, places)))
    pads = [*(axis.before for axis in axes), *(max(n, 0) for n in behind)]
    nodes(node.op_type, source, *node.input[1:], result=node.output[0], pads=pads)
    nodes[-1].attribute.extend(a for a in node.attribute if a.name not in _ABOUT_PADS)
    return nodes


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Cut off what no window reaches; None if there are no such nodes."""
    return replaced(model, _change)
