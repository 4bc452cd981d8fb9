"""Normalizations that IREE 3.13 gets wrong or refuses where dimensions are open: by means, and by sums of slices.

Measured: InstanceNormalization is not a number, or wrong, where batch, channels or space are open, and right where all are
fixed; LRN is refused where any is open.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.importers.functions import opset_of
from pipeline.importers.rewrites.graph import Nodes, Scope, attribute, replaced


def _instance(node: onnx.NodeProto, scope: Scope, rank: int, opset: int) -> Nodes:
    nodes, (x, scale, bias), type_ = Nodes(node, scope), node.input, scope.type(node.input[0])
    narrow = type_ in (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    wide = TensorProto.FLOAT if narrow else type_

    def mean(value: str) -> str:
        space = [*range(2, rank)]
        if opset < 18:
            return nodes("ReduceMean", value, axes=space, keepdims=1)
        return nodes("ReduceMean", value, nodes.integers(*space), keepdims=1)

    x, scale, bias = (nodes("Cast", name, to=wide) if narrow else name for name in (x, scale, bias))
    epsilon = attribute(node, "epsilon")
    distance = nodes("Sub", x, mean(x))
    spread = nodes("Add", mean(nodes("Mul", distance, distance)), scope.add(np.array(1e-5 if epsilon is None else epsilon), wide))
    column = nodes.integers(*range(1, rank - 1))
    by, more = (nodes("Unsqueeze", name, column) for name in (scale, bias))
    result = nodes("Add", nodes("Mul", nodes("Div", distance, nodes("Sqrt", spread)), by), more)
    nodes("Cast", result, result=node.output[0], to=type_)
    return nodes


def _across_channels(node: onnx.NodeProto, scope: Scope, rank: int) -> Nodes:
    nodes, x, type_ = Nodes(node, scope), node.input[0], scope.type(node.input[0])
    size = attribute(node, "size")
    alpha, beta, bias = (attribute(node, name) for name in ("alpha", "beta", "bias"))
    before = (size - 1) // 2
    pads = [0, before, *[0] * (rank - 2), 0, size - 1 - before, *[0] * (rank - 2)]
    squares = nodes("Pad", nodes("Mul", x, x), nodes.integers(*pads), scope.add(np.array(0), type_))
    total = ""
    for start in range(size):
        end = start - size + 1 or np.iinfo(np.int64).max
        part = nodes("Slice", squares, *(nodes.integers(n) for n in (start, end, 1)))
        total = nodes("Add", total, part) if total else part
    scaled = nodes("Mul", total, scope.add(np.array((1e-4 if alpha is None else alpha) / size), type_))
    base = nodes("Add", scaled, scope.add(np.array(1.0 if bias is None else bias), type_))
    power = nodes("Pow", base, scope.add(np.array(0.75 if beta is None else beta), type_))
    nodes("Div", x, power, result=node.output[0])
    return nodes


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Put means and sums in their places where dimensions are open; None if there are none of these."""
    opset = opset_of(model)

    def change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
        if node.op_type not in ("InstanceNormalization", "LRN") or scope.shape(node.input[0]) is not None:
            return None
        if (rank := scope.rank(node.input[0])) is None or rank < 3:
            return None
        return (
            _instance(node, scope, rank, opset)
            if node.op_type == "InstanceNormalization"
            else _across_channels(node, scope, rank)
        )

    return replaced(model, change)
