"""ReverseSequence: IREE 3.13 makes code of it for sizes that it does not know, which some CPUs refuse and which loses the Vulkan
device now and then. It is a gathering of rows here, by places that are counted in 32 bits, as Vulkan code for them needs.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.importers.rewrites.graph import Nodes, Scope, attribute, replaced


def _change(node: onnx.NodeProto, scope: Scope) -> Nodes | None:
    if node.op_type != "ReverseSequence" or (shape := scope.shape(node.input[0])) is None or 0 in shape:
        return None
    nodes, value = Nodes(node, scope), node.input[0]
    time_first = (attribute(node, "time_axis") or 0) % len(shape) == 0
    turned = [1, 0, *range(2, len(shape))]
    if not time_first:
        value, shape = nodes("Transpose", value, perm=turned), (shape[1], shape[0], *shape[2:])
    times, batch = shape[:2]
    row, column = (scope.add(a, TensorProto.INT32) for a in (np.arange(times)[:, None], np.arange(batch)[None]))
    lengths = nodes("Cast", node.input[1], to=TensorProto.INT32)
    lengths = nodes("Reshape", lengths, scope.add(np.array([1, batch]), TensorProto.INT64))
    back = nodes("Sub", nodes("Sub", lengths, scope.add(np.array(1), TensorProto.INT32)), row)
    time = nodes("Where", nodes("Less", row, lengths), back, row)
    place = nodes("Add", nodes("Mul", time, scope.add(np.array(batch), TensorProto.INT32)), column)
    flat = scope.add(np.array([times * batch, math.prod(shape[2:])]), TensorProto.INT64)
    rows = nodes("Gather", nodes("Reshape", value, flat), place, axis=0)
    whole = scope.add(np.array(shape), TensorProto.INT64)
    if time_first:
        nodes("Reshape", rows, whole, result=node.output[0])
    else:
        nodes("Transpose", nodes("Reshape", rows, whole), result=node.output[0], perm=turned)
    return nodes


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Gather rows by their places; None if there are no such nodes."""
    return replaced(model, _change)
