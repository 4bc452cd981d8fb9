"""ONNX graphs written down operator by operator, for scripts that make models with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save


class Graph:
    """A graph that grows; every method returns the name of a value. Weights are drawn with `seed`, in order."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self._weights: list[TensorProto] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        """The only result of an operator."""
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name, **attributes))
        return name

    def array(self, array: np.ndarray[Any, Any], name: str = "") -> str:
        """A constant."""
        name = name or f"constant_{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(array, name))
        return name

    def ints(self, values: int | Sequence[int]) -> str:
        """A constant of int64."""
        return self.array(np.array(values, np.int64))

    def floats(self, value: float) -> str:
        """A constant of float32."""
        return self.array(np.array(value, np.float32))

    def weight(self, shape: Sequence[int], name: str, spread: float) -> str:
        """Random weights of a normal distribution."""
        return self.array((self._generator.standard_normal(shape) * spread).astype(np.float32), name)

    def positive(self, shape: Sequence[int], name: str) -> str:
        """Random weights of 0.5 to 1.5."""
        return self.array(self._generator.uniform(0.5, 1.5, shape).astype(np.float32), name)

    def matmul(self, x: str, size: int, to: int, name: str) -> str:
        """`x` times a matrix of weights, `size` × `to`."""
        return self.op("MatMul", x, self.weight([size, to], f"{name}.weight", 1 / np.sqrt(size)))

    def linear(self, x: str, size: int, to: int, name: str) -> str:
        """`matmul`, and a bias."""
        return self.op("Add", self.matmul(x, size, to, name), self.weight([to], f"{name}.bias", 0.02))

    def norm(self, x: str, size: int, name: str) -> str:
        """A layer norm, whose scale is near one."""
        scale = self.op("Add", self.weight([size], f"{name}.scale", 0.02), self.floats(1))
        return self.op("LayerNormalization", x, scale, self.weight([size], f"{name}.bias", 0.02), axis=-1, epsilon=1e-5)

    def input(self, name: str, type_: int, shape: Sequence[str | int]) -> str:
        """An input of the graph."""
        self._inputs.append(helper.make_tensor_value_info(name, type_, shape))
        return name

    def output(self, value: str, name: str, type_: int, shape: Sequence[str | int]) -> None:
        """Make `value` an output of the graph."""
        self.nodes.append(helper.make_node("Identity", [value], [name], name))
        self._outputs.append(helper.make_tensor_value_info(name, type_, shape))

    def save(self, path: str) -> None:
        """Write the model."""
        graph = helper.make_graph(self.nodes, "made", self._inputs, self._outputs, self._weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="")
        checker.check_model(model, full_check=True)
        save(model, path)
