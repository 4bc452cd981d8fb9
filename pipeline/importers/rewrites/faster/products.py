"""Products of few rows with constant weights [K, N]: as products with [N, K], whose values are read in their order.

By columns, IREE 3.13 reads a value of each row in turn: a product 1 × 1024 × 1024 takes 0.15 instead of 1.0 ms, of 16 rows 0.6
instead of 1.1; from some 32 rows on, and for small weights, there is no difference.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from pipeline.importers.rewrites.graph import Nodes, Scope, attribute

_MOST_ROWS = 16
_FEWEST = 1 << 14  # weights


def change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    """The nodes for a MatMul or Gemm of that kind."""
    if node.op_type not in ("MatMul", "Gemm"):
        return None
    left, shape = scope.shape(node.input[0]), scope.shape(node.input[1])
    if left is None or shape is None or len(shape) != 2 or not left or int(np.prod(shape)) < _FEWEST:
        return None
    rows = int(np.prod(left[:-1]))
    if not 0 < rows <= _MOST_ROWS or attribute(node, "transA") or attribute(node, "transB"):
        return None
    if scope.type(node.input[0]) != onnx.TensorProto.FLOAT:
        return None
    weights = scope.constant(node.input[1])
    if weights is None:
        return None
    nodes, turned = Nodes(node, scope), scope.add(np.ascontiguousarray(weights.T), scope.type(node.input[1]))
    if node.op_type == "Gemm":
        nodes("Gemm", node.input[0], turned, *node.input[2:], result=node.output[0])
        nodes[-1].attribute.extend(a for a in node.attribute if a.name in ("alpha", "beta"))
        nodes[-1].attribute.append(onnx.helper.make_attribute("transB", 1))
        return nodes
    if len(left) == 2:
        nodes("Gemm", node.input[0], turned, result=node.output[0], transB=1)
        return nodes
    flat = nodes.shaped(node.input[0], [rows, left[-1]])
    nodes.shaped(nodes("Gemm", flat, turned, transB=1), [*left[:-1], shape[1]], result=node.output[0])
    return nodes
