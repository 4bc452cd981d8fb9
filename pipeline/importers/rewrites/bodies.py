"""Operators that IREE 3.13 lacks or gets wrong and ONNX defines by others: the definition takes their place.

Measured with ONNX's own tests of all operators that have a definition, and with variations of those of the newest sets:
AffineGrid, Attention, RMSNormalization, RotaryEmbedding, Softsign and Swish are not lowered; of the two losses only some, and
some of those with weights wrong. GroupNormalization and MeanVarianceNormalization are right, but ONNX infers no types after
them, without which other rewrites pass by. The hyperbolic form of Gelu is off by 4.5e-5 (of 1: 0.841147, not 0.841192). All else
(the other form of Gelu, Celu, Mish, windows, reductions, …) is right as it is.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import defs, helper

from pipeline.importers import decisions, functions
from pipeline.importers.rewrites.folding import folded
from pipeline.importers.rewrites.graph import Scope, attribute, graphs, inferred, is_left

_OPERATORS = frozenset(
    """AffineGrid Attention CausalConvWithState GroupNormalization LinearAttention MeanVarianceNormalization
    NegativeLogLikelihoodLoss RMSNormalization RotaryEmbedding SoftmaxCrossEntropyLoss Softsign SwiGLU Swish""".split()
)
_DOMAIN = "body"


def _is_one(node: onnx.NodeProto) -> bool:
    imprecise = node.op_type == "Gelu" and attribute(node, "approximate") == b"tanh"
    return (node.op_type in _OPERATORS or imprecise) and not is_left(node)


def _body(node: onnx.NodeProto, schema: defs.OpSchema, scope: Scope, opset: int) -> onnx.FunctionProto | None:
    """The function that defines the node; None if there is none, or the types that it depends on are not known yet."""
    if versions := [v for v in schema.context_dependent_function_opset_versions if v <= opset]:
        types = [scope.whole_type(name) for name in node.input]
        if any(name and not type_.tensor_type.elem_type for name, type_ in zip(node.input, types, strict=True)):
            return None
        given = [type_.SerializeToString() for type_ in types]
        found = schema.get_context_dependent_function_with_opset_version(max(versions), node.SerializeToString(), given)
    elif versions := schema.function_opset_versions:
        # Some are written for a later set than their operator is of, in words that the earlier one has too.
        found = schema.get_function_with_opset_version(max((v for v in versions if v <= opset), default=min(versions)))
    else:
        return None
    return onnx.FunctionProto.FromString(found) if found else None


def _calls(graph: onnx.GraphProto, scope: Scope, opset: int) -> Iterator[tuple[onnx.NodeProto, onnx.FunctionProto]]:
    for node in graph.node:
        for inner in graphs(node):
            yield from _calls(inner, Scope(inner, scope), opset)
        schema = functions.schema_of(node, opset) if _is_one(node) else None
        if schema is not None and (body := _body(node, schema, scope, opset)) is not None:
            yield node, body


def _expanded(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """`model` with one more layer of them replaced; None if there are none."""
    if not any(_is_one(node) for node in decisions.nodes(model.graph)):
        return None
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    functions.complete(copy)
    for number, (node, body) in enumerate(_calls(copy.graph, Scope(copy.graph), functions.opset_of(copy))):
        body.domain, body.name, node.domain = _DOMAIN, f"{node.op_type}_{number}", _DOMAIN
        node.op_type = body.name
        copy.functions.append(body)
    if not copy.functions:
        return None
    copy.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    result = functions.inlined(copy)
    kept = [wanted for wanted in result.opset_import if wanted.domain != _DOMAIN]
    del result.opset_import[:]
    result.opset_import.extend(kept)
    return inferred(result)


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Put the definitions in; None if there are none of these.

    A definition may hold more of them, and computes with shapes, which IREE does not always see through.
    """
    found = _expanded(model)
    while found is not None and (more := _expanded(found)) is not None:
        found = more
    return None if found is None else folded(found) or found
