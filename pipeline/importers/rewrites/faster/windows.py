"""Where windows lie on an axis whose size may be open."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import TensorProto

from pipeline.importers.rewrites.graph import Nodes, Size, attribute
from pipeline.importers.rewrites.pools import Axis

TYPES = (TensorProto.FLOAT, TensorProto.DOUBLE)  # sums of less would be rounded on the way
OF_ONE_SUM = (*TYPES, TensorProto.FLOAT16)  # one product or convolution IREE sums up in float32


def are_known(node: onnx.NodeProto, sizes: Sequence[int | None]) -> bool:
    """Whether the places around the values do not depend on a size that is open."""
    same = (attribute(node, "auto_pad") or b"NOTSET").startswith(b"SAME")
    return None not in sizes or not same or max(attribute(node, "strides") or [1]) == 1


def windows_of(nodes: Nodes, size: Size, axis: Axis) -> Size:
    """How many windows there are on an axis of this size; `axis` has all else."""
    if isinstance(size, int):
        return axis.windows
    more = axis.before + axis.after - (axis.kernel - 1) * axis.dilation - 1
    room = nodes.reckoned("Add", size, more) if more >= 0 else nodes.reckoned("Sub", size, -more)
    return nodes.reckoned("Add", nodes.reckoned("Div", room, axis.stride) if axis.stride > 1 else room, 1)


def end_of(nodes: Nodes, first: int, axis: Axis, windows: Size) -> Size:
    """Behind the last place that the windows have in common, the `first` one of the first window."""
    if axis.stride == 1:
        return nodes.reckoned("Add", windows, first)
    last = nodes.reckoned("Mul", nodes.reckoned("Sub", windows, 1), axis.stride)
    return nodes.reckoned("Add", last, first + 1)
