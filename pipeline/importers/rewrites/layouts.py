"""Values moved to other places in ways that IREE 3.13 refuses or gets wrong: as plain gathers and transpositions.

Measured: Pad with `reflect` is refused for some ranks, types and axes, with `wrap` for all ("failed to legalize", or it takes
minutes); with `edge` and `constant` it is right. DepthToSpace with `CRD` computes what `DCR` does.
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
    if node.op_type == "Pad" and attribute(node, "mode") in (b"reflect", b"wrap"):
        return _gathered(node, scope, shape, attribute(node, "mode").decode())
    return None


def _columns_first(node: onnx.NodeProto, scope: Scope, shape: tuple[int, ...]) -> Nodes:
    nodes, block, (count, depth, height, width) = Nodes(node, scope), attribute(node, "blocksize"), shape
    parts = np.array([count, depth // block**2, block, block, height, width])
    whole = np.array([count, depth // block**2, height * block, width * block])
    parted = nodes("Reshape", node.input[0], scope.add(parts, TensorProto.INT64))
    turned = nodes("Transpose", parted, perm=[0, 1, 4, 2, 5, 3])
    nodes("Reshape", turned, scope.add(whole, TensorProto.INT64), result=node.output[0])
    return nodes


def _gathered(node: onnx.NodeProto, scope: Scope, shape: tuple[int, ...], mode: str) -> Nodes | None:
    pads = scope.constant(node.input[1])
    given = node.input[3] if len(node.input) > 3 else ""
    axes = scope.constant(given) if given else np.arange(len(shape))
    if pads is None or axes is None:
        return None
    nodes, value = Nodes(node, scope), node.input[0]
    for axis, before, after in zip(axes.tolist(), *pads.reshape(2, -1).tolist(), strict=True):
        if before or after:
            kept = np.arange(shape[axis])[max(-before, 0) : shape[axis] - max(-after, 0)]
            if not kept.size:
                return None
            places = np.pad(kept, (max(before, 0), max(after, 0)), mode)  # type: ignore[call-overload]
            value = nodes("Gather", value, scope.add(places, TensorProto.INT64), axis=axis)
    nodes("Identity", value, result=node.output[0])
    return nodes


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Say where each value comes from; None if there are no such nodes."""
    return replaced(model, _change)
