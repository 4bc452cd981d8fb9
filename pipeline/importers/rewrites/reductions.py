"""Reductions that IREE 3.13 refuses: over an empty list of axes, means of integers, and ScatterElements of a minimum or maximum.

Measured: an empty constant for the axes makes the compiler crash for some operators; it means all axes, or with
`noop_with_empty_axes` none. ScatterND has the minimum and maximum that ScatterElements has not.
"""

from __future__ import annotations

import math
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
    shape, result = scope.shape(node.input[0]), scope.shape(node.output[0])
    if shape is None or result is None or not math.prod(result):
        return None
    nodes, type_ = Nodes(node, scope), scope.type(node.input[0])
    # Before operator set 18 the axes of a mean are an attribute, those of a sum never.
    axes = list(node.input[1:]) or [scope.add(np.array(given), TensorProto.INT64) for given in [attribute(node, "axes")] if given]
    total = nodes("ReduceSum", node.input[0], *axes)
    nodes[-1].attribute.extend(a for a in node.attribute if a.name != "axes")
    count = scope.add(np.array(math.prod(shape) // math.prod(result)), type_)
    nodes("Div", total, count, result=node.output[0])
    return nodes


def _scattered(node: onnx.NodeProto, scope: Scope) -> Nodes | None:
    data, indices, updates = node.input
    sizes, places = scope.shape(data), scope.shape(indices)
    if sizes is None or places is None:
        return None
    nodes, axis = Nodes(node, scope), (attribute(node, "axis") or 0) % len(sizes)
    indices = nodes("Cast", indices, to=TensorProto.INT64)
    size, zero = (scope.add(np.array(n), TensorProto.INT64) for n in (sizes[axis], 0))
    indices = nodes("Where", nodes("Less", indices, zero), nodes("Add", indices, size), indices)
    last = scope.add(np.array([-1]), TensorProto.INT64)
    grid = [scope.add(np.indices(places)[i][..., None], TensorProto.INT64) for i in range(len(sizes))]
    grid[axis] = nodes("Unsqueeze", indices, last)
    where = nodes("Concat", *grid, axis=-1)
    nodes("ScatterND", data, where, updates, result=node.output[0], reduction=attribute(node, "reduction").decode())
    return nodes


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """The same without such forms; None if there are none."""
    return replaced(model, _change)
