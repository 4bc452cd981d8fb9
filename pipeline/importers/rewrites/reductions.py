"""Reductions that IREE 3.13 refuses: over an empty list of axes, means of integers, and ScatterElements of a minimum or maximum.

Measured: an empty constant for the axes makes the compiler crash for some operators; it means all axes, or with
`noop_with_empty_axes` none. ScatterND has the minimum and maximum that ScatterElements has not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.importers.rewrites.graph import Nodes, Scope, attribute, replaced

_INTEGERS = (TensorProto.INT32, TensorProto.INT64)
# What is left of a reduction of single values.
_SINGLE = {"ReduceL1": "Abs", "ReduceL2": "Abs", "ReduceLogSum": "Log"}


def _change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    if node.op_type == "ScatterElements" and attribute(node, "reduction") in (b"min", b"max"):
        return _scattered(node, scope)
    if not node.op_type.startswith("Reduce"):
        return None
    axes = scope.constant(node.input[1]) if len(node.input) > 1 and node.input[1] else None
    if axes is not None and not axes.size:
        return _of_nothing(node, scope)
    if node.op_type == "ReduceMean" and scope.type(node.input[0]) in _INTEGERS:
        return _integer_mean(node, scope)
    return None


def _of_nothing(node: onnx.NodeProto, scope: Scope) -> Nodes:
    nodes, x = Nodes(node, scope), node.input[0]
    if not attribute(node, "noop_with_empty_axes"):
        nodes(node.op_type, x, result=node.output[0])
        nodes[-1].attribute.extend(node.attribute)
    elif node.op_type == "ReduceSumSquare":
        nodes("Mul", x, x, result=node.output[0])
    else:
        nodes(_SINGLE.get(node.op_type, "Identity"), x, result=node.output[0])
    return nodes


def _integer_mean(node: onnx.NodeProto, scope: Scope) -> Nodes | None:
    sizes, rank, type_ = scope.sizes(node.input[0]), scope.rank(node.input[0]), scope.type(node.input[0])
    said = scope.constant(node.input[1]) if len(node.input) > 1 and node.input[1] else attribute(node, "axes")
    if sizes is None or not rank or 0 in sizes or (said is None and len(node.input) > 1 and node.input[1]):
        return None
    nodes = Nodes(node, scope)
    reduced = [nodes.sizes(node.input[0])[int(axis)] for axis in (range(rank) if said is None else said)]
    # Before operator set 18 the axes of a mean are an attribute, those of a sum never.
    axes = list(node.input[1:]) or [scope.add(np.array(given), TensorProto.INT64) for given in [attribute(node, "axes")] if given]
    total = nodes("ReduceSum", node.input[0], *axes)
    nodes[-1].attribute.extend(a for a in node.attribute if a.name != "axes")
    count = nodes.product(reduced)
    divisor = nodes("Cast", count, to=type_) if isinstance(count, str) else scope.add(np.array(count), type_)
    nodes("Div", total, divisor, result=node.output[0])
    return nodes


def _scattered(node: onnx.NodeProto, scope: Scope) -> Nodes | None:
    data, indices, updates = node.input
    rank = scope.rank(data)
    if not rank or scope.rank(indices) != rank:
        return None
    nodes, axis = Nodes(node, scope), (attribute(node, "axis") or 0) % rank
    sizes, places = nodes.sizes(data), nodes.sizes(indices)
    indices = nodes("Cast", indices, to=TensorProto.INT64)
    size = nodes.listed([sizes[axis]])
    negative = nodes("Less", indices, scope.add(np.array(0), TensorProto.INT64))
    indices = nodes("Where", negative, nodes("Add", indices, size), indices)
    whole, grid = nodes.listed([*places, 1]), []
    for i, count in enumerate(places):
        line = nodes.shaped(nodes.counted(count, TensorProto.INT64), [count if a == i else 1 for a in range(rank + 1)])
        grid.append(nodes("Expand", line, whole))
    grid[axis] = nodes("Unsqueeze", indices, nodes.integers(-1))
    where = nodes("Concat", *grid, axis=-1)
    nodes("ScatterND", data, where, updates, result=node.output[0], reduction=attribute(node, "reduction").decode())
    return nodes


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """The same without such forms; None if there are none."""
    return replaced(model, _change)
