"""Products of 8-bit integers that ONNX Runtime gets wrong on CPUs without VNNI, said so that it gets them right.

There it adds pairs of products of uint8 and int8 in 16 bits, which saturate. Measured with ONNX Runtime 1.32 on AVX2:
MatMulInteger of uint8 by int8 is off by up to 41292 of 10^6, ConvInteger of int8 by uint8 by 29654; all other pairs of types are
exact. So the second factor gets the first one's type: 128 is added to it and to its zero point, or taken from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.importers import weights


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


def _types(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    found = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
    return found | {w.name: w.data_type for w in graph.initializer}


def _moved(graph: onnx.GraphProto, name: str, to: int, made: dict[str, str]) -> list[onnx.NodeProto]:
    """Give `made` the name of what `name` is with 128 added or taken, of the other type; the nodes that compute it, if any do."""
    by = 128 if to == TensorProto.UINT8 else -128
    if name in made:
        return []
    made[name] = f"{name}/{by}"
    for weight in graph.initializer:
        if weight.name == name:
            array = (weights.values(weight).astype(np.int16) + by).astype(_NUMPY[to])
            graph.initializer.append(weights.tensor(array, made[name]))
            return []
    amount = f"{made[name]}/by"
    graph.initializer.append(numpy_helper.from_array(np.array(by, np.int32), amount))
    wide, sum_ = f"{made[name]}/wide", f"{made[name]}/sum"
    return [
        helper.make_node("Cast", [name], [wide], to=TensorProto.INT32),
        helper.make_node("Add", [wide, amount], [sum_]),
        helper.make_node("Cast", [sum_], [made[name]], to=to),
    ]


def _without(graph: onnx.GraphProto, types: Mapping[str, int]) -> None:
    made: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for product in _PRODUCTS.get(node.op_type, ()):
            if not _is_wrong(node, product, types):
                continue
            to = TensorProto.UINT8 if product.wrong[1] == TensorProto.INT8 else TensorProto.INT8
            nodes += _moved(graph, node.input[product.second], to, made)
            node.input.extend([""] * (product.zero + 1 - len(node.input)))
            if zero := node.input[product.zero]:
                nodes += _moved(graph, zero, to, made)
            else:
                made[""] = f"{node.input[product.second]}/zero"
                array = np.array(128 if to == TensorProto.UINT8 else -128, _NUMPY[to])
                if all(w.name != made[""] for w in graph.initializer):
                    graph.initializer.append(numpy_helper.from_array(array, made[""]))
            node.input[product.second] = made[node.input[product.second]]
            node.input[product.zero] = made[zero]
        nodes.append(node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _is_wrong(node: onnx.NodeProto, product: _Product, types: Mapping[str, int]) -> bool:
    if product.second >= len(node.input):
        return False
    first = TensorProto.UINT8 if product.first is None else types.get(node.input[product.first], 0)
    return (first, types.get(node.input[product.second], 0)) == product.wrong


def without(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """A copy of `model` without such products; None if it has none. Those inside other nodes' graphs stay."""
    if not any(node.op_type in _PRODUCTS for node in model.graph.node):
        return None
    types = _types(model)
    if not any(_is_wrong(n, product, types) for n in model.graph.node for product in _PRODUCTS.get(n.op_type, ())):
        return None
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _without(copy.graph, types)
    return copy
