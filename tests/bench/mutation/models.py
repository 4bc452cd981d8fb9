"""Small models of different character, made with onnx.helper: the same bytes on every machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
F16, F32, F64, I32, U8 = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.UINT8


class Graph:
    """A graph under construction: one input `x`, weights drawn from a fixed seed, each node's output named by its number."""

    def __init__(self, shape: list[int], dtype: int = F32) -> None:
        self._random = np.random.default_rng(11)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._input = helper.make_tensor_value_info("x", dtype, shape)
        self.dtype = np.dtype(helper.tensor_dtype_to_np_dtype(dtype))

    def add(self, operator: str, *inputs: str, outputs: int = 0, **attributes: Any) -> Any:
        """A node; the name of its output, or those of several."""
        names = [f"v{len(self._nodes)}_{i}" for i in range(outputs or 1)]
        self._nodes.append(helper.make_node(operator, list(inputs), names, **attributes))
        return names if outputs else names[0]

    def constant(self, values: Any, dtype: Any = None) -> str:
        """An initializer with these values."""
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.asarray(values, dtype or self.dtype), name))
        return name

    def weight(self, *shape: int, scale: float = 0.0) -> str:
        """Normal numbers, such that sums over all but the widest dimension are about as large as what goes in."""
        scale = scale or 1 / np.sqrt(max(1, np.prod(shape) / max(shape)))
        return self.constant(self._random.standard_normal(shape) * scale)

    def integers(self, low: int, high: int, *shape: int, dtype: Any = None) -> str:
        """Integers of [low, high)."""
        return self.constant(self._random.integers(low, high, shape), dtype)

    def linear(self, x: str, inputs: int, outputs: int) -> str:
        """A matrix product and a bias."""
        return str(self.add("Add", self.add("MatMul", x, self.weight(inputs, outputs)), self.weight(outputs, scale=0.3)))

    def model(self, output: str, dtype: int = 0) -> onnx.ModelProto:
        """The checked model."""
        result = helper.make_tensor_value_info(output, dtype or self._input.type.tensor_type.elem_type, None)
        graph = helper.make_graph(self._nodes, "made", [self._input], [result], self._weights)
        plain = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="")
        model = onnx.shape_inference.infer_shapes(plain, strict_mode=True)
        onnx.checker.check_model(model)
        return model


def _mlp() -> onnx.ModelProto:
    g = Graph([8, 64])
    x = g.add("Relu", g.linear("x", 64, 64))
    return g.model(g.linear(g.add("Relu", g.linear(x, 64, 96)), 96, 32))


def _conv() -> onnx.ModelProto:
    g = Graph([2, 3, 24, 24])
    x = g.add("Relu", g.add("Conv", "x", g.weight(16, 3, 3, 3), g.weight(16, scale=0.3), pads=[1, 1, 1, 1]))
    x = g.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = g.add("Relu", g.add("Conv", x, g.weight(32, 16, 3, 3), g.weight(32, scale=0.3), pads=[1, 1, 1, 1]))
    x = g.add("Flatten", g.add("GlobalAveragePool", x))
    return g.model(g.linear(x, 32, 20))


def _mobile() -> onnx.ModelProto:
    g = Graph([1, 16, 20, 20])
    x = g.add("Conv", "x", g.weight(32, 16, 1, 1))
    spread = g.constant(np.linspace(0.02, 0.2, 32))
    x = g.add("BatchNormalization", x, g.weight(32, scale=1.0), g.weight(32, scale=0.3), g.weight(32, scale=0.3), spread)
    x = g.add("HardSwish", x)
    x = g.add("Conv", x, g.weight(32, 1, 3, 3, scale=0.4), g.weight(32, scale=0.3), pads=[1, 1, 1, 1], group=32)
    x = g.add("Clip", x, g.constant(0.0), g.constant(6.0))
    return g.model(g.add("Add", g.add("Conv", x, g.weight(16, 32, 1, 1)), "x"))


def _recurrent() -> onnx.ModelProto:
    """A gated unit like a GRU's, for four steps."""
    g = Graph([4, 48])
    x, width = "x", 48
    gate, new, old = g.weight(width, width), g.weight(width, width), g.weight(width, width)
    bias, state = g.weight(width, scale=0.5), g.add("Tanh", "x")
    for _ in range(4):
        z = g.add("Sigmoid", g.add("Add", g.add("MatMul", state, gate), bias))
        made = g.add("Tanh", g.add("Add", g.add("MatMul", x, new), g.add("MatMul", state, old)))
        state = g.add("Add", state, g.add("Mul", z, g.add("Sub", made, state)))
    return g.model(state)


def _attention(dtype: int = F16) -> onnx.ModelProto:
    g, width = Graph([2, 24, 32], dtype), 32
    q, k, v = (g.add("MatMul", "x", g.weight(width, width)) for _ in range(3))
    scores = g.add("Mul", g.add("MatMul", q, g.add("Transpose", k, perm=[0, 2, 1])), g.constant(width**-0.5))
    mixed = g.add("MatMul", g.add("Softmax", scores, axis=-1), v)
    return g.model(g.add("Add", g.linear(mixed, width, width), "x"))


def _classes() -> onnx.ModelProto:
    g = Graph([2, 32])
    return g.model(g.add("Softmax", g.linear("x", 32, 20_000), axis=-1))


def _dynamic_int8() -> onnx.ModelProto:
    g = Graph([8, 64])
    quantized, scale, zero = g.add("DynamicQuantizeLinear", "x", outputs=3)
    product = g.add("MatMulInteger", quantized, g.integers(-127, 128, 64, 48, dtype=np.int8), zero)
    real = g.add("Mul", g.add("Cast", product, to=F32), g.add("Mul", scale, g.constant(0.002)))
    return g.model(g.add("Relu", g.add("Add", real, g.weight(48, scale=0.5))))


def _detector() -> onnx.ModelProto:
    """Boxes in pixels and probabilities, side by side in one tensor."""
    g = Graph([1, 64, 32])
    shared = g.add("Relu", g.linear("x", 32, 32))
    boxes = g.add("Mul", g.add("Sigmoid", g.linear(shared, 32, 4)), g.constant(640.0))
    scores = g.add("Sigmoid", g.add("Sub", g.linear(shared, 32, 12), g.constant(3.0)))
    return g.model(g.add("Concat", boxes, scores, axis=-1))


def _transformer() -> onnx.ModelProto:
    g, width = Graph([1, 32, 64]), 64
    x = g.add("LayerNormalization", "x", g.weight(width, scale=1.0), g.weight(width, scale=0.3), axis=-1, epsilon=1e-5)
    q, k, v = (g.linear(x, width, width) for _ in range(3))
    scores = g.add("Mul", g.add("MatMul", q, g.add("Transpose", k, perm=[0, 2, 1])), g.constant(width**-0.5))
    x = g.add("Add", g.add("MatMul", g.add("Softmax", scores, axis=-1), v), "x")
    y = g.add("LayerNormalization", x, g.weight(width, scale=1.0), g.weight(width, scale=0.3), axis=-1, epsilon=1e-5)
    y = g.linear(y, width, 128)
    half = g.add("Mul", y, g.constant(0.5))
    y = g.add("Mul", half, g.add("Add", g.add("Erf", g.add("Mul", y, g.constant(2**-0.5))), g.constant(1.0)))
    return g.model(g.add("Add", g.linear(y, 128, width), x))


def _doubles() -> onnx.ModelProto:
    g = Graph([16, 64], F64)
    x = g.add("Add", g.add("Mul", "x", g.weight(16, 64, scale=1.0)), g.weight(64, scale=0.5))
    x = g.add("Max", x, g.constant(-0.5))
    mean = g.add("ReduceMean", x, axes=[1], keepdims=1)
    away = g.add("Sub", x, mean)
    spread = g.add("Sqrt", g.add("Add", g.add("ReduceMean", g.add("Mul", away, away), axes=[1], keepdims=1), g.constant(1e-3)))
    return g.model(g.add("Div", away, spread))


def _integers() -> onnx.ModelProto:
    g = Graph([16, 32], I32)
    x = g.add("Add", g.add("Mul", "x", g.integers(-9, 10, 16, 32)), g.integers(-50, 50, 32))
    x = g.add("Max", x, g.constant(-200))
    return g.model(g.add("Sub", x, g.add("ReduceMax", x, axes=[0], keepdims=1)))


def _half_mean() -> onnx.ModelProto:
    g = Graph([16, 256], F16)
    x = g.add("Relu", g.add("Add", g.add("Mul", "x", g.weight(16, 256, scale=1.0)), g.weight(256, scale=0.5)))
    return g.model(g.add("ReduceMean", x, axes=[1], keepdims=0))


def _bytes() -> onnx.ModelProto:
    """An image that stays one: uint8 of all 256 values."""
    g = Graph([1, 3, 20, 20])
    x = g.add("Conv", "x", g.weight(8, 3, 3, 3), g.weight(8, scale=0.3), pads=[1, 1, 1, 1])
    x = g.add("Sigmoid", x)
    return g.model(g.add("QuantizeLinear", x, g.constant(1 / 255), g.constant(0, np.uint8)), U8)


# How each is made, and the range of its input; none where the spec is to say nothing of it.
MADE: Mapping[str, tuple[Callable[[], onnx.ModelProto], dict[str, float]]] = {
    "mlp": (_mlp, {}),
    "conv": (_conv, {}),
    "mobile": (_mobile, {}),
    "recurrent": (_recurrent, {"low": -2.0, "high": 2.0}),
    "half-attention": (_attention, {"low": -1.0, "high": 1.0}),
    "classes": (_classes, {"low": -1.0, "high": 1.0}),
    "dynamic-int8": (_dynamic_int8, {"low": -1.0, "high": 1.0}),
    "detector": (_detector, {"low": -1.0, "high": 1.0}),
    "transformer": (_transformer, {"low": -1.0, "high": 1.0}),
    "doubles": (_doubles, {"low": -2.0, "high": 2.0}),
    "integers": (_integers, {"low": -100, "high": 100}),
    "half-mean": (_half_mean, {"low": -2.0, "high": 2.0}),
    "bytes": (_bytes, {"low": -1.0, "high": 1.0}),
}
