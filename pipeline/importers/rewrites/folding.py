"""What is known before a model runs, computed here: values made of constants and shapes alone, and branches that they choose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pipeline.importers.rewrites.graph import Scope, attribute, graphs, inferred

_LARGEST = 4096  # values: more are weights, which are the compiler's to fold
_RANDOM = frozenset("Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split())


def folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model`, whose types are inferred, with what is known said by constants and its types inferred again."""
    while True:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        if not _fold(copy):
            return model
        del copy.graph.value_info[:]  # found before more was known, some of it wrongly
        model = inferred(copy)


def _fold(model: onnx.ModelProto) -> bool:
    """Fold the nodes of the model's own graph in place; whether there were any."""
    graph = model.graph
    waiting, kept = [*reversed(graph.node)], list[onnx.NodeProto]()
    scope, changed = Scope(graph), False
    results = {output.name for output in graph.output}
    while waiting:
        node = waiting.pop()
        if (branch := _branch(node, scope)) is not None:
            waiting.extend(reversed(branch))
        elif node.op_type == "Constant" or results & {*node.output} or (found := _values(node, model, scope)) is None:
            kept.append(node)
            continue
        else:
            for name, tensor in zip(node.output, found, strict=True):
                tensor.name = name
                scope.define(tensor)
            graph.initializer.extend(found)
        changed = True
    if changed:
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(nodes)
    return changed


def _branch(node: onnx.NodeProto, scope: Scope) -> list[onnx.NodeProto] | None:
    """The nodes of the branch that an If takes, where its condition is known."""
    if node.op_type != "If" or (condition := scope.constant(node.input[0])) is None:
        return None
    branch = attribute(node, "then_branch" if condition.item() else "else_branch")
    constants = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in branch.initializer]
    pairs = zip(branch.output, node.output, strict=True)
    return [*constants, *branch.node, *(helper.make_node("Identity", [a.name], [b], node.name) for a, b in pairs)]


def _values(node: onnx.NodeProto, model: onnx.ModelProto, scope: Scope) -> Sequence[onnx.TensorProto] | None:
    """The node's results, where they are known and few."""
    if node.domain not in ("", "ai.onnx") or node.op_type in _RANDOM or any(graphs(node)) or not all(node.output):
        return None
    if node.op_type in ("Shape", "Size"):
        shape = scope.shape(node.input[0])
        given = None if shape is None else [np.broadcast_to(np.uint8(0), shape)]
    else:
        given = [value for name in node.input if name and (value := scope.constant(name)) is not None]
        given = given if len(given) == sum(map(bool, node.input)) and all(value.size <= _LARGEST for value in given) else None
    if given is None:
        return None
    names = [name for name in node.input if name]
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for n, v in zip(names, given, strict=True)
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
    alone = helper.make_model(helper.make_graph([node], "node", inputs, outputs), opset_imports=model.opset_import)
    from onnx.reference import ReferenceEvaluator  # takes a tenth of an import's time

    try:
        found = [np.asarray(value) for value in ReferenceEvaluator(alone).run(None, dict(zip(names, given, strict=True)))]
    except Exception:  # whatever an evaluator raises: then the compiler may see to it
        return None
    return [numpy_helper.from_array(value) for value in found] if all(value.size <= _LARGEST for value in found) else None
