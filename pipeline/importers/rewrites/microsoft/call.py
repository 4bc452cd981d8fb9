"""One operator of ONNX Runtime's domain, and the standard nodes in the making that take its place."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.importers.rewrites.graph import Nodes, Scope, Size, attribute

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


class UnsupportedError(Exception):
    """Why an operator, as it is used here, cannot be said by standard ones."""


class UnknownError(Exception):
    """A type or a shape that it depends on is not known, yet."""


class Call(Nodes):
    """The node to replace. `call("Abs", x)` adds a node and returns the name of its result."""

    def __init__(self, node: onnx.NodeProto, scope: Scope, opset: int) -> None:
        super().__init__(node, scope)
        self.node, self.scope, self.opset = node, scope, opset

    def input(self, index: int) -> str:
        """The name of an input, empty where it is left out."""
        return self.node.input[index] if index < len(self.node.input) else ""

    def output(self, index: int) -> str:
        """The name of an output, empty where nobody asks for it."""
        return self.node.output[index] if index < len(self.node.output) else ""

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value."""
        value = attribute(self.node, name)
        value = default if value is None else value
        return value.decode() if isinstance(value, bytes) else value

    def refuse(self, *names: str) -> None:
        """Raise UnsupportedError for an attribute that is set and not 0, or an output that is asked for."""
        for name in names:
            if self.attribute(name):
                raise UnsupportedError(f"its attribute {name} is set")

    def refuse_inputs(self, **indices: int) -> None:
        """Raise UnsupportedError for an input that is given."""
        for name, index in indices.items():
            if self.input(index):
                raise UnsupportedError(f"its input {name} is given")

    def refuse_outputs(self, **indices: int) -> None:
        """Raise UnsupportedError for an output that somebody asks for."""
        for name, index in indices.items():
            if self.output(index):
                raise UnsupportedError(f"its output {name} is asked for")

    @property
    def float_type(self) -> int:
        """The type of the floats that it computes with, by any input that is one."""
        types = [self.scope.type(name) for name in self.node.input if name]
        if found := next((type_ for type_ in types if type_ in FLOATS), 0):
            return found
        raise UnknownError

    def type(self, name: str) -> int:
        """The element type of a value."""
        if found := self.scope.type(name):
            return found
        raise UnknownError

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a value."""
        if (found := self.scope.shape(name)) is None:
            raise UnknownError
        return found

    def dimensions(self, name: str) -> list[Size]:
        """The sizes of a value, which may be open."""
        self.rank(name)
        return self.sizes(name)

    def fixed(self, size: Size) -> int:
        """A size that must be a number."""
        if isinstance(size, str):
            raise UnknownError
        return size

    def rank(self, name: str) -> int:
        """The number of dimensions of a value."""
        type_ = self.scope.whole_type(name).tensor_type
        if not type_.HasField("shape"):
            raise UnknownError
        return len(type_.shape.dim)

    def number(self, value: float, type_: int = 0) -> str:
        """A constant, of the floats' type unless another is said."""
        return self.scope.add(np.array(value), type_ or self.float_type)

    def plus(self, value: str, *others: str) -> str:
        """The sum of those that are there."""
        for other in filter(None, others):
            value = self("Add", value, other)
        return value

    def last(self, value: str, *, to: int = 0) -> None:
        """Let an output of the node be this value."""
        if self.output(to):
            self("Identity", value, result=self.output(to))

    def mean(self, value: str, axes: list[int]) -> str:
        """The mean along axes, which stay as dimensions of 1."""
        if self.opset < 18:
            return self("ReduceMean", value, axes=axes, keepdims=1)
        return self("ReduceMean", value, self.integers(*axes), keepdims=1)

    def swapped(self, value: str, rank: int) -> str:
        """The value with its last two axes in the other order."""
        return self("Transpose", value, perm=[*range(rank - 2), rank - 1, rank - 2])
