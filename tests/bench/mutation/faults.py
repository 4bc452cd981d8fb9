"""Faults: what a wrong import, a wrong lowering or a wrong kernel does, planted in models, in IR and in outputs.

Each takes what is right and a generator, and gives what is wrong; None where there is no place for such a fault.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Array = np.ndarray[Any, Any]
Random = np.random.Generator
OfWeight = Callable[[Array, int, Random], Array | None]
OfModel = Callable[[onnx.ModelProto, Random], onnx.ModelProto | None]
OfOutput = Callable[[Sequence[Array], Random], Sequence[Array] | None]

_PRODUCTS = ("MatMul", "Conv", "Gemm", "MatMulInteger", "Mul")
_ACTIVATIONS = ("Relu", "HardSwish", "Sigmoid", "Tanh", "Erf", "Clip", "HardSigmoid", "LeakyRelu", "Gelu")


def _size(array: Array) -> float:
    return float(np.sqrt(np.mean(np.square(array.astype(np.float64)))))


def _pair(array: Array, axis: int, random: Random) -> list[int] | None:
    count = array.shape[axis]
    return [int(i) for i in random.choice(count, 2, replace=False)] if count > 1 else None


# Of weights: the array, the axis of its output channels, a generator.


def _scaled_channel(factor: int) -> OfWeight:
    def change(array: Array, axis: int, random: Random) -> Array:
        np.moveaxis(array, axis, 0)[int(random.integers(array.shape[axis]))] *= array.dtype.type(factor)
        return array

    return change


def _swapped(array: Array, axis: int, random: Random) -> Array | None:
    pair = _pair(array, axis, random)
    if pair:
        np.moveaxis(array, axis, 0)[pair] = np.moveaxis(array, axis, 0)[pair[::-1]]
    return array if pair else None


def _one_far_off(array: Array, axis: int, random: Random) -> Array:
    place = tuple(int(random.integers(n)) for n in array.shape)
    array[place] = np.abs(array).max() * (8 if array.dtype.kind == "f" else 1)
    return array


def _transposed(array: Array, axis: int, random: Random) -> Array | None:
    if array.ndim < 2 or array.shape[0] != array.shape[1]:
        return None
    return np.ascontiguousarray(np.swapaxes(array, 0, 1))


def _saturated(array: Array, axis: int, random: Random) -> Array:
    bound = np.quantile(np.abs(array.astype(np.float64)), 0.75)
    return np.clip(array, -bound, bound).astype(array.dtype)


def _rounded(array: Array) -> Array:
    """In the next narrower type: 11 bits for float32, 3 for float16 (as e5m2), 24 for float64, 4 for integers."""
    if array.dtype.kind != "f":
        return (array // 16 * 16).astype(array.dtype)
    if array.dtype == np.float16:
        bits = array.view(np.uint16).astype(np.uint32)
        return ((bits + 0x7F + (bits >> 8 & 1)) & 0xFF00).astype(np.uint16).view(np.float16)
    with np.errstate(over="ignore"):
        return array.astype(np.float16 if array.dtype == np.float32 else np.float32).astype(array.dtype)


_OF_WEIGHTS: Mapping[str, OfWeight] = {
    "channel of weights zero": _scaled_channel(0),
    "channel of weights negated": _scaled_channel(-1),
    "weights of two channels swapped": _swapped,
    "one weight far off": _one_far_off,
    "weights transposed": _transposed,
    "weights saturated": _saturated,
    "weights rounded": lambda array, axis, random: _rounded(array),
}


def _weights(model: onnx.ModelProto) -> list[tuple[onnx.TensorProto, int]]:
    """The weights of products, each with the axis of its output channels."""
    tensors = {t.name: t for t in model.graph.initializer}
    found = []
    for node in model.graph.node:
        for name in node.input[1:2] if node.op_type in _PRODUCTS else ():
            tensor = tensors.get(name)
            if tensor and len(tensor.dims) > 1 and np.prod(tensor.dims) >= 16:
                rows = node.op_type == "Conv" or any(a.name == "transB" and a.i for a in node.attribute)
                found.append((tensor, 0 if rows else len(tensor.dims) - 1))
    return found


def _in_weights(change: OfWeight) -> OfModel:
    def plant(model: onnx.ModelProto, random: Random) -> onnx.ModelProto | None:
        found = _weights(model)
        for index in random.permutation(len(found)):
            tensor, axis = found[index]
            changed = change(numpy_helper.to_array(tensor).copy(), axis, random)
            if changed is not None:
                tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
                return model
        return None

    return plant


def _bias_lost(model: onnx.ModelProto, random: Random) -> onnx.ModelProto | None:
    tensors = {t.name: t for t in model.graph.initializer}
    places = {"Add": (0, 1), "Gemm": (2,), "Conv": (2,), "BatchNormalization": (2,), "LayerNormalization": (2,)}
    names = [n.input[i] for n in model.graph.node for i in places.get(n.op_type, ()) if i < len(n.input)]
    found = [tensors[name] for name in names if name in tensors and np.prod(tensors[name].dims) > 1]
    if not found:
        return None
    tensor = found[int(random.integers(len(found)))]
    tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(tensor)), tensor.name))
    return model


def _pick(model: onnx.ModelProto, random: Random, *operators: str) -> onnx.NodeProto | None:
    found = [n for n in model.graph.node if n.op_type in operators]
    return found[int(random.integers(len(found)))] if found else None


def _activation(to: str, **attributes: Any) -> OfModel:
    def plant(model: onnx.ModelProto, random: Random) -> onnx.ModelProto | None:
        if (node := _pick(model, random, *_ACTIVATIONS)) is None:
            return None
        node.CopyFrom(helper.make_node(to, node.input[:1], node.output, node.name, **attributes))
        return model

    return plant


def _epsilon(model: onnx.ModelProto, random: Random) -> onnx.ModelProto | None:
    node = _pick(model, random, "BatchNormalization", "LayerNormalization", "InstanceNormalization")
    if node is None:
        return None
    kept = [a for a in node.attribute if a.name != "epsilon"]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("epsilon", 1e-3)])
    return model


def _attribute(model: onnx.ModelProto, random: Random) -> onnx.ModelProto | None:
    """Padding moved from the beginning to the end; the axis of a softmax or a concatenation of another dimension."""
    found = [
        (node, attribute)
        for node in model.graph.node
        for attribute in node.attribute
        if (attribute.name == "pads" and any(attribute.ints)) or (attribute.name == "axis" and node.op_type == "Softmax")
    ]
    if not found:
        return None
    _, attribute = found[int(random.integers(len(found)))]
    if attribute.name == "axis":
        attribute.i = 0
    else:
        half = len(attribute.ints) // 2
        before = list(attribute.ints)
        attribute.ints[:] = [0] * half + [b + a for b, a in zip(before[:half], before[half:], strict=True)]
    return model


def _of_input(operator: str, *bound: float) -> OfModel:
    """What is right only for some inputs: the operator stands between the input and everything that takes it."""

    def plant(model: onnx.ModelProto, random: Random) -> onnx.ModelProto:
        value = model.graph.input[0]
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        for node in model.graph.node:
            node.input[:] = ["seen" if name == value.name else name for name in node.input]
        limit = [numpy_helper.from_array(np.array(b, dtype), "limit") for b in bound]
        model.graph.initializer.extend(limit)
        model.graph.node.insert(0, helper.make_node(operator, [value.name, *(t.name for t in limit)], ["seen"]))
        return model

    return plant


def of_models(high: float) -> Mapping[str, OfModel]:
    """Faults in a model whose input is below `high`, by kind."""
    return {
        **{kind: _in_weights(change) for kind, change in _OF_WEIGHTS.items()},
        "bias lost": _bias_lost,
        "activation dropped": _activation("Identity"),
        "activation leaks": _activation("LeakyRelu", alpha=0.1),
        "epsilon changed": _epsilon,
        "padding or axis changed": _attribute,
        "wrong for negative inputs": _of_input("Abs"),
        "wrong for large inputs": _of_input("Min", high),
    }


# In IR: the operation to find, and what stands in its place.
_OPERATIONS: Mapping[str, tuple[str, str]] = {
    "addition became subtraction": (r"arith\.add([fi]) ", r"arith.sub\1 "),
    "maximum became minimum": (r"arith\.max(imumf|numf|si) ", r"arith.min\1 "),
    "comparison turned round": (r"arith\.cmp([fi]) [a-z]*gt,", r"LESS"),
    "product became sum": (r"arith\.mul([fi]) ", r"arith.add\1 "),
}


def of_ir(kind: str, text: str, random: Random) -> str | None:
    """The module with one operation exchanged."""
    pattern, to = _OPERATIONS[kind]
    found = list(re.finditer(pattern, text))
    if not found:
        return None
    match = found[int(random.integers(len(found)))]
    new = match[0].replace("gt,", "lt,") if to == "LESS" else match.expand(to)
    return text[: match.start()] + new + text[match.end() :]


IR_KINDS = tuple(_OPERATIONS)


# Of outputs: what one output is for each draw, a generator.


def _each(change: Callable[[Array, Random], Array | None]) -> OfOutput:
    """The same fault, at the same place, in every draw."""

    def plant(outputs: Sequence[Array], random: Random) -> Sequence[Array] | None:
        seed = int(random.integers(1 << 30))
        made = [change(array.copy(), np.random.default_rng(seed)) for array in outputs]
        whole = [array for array in made if array is not None]
        return whole if len(whole) == len(made) else None

    return plant


def _channel_zero(array: Array, random: Random) -> Array | None:
    if array.ndim < 2:
        return None
    array[..., int(random.integers(array.shape[-1]))] = 0
    return array


def _rows_swapped(array: Array, random: Random) -> Array | None:
    return next((_swapped(array, axis, random) for axis in range(array.ndim - 1) if array.shape[axis] > 1), None)


def _later_rows(array: Array, random: Random) -> Array | None:
    axis = next((axis for axis in range(array.ndim - 1) if array.shape[axis] > 1), None)
    if axis is None:
        return None
    rows = np.moveaxis(array, axis, 0)
    rows[1:] = rows[0]
    return array


def _block_transposed(array: Array, random: Random) -> Array | None:
    side = min(array.shape[-2:], default=0) // 2 if array.ndim > 1 else 0
    if side < 2:
        return None
    array[..., :side, :side] = np.swapaxes(array[..., :side, :side].copy(), -1, -2)
    return array


def _stale(count: Callable[[int], int], at_end: bool) -> OfOutput:
    def plant(outputs: Sequence[Array], random: Random) -> Sequence[Array]:
        made = []
        size = outputs[0].size
        length = min(size, max(1, count(size)))
        start = size - length if at_end else int(random.integers(size - length + 1))
        for before, array in zip([np.zeros_like(outputs[0]), *outputs], outputs, strict=False):
            copy = array.copy()
            if before.size == copy.size:
                copy.reshape(-1)[start : start + length] = before.reshape(-1)[start : start + length]
            made.append(copy)
        return made

    return plant


def _small(change: Callable[[Array], Array]) -> Callable[[Array, Random], Array | None]:
    """Values of less than a tenth of the output's size."""

    def plant(array: Array, random: Random) -> Array | None:
        if array.dtype.kind not in "f":
            return None
        return np.where(np.abs(array) < _size(array) / 10, change(array), array).astype(array.dtype)

    return plant


def _limited(array: Array, random: Random) -> Array | None:
    """Bytes of at most 127. IREE gives them as int8: MLIR integers carry no sign."""
    return np.minimum(array.view(np.uint8), 127).view(array.dtype) if array.dtype in (np.uint8, np.int8) else None


def _last_wrong(array: Array, random: Random) -> Array:
    last = array.reshape(-1)[-1:]
    last += np.array(_size(array) if array.dtype.kind == "f" else 1).astype(array.dtype)
    return array


def _one_nan(array: Array, random: Random) -> Array | None:
    if array.dtype.kind != "f":
        return None
    array.reshape(-1)[int(random.integers(array.size))] = np.nan
    return array


OF_OUTPUTS: Mapping[str, OfOutput] = {
    "all zero": _each(lambda array, random: np.zeros_like(array)),
    "a channel zero": _each(_channel_zero),
    "off by one element": _each(lambda array, random: np.roll(array.reshape(-1), 1).reshape(array.shape)),
    "two rows swapped": _each(_rows_swapped),
    "the last vector not written": _stale(lambda size: 8, at_end=True),
    "a tile not written": _stale(lambda size: size // 16, at_end=False),
    "a block transposed": _each(_block_transposed),
    "sign of small values lost": _each(_small(np.abs)),
    "small values flushed to zero": _each(_small(np.zeros_like)),
    "saturated as int8": _each(_limited),
    "last element wrong": _each(_last_wrong),
    "one NaN": _each(_one_nan),
    "of lower precision": _each(lambda array, random: _rounded(array) if array.dtype.kind == "f" else None),
    "all rows like the first": _each(_later_rows),
}
KINDS = (*of_models(0.0), *IR_KINDS, *OF_OUTPUTS)
