"""Functions of float64 that IREE 3.13 has not or computes in float32: Tanh and ReduceL2.

Measured on the CPU: Tanh does not link ("undefined symbol: tanh"), ReduceL2 is off by 3e-8. Exp, Log, Sqrt, Pow, Sigmoid,
Softmax, sums and products are right to 1e-12. Atan, Cos, Erf, Sin and what is made of them is refused, and stays so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.importers.rewrites.graph import Nodes, Scope, replaced

# tanh x = x - x³/3 + 2x⁵/15 - 17x⁷/315 + …: below the bound, the next term is less than a unit in the last place.
_SERIES = (-17 / 315, 2 / 15, -1 / 3, 1.0)
_BOUND = 0.008


def _change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    if node.op_type not in ("ReduceL2", "Tanh") or scope.type(node.input[0]) != TensorProto.DOUBLE:
        return None
    nodes = Nodes(node, scope)
    if node.op_type == "ReduceL2":
        squares = nodes("ReduceSumSquare", *node.input)
        nodes[-1].attribute.extend(node.attribute)
        nodes("Sqrt", squares, result=node.output[0])
    else:
        _tanh(nodes, scope, node.input[0], node.output[0])
    return nodes


def _tanh(nodes: Nodes, scope: Scope, x: str, result: str) -> None:
    """Of x near zero by the series, else (1 - t) / (1 + t) with t = exp(-2|x|) and the sign of x."""

    def constant(value: float) -> str:
        return scope.add(np.array(value), TensorProto.DOUBLE)

    magnitude, one = nodes("Abs", x), constant(1)
    t = nodes("Exp", nodes("Mul", magnitude, constant(-2)))
    far = nodes("Div", nodes("Sub", one, t), nodes("Add", one, t))
    square, near = nodes("Mul", x, x), constant(_SERIES[0])
    for factor in _SERIES[1:]:
        near = nodes("Add", nodes("Mul", near, square), constant(factor))
    signed = nodes("Where", nodes("Less", x, constant(0)), nodes("Neg", far), far)
    nodes("Where", nodes("Less", magnitude, constant(_BOUND)), nodes("Mul", near, x), signed, result=result)


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Compute them by functions that IREE has; None if there are none."""
    return replaced(model, _change)
