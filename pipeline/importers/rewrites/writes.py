"""Scatters into an input: IREE 3.13 writes into the caller's array, and the next call with it gives something else.

Measured for ScatterElements and ScatterND, with and without a reduction, of an input as it is or in another shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from pipeline.importers.functions import opset_of
from pipeline.importers.rewrites.copies import computed
from pipeline.importers.rewrites.graph import Nodes, Scope, replaced

_SCATTERS = frozenset("Scatter ScatterElements ScatterND TensorScatter".split())
_VIEWS = frozenset("Flatten Identity Reshape Squeeze Unsqueeze".split())


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Scatter into a copy; None if there are no such nodes."""
    opset = opset_of(model)
    callers = {value.name for value in model.graph.input} - {weight.name for weight in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in _VIEWS and node.input[0] in callers:
            callers.add(node.output[0])

    def change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
        if node.op_type not in _SCATTERS or node.input[0] not in callers:
            return None
        source = node.input[0]
        inner = onnx.NodeProto()
        inner.CopyFrom(node)
        inner.input[0] = scope.fresh(source)
        nodes = computed(Nodes(node, scope), scope, source, inner.input[0], opset)
        return [*nodes, inner]

    return replaced(model, change)
