"""Scatters into an input: IREE 3.13 writes into the caller's array, and the next call with it gives something else.

Measured for ScatterElements and ScatterND, with and without a reduction, of an input as it is or in another shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.importers.rewrites.graph import Nodes, Scope, replaced

_SCATTERS = frozenset("Scatter ScatterElements ScatterND TensorScatter".split())
_VIEWS = frozenset("Flatten Identity Reshape Squeeze Unsqueeze".split())
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Scatter into a copy, made in a way that the compiler does not see to be one; None if there are no such nodes."""
    callers = {value.name for value in model.graph.input} - {weight.name for weight in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in _VIEWS and node.input[0] in callers:
            callers.add(node.output[0])

    def change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
        if node.op_type not in _SCATTERS or node.input[0] not in callers:
            return None
        nodes, source, shape = Nodes(node, scope), node.input[0], scope.shape(node.input[0])
        inner = onnx.NodeProto()
        inner.CopyFrom(node)
        if scope.type(source) in _FLOATS:
            inner.input[0] = nodes("Add", source, scope.add(np.array(0), scope.type(source)))
        elif shape:
            inner.input[0] = nodes("Gather", source, scope.add(np.arange(shape[0]), TensorProto.INT64), axis=0)
        else:
            return None
        return [*nodes, inner]

    return replaced(model, change)
