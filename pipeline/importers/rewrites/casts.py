"""Casts of floats to integers that IREE 3.13 has no Cast to (see `narrow`): by way of one that it has.

Those are int16, uint16, uint32 and uint64. A float beyond 2^63 does not fit the way to uint64.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import TensorProto

from pipeline.importers.rewrites.graph import Nodes, Scope, attribute, replaced

_FLOATS = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE)
_BETWEEN = {
    TensorProto.INT16: TensorProto.INT32,
    TensorProto.UINT16: TensorProto.INT32,
    TensorProto.UINT32: TensorProto.INT64,
    TensorProto.UINT64: TensorProto.INT64,
}


def _change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    to = attribute(node, "to")
    if node.op_type != "Cast" or to not in _BETWEEN or scope.type(node.input[0]) not in _FLOATS:
        return None
    nodes = Nodes(node, scope)
    between = nodes("Cast", node.input[0], to=_BETWEEN[to])
    nodes("Cast", between, result=node.output[0], to=to)
    return nodes


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Put another cast before such ones; None if there are none."""
    return replaced(model, _change)
