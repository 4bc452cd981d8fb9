"""Operators of other domains than ONNX's: what is left of them at the end is refused, by name.

ONNX Runtime's optimizer writes some of its own into ONNX's domain, as LayerNormalization into sets that have none; and a set may
hold a deprecated one. ONNX's checker and converter refuse such nodes: they are set apart while these look.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from pipeline.errors import PipelineError
from pipeline.importers import decisions
from pipeline.importers.functions import opset_of, schema_of
from pipeline.importers.rewrites import microsoft

_STRAYS = frozenset("GroupNormalization LayerNormalization SimplifiedLayerNormalization".split())


def set_apart(model: onnx.ModelProto) -> None:
    """Give nodes of such operators that their set does not have another domain, in place."""
    opset, found = opset_of(model), False
    for node in decisions.nodes(model.graph):
        if node.op_type in _STRAYS and node.domain in ("", "ai.onnx"):
            schema = schema_of(node, opset)
            if schema is None or schema.deprecated:
                node.domain, found = microsoft.DOMAIN, True
    if found and all(wanted.domain != microsoft.DOMAIN for wanted in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(microsoft.DOMAIN, 1))


def put_back(model: onnx.ModelProto) -> None:
    """Undo `set_apart`, in place: ONNX Runtime's own domain has no operators of these names."""
    for node in decisions.nodes(model.graph):
        if node.op_type in _STRAYS and node.domain == microsoft.DOMAIN:
            node.domain = ""


def be_exact(model: onnx.ModelProto) -> bool:
    """Take away what allows ONNX Runtime to compute less exactly than floats are, in place; whether there was any.

    `accuracy_level` is the least that a MatMulNBits asks for: with 4, floats are rounded to 8 bits where that is faster.
    """
    found = False
    for node in decisions.nodes(model.graph):
        for held in [a for a in node.attribute if a.name == "accuracy_level" and node.domain == microsoft.DOMAIN]:
            node.attribute.remove(held)
            found = True
    return found


def require_none(model: onnx.ModelProto, tried: Mapping[str, str], where: str) -> None:
    """Raise PipelineError for a node that is of another domain than ONNX's; `tried` is what `rewrites.apply` says."""
    for node in decisions.nodes(model.graph):
        if node.domain in ("", "ai.onnx") and node.op_type != "SimplifiedLayerNormalization":
            continue
        called = f"{node.domain or 'ai.onnx'}.{node.op_type}" + (f" (node {node.name!r})" if node.name else "")
        hint = "express it by operators of ONNX, or as a function in the model, which is inlined"
        why = "IREE has operators of ONNX's own domain only"
        if node.domain in (microsoft.DOMAIN, ""):
            reason = microsoft.why_not(model, node)
            wrong = tried.get("microsoft", "")
            reason = reason or (f"standard operators in its place give something else: {wrong}" if wrong else "")
            why = f"it cannot be said by standard operators: {reason}" if reason else why
        if node.domain.startswith(microsoft.DOMAIN) or not node.domain:
            hint = "take the model from before ONNX Runtime's optimizer or quantizer, or let those write standard operators (QDQ)"
        raise PipelineError(f"{called}: {why}", where=where, hint=hint)
