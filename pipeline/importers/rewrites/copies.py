"""Models that only move values, such as a Reshape or a Split: IREE 3.13 makes no kernel of them, so nothing could be verified.

Floats get zero added, by which -0 becomes 0. Integers are the larger of twice the same, which the compiler does not see through;
a Gather of all would need an index for each, which does not compile for all of Vulkan. Measured: Identity, Reshape, Squeeze,
Flatten, Split, Slice, Concat, a Dropout that does not train, pools of windows of one value, and Max, Min, Sum and Mean of one
alone leave no kernel.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.importers import decisions
from pipeline.importers.functions import opset_of
from pipeline.importers.rewrites.graph import Nodes, Scope, attribute, inferred

_MOVING = frozenset(
    """Concat ConcatFromSequence Constant ConstantOfShape Dropout Flatten Identity Optional OptionalGetElement Reshape SequenceAt
    SequenceConstruct SequenceInsert Shape Size Slice Split SplitToSequence Squeeze Unsqueeze""".split()
)
_WIDER = {
    **dict.fromkeys((getattr(TensorProto, n) for n in "BOOL INT8 UINT8 INT16 UINT16 INT32 UINT32".split()), TensorProto.INT32),
    **dict.fromkeys((TensorProto.INT64, TensorProto.UINT64), TensorProto.INT64),
}
_KEEPING = frozenset(["Expand", "Transpose"])  # where they keep the order of values
_POOLS = frozenset("AveragePool MaxPool".split())
_OF_ONE = frozenset("Max Mean Min Sum".split())


def _moves(node: onnx.NodeProto, scope: Scope) -> bool:
    if node.op_type in _KEEPING:
        before, after = (scope.sizes(name) for name in (node.input[0], node.output[0]))
        if before is None or after is None:
            return False
        order = attribute(node, "perm") or range(len(before))[::-1] if node.op_type == "Transpose" else range(len(before))
        kept = [axis for axis in order if before[axis] != 1]
        known = [math.prod(n for n in sizes if n is not None) for sizes in (before, after)]
        return kept == sorted(kept) and known[0] == known[1] and before.count(None) == after.count(None)
    of_one = node.op_type in _OF_ONE and len(node.input) == 1
    return node.op_type in _MOVING or of_one or (node.op_type in _POOLS and set(attribute(node, "kernel_shape")) == {1})


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Compute what depends on inputs at the end of a model of nothing but such nodes; None for any other."""
    outer = Scope(model.graph)
    if not all(_moves(node, outer) for node in decisions.nodes(model.graph)):
        return None
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph, scope = copy.graph, Scope(copy.graph)
    alive = decisions.alive(graph)
    for output in [o for o in graph.output if o.name in alive]:
        shape = scope.sizes(output.name)
        maker = next((node for node in graph.node if output.name in node.output), None)
        if maker is None or 0 in (shape or ()):
            continue
        moved = scope.fresh(output.name)
        for node in graph.node:
            node.input[:] = [moved if name == output.name else name for name in node.input]
            node.output[:] = [moved if name == output.name else name for name in node.output]
        graph.node.extend(computed(Nodes(maker, scope), scope, moved, output.name, opset_of(model)))
    if len(graph.node) == len(model.graph.node):
        return None
    graph.initializer.extend(scope.added)
    return inferred(copy)


def computed(nodes: Nodes, scope: Scope, source: str, result: str, opset: int) -> Nodes:
    """`nodes` with those that compute a copy of `source`, which the compiler does not see to be one."""
    type_ = scope.type(source) or scope.type(result)
    if type_ not in _WIDER:
        nodes("Add", source, scope.add(np.array(0), type_), result=result)
        return nodes
    first = scope.add(np.array([0]), TensorProto.INT64)
    wide = nodes("Cast", source, to=_WIDER[type_])
    row = nodes("Unsqueeze", wide, first)
    both = nodes("Concat", row, row, axis=0)
    larger = nodes("ReduceMax", both, axes=[0], keepdims=0) if opset < 18 else nodes("ReduceMax", both, first, keepdims=0)
    nodes("Cast", larger, result=result, to=type_)
    return nodes
