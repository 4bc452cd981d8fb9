"""Control flow: what is known of it before a model runs is done here, and what data decides is computed whatever it decides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx

from pipeline.errors import PipelineError
from pipeline.importers import decisions
from pipeline.importers.rewrites import branches, loops, sequences
from pipeline.importers.rewrites.folding import Walk, folded
from pipeline.importers.rewrites.graph import Scope, graphs
from pipeline.importers.rewrites.loops import is_counted

_FLOW = frozenset(["If", "Loop", "Scan"]) | sequences.KINDS


def settled(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """`model` with what is known of branches, rounds, lists of tensors and shapes done; None where there is nothing of the kind.

    A model without branches and so on is left as it is, unless more shapes are known of it afterwards.
    """
    if _has_flow(model):
        return folded(model)
    unknown = _unknown(model)
    found = folded(model) if unknown else None
    return found if found is not None and _unknown(found) < unknown else None


def chosen(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """`model` without branches and rounds that data decides; None if there are none, or nothing can be done."""
    left = next(_open(model.graph, Scope(model.graph)), None)
    return folded(model, choosing=True) if left else None


def require_none(model: onnx.ModelProto, tried: Mapping[str, str], where: str) -> None:
    """Raise PipelineError for control flow that IREE 3.13 has no code for; `tried` is what `rewrites.apply` says."""
    walk = Walk(model, model.graph, Scope(model.graph), True)
    for node, scope in _open(model.graph, walk.scope):
        wrong = tried.get("known") or tried.get("choices")
        why = f"what takes its place gives something else: {wrong}" if wrong else _why(node, walk.inside(model.graph, scope))
        what = f"onnx.{node.op_type} (node {node.name!r}) {why}, and IREE has no code for that"
        hint = "compute this part outside the model, or let an input with a `value` in the spec decide it"
        raise PipelineError(what, where=where, hint=hint)


def _has_flow(model: onnx.ModelProto) -> bool:
    return any(node.op_type in _FLOW and node.domain in ("", "ai.onnx") for node in decisions.nodes(model.graph))


def _unknown(model: onnx.ModelProto) -> int:
    """How many values of the model's own graph have a shape that is not known."""
    scope = Scope(model.graph)
    return sum(scope.shape(name) is None for node in model.graph.node for name in node.output if name)


def _open(graph: onnx.GraphProto, scope: Scope) -> Iterator[tuple[onnx.NodeProto, Scope]]:
    """Nodes that IREE has no code for, of a graph and of those inside it, from outside to inside."""
    for node in graph.node:
        if node.op_type in _FLOW and node.domain in ("", "ai.onnx") and not (node.op_type == "Loop" and is_counted(node, scope)):
            yield node, scope
        for inner in graphs(node):
            yield from _open(inner, Scope(inner, scope))


def _why(node: onnx.NodeProto, walk: Walk) -> str:
    if node.op_type == "If":
        return branches.why_not(node, walk.scope)
    if node.op_type == "Loop":
        return loops.why_not(node, walk) or "makes other shapes in each round, of too many"
    if node.op_type == "Scan":
        return "takes slices of values whose shape is not known"
    return "takes a list of tensors that is not known, or a place in it"
