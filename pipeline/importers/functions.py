"""Functions as operators: those that a model defines itself, and those by which ONNX defines its own.

IREE's importer has no such thing, so their bodies take the place of the calls.
"""

from __future__ import annotations

import onnx
import onnx.inliner
from onnx import defs

from pipeline.importers import decisions


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` without functions of its own, whatever their domain and however they are nested.

    ONNX asks that the operators in a function mean the same in the operator sets of the function and of the model (the checker
    looks), and its inliner inlines only where the numbers of both are the same: so they are made the same here.
    """
    if not model.functions:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    versions = {wanted.domain: wanted.version for wanted in copy.opset_import}
    for function in copy.functions:
        for wanted in function.opset_import:
            if wanted.domain not in versions:
                versions[wanted.domain] = wanted.version
                copy.opset_import.append(onnx.helper.make_opsetid(wanted.domain, wanted.version))
            wanted.version = versions[wanted.domain]
    result: onnx.ModelProto = onnx.inliner.inline_local_functions(copy)
    del result.functions[:]
    return result


def complete(model: onnx.ModelProto) -> None:
    """Say the attributes that nodes leave out whose operator a function defines, in place: its body refers to them.

    ONNX does not see to that where it infers the types of MeanVarianceNormalization, for one, and fails.
    """
    opset = opset_of(model)
    for node in decisions.nodes(model.graph):
        schema = schema_of(node, opset)
        if schema is not None and schema.has_function:
            said = {attribute.name for attribute in node.attribute}
            defaults = {name: attribute.default_value for name, attribute in schema.attributes.items()}
            node.attribute.extend(value for name, value in defaults.items() if value.name and name not in said)


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operator set that the model is in, 0 if it is in none."""
    return next((wanted.version for wanted in model.opset_import if wanted.domain in ("", "ai.onnx")), 0)


def schema_of(node: onnx.NodeProto, opset: int) -> defs.OpSchema | None:
    """The schema of a node of ONNX's own domain, None if that has no such operator."""
    if node.domain not in ("", "ai.onnx") or not defs.has(node.op_type, opset, ""):
        return None
    return defs.get_schema(node.op_type, opset, "")
