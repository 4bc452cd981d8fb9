"""Places counted from the end of an open dimension, which IREE 3.13 gets wrong: the last of equal ones, and steps backwards.

Measured: ArgMax and ArgMin with `select_last_index` give the first place or one too many, and a Slice with a negative step that
begins behind the last value has one value too many. Both are right where the dimension is fixed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.importers.functions import opset_of
from pipeline.importers.rewrites.graph import Nodes, Scope, attribute, replaced


def _last(node: onnx.NodeProto, scope: Scope, opset: int) -> Nodes | None:
    sizes = scope.sizes(node.input[0])
    if not attribute(node, "select_last_index") or sizes is None:
        return None
    axis = (attribute(node, "axis") or 0) % len(sizes)
    if sizes[axis] is not None:
        return None
    nodes, x = Nodes(node, scope), node.input[0]

    def reduced(kind: str, value: str, keep: int, result: str = "") -> str:
        if opset < 18:
            return nodes(kind, value, result=result, axes=[axis], keepdims=keep)
        return nodes(kind, value, nodes.integers(axis), result=result, keepdims=keep)

    best = reduced("ReduceMax" if node.op_type == "ArgMax" else "ReduceMin", x, 1)
    size = nodes.sizes(x, [*sizes[:axis], None])[axis]
    line = nodes.shaped(nodes.counted(size, TensorProto.INT64), [size if a == axis else 1 for a in range(len(sizes))])
    places = nodes("Where", nodes("Equal", x, best), line, scope.add(np.array(-1), TensorProto.INT64))
    keep = attribute(node, "keepdims")
    reduced("ReduceMax", places, 1 if keep is None else keep, node.output[0])
    return nodes


def _backwards(node: onnx.NodeProto, scope: Scope) -> Nodes | None:
    sizes, given = scope.sizes(node.input[0]), [*node.input, "", ""][:5]
    starts, _, axes, steps = (scope.constant(name) if name else None for name in given[1:])
    if sizes is None or starts is None or steps is None or (given[3] and axes is None):
        return None
    along = [int(a) % len(sizes) for a in (range(len(sizes)) if axes is None else axes)]
    if not any(step < 0 <= start and sizes[axis] is None for axis, start, step in zip(along, starts, steps, strict=False)):
        return None
    nodes, found = Nodes(node, scope), []
    for axis, start, step in zip(along, starts.tolist(), steps.tolist(), strict=False):
        if step < 0 <= start and sizes[axis] is None:
            size = nodes.sizes(node.input[0], [*sizes[:axis], None])[axis]
            found.append(nodes.reckoned("Min", nodes.reckoned("Sub", size, 1), min(start, np.iinfo(np.int32).max)))
        else:
            found.append(start)
    ends_, steps_ = (
        name if scope.type(name) == TensorProto.INT64 else nodes("Cast", name, to=TensorProto.INT64)
        for name in (given[2], given[4])
    )
    nodes("Slice", node.input[0], nodes.listed(found), ends_, nodes.integers(*along), steps_, result=node.output[0])
    return nodes


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Say such places by numbers; None if there are none."""
    opset = opset_of(model)

    def change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
        if node.op_type in ("ArgMax", "ArgMin"):
            return _last(node, scope, opset)
        return _backwards(node, scope) if node.op_type == "Slice" else None

    return replaced(model, change)
