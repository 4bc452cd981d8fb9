"""Convolutions and products of integers of 8 bits with constant weights, as those of float32, exactly: no sum reaches 2^24.

IREE 3.13 computes them value by value, products in int64. What is summed up are products of whole numbers, and float32 has each
of them up to 2^24, so any order of the sums gives the very same. How large sums can be, the weights tell; where that is more,
what is summed up is parted. Weights of convolutions become float32. Those of products, which are larger and read less often, stay
as they are and are widened as they are read. ddddocr's product of 20 × 1024 by 1024 × 8210 took 95 of the model's 115 ms.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.arrays import Array
from pipeline.importers.rewrites.graph import Nodes, Scope, attribute

_EXACT = 1 << 24  # float32 has all integers up to it
_RANGE = 255  # how far a number of 8 bits can be from its zero point
_PARTS = 4  # of what is summed up, at most


def change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    """The nodes for a ConvInteger or MatMulInteger whose weights are known."""
    if node.op_type not in ("ConvInteger", "MatMulInteger"):
        return None
    x, w, x_zero, w_zero = (*node.input, "", "")[:4]
    weights, zero = scope.constant(w), scope.constant(w_zero) if w_zero else np.zeros(())
    if weights is None or zero is None or (x_zero and scope.shape(x_zero) not in ((), (1,))):
        return None
    convolves = node.op_type == "ConvInteger"
    if not convolves and (weights.ndim != 2 or zero.ndim > 1):
        return None
    zero = zero.astype(np.int64).reshape(-1, *[1] * (weights.ndim - 1)) if convolves else zero.astype(np.int64)
    values = weights.astype(np.int64) - zero
    # By output, and by channel or row of the weights.
    parts = _parts(np.abs(values).reshape(*values.shape[:2], -1).sum(axis=2) if convolves else np.abs(values).T)
    if not parts or (len(parts) > 1 and (attribute(node, "group") or 1) != 1):
        return None
    nodes = Nodes(node, scope)
    source = nodes("Cast", x, to=TensorProto.FLOAT)
    if x_zero:
        source = nodes("Sub", source, nodes("Cast", x_zero, to=TensorProto.FLOAT))
    sums = []
    for first, last in parts:
        given = source
        if len(parts) > 1:
            given = nodes("Slice", source, *(nodes.integers(n) for n in (first, last, 1 if convolves else -1)))
        if convolves:
            made = nodes("Conv", given, scope.add(values[:, first:last], TensorProto.FLOAT))
            nodes[-1].attribute.extend(node.attribute)
        else:
            made = nodes("MatMul", given, _widened(nodes, scope, weights[first:last], scope.type(w), zero))
        sums.append(made)
    wholes = [nodes("Cast", one, to=TensorProto.INT32, result=node.output[0] if len(sums) == 1 else "") for one in sums]
    for number, whole in enumerate(wholes[1:], 2):  # of whole numbers, for of all of them float32 might not have the sum
        wholes[0] = nodes("Add", wholes[0], whole, result=node.output[0] if number == len(wholes) else "")
    return nodes


def _widened(nodes: Nodes, scope: Scope, weights: Array, type_: int, zero: Array) -> str:
    """The weights of a product in float32, less their zero point."""
    found = nodes("Cast", scope.add(weights, type_), to=TensorProto.FLOAT)
    return nodes("Sub", found, scope.add(zero, TensorProto.FLOAT)) if zero.any() else found


def _parts(sizes: Array) -> list[tuple[int, int]]:
    """The ranges of what is summed up, of `sizes` by output, whose sums are exact; none where there would be too many."""
    parts, first, sums = list[tuple[int, int]](), 0, np.zeros(len(sizes), np.int64)
    for place, column in enumerate(sizes.T * _RANGE):
        if column.max() > _EXACT:
            return []
        sums = sums + column
        if sums.max() > _EXACT:
            parts.append((first, place))
            first, sums = place, column
    parts.append((first, sizes.shape[1]))
    return parts if len(parts) <= _PARTS else []
