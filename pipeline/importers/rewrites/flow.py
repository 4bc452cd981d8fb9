"""Control flow: what is known of it before a model runs is done here, and what data decides is computed whatever it decides.

Models without it are left as they are, for IREE sees through most of what is computed of shapes. Measured: it does not where
that says how a Pad reflects, how often a Tile repeats, where a Split cuts, or which axes there are; nor where it says of what
shape a recurrent layer's first state is, as Expand makes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx

from pipeline.errors import PipelineError
from pipeline.importers import decisions
from pipeline.importers.rewrites import branches, loops, sequences
from pipeline.importers.rewrites.counted import is_counted
from pipeline.importers.rewrites.folding import Walk, folded
from pipeline.importers.rewrites.graph import Scope, graphs

_FLOW = frozenset(["If", "Loop", "Scan"]) | sequences.KINDS
# Operators with operands, from this one on, that IREE or a rewrite must know.
_KNOWING = {"Pad": 1, "Resize": 2, "Split": 1, "Squeeze": 1, "Tile": 1, "Unsqueeze": 1, "Upsample": 1}
_RECURRENT = frozenset(["RNN", "GRU", "LSTM", "DynamicQuantizeLSTM"])  # become Loops, which carry what keeps its shape


def settled(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """`model` with what is known of branches, rounds, lists of tensors and shapes done; None where there is nothing of the kind.

    A model without branches and so on is left as it is, unless it is clearer afterwards.
    """
    if _has_flow(model):
        return folded(model)
    unclear = _unclear(model)
    found = folded(model) if unclear else None
    return found if found is not None and _unclear(found) < unclear else None


def chosen(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """`model` without branches and rounds that data decides; None if there are none, or nothing can be done."""
    left = next(_open(model.graph, Scope(model.graph)), None)
    return folded(model, choosing=True) if left else None


def require_none(model: onnx.ModelProto, tried: Mapping[str, str], where: str) -> None:
    """Raise PipelineError for control flow that IREE 3.13 has no code for; `tried` is what `rewrites.apply` says."""
    walk = Walk(model, model.graph, Scope(model.graph), True)
    for node, scope in _open(model.graph, walk.scope):
        if node.op_type == "If" and branches.may_compile(node, scope):
            continue
        wrong = tried.get("known") or tried.get("choices")
        why = f"what takes its place gives something else: {wrong}" if wrong else _why(node, walk.inside(model.graph, scope))
        what = f"onnx.{node.op_type} (node {node.name!r}) {why}, and IREE has no code for that"
        hint = "compute this part outside the model, or let an input with a `value` in the spec decide it"
        raise PipelineError(what, where=where, hint=hint)


def _has_flow(model: onnx.ModelProto) -> bool:
    return any(node.op_type in _FLOW and node.domain in ("", "ai.onnx") for node in decisions.nodes(model.graph))


def _unclear(model: onnx.ModelProto) -> int:
    """How many operands, numbers of dimensions, and shapes of outputs and of what recurrent layers take are not known."""
    scope = Scope(model.graph)
    count = sum(scope.shape(output.name) is None for output in model.graph.output)
    for node in model.graph.node:
        count += sum(bool(name) and scope.rank(name) is None for name in node.output)
        first = 1 if node.op_type.startswith("Reduce") else _KNOWING.get(node.op_type, len(node.input))
        count += sum(scope.constant(name) is None for name in node.input[first:] if name)
        if node.op_type in _RECURRENT:
            count += sum(scope.shape(name) is None for name in node.input if name)
    return count


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
        return loops.why_not(node, walk)
    if node.op_type == "Scan":
        return "takes slices of values whose shape is not known"
    return "takes a list of tensors that is not known, or a place in it"
