"""Sorting a model's input: IREE 3.13 sorts it where it lies, in the caller's memory.

Measured: after TopK of an input, the caller's array is sorted, and the next call with it gives other indices.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.importers.rewrites.graph import Nodes, Scope, replaced

_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Sort a copy: what is computed from the input, and the compiler does not see that it is the same. None without such."""
    inputs = {value.name for value in model.graph.input}

    def change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
        if node.op_type != "TopK" or node.input[0] not in inputs or scope.type(node.input[0]) not in _FLOATS:
            return None
        nodes = Nodes(node, scope)
        zero = scope.add(np.array(0), scope.type(node.input[0]))
        inner = onnx.NodeProto()
        inner.CopyFrom(node)
        inner.input[0] = nodes("Add", node.input[0], zero)
        return [*nodes, inner]

    return replaced(model, change)
