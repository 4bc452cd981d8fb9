"""Col2Im and MaxUnpool, which put values back to where they came from.

Measured: IREE 3.13 lowers neither. Col2Im is the transposed convolution whose weights are the places in a window, a channel each;
MaxUnpool is a scatter, whose indices count through the whole result; an input of them in 64 bits does not compile for
`vulkan-any`. One with an output shape that its attributes do not give is left: ONNX Runtime and ONNX's reference differ in what
the indices count there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.importers.rewrites.graph import Nodes, Scope, attribute, replaced


def _change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    if node.op_type == "Col2Im":
        return _image(node, scope)
    return _unpooled(node, scope) if node.op_type == "MaxUnpool" else None


def _image(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    columns, type_ = scope.shape(node.input[0]), scope.type(node.input[0])
    image, window = (scope.constant(name) for name in node.input[1:3])
    if columns is None or image is None or window is None:
        return None
    rank = len(image)
    ones = [1] * rank
    strides, dilations = (attribute(node, name) or ones for name in ("strides", "dilations"))
    pads = attribute(node, "pads") or [0] * (2 * rank)
    around = [pads[a] + pads[rank + a] for a in range(rank)]
    reach = [dilations[a] * (int(window[a]) - 1) + 1 for a in range(rank)]
    places = [(int(image[a]) + around[a] - reach[a]) // strides[a] + 1 for a in range(rank)]
    left = [int(image[a]) + around[a] - reach[a] - (places[a] - 1) * strides[a] for a in range(rank)]
    size = int(window.prod())
    channels = columns[1] // size
    if math.prod(places) != columns[2]:
        return None
    nodes = Nodes(node, scope)
    weights = np.tile(np.eye(size).reshape(size, 1, *window), (channels, 1, *ones))
    apart = nodes("Reshape", node.input[0], scope.add(np.array([columns[0], columns[1], *places]), TensorProto.INT64))
    said = {"strides": strides, "dilations": dilations, "pads": pads, "output_padding": left, "group": channels}
    nodes("ConvTranspose", apart, scope.add(weights, type_), result=node.output[0], **said)
    return nodes


def _unpooled(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    shape, type_ = scope.shape(node.input[0]), scope.type(node.input[0])
    if shape is None:
        return None
    window = attribute(node, "kernel_shape")
    rank = len(window)
    strides, pads = attribute(node, "strides") or [1] * rank, attribute(node, "pads") or [0] * (2 * rank)
    sizes = [(shape[2 + a] - 1) * strides[a] - pads[a] - pads[rank + a] + window[a] for a in range(rank)]
    result = [*shape[:2], *sizes]
    if len(node.input) > 2:
        wanted = scope.constant(node.input[2])
        if wanted is None or wanted.tolist() != result:
            return None
    nodes, flat = Nodes(node, scope), scope.add(np.array([-1]), TensorProto.INT64)
    nothing = nodes("Expand", scope.add(np.array([0]), type_), scope.add(np.array([math.prod(result)]), TensorProto.INT64))
    values, places = (nodes("Reshape", name, flat) for name in node.input[:2])
    filled = nodes("ScatterElements", nothing, places, values, axis=0)
    nodes("Reshape", filled, scope.add(np.array(result), TensorProto.INT64), result=node.output[0])
    return nodes


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Put what IREE lowers in their place; None if there are none."""
    return replaced(model, _change)
