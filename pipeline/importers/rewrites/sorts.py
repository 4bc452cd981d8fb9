"""Sorting: IREE 3.13 sorts what it is given where it lies.

Measured: after TopK of an input, the caller's array is sorted, and the next call with it gives other indices. And of two TopK of
equal length, the second has the wrong indices: both start from one list of numbers, which the first has sorted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from pipeline.importers.rewrites.graph import Nodes, Scope, attribute, replaced

_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Sort a copy: what is computed from the input, and the compiler does not see that it is the same. None without such.

    Later ones sort longer lists, each of another length: what is behind the values comes last.
    """
    inputs = {value.name for value in model.graph.input}
    sorting = [node.output[1] for node in model.graph.node if node.op_type == "TopK" and len(node.output) > 1]

    def change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
        if node.op_type != "TopK":
            return None
        nodes, source, type_ = Nodes(node, scope), node.input[0], scope.type(node.input[0])
        rank = scope.rank(source)
        more = sorting.index(node.output[1]) if len(node.output) > 1 and node.output[1] in sorting else 0
        if rank and more:
            source = _longer(nodes, node, scope, source, rank, more)
        elif source in inputs and type_ in _FLOATS:
            source = nodes("Add", source, scope.add(np.array(0), type_))
        if source == node.input[0]:
            return None
        inner = onnx.NodeProto()
        inner.CopyFrom(node)
        inner.input[0] = source
        return [*nodes, inner]

    return replaced(model, change)


def _longer(nodes: Nodes, node: onnx.NodeProto, scope: Scope, source: str, rank: int, more: int) -> str:
    type_, largest = scope.type(source), attribute(node, "largest") != 0
    if type_ in _FLOATS:
        last = np.array(-np.inf if largest else np.inf)
    else:
        limits = np.iinfo(helper.tensor_dtype_to_np_dtype(type_))
        last = np.array(limits.min if largest else limits.max)
    axis = attribute(node, "axis")
    pads = np.zeros((2, rank), np.int64)
    pads[1, -1 if axis is None else axis] = more
    return str(nodes("Pad", source, scope.add(pads.ravel(), TensorProto.INT64), scope.add(last, type_)))
