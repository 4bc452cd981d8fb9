"""DeformConv and RoiAlign: images read at places that data says, averaged or multiplied with weights.

Measured: IREE 3.13 refuses both. A RoiAlign whose number of places depends on data, or that takes the most, is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.arrays import Array
from pipeline.importers.rewrites.graph import Nodes, Scope, attribute, replaced
from pipeline.importers.rewrites.places import Image, Numbers, linear, zero_outside

_SPACE = 2  # dimensions: images


def _change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    if node.op_type == "DeformConv":
        return _convolution(node, scope)
    return _regions(node, scope) if node.op_type == "RoiAlign" else None


def _shape(scope: Scope, *sizes: int) -> str:
    return scope.add(np.array(sizes), TensorProto.INT64)


def _convolution(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    source, weights, offsets, bias, mask = (*node.input, "", "")[:5]
    shape, kernel, moved = (scope.shape(name) for name in (source, weights, offsets))
    if shape is None or kernel is None or moved is None or len(shape) != 2 + _SPACE:
        return None
    nodes, type_ = Nodes(node, scope), scope.type(source)
    numbers = Numbers(nodes, scope, type_)
    count, outputs, window = shape[0], moved[2:], kernel[2:]
    several, size = attribute(node, "offset_group") or 1, math.prod(window)
    groups, channels = attribute(node, "group") or 1, shape[1] // several
    # For each group of offsets, and each place in the window: rows, then columns.
    apart = nodes("Reshape", offsets, _shape(scope, count * several, size, _SPACE, math.prod(outputs)))
    taps = []
    for axis in range(_SPACE):
        offset = nodes("Gather", apart, scope.add(np.array(axis), TensorProto.INT64), axis=2)
        place = numbers("Add", offset, numbers.constant(_places(node, axis, window, outputs)))
        flat = nodes("Reshape", place, _shape(scope, count * several, -1))
        taps.append(zero_outside(numbers, linear(numbers, flat), shape[2 + axis]))
    grouped = nodes("Reshape", source, _shape(scope, count * several, channels, *shape[2:]))
    first = scope.add(np.arange(count * several)[:, None], TensorProto.INT64)
    read = Image(grouped, (count * several, channels, *shape[2:]), type_).read(numbers, taps, first)
    if mask:
        read = nodes("Mul", read, nodes("Reshape", mask, _shape(scope, count * several, -1, 1)))
    columns = nodes("Transpose", read, perm=[0, 2, 1])
    columns = nodes("Reshape", columns, _shape(scope, count, groups, kernel[1] * size, math.prod(outputs)))
    rows = nodes("Reshape", weights, _shape(scope, 1, groups, kernel[0] // groups, kernel[1] * size))
    product, whole = nodes("MatMul", rows, columns), _shape(scope, count, kernel[0], *outputs)
    result = nodes("Reshape", product, whole, result="" if bias else node.output[0])
    if bias:
        nodes("Add", result, nodes("Reshape", bias, _shape(scope, 1, -1, 1, 1)), result=node.output[0])
    return nodes


def _places(node: onnx.NodeProto, axis: int, window: Sequence[int], outputs: Sequence[int]) -> Array:
    """Where on an axis a convolution without offsets reads: [1, window, outputs]."""
    strides, dilations, pads = (attribute(node, name) for name in ("strides", "dilations", "pads"))
    inside = np.indices(window)[axis].reshape(1, -1, 1) * (dilations[axis] if dilations else 1)
    steps = np.indices(outputs)[axis].reshape(1, 1, -1) * (strides[axis] if strides else 1)
    return np.asarray(inside + steps - (pads[axis] if pads else 0), np.float64)


def _regions(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    source, regions, owners = node.input
    shape, count, sampled = scope.shape(source), scope.shape(regions), attribute(node, "sampling_ratio") or 0
    if shape is None or count is None or sampled < 1 or attribute(node, "mode") == b"max":
        return None
    nodes, type_ = Nodes(node, scope), scope.type(source)
    numbers = Numbers(nodes, scope, type_)
    outputs = [attribute(node, name) or 1 for name in ("output_height", "output_width")]
    points, scale = [output * sampled for output in outputs], attribute(node, "spatial_scale")
    half = attribute(node, "coordinate_transformation_mode") in (None, b"half_pixel")
    bounds = numbers("Mul", regions, 1.0 if scale is None else scale)
    bounds = numbers("Sub", bounds, 0.5) if half else bounds
    taps, within = [], []
    for axis in range(_SPACE):
        # A region holds columns before rows.
        low, high = (nodes("Gather", bounds, scope.add(np.array([i]), TensorProto.INT64), axis=1) for i in (1 - axis, 3 - axis))
        extent = numbers("Sub", high, low)
        extent = extent if half else numbers("Max", extent, 1.0)
        parts = (np.indices(points)[axis].reshape(1, -1) + 0.5) / points[axis]
        place = numbers("Add", low, numbers("Mul", extent, numbers.constant(parts)))
        within.append(numbers.inside(place, -1.0, float(shape[2 + axis])))
        place = numbers.clamped(place, 0.0, shape[2 + axis] - 1.0)
        taps.append(zero_outside(numbers, linear(numbers, place), shape[2 + axis]))
    first = nodes("Unsqueeze", owners, _shape(scope, 1))
    read = Image(source, shape, type_).read(numbers, taps, first)
    counted = nodes("Mul", read, nodes("Unsqueeze", nodes("Mul", *within), _shape(scope, 2)))
    boxes = nodes("Reshape", counted, _shape(scope, count[0], outputs[0], sampled, outputs[1], sampled, shape[1]))
    total = nodes("ReduceSum", boxes, _shape(scope, 2, 4), keepdims=0)
    nodes("Transpose", numbers("Div", total, float(sampled**2)), perm=[0, 3, 1, 2], result=node.output[0])
    return nodes


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Gather what they read; None if there are none."""
    return replaced(model, _change)
