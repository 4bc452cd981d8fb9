"""Pools whose last windows are partial, and other forms that IREE 3.13 refuses or gets wrong: as pools of a padded tensor.

Measured in one to three dimensions: with `ceil_mode`, windows that begin in the padding behind the values are not left out, the
mean that counts padding counts what no pad said too, and LpPool is wrong. LpPool with `auto_pad` or dilations is refused, and the
indices of MaxPool are those inside one channel (ONNX numbers the whole tensor). Other pads, `auto_pad`
and dilations are right.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.arrays import Array
from pipeline.importers.rewrites.graph import Nodes, Scope, attribute, replaced

_FLOATS = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE)
_LARGEST = 128  # positions of a window, beyond which its maximum is not looked for one by one


@dataclass(frozen=True)
class Axis:
    """How windows lie on one axis: before its first value are `before` places, behind its last `after`."""

    size: int
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int
    windows: int

    @property
    def beyond(self) -> int:
        """The places behind the last value that the last window reaches; negative where values are left over."""
        return (self.windows - 1) * self.stride + (self.kernel - 1) * self.dilation + 1 - self.before - self.size

    @property
    def starts(self) -> Array:
        """Where each window begins, counted from the first value."""
        return np.arange(self.windows) * self.stride - self.before

    def counted(self, padding: bool) -> Array:
        """How many places of each window are values, or values and padding."""
        places = self.starts[:, None] + np.arange(self.kernel) * self.dilation
        low, high = (-self.before, self.size + self.after) if padding else (0, self.size)
        return np.asarray(((places >= low) & (places < high)).sum(axis=1))


def axes_of(node: onnx.NodeProto, sizes: Sequence[int], kernel: Sequence[int] = ()) -> list[Axis]:
    """The axes that `node` pools, of these sizes, as ONNX Runtime lays the windows. `kernel`: their sizes if it does not say."""
    count = len(sizes)
    kernel = kernel or attribute(node, "kernel_shape")
    strides, dilations = (attribute(node, name) or [1] * count for name in ("strides", "dilations"))
    pads = attribute(node, "pads") or [0] * 2 * count
    mode = (attribute(node, "auto_pad") or b"NOTSET").decode()
    return [
        _axis(sizes[i], kernel[i], strides[i], dilations[i], mode, (pads[i], pads[i + count]), bool(attribute(node, "ceil_mode")))
        for i in range(count)
    ]


def _axis(size: int, kernel: int, stride: int, dilation: int, mode: str, pads: tuple[int, int], ceil: bool) -> Axis:
    before, after = pads if mode == "NOTSET" else (0, 0)
    reach = (kernel - 1) * dilation + 1
    if mode.startswith("SAME"):
        total = max(0, (math.ceil(size / stride) - 1) * stride + reach - size)
        less = total // 2
        before, after = (less, total - less) if mode == "SAME_UPPER" else (total - less, less)
    room = size + before + after - reach
    windows = (math.ceil(room / stride) if ceil else room // stride) + 1
    if ceil and (windows - 1) * stride >= size + before:
        windows -= 1  # it would begin behind the values
    return Axis(size, kernel, stride, dilation, before, after, windows)


def _change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    if node.op_type not in ("MaxPool", "AveragePool", "LpPool"):
        return None
    indices = len(node.output) > 1 and bool(node.output[1])
    dilated = any(d != 1 for d in attribute(node, "dilations") or [])
    odd = node.op_type == "LpPool" and (dilated or attribute(node, "auto_pad") not in (None, b"NOTSET"))
    shape, rank = scope.shape(node.input[0]), scope.rank(node.input[0])
    wrong_if_open = shape is None and dilated and node.op_type == "AveragePool"
    if not (indices or odd or wrong_if_open or attribute(node, "ceil_mode")):
        return None
    if shape is None:
        return None if indices or odd or not rank else _open(node, scope, rank - 2)
    axes = axes_of(node, shape[2:])
    if any(axis.windows < 1 for axis in axes) or (indices and math.prod(a.kernel for a in axes) > _LARGEST):
        return None
    nodes = Nodes(node, scope)
    padded = _padded(nodes, node, scope, axes)
    if node.op_type == "AveragePool":
        _mean(nodes, node, scope, axes, padded)
    elif node.op_type == "LpPool" and dilated:
        _norm(nodes, node, scope, axes, padded)
    elif indices:
        _places(nodes, node, scope, axes, padded, shape)
    else:
        _pool(nodes, node, padded, node.output[0])
    return nodes


def _open(node: onnx.NodeProto, scope: Scope, count: int) -> Nodes | None:
    """A pool of sizes that are open. For `ceil_mode`, one stride less a place is padded, so that the last window is whole.

    A mean is over that of what counts: IREE does not divide at all, if there are dilations.

    Where a window could begin behind the values and their padding, nothing is known of it.
    """
    ones = [1] * count
    kernel, pads = attribute(node, "kernel_shape"), attribute(node, "pads") or [0] * 2 * count
    strides, dilations = (attribute(node, name) or ones for name in ("strides", "dilations"))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    ceil = bool(attribute(node, "ceil_mode"))
    more = [(stride - 1) * ceil for stride in strides]
    behind = ceil and any(r < after + stride for r, after, stride in zip(reach, pads[count:], strides, strict=True))
    if behind or attribute(node, "auto_pad") not in (None, b"NOTSET") or node.op_type == "LpPool":
        return None
    nodes, (x, type_) = Nodes(node, scope), (node.input[0], scope.type(node.input[0]))

    def padded(value: str, before: Sequence[int], after: Sequence[int], by: float) -> str:
        wide = nodes.integers(0, 0, *before, 0, 0, *after)
        return nodes("Pad", value, wide, scope.add(np.array(by), type_)) if any((*before, *after)) else value

    behind_all = [after + n for after, n in zip(pads[count:], more, strict=True)]
    least = _least(type_) if node.op_type == "MaxPool" else 0.0
    wide = padded(x, pads[:count], behind_all, least)
    if node.op_type == "MaxPool":
        _pool(nodes, node, wide, node.output[0])
        return nodes
    space = [1, 1, *nodes.sizes(x)[2:]]
    ones_ = nodes("Expand", scope.add(np.array(1.0), type_), nodes.listed(space))
    if attribute(node, "count_include_pad"):
        counted = padded(padded(ones_, pads[:count], pads[count:], 1.0), [0] * count, more, 0.0)
    else:
        counted = padded(ones_, pads[:count], behind_all, 0.0)
    nodes("Div", _pool(nodes, node, wide), _pool(nodes, node, counted), result=node.output[0])
    return nodes


def _least(type_: int) -> float:
    return -np.inf if type_ in _FLOATS else float(np.iinfo(onnx.helper.tensor_dtype_to_np_dtype(type_)).min)


def _padded(nodes: Nodes, node: onnx.NodeProto, scope: Scope, axes: Sequence[Axis]) -> str:
    """The values with what surrounds them: zeros, or for a maximum the least number."""
    pads = [0, 0, *(a.before for a in axes), 0, 0, *(max(a.beyond, 0) for a in axes)]
    if not any(pads):
        return str(node.input[0])
    type_ = scope.type(node.input[0])
    least = np.array(_least(type_) if node.op_type == "MaxPool" else 0.0)
    padded: str = nodes("Pad", node.input[0], scope.add(np.array(pads), TensorProto.INT64), scope.add(least, type_))
    return padded


def _pool(nodes: Nodes, node: onnx.NodeProto, source: str, result: str = "") -> str:
    """`node` itself, of what is padded already."""
    pooled: str = nodes(node.op_type, source, result=result)
    left = ("pads", "auto_pad", "ceil_mode", "count_include_pad", "storage_order")
    nodes[-1].attribute.extend(a for a in node.attribute if a.name not in left)
    return pooled


def _mean(nodes: Nodes, node: onnx.NodeProto, scope: Scope, axes: Sequence[Axis], padded: str) -> None:
    """The mean over all of a window, corrected by how much of it counts."""
    counts = np.ones(())
    for axis in axes:
        counts = np.multiply.outer(counts, axis.counted(bool(attribute(node, "count_include_pad"))))
    factors = math.prod(axis.kernel for axis in axes) / np.maximum(counts, 1)
    if (factors == 1).all():
        _pool(nodes, node, padded, node.output[0])
    else:
        mean = _pool(nodes, node, padded)
        nodes("Mul", mean, scope.add(factors, scope.type(node.input[0])), result=node.output[0])


def _norm(nodes: Nodes, node: onnx.NodeProto, scope: Scope, axes: Sequence[Axis], padded: str) -> None:
    """Sums of powers, channel by channel, as a convolution with ones."""
    type_, p = scope.type(node.input[0]), attribute(node, "p") or 2
    power = nodes("Abs", padded)
    if p != 1:
        power = nodes("Pow", power, scope.add(np.array(p), type_))
    shape = scope.shape(node.input[0]) or ()
    one_channel = [-1, 1, *(a.size + a.before + max(a.beyond, 0) for a in axes)]
    power = nodes("Reshape", power, scope.add(np.array(one_channel), TensorProto.INT64))
    ones = scope.add(np.ones((1, 1, *(a.kernel for a in axes))), type_)
    sums = nodes("Conv", power, ones, strides=[a.stride for a in axes], dilations=[a.dilation for a in axes])
    back = scope.add(np.array([*shape[:2], *(a.windows for a in axes)]), TensorProto.INT64)
    if p != 1:
        sums = nodes("Pow", sums, scope.add(np.array(1 / p), type_))
    nodes("Reshape", sums, back, result=node.output[0])


def _places(nodes: Nodes, node: onnx.NodeProto, scope: Scope, axes: Sequence[Axis], padded: str, shape: tuple[int, ...]) -> None:
    """The maximum, and where it lies in the whole tensor: the first of equal ones. Each place of the window is a slice."""

    def numbers(values: Sequence[int] | Array) -> str:
        return scope.add(np.array(values), TensorProto.INT64)

    order = range(len(axes)) if attribute(node, "storage_order") else range(len(axes))[::-1]
    apart, step = [0] * len(axes), 1  # how far neighbours on an axis are apart in memory
    for i in order:
        apart[i], step = step, step * axes[i].size
    which, steps = numbers(np.arange(len(axes)) + 2), numbers([a.stride for a in axes])
    ends = [(a.windows - 1) * a.stride + 1 for a in axes]
    slices, offsets = [], []
    for place in itertools.product(*(range(a.kernel) for a in axes)):
        starts = [k * a.dilation for k, a in zip(place, axes, strict=True)]
        stops = [start + end for start, end in zip(starts, ends, strict=True)]
        cut = nodes("Slice", padded, numbers(starts), numbers(stops), which, steps)
        slices.append(nodes("Unsqueeze", cut, numbers([0])))
        offsets.append(sum(start * a for start, a in zip(starts, apart, strict=True)))
    stacked = nodes("Concat", *slices, axis=0)
    if node.output[0]:
        _pool(nodes, node, padded, node.output[0])
    first = nodes("ArgMax", stacked, axis=0, keepdims=0)
    base = step * np.arange(math.prod(shape[:2])).reshape(*shape[:2], *[1] * len(axes))
    for i, axis in enumerate(axes):
        base = base + (axis.starts * apart[i]).reshape(-1, *[1] * (len(axes) - 1 - i))
    nodes("Add", nodes("Gather", numbers(offsets), first), numbers(base), result=node.output[1])


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Pad first, then pool, and correct what a mean is divided by; None if there are no such pools."""
    return replaced(model, _change)
