"""Products with vectors and choices by vectors that IREE 3.13 refuses.

Measured: MatMul of a stack of matrices and one vector, in either order; Compress, with or without an axis ("cast incompatible").
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.importers.rewrites.graph import Nodes, Scope, attribute, replaced


def _change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    if node.op_type == "MatMul":
        return _product(node, scope)
    if node.op_type == "Compress":
        return _chosen(node, scope)
    return None


def _product(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    a, b = (scope.rank(name) for name in node.input)
    if a is None or b is None or 1 not in (a, b) or max(a, b) < 3:
        return None
    nodes, (left, right) = Nodes(node, scope), node.input
    axis = scope.add(np.array([-2 if a == 1 else -1]), TensorProto.INT64)
    left = nodes("Unsqueeze", left, scope.add(np.array([0]), TensorProto.INT64)) if a == 1 else left
    right = nodes("Unsqueeze", right, scope.add(np.array([1]), TensorProto.INT64)) if b == 1 else right
    nodes("Squeeze", nodes("MatMul", left, right), axis, result=node.output[0])
    return nodes


def _chosen(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    """The values whose places a condition has: constant ones, or those that NonZero finds."""
    nodes, axis = Nodes(node, scope), attribute(node, "axis")
    values, condition = node.input
    if axis is None:
        values = nodes("Reshape", values, scope.add(np.array([-1]), TensorProto.INT64))
    constant = scope.constant(condition)
    if constant is not None:
        places = scope.add(np.flatnonzero(constant), TensorProto.INT32)
    else:
        places = nodes("Squeeze", nodes("NonZero", condition), scope.add(np.array([0]), TensorProto.INT64))
    nodes("Gather", values, places, result=node.output[0], axis=axis or 0)
    return nodes


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Make vectors matrices, and gather; None if there are no such nodes."""
    return replaced(model, _change)
