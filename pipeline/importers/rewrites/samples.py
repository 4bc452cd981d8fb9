"""GridSample: IREE 3.13 refuses `border` and `reflection`, and reads beside the image for `zeros` far outside.

Measured for nearest and linear sampling of images: wrong are places more than a pixel outside. The grid is moved inside, or to a
pixel outside, where the result is zero. Refused as well, and left, are cubic sampling and that of volumes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.importers.rewrites.graph import Nodes, Scope, attribute, replaced


def _change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    padding, shape = attribute(node, "padding_mode"), scope.shape(node.input[0]) if node.input else None
    if node.op_type != "GridSample" or shape is None or len(shape) != 4 or attribute(node, "mode") in (b"cubic", b"bicubic"):
        return None
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
    sizes = np.array(shape[:1:-1], float)
    aligned, inside = attribute(node, "align_corners"), padding in (b"border", b"reflection")
    edge = np.ones(2) if aligned else 1 - 1 / sizes
    if not inside:
        edge = edge + 2 / (np.maximum(sizes - 1, 1e-3) if aligned else sizes)
    moved = nodes("Min", nodes("Max", grid, number(-edge)), number(edge))
    sampled = nodes("GridSample", node.input[0], moved, result=node.output[0] if inside else "")
    nodes[-1].attribute.extend(a for a in node.attribute if a.name != "padding_mode")
    if not inside:
        near = nodes("Cast", nodes("Less", nodes("Abs", grid), number(edge)), to=scope.type(node.input[0]))
        both = nodes("Mul", *(nodes("Gather", near, scope.add(np.array(i), TensorProto.INT64), axis=3) for i in (0, 1)))
        nodes("Mul", sampled, nodes("Unsqueeze", both, scope.add(np.array([1]), TensorProto.INT64)), result=node.output[0])
    return nodes


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Move such grids inside; None if there are none."""
    return replaced(model, _change)
