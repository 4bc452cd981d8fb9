"""GridSample: IREE 3.13 refuses `border` and `reflection`, and reads beside the image for `zeros` far outside.

Measured for nearest and linear sampling of images: wrong are places more than a pixel outside. The grid is moved inside, or to a
pixel outside, where the result is zero. Cubic sampling and that of volumes, refused as well, are gathered: see `places`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.importers.rewrites.graph import Nodes, Scope, attribute, replaced
from pipeline.importers.rewrites.places import Image, Numbers, Tap, cubic, linear, nearest, zero_outside

_TAPS = {"nearest": nearest, "linear": linear, "bilinear": linear, "cubic": cubic, "bicubic": cubic}


def _change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    if node.op_type != "GridSample" or (rank := scope.rank(node.input[0])) is None:
        return None
    padding, shape = attribute(node, "padding_mode"), scope.shape(node.input[0])
    if rank != 4 or attribute(node, "mode") in (b"cubic", b"bicubic"):
        return _gathered(node, scope, shape) if shape else None
    nodes, type_, grid = Nodes(node, scope), scope.type(node.input[1]), node.input[1]

    def number(value: object) -> str:
        return scope.add(np.array(value), type_)

    if padding == b"reflection":
        # A zigzag between -1 and 1, the outer edges of the image or of its outermost pixels' centres.
        shifted = nodes("Add", grid, number(1))
        rounds = nodes("Floor", nodes("Div", shifted, number(4)))
        place = nodes("Sub", shifted, nodes("Mul", rounds, number(4)))
        grid = nodes("Sub", number(1), nodes("Abs", nodes("Sub", place, number(2))))
    # A grid holds columns before rows. Without align_corners -1 is half a pixel outside of the first centre.
    aligned, inside = attribute(node, "align_corners"), padding in (b"border", b"reflection")
    if shape is None:
        height, width = nodes.sizes(node.input[0])[2:]
        sizes = nodes("Cast", nodes.listed([width, height]), to=type_)
        edge = number(np.ones(2)) if aligned else nodes("Sub", number(1), nodes("Reciprocal", sizes))
        if not inside:
            whole = nodes("Max", nodes("Sub", sizes, number(1)), number(1e-3)) if aligned else sizes
            edge = nodes("Add", edge, nodes("Div", number(2), whole))
        least = nodes("Neg", edge)
    else:
        known = np.array(shape[:1:-1], float)
        edges = np.ones(2) if aligned else 1 - 1 / known
        if not inside:
            edges = edges + 2 / (np.maximum(known - 1, 1e-3) if aligned else known)
        least, edge = number(-edges), number(edges)
    moved = nodes("Min", nodes("Max", grid, least), edge)
    sampled = nodes("GridSample", node.input[0], moved, result=node.output[0] if inside else "")
    nodes[-1].attribute.extend(a for a in node.attribute if a.name != "padding_mode")
    if not inside:
        near = nodes("Cast", nodes("Less", nodes("Abs", grid), edge), to=scope.type(node.input[0]))
        both = nodes("Mul", *(nodes("Gather", near, scope.add(np.array(i), TensorProto.INT64), axis=3) for i in (0, 1)))
        nodes("Mul", sampled, nodes("Unsqueeze", both, scope.add(np.array([1]), TensorProto.INT64)), result=node.output[0])
    return nodes


def _gathered(node: onnx.NodeProto, scope: Scope, shape: tuple[int, ...]) -> Sequence[onnx.NodeProto] | None:
    grid, (image, where) = scope.shape(node.input[1]), node.input
    if grid is None:
        return None
    mode, aligned = (attribute(node, "mode") or b"linear").decode(), bool(attribute(node, "align_corners"))
    padding = (attribute(node, "padding_mode") or b"zeros").decode()
    nodes, sizes = Nodes(node, scope), shape[2:]
    numbers = Numbers(nodes, scope, scope.type(where))
    taps = []
    for axis, size in enumerate(sizes):
        # A grid holds columns before rows.
        column = nodes("Gather", where, scope.add(np.array(len(sizes) - 1 - axis), TensorProto.INT64), axis=-1)
        place = numbers("Add", nodes("Reshape", column, scope.add(np.array([grid[0], -1]), TensorProto.INT64)), 1.0)
        if aligned:
            place = numbers("Mul", place, (size - 1) / 2)
        else:
            place = numbers("Div", numbers("Sub", numbers("Mul", place, float(size)), 1.0), 2.0)
        taps.append(_padded(numbers, _TAPS[mode](numbers, place), size, padding, aligned))
    first = scope.add(np.arange(shape[0])[:, None], TensorProto.INT64)
    read = Image(image, shape, scope.type(image)).read(numbers, taps, first)
    result = [shape[0], shape[1], *grid[1:-1]]
    channels = nodes("Transpose", read, perm=[0, 2, 1])
    nodes("Reshape", channels, scope.add(np.array(result), TensorProto.INT64), result=node.output[0])
    return nodes


def _padded(numbers: Numbers, taps: Sequence[Tap], size: int, padding: str, aligned: bool) -> list[Tap]:
    if padding == "zeros":
        return zero_outside(numbers, taps, size)
    low, span = (0.0, size - 1.0) if aligned else (-0.5, float(size))
    found: list[Tap] = []
    for place, weight in taps:
        if padding == "reflection" and span:
            shifted = numbers("Sub", place, low)
            turned = numbers("Sub", shifted, numbers("Mul", numbers("Floor", numbers("Div", shifted, 2 * span)), 2 * span))
            place = numbers("Sub", low + span, numbers("Abs", numbers("Sub", turned, span)))
        found.append((numbers.clamped(place, 0.0, size - 1.0), weight))
    return found


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Move such grids inside, and gather what IREE does not sample; None if there are none."""
    return replaced(model, _change)
