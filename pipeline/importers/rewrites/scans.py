"""Scan: IREE 3.13 has no code for it. It is a Loop that takes a slice of its inputs in each round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper

from pipeline.importers.rewrites.graph import Nodes, Scope, attribute

if TYPE_CHECKING:
    from pipeline.importers.rewrites.folding import Item


def opened(node: onnx.NodeProto, scope: Scope) -> Sequence[Item] | None:
    """A Loop, and what its results take to be those of the Scan; None if nothing tells how long that is."""
    body, taken = attribute(node, "body"), attribute(node, "num_scan_inputs")
    states = len(node.input) - taken
    shapes = [scope.shape(name) for name in node.input[states:]]
    axes = attribute(node, "scan_input_axes") or [0] * taken
    if any(shape is None for shape in shapes):
        return None
    (count,) = {shape[axis] for shape, axis in zip(shapes, axes, strict=True) if shape is not None}
    results = [name or scope.fresh("unused") for name in node.output]
    turned = [scope.fresh(name) for name in results[states:]]
    loop = helper.make_node(
        "Loop",
        [scope.add(np.array(count), TensorProto.INT64), scope.add(np.array(True), TensorProto.BOOL), *node.input[:states]],
        [*results[:states], *turned],
        node.name,
        body=_body(node, body, scope, count, axes),
    )
    return [loop, lambda: _turned(node, scope, turned, results[states:])]


def _turned(node: onnx.NodeProto, scope: Scope, stacked: Sequence[str], results: Sequence[str]) -> Nodes:
    """What the rounds made, which a Loop stacks on the first axis in their order, as the Scan does."""
    nodes = Nodes(node, scope)
    axes = attribute(node, "scan_output_axes") or [0] * len(stacked)
    directions = attribute(node, "scan_output_directions") or [0] * len(stacked)
    for value, result, axis, reverse in zip(stacked, results, axes, directions, strict=True):
        found = value
        if reverse:
            ends = (scope.add(np.array([n]), TensorProto.INT64) for n in (-1, np.iinfo(np.int64).min, 0, -1))
            found = nodes("Slice", found, *ends)
        rank = len(scope.whole_type(value).tensor_type.shape.dim)
        order = [*range(1, rank)]
        order.insert(axis % rank if rank else 0, 0)
        nodes("Transpose", found, result=result, perm=order)
    return nodes


def _body(node: onnx.NodeProto, body: onnx.GraphProto, scope: Scope, count: int, axes: Sequence[int]) -> onnx.GraphProto:
    """The body of the Loop: that of the Scan, whose slices it takes."""
    nodes, states = Nodes(node, scope), len(node.input) - len(axes)
    number, goes_on, result = (scope.fresh(name) for name in ("round", "goes_on", "goes_on"))
    directions = attribute(node, "scan_input_directions") or [0] * len(axes)
    for name, value, axis, reverse in zip(node.input[states:], body.input[states:], axes, directions, strict=True):
        which = nodes("Sub", scope.add(np.array(count - 1), TensorProto.INT64), number) if reverse else number
        nodes("Gather", name, which, result=value.name, axis=axis)
    own = [
        helper.make_tensor_value_info(number, TensorProto.INT64, []),
        helper.make_tensor_value_info(goes_on, TensorProto.BOOL, []),
    ]
    nodes("Identity", goes_on, result=result)
    outputs = [helper.make_tensor_value_info(result, TensorProto.BOOL, []), *body.output]
    inner = [*nodes, *body.node]
    return helper.make_graph(inner, body.name or "body", [*own, *body.input[:states]], outputs, body.initializer)
