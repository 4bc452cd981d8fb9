"""ReverseSequence: IREE 3.13 makes code of it for sizes that it does not know, which some CPUs refuse and which loses the Vulkan
device now and then. It is a gathering of rows here, by places that are counted in 32 bits, as Vulkan code for them needs.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.importers.rewrites.graph import Nodes, Scope, attribute, replaced


def _change(node: onnx.NodeProto, scope: Scope) -> Nodes | None:
    if node.op_type != "ReverseSequence" or (known := scope.sizes(node.input[0])) is None or 0 in known:
        return None
    nodes, value, rank = Nodes(node, scope), node.input[0], len(known)
    shape = nodes.sizes(value)
    time_first = (attribute(node, "time_axis") or 0) % rank == 0
    turned = [1, 0, *range(2, rank)]
    if not time_first:
        value, shape = nodes("Transpose", value, perm=turned), [shape[1], shape[0], *shape[2:]]
    times, batch = shape[:2]
    row = nodes.shaped(nodes.counted(times), [times, 1])
    column = nodes("Unsqueeze", nodes.counted(batch), nodes.integers(0))
    lengths = nodes("Cast", node.input[1], to=TensorProto.INT32)
    lengths = nodes("Unsqueeze", lengths, nodes.integers(0))
    back = nodes("Sub", nodes("Sub", lengths, scope.add(np.array(1), TensorProto.INT32)), row)
    time = nodes("Where", nodes("Less", row, lengths), back, row)
    step = nodes("Cast", nodes.listed([batch]), to=TensorProto.INT32)
    place = nodes("Add", nodes("Mul", time, step), column)
    flat = nodes.shaped(value, [nodes.product([times, batch]), nodes.product(shape[2:])])
    rows = nodes("Gather", flat, place, axis=0)
    if time_first:
        nodes.shaped(rows, shape, result=node.output[0])
    else:
        nodes("Transpose", nodes.shaped(rows, shape), result=node.output[0], perm=turned)
    return nodes


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Gather rows by their places; None if there are no such nodes."""
    return replaced(model, _change)
