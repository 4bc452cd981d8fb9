"""ConvTranspose with strides: a convolution that makes all places between two values at once, as channels, and a shuffle.

IREE 3.13 puts zeros between the values and multiplies them all. 128 to 64 channels, length 100, stride
8 and window 16 takes 0.66 instead of 50 ms, with the convolution as `lines` has it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from pipeline.importers.rewrites.convolutions import sizes_of
from pipeline.importers.rewrites.faster.windows import OF_ONE_SUM
from pipeline.importers.rewrites.graph import Nodes, Scope, attribute


def change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    """The nodes for a ConvTranspose of that kind."""
    if node.op_type != "ConvTranspose" or scope.type(node.input[0]) not in OF_ONE_SUM:
        return None
    x, w = scope.shape(node.input[0]), scope.shape(node.input[1])
    if x is None or w is None or len(x) != len(w) or (attribute(node, "group") or 1) != 1:
        return None
    count = len(x) - 2
    strides = list(attribute(node, "strides") or [1] * count)
    if count > 2 or max(strides) == 1 or max(attribute(node, "dilations") or [1]) > 1:
        return None
    left_out, sizes = sizes_of(node, x[2:], w[2:])
    taps = [-(-k // s) for k, s in zip(w[2:], strides, strict=True)]
    made = [n + t - 1 for n, t in zip(x[2:], taps, strict=True)]
    if any(b < 0 or b + n > m * s for b, n, m, s in zip(left_out, sizes, made, strides, strict=True)):
        return None
    weights, bias = scope.constant(node.input[1]), _bias(node, scope, w[1])
    if weights is None or bias is None:
        return None
    type_, nodes = scope.type(node.input[0]), Nodes(node, scope)
    kernel = scope.add(_kernel(weights, taps, strides), type_)
    whole = scope.add(np.tile(bias, int(np.prod(strides))), type_)
    pads = [t - 1 for t in taps]
    found = nodes("Conv", node.input[0], kernel, whole, pads=[*pads, *pads])
    # [B, s…, O, M…] → [B, O, M, s, …] → [B, O, M × s, …]
    found = nodes.shaped(found, [x[0], *strides, w[1], *made])
    order = [0, 1 + count, *(axis for i in range(count) for axis in (2 + count + i, 1 + i))]
    found = nodes("Transpose", found, perm=order)
    found = nodes.shaped(found, [x[0], w[1], *(m * s for m, s in zip(made, strides, strict=True))])
    ends = [b + n for b, n in zip(left_out, sizes, strict=True)]
    axes = nodes.integers(*range(2, 2 + count))
    nodes("Slice", found, nodes.integers(*left_out), nodes.integers(*ends), axes, result=node.output[0])
    return nodes


def _bias(node: onnx.NodeProto, scope: Scope, channels: int) -> np.ndarray | None:
    if len(node.input) > 2 and node.input[2]:
        return scope.constant(node.input[2])
    return np.zeros(channels, np.float32)


def _kernel(weights: np.ndarray, taps: Sequence[int], strides: Sequence[int]) -> np.ndarray:
    """[C, O, k…] → [s… × O, C, taps…]: for each place between two values the taps that reach it, backwards."""
    count = len(taps)
    more = [(0, t * s - k) for t, s, k in zip(taps, strides, weights.shape[2:], strict=True)]
    padded = np.pad(weights, [(0, 0), (0, 0), *more])
    parted = padded.reshape(*weights.shape[:2], *(n for t, s in zip(taps, strides, strict=True) for n in (t, s)))
    parted = np.flip(parted, tuple(2 + 2 * i for i in range(count)))
    order = [*(3 + 2 * i for i in range(count)), 1, 0, *(2 + 2 * i for i in range(count))]
    return np.ascontiguousarray(parted.transpose(order)).reshape(-1, weights.shape[0], *taps)
