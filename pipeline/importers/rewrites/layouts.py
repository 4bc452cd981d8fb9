"""Values moved to other places in ways that IREE 3.13 refuses or gets wrong: as plain gathers and transpositions.

Measured: Pad with `reflect` and `edge` is refused for some ranks, types and axes, with `wrap` for all ("failed to legalize",
or it takes minutes), and with negative pads for all. DepthToSpace with `CRD` computes what `DCR` does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.importers.rewrites.graph import Nodes, Scope, attribute, replaced


def _change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    shape = scope.shape(node.input[0]) if node.input else None
    if shape is None:
        return None
    if node.op_type == "DepthToSpace" and attribute(node, "mode") == b"CRD":
        return _columns_first(node, scope, shape)
    if node.op_type == "Pad":
        mode = (attribute(node, "mode") or b"constant").decode()
        return _gathered(node, scope, shape, mode) if mode != "constant" else _cropped(node, scope, shape)
    return None


def _columns_first(node: onnx.NodeProto, scope: Scope, shape: tuple[int, ...]) -> Nodes:
    nodes, block, (count, depth, height, width) = Nodes(node, scope), attribute(node, "blocksize"), shape
    parts = np.array([count, depth // block**2, block, block, height, width])
    whole = np.array([count, depth // block**2, height * block, width * block])
    parted = nodes("Reshape", node.input[0], scope.add(parts, TensorProto.INT64))
    turned = nodes("Transpose", parted, perm=[0, 1, 4, 2, 5, 3])
    nodes("Reshape", turned, scope.add(whole, TensorProto.INT64), result=node.output[0])
    return nodes


def _pads(node: onnx.NodeProto, scope: Scope, shape: tuple[int, ...]) -> list[tuple[int, int, int]] | None:
    """The axes that are padded, with how much before and after; None where that is not constant."""
    pads = scope.constant(node.input[1])
    given = node.input[3] if len(node.input) > 3 else ""
    axes = scope.constant(given) if given else np.arange(len(shape))
    if pads is None or axes is None:
        return None
    befores, afters = pads.reshape(2, -1).tolist()
    return [(axis % len(shape), before, after) for axis, before, after in zip(axes.tolist(), befores, afters, strict=True)]


def _cropped(node: onnx.NodeProto, scope: Scope, shape: tuple[int, ...]) -> Nodes | None:
    """A Pad that takes away, after a Slice."""
    pads = _pads(node, scope, shape)
    if pads is None or not any(n < 0 for _, *both in pads for n in both):
        return None
    nodes = Nodes(node, scope)
    starts, ends = [max(-before, 0) for _, before, _ in pads], [shape[axis] - max(-after, 0) for axis, _, after in pads]
    places = (scope.add(np.array(n), TensorProto.INT64) for n in (starts, ends, [axis for axis, *_ in pads]))
    cut = nodes("Slice", node.input[0], *places)
    both = np.zeros((2, len(shape)), np.int64)
    for axis, before, after in pads:
        both[:, axis] = max(before, 0), max(after, 0)
    nodes("Pad", cut, scope.add(both.ravel(), TensorProto.INT64), *node.input[2:3], result=node.output[0])
    return nodes


def _gathered(node: onnx.NodeProto, scope: Scope, shape: tuple[int, ...], mode: str) -> Nodes | None:
    pads = _pads(node, scope, shape)
    if pads is None:
        return None
    nodes, value = Nodes(node, scope), node.input[0]
    for axis, before, after in pads:
        if before or after:
            kept = np.arange(shape[axis])[max(-before, 0) : shape[axis] - max(-after, 0)]
            if not kept.size:
                return None
            places = np.pad(kept, (max(before, 0), max(after, 0)), mode)  # type: ignore[call-overload]
            value = nodes("Gather", value, scope.add(places, TensorProto.INT32), axis=axis)
    nodes("Identity", value, result=node.output[0])
    return nodes


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Say where each value comes from; None if there are no such nodes."""
    return replaced(model, _change)
