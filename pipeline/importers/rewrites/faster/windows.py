"""Where windows lie on an axis whose size may be open."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx
from onnx import TensorProto

from pipeline.importers.rewrites.graph import Nodes, Size, attribute
from pipeline.importers.rewrites.pools import Axis

TYPES = (TensorProto.FLOAT, TensorProto.DOUBLE)  # sums of less would be rounded on the way
OF_ONE_SUM = (*TYPES, TensorProto.FLOAT16)  # one product or convolution IREE sums up in float32

VECTOR, _PAGE, _SMALL = 64, 4096, 1 << 17  # bytes
# How much longer a product takes by how many lines of a cache the distance of two rows has in common with a page.
_COMMON = {1: 1.0, 2: 1.0, 4: 1.03, 8: 1.15, 16: 1.4, 32: 2.0, 64: 3.0}


def cost_of_row(size: int, itemsize: int, rows: int) -> float:
    """What a product with a matrix of so many rows of this size costs, against others; infinite if they are no whole vectors.

    Where rows lie pages apart, they compete for the same places of the caches. Measured on AVX2: 64 × 576 and 576 × 1024 values
    take 2.0 ms, with 1056 0.9 ms.
    """
    if size * itemsize % VECTOR:
        return math.inf
    common = math.gcd(size * itemsize, _PAGE) // VECTOR
    return size * (_COMMON[common] if size * itemsize * rows > _SMALL else 1.0)


def row(size: int, itemsize: int, rows: int, most: int | None = None) -> int:
    """The best row of at least this size, and at `most` of that."""
    end = size + 8 * VECTOR // itemsize if most is None else min(most + 1, size + 8 * VECTOR // itemsize)
    return min(range(size, end), key=lambda n: cost_of_row(n, itemsize, rows), default=size)


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
