"""Inputs and outputs of types that numpy lacks: at a model's boundary they are of the next type that has all their values.

So a bfloat16 output is float32 in the release, with the same numbers, and takes no library to read. A bfloat16 input is float32,
rounded to the nearest first. Inside, the model computes as it says.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from pipeline.importers import decisions

WIDER = {
    **dict.fromkeys(
        (
            TensorProto.BFLOAT16,
            TensorProto.FLOAT8E4M3FN,
            TensorProto.FLOAT8E4M3FNUZ,
            TensorProto.FLOAT8E5M2,
            TensorProto.FLOAT8E5M2FNUZ,
            TensorProto.FLOAT4E2M1,
        ),
        TensorProto.FLOAT,
    ),
    TensorProto.INT4: TensorProto.INT8,
    TensorProto.UINT4: TensorProto.UINT8,
}


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Give the values of `graph` other names, also where graphs inside take them; what it takes and gives keeps its name."""
    for weight in graph.initializer:
        weight.name = names.get(weight.name, weight.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for inner in decisions.inside(node):
            _rename(inner, names)
            for output in inner.output:
                output.name = names.get(output.name, output.name)


def widen(model: onnx.ModelProto) -> bool:
    """Do so, in place; whether there were any. The model's functions must be inlined."""
    graph = model.graph
    weights = {weight.name for weight in graph.initializer}
    inputs = {i.name: i for i in graph.input if i.type.tensor_type.elem_type in WIDER and i.name not in weights}
    outputs = {o.name: o for o in graph.output if o.type.tensor_type.elem_type in WIDER}
    if not inputs and not outputs:
        return False
    inside = {name: f"{name}/inside" for name in {**inputs, **outputs}}
    types = {name: value.type.tensor_type.elem_type for name, value in {**inputs, **outputs}.items()}
    _rename(graph, inside)
    for value in graph.input:  # in old files weights stand here too
        value.name = inside[value.name] if value.name in weights and value.name in inside else value.name
    first = [helper.make_node("Cast", [name], [inside[name]], f"{name}/in", to=types[name]) for name in inputs]
    last = [helper.make_node("Cast", [inside[name]], [name], f"{name}/out", to=WIDER[types[name]]) for name in outputs]
    nodes = [*first, *graph.node, *(node for node in last if node.output[0] not in inputs)]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    for value in (*inputs.values(), *outputs.values()):
        if value.type.tensor_type.elem_type in WIDER:  # one that is both is one value
            value.type.tensor_type.elem_type = WIDER[types[value.name]]
    del graph.value_info[:]  # by their old names
    return True
