"""Products of 8-bit integers that ONNX Runtime gets wrong on CPUs without VNNI, said so that it gets them right.

There it adds pairs of products of uint8 and int8 in 16 bits, which saturate. Measured with ONNX Runtime 1.32 on AVX2:
MatMulInteger of uint8 by int8 is off by up to 41292 of 10^6, ConvInteger of int8 by uint8 by 29654; all other pairs of types are
exact. So the second factor gets the first one's type: 128 is added to it and to its zero point, or taken from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from pipeline.arrays import Array
from pipeline.importers import decisions, weights


@dataclass(frozen=True)
class _Product:
    """Places among a node's inputs: the `first` factor, None where it is a float that becomes uint8; the second and its `zero`
    point. `wrong`: the types that are."""

    first: int | None
    second: int
    zero: int
    wrong: tuple[int, int] = (TensorProto.UINT8, TensorProto.INT8)


_CONVOLVED = (TensorProto.INT8, TensorProto.UINT8)
_PRODUCTS: Mapping[str, tuple[_Product, ...]] = {
    "MatMulInteger": (_Product(0, 1, 3),),
    "QLinearMatMul": (_Product(0, 3, 5),),
    "ConvInteger": (_Product(0, 1, 3, _CONVOLVED),),
    "QLinearConv": (_Product(0, 3, 5, _CONVOLVED),),
    "QGemm": (_Product(0, 3, 5),),
    "MatMulIntegerToFloat": (_Product(0, 1, 5),),
    "DynamicQuantizeMatMul": (_Product(None, 1, 3),),
    "QAttention": (_Product(0, 1, 7),),
    "DynamicQuantizeLSTM": (_Product(None, 1, 9), _Product(None, 2, 11)),
}
_NUMPY = {TensorProto.INT8: np.int8, TensorProto.UINT8: np.uint8}


def _graphs(graph: onnx.GraphProto, around: Sequence[onnx.GraphProto] = ()) -> Iterator[list[onnx.GraphProto]]:
    """The graph and those inside it, each with those around it, the outermost first."""
    chain = [*around, graph]
    yield chain
    for node in graph.node:
        for inner in decisions.inside(node):
            yield from _graphs(inner, chain)


def _types(model: onnx.ModelProto) -> dict[str, int]:
    found: dict[str, int] = {}
    for *_, graph in _graphs(onnx.shape_inference.infer_shapes(model).graph):
        found |= {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
        found |= {w.name: w.data_type for w in graph.initializer}
    return found


class _Moved:
    """What 128 was added to, or taken from, in one graph: names by what it was. `nodes` compute what is no constant."""

    def __init__(self, chain: Sequence[onnx.GraphProto]) -> None:
        self._chain, self._made = chain, dict[str, str]()
        self.nodes: list[onnx.NodeProto] = []

    def _constant(self, graph: onnx.GraphProto, name: str, array: Array) -> str:
        if all(w.name != name for w in graph.initializer):
            graph.initializer.append(weights.tensor(array, name))
        return name

    def zero(self, factor: str, to: int) -> str:
        """The zero point of a factor that had none."""
        array = np.array(128 if to == TensorProto.UINT8 else -128, _NUMPY[to])
        return self._constant(self._chain[-1], f"{factor}/zero", array)

    def move(self, name: str, to: int) -> str:
        """The name of what `name` is, of the other type."""
        if name not in self._made:
            self._made[name] = self._moved(name, to, 128 if to == TensorProto.UINT8 else -128)
        return self._made[name]

    def _moved(self, name: str, to: int, by: int) -> str:
        for graph in self._chain:
            for weight in graph.initializer:
                if weight.name == name:
                    array = (weights.values(weight).astype(np.int16) + by).astype(_NUMPY[to])
                    return self._constant(graph, f"{name}/{by}", array)
        made = f"{name}/{by}/{len(self._chain)}"
        amount = self._constant(self._chain[-1], f"{made}/by", np.array(by, np.int32))
        self.nodes += [
            helper.make_node("Cast", [name], [f"{made}/wide"], to=TensorProto.INT32),
            helper.make_node("Add", [f"{made}/wide", amount], [f"{made}/sum"]),
            helper.make_node("Cast", [f"{made}/sum"], [made], to=to),
        ]
        return made


def _without(chain: Sequence[onnx.GraphProto], types: Mapping[str, int]) -> None:
    moved, graph = _Moved(chain), chain[-1]
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for product in _PRODUCTS.get(node.op_type, ()):
            if _is_wrong(node, product, types):
                to = product.wrong[0]
                factor = node.input[product.second]
                node.input.extend([""] * (product.zero + 1 - len(node.input)))
                zero = node.input[product.zero]
                node.input[product.zero] = moved.move(zero, to) if zero else moved.zero(factor, to)
                node.input[product.second] = moved.move(factor, to)
        nodes += [*moved.nodes, node]
        moved.nodes = []
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _is_wrong(node: onnx.NodeProto, product: _Product, types: Mapping[str, int]) -> bool:
    if product.second >= len(node.input):
        return False
    first = TensorProto.UINT8 if product.first is None else types.get(node.input[product.first], 0)
    return (first, types.get(node.input[product.second], 0)) == product.wrong


def without(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """A copy of `model` without such products; None if it has none."""
    if not any(node.op_type in _PRODUCTS for node in decisions.nodes(model.graph)):
        return None
    types = _types(model)
    every = decisions.nodes(model.graph)
    if not any(_is_wrong(node, product, types) for node in every for product in _PRODUCTS.get(node.op_type, ())):
        return None
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for chain in reversed(list(_graphs(copy.graph))):  # the innermost first: what is around is copied with it
        _without(chain, types)
    return copy
