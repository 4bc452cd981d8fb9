"""Convolutions that IREE 3.13 refuses, as others: ConvTranspose, those of single channels in space, and ConvInteger.

Measured in one to three dimensions: ConvTranspose with asymmetric pads, `auto_pad`, `output_shape` or a group for each channel is
refused; it is a Conv of the values with zeros between them, which is how IREE makes the others too. Conv with a group for each
channel is refused in three dimensions: with a channel of zeros beside each it is not. ConvInteger is refused with `auto_pad`, and
without groups in one dimension. Conv is right with asymmetric pads, `auto_pad`, strides and dilations.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.importers.rewrites.graph import Nodes, Scope, Size, attribute, replaced
from pipeline.importers.rewrites.pools import axes_of

Ints = Sequence[int]
Sizes = Sequence[int | None]
# In the place of a size that is open, where what is made of it depends on none.
_ANY = 1 << 20


def whatever(sizes: Sizes) -> list[int]:
    """The sizes with a number, whichever, for those that are open: to ask what depends on none."""
    return [_ANY if size is None else size for size in sizes]


def _numbers(scope: Scope, values: Ints) -> str:
    return scope.add(np.array(values), TensorProto.INT64)


def _padded(nodes: Nodes, scope: Scope, source: str, type_: int, before: Ints, after: Ints) -> str:
    """`source` with zeros around it, or without its ends where that is negative."""
    if any(n > 0 for n in (*before, *after)):
        pads = [max(n, 0) for n in (*before, *after)]
        source = nodes("Pad", source, _numbers(scope, pads), scope.add(np.zeros(()), type_))
    if any(n < 0 for n in (*before, *after)):
        # Not by Pad: IREE 3.13 fails to make one of another that is negative.
        ends = [min(n, 0) or np.iinfo(np.int64).max for n in after]
        source = nodes("Slice", source, _numbers(scope, [max(-n, 0) for n in before]), _numbers(scope, ends))
    return source


def _reshaped(nodes: Nodes, scope: Scope, source: str, shape: Ints) -> str:
    result: str = nodes("Reshape", source, _numbers(scope, shape))
    return result


def _change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    if node.op_type not in ("Conv", "ConvTranspose", "ConvInteger"):
        return None
    x, w = scope.sizes(node.input[0]), scope.shape(node.input[1])
    if x is None or w is None or len(x) != len(w):
        return None
    group = attribute(node, "group") or 1
    alone = group > 1 and group == x[1]
    if node.op_type == "Conv":
        return _in_space(node, scope, w) if alone and len(x) == 5 else None
    if node.op_type == "ConvInteger":
        return _of_integers(node, scope, x, w, group)
    pads = attribute(node, "pads") or []
    odd = attribute(node, "auto_pad") not in (None, b"NOTSET") or attribute(node, "output_shape")
    if odd or alone or list(pads[: len(pads) // 2]) != list(pads[len(pads) // 2 :]):
        return _transposed(node, scope, x, w, group)
    return None


def _beside_zeros(nodes: Nodes, scope: Scope, type_: int, x: str, shape: Sequence[Size], w: str, kernel: Ints) -> tuple[str, str]:
    """Values and weights of single channels, with a channel of zeros behind each."""
    axis = [0, 0, 1, *[0] * (len(shape) - 2)]
    parted = nodes("Unsqueeze", x, nodes.integers(2))
    wide = _padded(nodes, scope, parted, type_, [0] * len(axis), axis)
    w = _padded(nodes, scope, w, type_, [0] * len(kernel), [0, 1, *[0] * (len(kernel) - 2)])
    return nodes.shaped(wide, [shape[0], nodes.reckoned("Mul", shape[1], 2), *shape[2:]]), w


def _in_space(node: onnx.NodeProto, scope: Scope, kernel: Ints) -> Nodes:
    nodes, x = Nodes(node, scope), node.input[0]
    x, w = _beside_zeros(nodes, scope, scope.type(x), x, nodes.sizes(x), node.input[1], kernel)
    nodes("Conv", x, w, *node.input[2:], result=node.output[0])
    nodes[-1].attribute.extend(node.attribute)
    return nodes


def sizes_of(node: onnx.NodeProto, sizes: Ints, kernel: Ints) -> tuple[list[int], list[int]]:
    """Of a ConvTranspose, how much of the whole result is left out at the beginning of each axis, and the sizes of the rest."""
    count = len(sizes)
    strides, dilations = (attribute(node, name) or [1] * count for name in ("strides", "dilations"))
    more = attribute(node, "output_padding") or [0] * count
    pads = list(attribute(node, "pads") or [0] * 2 * count)
    mode, wanted = attribute(node, "auto_pad") or b"NOTSET", attribute(node, "output_shape")
    whole = [strides[i] * (sizes[i] - 1) + more[i] + (kernel[i] - 1) * dilations[i] + 1 for i in range(count)]
    if mode == b"VALID":
        pads = [0] * 2 * count
    elif wanted or mode != b"NOTSET":
        wanted = list(wanted or [size * stride for size, stride in zip(sizes, strides, strict=True)])[-count:]
        for i, total in enumerate(max(0, w - n) for w, n in zip(whole, wanted, strict=True)):
            # Of an odd number the larger half is before the values, except with SAME_UPPER.
            pads[i] = total // 2 if mode == b"SAME_UPPER" else total - total // 2
            pads[i + count] = total - pads[i]
    return pads[:count], [whole[i] - pads[i] - pads[i + count] for i in range(count)]


def _transposed(node: onnx.NodeProto, scope: Scope, shape: Sizes, weights: Ints, group: int) -> Nodes | None:
    if None in shape[2:] and attribute(node, "output_shape"):
        return None
    nodes, count, kernel = Nodes(node, scope), len(shape) - 2, weights[2:]
    strides, dilations = (attribute(node, name) or [1] * count for name in ("strides", "dilations"))
    space = whatever(shape[2:])
    left_out, sizes = sizes_of(node, space, kernel)
    (x, w), type_ = node.input[:2], scope.type(node.input[0])
    # Zeros between the values: each becomes `stride` places, and what is behind the last is cut off below.
    given = nodes.sizes(x)
    x = nodes("Unsqueeze", x, nodes.integers(*range(3, 3 + 2 * count, 2)))
    x = _padded(nodes, scope, x, type_, [0] * (2 + 2 * count), [0, 0, *(n for s in strides for n in (0, s - 1))])
    spaced = [size * stride for size, stride in zip(space, strides, strict=True)]
    wide = [nodes.reckoned("Mul", size, stride) for size, stride in zip(given[2:], strides, strict=True)]
    x = nodes.shaped(x, [*given[:2], *wide])
    reach = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
    before = [r - b for r, b in zip(reach, left_out, strict=True)]
    after = [size + r - b - n for size, r, b, n in zip(sizes, reach, before, spaced, strict=True)]
    if any(n + b < 1 or n + a < 1 for n, b, a in zip(spaced, before, after, strict=True)):
        return None
    x = _padded(nodes, scope, x, type_, [0, 0, *before], [0, 0, *after])
    # The kernel backwards, its channels of results first.
    w = _reshaped(nodes, scope, w, [group, weights[0] // group, *weights[1:]])
    w = nodes("Transpose", w, perm=[0, 2, 1, *range(3, 3 + count)])
    turned = [group * weights[1], weights[0] // group, *kernel]
    w = _reshaped(nodes, scope, w, turned)
    ends = [_numbers(scope, [n] * count) for n in (-1, np.iinfo(np.int64).min)]
    w = nodes("Slice", w, *ends, _numbers(scope, range(2, 2 + count)), _numbers(scope, [-1] * count))
    if count == 3 and group > 1 and group == shape[1]:
        padded = [*given[:2], *(nodes.reckoned("Add", n, b + a) for n, b, a in zip(wide, before, after, strict=True))]
        x, w = _beside_zeros(nodes, scope, type_, x, padded, w, turned)
    nodes("Conv", x, w, *node.input[2:], result=node.output[0], group=group, dilations=list(dilations))
    return nodes


def _of_integers(node: onnx.NodeProto, scope: Scope, shape: Sizes, kernel: Ints, group: int) -> Nodes | None:
    flat = len(shape) == 3 and group == 1
    mode = (attribute(node, "auto_pad") or b"NOTSET").decode()
    steps = any(n > 1 for n in attribute(node, "strides") or [])
    if (not flat and mode == "NOTSET") or (mode.startswith("SAME") and steps and None in shape[2:]):
        return None
    nodes = Nodes(node, scope)
    axes = axes_of(node, whatever(shape[2:]), kernel[2:])
    one = [1] if flat else []
    zero = [0] if flat else []
    x, w = node.input[:2]
    if flat:
        x, w = (nodes("Unsqueeze", name, nodes.integers(2)) for name in (x, w))
    given: dict[str, object] = {
        "group": group,
        "pads": [*zero, *(a.before for a in axes), *zero, *(a.after for a in axes)],
        "strides": [*one, *(a.stride for a in axes)],
        "dilations": [*one, *(a.dilation for a in axes)],
    }
    made = nodes("ConvInteger", x, w, *node.input[2:], result="" if flat else node.output[0])
    nodes[-1].attribute.extend(onnx.helper.make_attribute(name, value) for name, value in given.items())
    if flat:
        nodes("Squeeze", made, nodes.integers(2), result=node.output[0])
    return nodes


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Such convolutions as those that are right; None if there are none."""
    return replaced(model, _change)
