"""Unsigned integers where the sign matters: IREE 3.13 lowers some operators as if they were signed.

Measured with numbers of the whole range: Abs, Clip, Div, Mod, MaxPool, PRelu, ReduceL1, ReduceL2, ReduceSumSquare, TopK and
scatters of a minimum or maximum are wrong as soon as a number has its highest bit set; Sign does not compile. Comparisons, Max,
Min, ReduceMax, ReduceMin, ArgMax, BitShift, CumSum, quantization and casts to other types are right. For uint64 there is nothing
wider: it stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import TensorProto

from pipeline.importers.rewrites.graph import Nodes, Scope, attribute, replaced, widened

_WIDER = {TensorProto.UINT8: TensorProto.INT32, TensorProto.UINT16: TensorProto.INT32, TensorProto.UINT32: TensorProto.INT64}
_OPERATORS = frozenset("Clip Div Mod PRelu ReduceL1 ReduceL2 ReduceLogSum ReduceSumSquare TopK".split())


def _change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    if node.op_type in ("Abs", "Sign") and scope.type(node.input[0]) in _WIDER:
        return _of_itself(node, scope)
    if node.op_type == "MaxPool":  # of integers, ONNX has it for 8 bits only
        return widened(node, scope, {TensorProto.UINT8: TensorProto.FLOAT})
    extreme = node.op_type in ("ScatterElements", "ScatterND") and attribute(node, "reduction") in (b"min", b"max")
    return widened(node, scope, _WIDER) if extreme or node.op_type in _OPERATORS else None


def _of_itself(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto]:
    """Such a number is its own magnitude, and its sign is whether it is one."""
    nodes = Nodes(node, scope)
    if node.op_type == "Abs":
        nodes("Identity", node.input[0], result=node.output[0])
    else:
        positive = nodes("Cast", node.input[0], to=TensorProto.BOOL)
        nodes("Cast", positive, result=node.output[0], to=scope.type(node.input[0]))
    return nodes


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Compute such operators in a wider signed type, and cast back; None if there are none."""
    return replaced(model, _change)
