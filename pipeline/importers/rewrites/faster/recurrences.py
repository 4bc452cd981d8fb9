"""Recurrent layers of one sequence: their steps written out, a few at a time in a Loop where there are many.

IREE 3.13 makes a Loop, each round of which takes 9 µs besides its kernels. Written out, a step takes two kernels that all steps
share: the product of a row and the weights, and the gates. 50 steps of an LSTM of 40 inputs and 64 units take 0.1 instead of
0.8 ms. What a step takes of the inputs is added to that product alone: of other kernels each step would have its own, as they
hold where that lies.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from pipeline.importers.rewrites.graph import Scope, attribute
from pipeline.importers.rewrites.microsoft.call import Call, UnknownError, UnsupportedError
from pipeline.importers.rewrites.recurrent import layer
from pipeline.importers.rewrites.recurrent.cells import Product


def change(node: onnx.NodeProto, scope: Scope, opset: int) -> Sequence[onnx.NodeProto] | None:
    """The nodes for an LSTM, GRU or RNN of that kind."""
    if node.op_type not in ("LSTM", "GRU", "RNN") or scope.type(node.input[0]) != onnx.TensorProto.FLOAT:
        return None
    shape = scope.shape(node.input[0])
    if shape is None or len(shape) != 3 or 0 in shape or shape[0 if attribute(node, "layout") else 1] != 1:
        return None
    if any(scope.constant(name) is None for name in node.input[1:3]):
        return None
    call = Call(node, scope, opset)
    try:
        layer.expand(call, weights=_turned, written_out=True)
    except (UnknownError, UnsupportedError):
        return None
    return call


def _turned(side: layer.Side, number: int, rows: tuple[int, int] | None) -> Product:
    """Products with the weights of a standard layer, turned around once."""
    call = side.call
    weights = call.scope.constant(call.input(number))
    if weights is None:
        raise UnknownError
    mine = weights[side.index]
    mine = mine[rows[0] * side.units : rows[1] * side.units] if rows else mine
    if side.of_four:  # a row of zeros, for what the others give
        place = (2 if number == layer.W else 3) * side.units
        mine = np.insert(mine, [place] * side.units, 0, axis=0)
    turned = call.scope.add(mine.T.copy(), call.float_type)
    return lambda into, value: into("MatMul", value, turned)
