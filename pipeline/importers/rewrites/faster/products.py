"""Products of few rows with constant weights, whose values are read in their order and in whole vectors.

Of one row to five the code for CPUs takes many columns at a time: weights that lie as [N, K] are turned around, and widened with
zeros to whole vectors. 1 × 1024 × 1024 takes 0.06 instead of 0.20 ms as [N, K]. Of six to sixteen rows it reads a value of each
row in turn by columns, and products with [N, K] are made of them: 16 × 1024 × 1024 takes 0.6 instead of 1.1 ms. From some 32 rows
on, and for small weights, there is no difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from pipeline.arrays import Array
from pipeline.importers.rewrites.graph import Nodes, Scope, attribute

_MOST_ROWS = 16
_BY_COLUMNS = 5  # rows, at most
_VECTORS = (64, 32, 16)  # columns
_WASTE = 1.1
_FEWEST = 1 << 14  # weights


def change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    """The nodes for a MatMul or Gemm of that kind."""
    if node.op_type not in ("MatMul", "Gemm") or scope.type(node.input[0]) != onnx.TensorProto.FLOAT:
        return None
    left, shape = scope.shape(node.input[0]), scope.shape(node.input[1])
    if left is None or shape is None or len(shape) != 2 or not left or math.prod(shape) < _FEWEST:
        return None
    rows = math.prod(left[:-1])
    if not 0 < rows <= _MOST_ROWS or attribute(node, "transA"):
        return None
    weights = scope.constant(node.input[1])
    if weights is None:
        return None
    if rows > _BY_COLUMNS:
        return None if attribute(node, "transB") else _by_rows(node, scope, weights, rows)
    return _by_columns(node, scope, weights, rows)


def _by_rows(node: onnx.NodeProto, scope: Scope, weights: Array, rows: int) -> Nodes:
    """The product with [N, K]."""
    nodes, turned = Nodes(node, scope), scope.add(np.ascontiguousarray(weights.T), onnx.TensorProto.FLOAT)
    if node.op_type == "Gemm":
        nodes("Gemm", node.input[0], turned, *node.input[2:], result=node.output[0], **_factors(node), transB=1)
        return nodes
    left = scope.shape(node.input[0]) or ()
    if len(left) == 2:
        nodes("Gemm", node.input[0], turned, result=node.output[0], transB=1)
        return nodes
    flat = nodes.shaped(node.input[0], [rows, left[-1]])
    nodes.shaped(nodes("Gemm", flat, turned, transB=1), [*left[:-1], weights.shape[1]], result=node.output[0])
    return nodes


def _by_columns(node: onnx.NodeProto, scope: Scope, weights: Array, rows: int) -> Nodes | None:
    """The product with [K, N] of whole vectors."""
    nodes, left = Nodes(node, scope), scope.shape(node.input[0]) or ()
    given = weights.T if (turned := bool(attribute(node, "transB"))) else weights
    inner, columns = given.shape
    wide = next((n for v in _VECTORS if (n := -(-columns // v) * v) <= _WASTE * columns), columns)
    bias = scope.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if wide > columns and len(node.input) > 2 and node.input[2] and (bias is None or bias.shape[-1:] != (columns,)):
        wide = columns
    if wide == columns and not turned and len(left) == 2:
        return None
    more = [(0, wide - columns)]
    kept = scope.add(np.ascontiguousarray(np.pad(given, [(0, 0), *more])), onnx.TensorProto.FLOAT)
    flat = node.input[0] if len(left) == 2 else nodes.shaped(node.input[0], [rows, inner])
    if node.op_type == "Gemm":
        rest = list(node.input[2:])
        if bias is not None and wide > columns:
            rest = [scope.add(np.pad(bias, [(0, 0)] * (bias.ndim - 1) + more), onnx.TensorProto.FLOAT)]
        found = nodes("Gemm", flat, kept, *rest, **_factors(node))
    else:
        found = nodes("MatMul", flat, kept)
    if wide > columns:
        found = nodes("Slice", found, nodes.integers(0), nodes.integers(columns), nodes.integers(1))
    nodes.shaped(found, [*left[:-1], columns], result=node.output[0])
    return nodes


def _factors(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: a.f for a in node.attribute if a.name in ("alpha", "beta")}
