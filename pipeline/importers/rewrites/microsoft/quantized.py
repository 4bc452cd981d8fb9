"""Operators of quantized numbers that ONNX Runtime's quantizer writes, in ONNX Runtime's own order of roundings."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto, helper

from pipeline.importers.rewrites.microsoft.call import Call, UnsupportedError

_FLOAT, _INTEGER = TensorProto.FLOAT, TensorProto.INT32


def dynamic_matmul(call: Call) -> None:
    """DynamicQuantizeMatMul: floats are quantized by their range, and multiplied as integers."""
    x, weights, w_scale, w_zero, bias = (call.input(i) for i in range(5))
    call.last(dynamic_product(call, x, weights, w_scale, w_zero or call.number(0, call.type(weights)), bias))


def dynamic_product(call: Call, x: str, weights: str, w_scale: str, w_zero: str, bias: str) -> str:
    """Floats, quantized by their range, times weights."""
    quantized, scale, zero = (call.scope.fresh(call.node.output[0]) for _ in range(3))
    call("DynamicQuantizeLinear", x, result=quantized)
    call[-1].output.extend([scale, zero])
    return _product(call, quantized, weights, zero, w_zero, scale, w_scale, bias)


def matmul_to_float(call: Call) -> None:
    """MatMulIntegerToFloat."""
    x, weights, x_scale, w_scale, x_zero, w_zero, bias = (call.input(i) for i in range(7))
    zeros = [zero or call.number(0, call.type(value)) for zero, value in ((x_zero, x), (w_zero, weights))]
    call.last(_product(call, x, weights, zeros[0], zeros[1], x_scale, w_scale, bias))


def _product(call: Call, x: str, weights: str, x_zero: str, w_zero: str, x_scale: str, w_scale: str, bias: str) -> str:
    products = call("Cast", call("MatMulInteger", x, weights, x_zero, w_zero), to=_FLOAT)
    return call.plus(call("Mul", products, call("Mul", x_scale, w_scale)), bias)


def matmul_bits(call: Call) -> None:
    """MatMulNBits: weights of 2, 4 or 8 bits, in blocks that have a scale and a zero point each."""
    call.refuse_inputs(g_idx=4)
    x, packed, scales, zeros, _, bias = (call.input(i) for i in range(6))
    bits, block, rows, columns = (call.attribute(n, 4) for n in ("bits", "block_size", "N", "K"))
    call.refuse("weight_prepacked")
    if bits not in (2, 4, 8):
        raise UnsupportedError(f"its weights have {bits} bits")
    type_, blocks = call.float_type, -(-columns // block)
    weights = _unpacked(call, packed, bits, rows, blocks * block)
    weights = call("Reshape", call("Cast", weights, to=type_), call.integers(rows, blocks, block))
    if not zeros:
        zero = call.number(1 << bits - 1)
    elif call.type(zeros) == TensorProto.UINT8:
        per_byte = 8 // bits
        whole = _unpacked(call, zeros, bits, rows, -(-blocks // per_byte) * per_byte)
        kept = call("Slice", whole, call.integers(0), call.integers(blocks), call.integers(1))
        zero = call("Unsqueeze", call("Cast", kept, to=type_), call.integers(2))
    else:
        zero = call("Reshape", zeros, call.integers(rows, blocks, 1))
    scale = call("Reshape", scales, call.integers(rows, blocks, 1))
    weights = call("Reshape", call("Mul", call("Sub", weights, zero), scale), call.integers(rows, blocks * block))
    if blocks * block != columns:
        weights = call("Slice", weights, call.integers(0), call.integers(columns), call.integers(1))
    call.last(call.plus(call("MatMul", x, call("Transpose", weights, perm=[1, 0])), bias))


def _unpacked(call: Call, packed: str, bits: int, rows: int, columns: int) -> str:
    """The numbers in bytes, the lowest bits first, as int32[rows, columns]."""
    numbers = call("Cast", packed, to=_INTEGER)
    if bits == 8:
        return call("Reshape", numbers, call.integers(rows, columns))
    numbers = call("Reshape", numbers, call.integers(rows, -1, 1))
    steps = call.scope.add(np.array([1 << shift for shift in range(0, 8, bits)]), _INTEGER)
    parts = call("Mod", call("Div", numbers, steps), call.number(1 << bits, _INTEGER))
    return call("Reshape", parts, call.integers(rows, columns))


def _units(call: Call, value: str, zero: str) -> str:
    """How many units of its scale a quantized value is, as floats."""
    number = call("Cast", value, to=_FLOAT)
    return call("Sub", number, call("Cast", zero, to=_FLOAT)) if zero else number


def _quantized(call: Call, value: str, scale: str, zero: str, type_: int) -> str:
    return call("QuantizeLinear", value, scale or call.number(1, _FLOAT), zero or call.number(0, type_))


def add(call: Call) -> None:
    """QLinearAdd: ONNX Runtime rounds what has the zero point in it already, which differs where it lies between two numbers."""
    a, a_scale, a_zero, b, b_scale, b_zero, scale, zero = (call.input(i) for i in range(8))
    type_, ratios = call.type(a), [call("Div", each, scale) for each in (a_scale, b_scale)]
    zeros = [call("Cast", each or call.number(0, type_), to=_FLOAT) for each in (a_zero, b_zero, zero)]
    fixed = call("Sub", zeros[2], call("Add", call("Mul", ratios[0], zeros[0]), call("Mul", ratios[1], zeros[1])))
    a, b = (call("Mul", call("Cast", each, to=_FLOAT), ratio) for each, ratio in zip((a, b), ratios, strict=True))
    call.last(_saturated(call, call("Add", a, call("Add", b, fixed)), type_))


def _saturated(call: Call, value: str, type_: int) -> str:
    """The nearest integer of a type."""
    limits = np.iinfo(helper.tensor_dtype_to_np_dtype(type_))
    ends = (call.number(limits.min, _FLOAT), call.number(limits.max, _FLOAT))
    return call("Cast", call("Clip", call("Round", value), *ends), to=type_)


def multiply(call: Call) -> None:
    """QLinearMul."""
    a, a_scale, a_zero, b, b_scale, b_zero, scale, zero = (call.input(i) for i in range(8))
    ratio = call("Div", call("Mul", a_scale, b_scale), scale)
    product = call("Mul", _units(call, a, a_zero), _units(call, b, b_zero))
    call.last(_quantized(call, call("Mul", product, ratio), "", zero, call.type(call.input(0))))


def _between(call: Call, change: Callable[[str], str]) -> None:
    """A function of what a quantized value stands for: inputs are value, scale, zero, and scale and zero of the result."""
    x, x_scale, x_zero, scale, zero = (call.input(i) for i in range(5))
    value = call("Mul", _units(call, x, x_zero), x_scale)
    call.last(_quantized(call, change(value), scale, zero, call.type(x)))


def sigmoid(call: Call) -> None:
    """QLinearSigmoid."""
    _between(call, lambda x: call("Sigmoid", x))


def leaky_relu(call: Call) -> None:
    """QLinearLeakyRelu."""
    _between(call, lambda x: call("LeakyRelu", x, alpha=call.attribute("alpha", 0.01)))


def softmax(call: Call) -> None:
    """QLinearSoftmax: ONNX Runtime rounds one over the result's scale down. Before set 13, all axes from `axis` on are one."""
    x, x_scale, x_zero, scale, zero = (call.input(i) for i in range(5))
    old, shape = call.attribute("opset", 13) < 13, call.shape(x)
    axis = call.attribute("axis", 1 if old else -1) % len(shape)
    value = call("Mul", _units(call, x, x_zero), x_scale)
    if old:
        value = call("Reshape", value, call.integers(*shape[:axis], -1))
    value = call("Softmax", value, axis=axis)
    if old:
        value = call("Reshape", value, call.integers(*shape))
    value = call("Mul", value, call("Floor", call("Reciprocal", scale)))
    call.last(_quantized(call, value, "", zero, call.type(x)))


def _channels_first(call: Call, change: Callable[[str], str]) -> Callable[[str], str]:
    if not call.attribute("channels_last", 0):
        return change
    rank = call.rank(call.input(0))
    first, last = [0, rank - 1, *range(1, rank - 1)], [0, *range(2, rank), 1]
    return lambda x: call("Transpose", change(call("Transpose", x, perm=first)), perm=last)


def global_average_pool(call: Call) -> None:
    """QLinearGlobalAveragePool."""
    _between(call, _channels_first(call, lambda x: call("GlobalAveragePool", x)))


def average_pool(call: Call) -> None:
    """QLinearAveragePool: as for QLinearAdd, the zero point is there before it is rounded."""

    def pooled(x: str) -> str:
        result = call("AveragePool", x)
        call[-1].attribute.extend(a for a in call.node.attribute if a.name != "channels_last")
        return result

    x, x_scale, x_zero, scale, zero = (call.input(i) for i in range(5))
    value = _channels_first(call, pooled)(call("Mul", _units(call, x, x_zero), x_scale))
    value = call.plus(call("Div", value, scale), call("Cast", zero, to=_FLOAT) if zero else "")
    call.last(_saturated(call, value, call.type(x)))


def concat(call: Call) -> None:
    """QLinearConcat: what has the scale and zero point of the result is taken as it is."""
    scale, zero, given = call.input(0), call.input(1), [call.input(i) for i in range(2, len(call.node.input))]
    parts = []
    for x, x_scale, x_zero in zip(given[::3], given[1::3], given[2::3], strict=True):
        value = call("Mul", _units(call, x, x_zero), x_scale)
        parts.append(_quantized(call, value, scale, zero, call.type(x)))
    call.last(call("Concat", *parts, axis=call.attribute("axis")))


def where(call: Call) -> None:
    """QLinearWhere."""
    condition, x, x_scale, x_zero, y, y_scale, y_zero, scale, zero = (call.input(i) for i in range(9))
    x, y = call("Mul", _units(call, x, x_zero), x_scale), call("Mul", _units(call, y, y_zero), y_scale)
    call.last(_quantized(call, call("Where", condition, x, y), scale, zero, call.type(call.input(1))))


def gemm(call: Call) -> None:
    """QGemm: the product of integers, whose bias has their scale."""
    a, a_scale, a_zero, b, b_scale, b_zero, bias, scale, zero = (call.input(i) for i in range(9))
    if call.attribute("alpha", 1.0) != 1:
        raise UnsupportedError("its attribute alpha is not 1")
    a, b = (call("Transpose", v, perm=[1, 0]) if call.attribute(f"trans{s}", 0) else v for v, s in ((a, "A"), (b, "B")))
    sums = call.plus(call("MatMulInteger", a, b, a_zero, b_zero), bias)
    value = call("Mul", call("Cast", sums, to=_FLOAT), call("Mul", a_scale, b_scale))
    call.last(_quantized(call, value, scale, zero, call.type(call.input(0))) if scale else value)


def conv(call: Call) -> None:
    """QLinearConv with its channels anywhere."""

    def convolved(x: str) -> str:
        result = call("QLinearConv", x, *call.node.input[1:])
        call[-1].attribute.extend(a for a in call.node.attribute if a.name != "channels_last")
        return result

    call.last(_channels_first(call, convolved)(call.input(0)))


def linear(call: Call) -> None:
    """QuantizeLinear and DequantizeLinear: as ONNX's own, which knows 16 bits from set 21 on."""
    wide = (TensorProto.INT16, TensorProto.UINT16)
    if call.opset < 21 and {call.scope.type(name) for name in call.node.input if name} & {*wide}:
        x, scale, zero = (call.input(i) for i in range(3))
        if call.shape(scale) not in ((), (1,)):
            raise UnsupportedError("it has 16 bits and a scale for each channel")
        if call.node.op_type == "DequantizeLinear":
            call.last(call("Mul", _units(call, x, zero), scale))
            return
        value = call("Add", call("Round", call("Div", x, scale)), call("Cast", zero, to=_FLOAT))
        call.last(_saturated(call, value, call.type(zero)))
        return
    call.last(call(call.node.op_type, *call.node.input))
    call[0].attribute.extend(call.node.attribute)
