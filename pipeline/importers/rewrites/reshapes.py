"""Reshapes of several open dimensions that IREE 3.13 gets wrong: by way of a list of all values.

Measured: where two dimensions or more are open, a shape with -1 and numbers ([-1, 1], [1, -1]) gives the values in another
order, or takes the value's shape for the result's. A shape that copies open dimensions ([0, -1, 2]) is right, one that is
computed too, and so are [-1] and what is made of it, and rows of what is fixed ([N, T, 8] as [-1, 8]).
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from pipeline.importers.rewrites.graph import Nodes, Scope, attribute, replaced


def _change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    if node.op_type != "Reshape" or attribute(node, "allowzero"):
        return None
    sizes, shape = scope.sizes(node.input[0]), scope.constant(node.input[1])
    if sizes is None or sizes.count(None) < 2 or shape is None or shape.size < 2 or -1 not in shape:
        return None
    wanted = [sizes[axis] if size == 0 else int(size) for axis, size in enumerate(shape.tolist())]
    numbers = [size for size in wanted if size is not None]
    if len(numbers) < len(wanted) or (numbers[0] == -1 and list(sizes[1 - len(numbers) :]) == numbers[1:]):
        return None  # also where leading dimensions become one, as rows of a matrix do
    nodes = Nodes(node, scope)
    nodes("Reshape", nodes("Reshape", node.input[0], nodes.integers(-1)), nodes.integers(*numbers), result=node.output[0])
    return nodes


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Reshape twice; None if there are no such nodes."""
    return replaced(model, _change)
