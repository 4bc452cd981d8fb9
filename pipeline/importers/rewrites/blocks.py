"""Quantization that IREE 3.13 refuses: in blocks, of 4-bit weights, of 16 bits without a sign, and of integers.

Measured: its importer has no 4-bit constants; DequantizeLinear and QuantizeLinear are refused with `block_size`, in uint16,
and of int32 numbers. Of one scale, and of one for each channel, they are right in 8 bits, in all ranks. Here they are said in
arithmetic; constants of 4 bits become such of 8, which hold the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from pipeline.importers.rewrites.graph import Nodes, Scope, attribute, replaced

_WIDER = {TensorProto.INT4: TensorProto.INT8, TensorProto.UINT4: TensorProto.UINT8}
_REFUSED = (*_WIDER, TensorProto.UINT16)
Sizes = tuple[int | None, ...]
_FLOATS = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE)


def _change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    blocks = bool(attribute(node, "block_size"))
    if node.op_type == "DequantizeLinear" and (blocks or scope.type(node.input[0]) in _REFUSED):
        return _floats(node, scope)
    if node.op_type == "QuantizeLinear":
        odd = blocks or scope.type(node.output[0]) == TensorProto.UINT16 or scope.type(node.input[0]) not in _FLOATS
        return _integers(node, scope) if odd and scope.type(node.output[0]) not in _WIDER else None
    return None


def _eight_bits(scope: Scope, name: str) -> str | None:
    """`name`, or a constant of 8 bits with the same numbers."""
    if scope.type(name) not in _WIDER:
        return name
    numbers = scope.constant(name)
    return None if numbers is None else scope.add(numbers, _WIDER[scope.type(name)])


def _spread(nodes: Nodes, scope: Scope, node: onnx.NodeProto, name: str, own: Sizes, shape: Sizes) -> str:
    """A scale or zero point of shape `own`, in the shape that the values have, or in one that is repeated to it."""
    axis = attribute(node, "axis")
    axis = (1 if axis is None else axis) % max(len(shape), 1)
    if block := attribute(node, "block_size"):
        sizes = [n or 0 for n in own]
        parted = [*sizes[: axis + 1], 1, *sizes[axis + 1 :]]
        wide = [*sizes[: axis + 1], block, *sizes[axis + 1 :]]
        name = nodes("Reshape", name, scope.add(np.array(parted), TensorProto.INT64))
        name = nodes("Expand", name, scope.add(np.array(wide), TensorProto.INT64))
        name = nodes(
            "Reshape", name, scope.add(np.array([*sizes[:axis], sizes[axis] * block, *sizes[axis + 1 :]]), TensorProto.INT64)
        )
        if sizes[axis] * block != shape[axis]:
            ends = (scope.add(np.array([n]), TensorProto.INT64) for n in (0, shape[axis], axis))
            name = nodes("Slice", name, *ends)
    elif own and own != (1,):
        column = [1] * axis + [-1] + [1] * (len(shape) - axis - 1)
        name = nodes("Reshape", name, scope.add(np.array(column), TensorProto.INT64))
    return name


def _operands(nodes: Nodes, scope: Scope, node: onnx.NodeProto) -> tuple[str, str, str | None] | None:
    """The values, scales and zero points, if there are any, as numbers of float32; None where shapes are not known."""
    shape = scope.sizes(node.input[0])
    found: list[str] = []
    for name in filter(None, node.input):
        held, own = _eight_bits(scope, name), scope.sizes(name)
        if shape is None or held is None or own is None:
            return None
        if attribute(node, "block_size") and found and (None in own or None in shape):
            return None
        number = held if scope.type(name) == TensorProto.FLOAT else nodes("Cast", held, to=TensorProto.FLOAT)
        found.append(_spread(nodes, scope, node, number, own, shape) if found else number)
    return found[0], found[1], found[2] if len(found) > 2 else None


def _floats(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    nodes = Nodes(node, scope)
    if (operands := _operands(nodes, scope, node)) is None:
        return None
    value, scale, zero = operands
    value = nodes("Sub", value, zero) if zero else value
    nodes("Cast", nodes("Mul", value, scale), result=node.output[0], to=scope.type(node.output[0]) or scope.type(node.input[1]))
    return nodes


def _integers(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    nodes, type_ = Nodes(node, scope), scope.type(node.output[0])
    if not type_ or (operands := _operands(nodes, scope, node)) is None:
        return None
    value, scale, zero = operands
    value = nodes("Round", nodes("Div", value, scale))
    value = nodes("Add", value, zero) if zero else value
    limits = np.iinfo(helper.tensor_dtype_to_np_dtype(type_))
    value = nodes("Clip", value, *(scope.add(np.array(n), TensorProto.FLOAT) for n in (limits.min, limits.max)))
    nodes("Cast", value, result=node.output[0], to=type_)
    return nodes


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Such operators in arithmetic; None if there are none."""
    return replaced(model, _change)
