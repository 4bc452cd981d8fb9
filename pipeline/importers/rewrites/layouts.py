"""Values moved to other places in ways that IREE 3.13 refuses or gets wrong: as plain gathers and transpositions.

Measured: Pad with `reflect` and `edge` is refused for some ranks, types and axes, with `wrap` for all ("failed to legalize",
or it takes minutes), and with negative pads for all. DepthToSpace with `CRD` computes what `DCR` does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.importers.rewrites.graph import Nodes, Scope, Size, attribute, replaced

Sizes = Sequence[int | None]


def _change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    if node.op_type not in ("DepthToSpace", "Pad") or (shape := scope.sizes(node.input[0])) is None:
        return None
    if node.op_type == "DepthToSpace" and attribute(node, "mode") == b"CRD":
        return _columns_first(node, scope)
    if node.op_type == "Pad":
        mode = (attribute(node, "mode") or b"constant").decode()
        return _gathered(node, scope, shape, mode) if mode != "constant" else _cropped(node, scope, shape)
    return None


def _columns_first(node: onnx.NodeProto, scope: Scope) -> Nodes:
    nodes, block = Nodes(node, scope), attribute(node, "blocksize")
    count, depth, height, width = nodes.sizes(node.input[0])
    depth = nodes.reckoned("Div", depth, block**2)
    parted = nodes.shaped(node.input[0], [count, depth, block, block, height, width])
    turned = nodes("Transpose", parted, perm=[0, 1, 4, 2, 5, 3])
    whole = [count, depth, *(nodes.reckoned("Mul", size, block) for size in (height, width))]
    nodes.shaped(turned, whole, result=node.output[0])
    return nodes


def _pads(node: onnx.NodeProto, scope: Scope, shape: Sizes) -> list[tuple[int, int, int]] | None:
    """The axes that are padded, with how much before and after; None where that is not constant."""
    pads = scope.constant(node.input[1])
    given = node.input[3] if len(node.input) > 3 else ""
    axes = scope.constant(given) if given else np.arange(len(shape))
    if pads is None or axes is None:
        return None
    befores, afters = pads.reshape(2, -1).tolist()
    return [(axis % len(shape), before, after) for axis, before, after in zip(axes.tolist(), befores, afters, strict=True)]


def _cropped(node: onnx.NodeProto, scope: Scope, shape: Sizes) -> Nodes | None:
    """A Pad that takes away, after a Slice."""
    pads = _pads(node, scope, shape)
    if pads is None or not any(n < 0 for _, *both in pads for n in both):
        return None
    nodes = Nodes(node, scope)
    starts = [max(-before, 0) for _, before, _ in pads]
    ends = [min(after, 0) or np.iinfo(np.int64).max for _, _, after in pads]  # counted from the end
    places = (scope.add(np.array(n), TensorProto.INT64) for n in (starts, ends, [axis for axis, *_ in pads]))
    cut = nodes("Slice", node.input[0], *places)
    both = np.zeros((2, len(shape)), np.int64)
    for axis, before, after in pads:
        both[:, axis] = max(before, 0), max(after, 0)
    nodes("Pad", cut, scope.add(both.ravel(), TensorProto.INT64), *node.input[2:3], result=node.output[0])
    return nodes


def _gathered(node: onnx.NodeProto, scope: Scope, shape: Sizes, mode: str) -> Nodes | None:
    pads = _pads(node, scope, shape)
    if pads is None:
        return None
    nodes, value = Nodes(node, scope), node.input[0]
    for axis, before, after in pads:
        if before or after:
            if (size := shape[axis]) is None:
                places = _open_places(nodes, scope, nodes.sizes(value, [*shape[:axis], None])[axis], before, after, mode)
            else:
                kept = np.arange(size)[max(-before, 0) : size - max(-after, 0)]
                if not kept.size:
                    return None
                padded = np.pad(kept, (max(before, 0), max(after, 0)), mode)  # type: ignore[call-overload]
                places = scope.add(padded, TensorProto.INT32)
            value = nodes("Gather", value, places, axis=axis)
    nodes("Identity", value, result=node.output[0])
    return nodes


def _open_places(nodes: Nodes, scope: Scope, size: Size, before: int, after: int, mode: str) -> str:
    """The same for an axis of a size that is open."""

    def number(value: int) -> str:
        return scope.add(np.array(value), TensorProto.INT32)

    kept = nodes.reckoned("Sub", size, max(-before, 0) + max(-after, 0))
    whole = nodes.reckoned("Add", kept, max(before, 0) + max(after, 0))
    places = nodes.counted(whole, first=-max(before, 0))
    count = nodes("Cast", kept, to=TensorProto.INT32) if isinstance(kept, str) else number(kept)
    last = nodes("Sub", count, number(1))
    if mode == "edge":
        places = nodes("Min", nodes("Max", places, number(0)), last)
    elif mode == "reflect":
        period = nodes("Max", nodes("Mul", last, number(2)), number(1))
        places = nodes("Mod", nodes("Abs", places), period)
        places = nodes("Min", places, nodes("Sub", period, places))
        places = nodes("Min", places, last)  # of a single value, there is nothing to reflect
    else:
        ahead = nodes("Mul", count, number(max(before, 0)))
        places = nodes("Mod", nodes("Add", places, ahead), count)
    return nodes("Add", places, number(-before)) if before < 0 else places


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Say where each value comes from; None if there are no such nodes."""
    return replaced(model, _change)
