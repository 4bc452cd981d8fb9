"""What is computed and then not taken must not stop the program: quotients of integers by zero, and indices that are outside.

Such are met where a branch is computed that an If does not take, or a round that a Loop does not run: it asks before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.importers.rewrites.graph import Nodes, Scope, attribute

if TYPE_CHECKING:
    from pipeline.importers.rewrites.folding import Walk

_QUOTIENTS = frozenset(["Div", "Mod"])
_INDEXED = frozenset(["Gather", "GatherElements", "ScatterElements", "GatherND", "ScatterND"])
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def guarded(node: onnx.NodeProto, walk: Walk) -> onnx.NodeProto:
    """The node, or one that takes another divisor for zero and the nearest index for one outside; `walk` keeps what it takes."""
    scope = walk.scope
    if node.op_type not in _QUOTIENTS | _INDEXED or scope.constant(node.input[1]) is not None:
        return node
    nodes, type_ = Nodes(node, scope), scope.type(node.input[1])
    if node.op_type in _INDEXED:
        changed = _inside(nodes, node, scope, type_)
    elif type_ and type_ not in _FLOATS:
        is_zero = nodes("Equal", node.input[1], scope.add(np.array(0), type_))
        changed = nodes("Where", is_zero, scope.add(np.array(1), type_), node.input[1])
    else:
        return node
    for added in nodes:
        walk.settle(added)
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[1] = changed
    return copy


def _inside(nodes: Nodes, node: onnx.NodeProto, scope: Scope, type_: int) -> str:
    """The indices, of which those outside are the nearest inside."""
    shape, places = scope.shape(node.input[0]), scope.shape(node.input[1])
    if shape is None or places is None or not all(shape):
        return str(node.input[1])
    if node.op_type.endswith("ND"):
        first = attribute(node, "batch_dims") or 0
        sizes = np.array(shape[first : first + places[-1]])
    else:
        sizes = np.array(shape[attribute(node, "axis") or 0])
    return nodes("Min", nodes("Max", node.input[1], scope.add(-sizes, type_)), scope.add(sizes - 1, type_))
