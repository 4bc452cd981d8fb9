"""Models that only move values, such as a Reshape or a Split: IREE 3.13 makes no kernel of them, so nothing could be verified.

A Gather of all values in their order is one, and moves each as it is, whatever its type; for float32 it is a sum with zero, as
Gathers of few of these do not compile for all of Vulkan. Measured: Identity, Reshape, Squeeze,
Flatten, Split, Slice, Concat, a Dropout that does not train, and Max, Min, Sum and Mean of one value alone leave no kernel.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.importers import decisions
from pipeline.importers.rewrites.graph import Nodes, Scope, inferred

_MOVING = frozenset(
    """Cast CastLike Concat ConcatFromSequence Constant ConstantOfShape Dropout Expand Flatten Gather Identity Optional
    OptionalGetElement Reshape SequenceAt SequenceConstruct SequenceInsert Shape Size Slice Split SplitToSequence Squeeze
    Transpose Unsqueeze""".split()
)
_OF_ONE = frozenset("Max Mean Min Sum".split())


def _moves(node: onnx.NodeProto) -> bool:
    return node.op_type in _MOVING or (node.op_type in _OF_ONE and len(node.input) == 1)


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Compute what depends on inputs at the end of a model of nothing but such nodes; None for any other."""
    if not all(map(_moves, decisions.nodes(model.graph))):
        return None
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph, scope = copy.graph, Scope(copy.graph)
    alive = decisions.alive(graph)
    for output in [o for o in graph.output if o.name in alive]:
        shape = scope.shape(output.name)
        maker = next((node for node in graph.node if output.name in node.output), None)
        if not shape or maker is None or 0 in shape:
            continue
        moved = scope.fresh(output.name)
        for node in graph.node:
            node.input[:] = [moved if name == output.name else name for name in node.input]
            node.output[:] = [moved if name == output.name else name for name in node.output]
        graph.node.extend(_computed(Nodes(maker, scope), scope, moved, output.name, shape))
    if len(graph.node) == len(model.graph.node):
        return None
    graph.initializer.extend(scope.added)
    return inferred(copy)


def _computed(nodes: Nodes, scope: Scope, source: str, result: str, shape: tuple[int, ...]) -> Nodes:
    if scope.type(result) == TensorProto.FLOAT:
        nodes("Add", source, scope.add(np.array(0), TensorProto.FLOAT), result=result)
        return nodes
    flat = nodes("Reshape", source, scope.add(np.array([-1]), TensorProto.INT64))
    same = nodes("Gather", flat, scope.add(np.arange(math.prod(shape)), TensorProto.INT64))
    nodes("Reshape", same, scope.add(np.array(shape), TensorProto.INT64), result=result)
    return nodes
