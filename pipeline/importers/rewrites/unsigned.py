"""Unsigned integers where the sign matters: IREE 3.13 lowers some operators as if they were signed.

Measured with numbers of the whole range: Abs, Clip, Div, Mod, MaxPool, PRelu, ReduceL1, ReduceL2, ReduceSumSquare, TopK and
scatters of a minimum or maximum are wrong as soon as a number has its highest bit set; Sign does not compile. Comparisons, Max,
Min, ReduceMax, ReduceMin, ArgMax, BitShift, CumSum, quantization and casts to other types are right. For uint64 there is nothing
wider: it stays as it is.

Quotients of 8 and 16 bits are made in float32: those in int32 IREE narrows again, to an unsigned one of 8 bits, which does not
compile for Vulkan ("bitwidth emulation is not implemented yet on unsigned op pattern").
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.importers.rewrites.graph import Nodes, Scope, attribute, replaced, widened

_WIDER = {TensorProto.UINT8: TensorProto.INT32, TensorProto.UINT16: TensorProto.INT32, TensorProto.UINT32: TensorProto.INT64}
_OPERATORS = frozenset("Clip Div Mod PRelu ReduceL1 ReduceL2 ReduceLogSum ReduceSumSquare TopK".split())


def _change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    if node.op_type in ("Abs", "Sign") and scope.type(node.input[0]) in _WIDER:
        return _of_itself(node, scope)
    if node.op_type in ("Div", "Mod") and scope.type(node.input[0]) in (TensorProto.UINT8, TensorProto.UINT16):
        return _quotient(node, scope)
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


def _quotient(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto]:
    """The quotient or remainder of numbers of up to 16 bits by way of float32.

    It is ⌊(a + ½) / b⌋: that is ½ / b or more away from the next integers, far more than a division of float32 is off.
    """
    nodes = Nodes(node, scope)
    a, b = (nodes("Cast", name, to=TensorProto.FLOAT) for name in node.input)
    half = scope.add(np.array(0.5), TensorProto.FLOAT)
    result = nodes("Floor", nodes("Div", nodes("Add", a, half), b))
    if node.op_type == "Mod":
        result = nodes("Sub", a, nodes("Mul", result, b))
    nodes("Cast", result, result=node.output[0], to=scope.type(node.input[0]))
    return nodes


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Compute such operators in a wider signed type, and cast back; None if there are none."""
    return replaced(model, _change)
