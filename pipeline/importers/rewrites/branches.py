"""If: the branch that is taken takes its place, or both, and a choice between their results.

Both are computed where data decides. That is right for results of one shape and type; see `guards` for what must not happen in
a branch that is not taken. IREE 3.13 compiles some of the others as branches of the host: those whose results have as many
dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper

from pipeline.importers import decisions
from pipeline.importers.rewrites.graph import Nodes, Scope, attribute, graphs
from pipeline.importers.rewrites.splicing import constants, others, spliced

if TYPE_CHECKING:
    from pipeline.importers.rewrites.folding import Item, Walk


def opened(node: onnx.NodeProto, walk: Walk) -> Sequence[Item] | None:
    """The branch that an If takes, or with `walk.choosing` both; None to leave it."""
    condition = walk.scope.constant(node.input[0])
    if condition is not None:
        nodes, results = _branch(node, condition.item(), walk.scope)
        return [*nodes, *identities(results, node.output, node)]
    return _both(node, walk) if walk.choosing else None


def identities(values: Sequence[str], results: Sequence[str], node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Nodes that give values the names of a node's results, where these have one."""
    return [helper.make_node("Identity", [a], [b], node.name) for a, b in zip(values, results, strict=True) if b]


def trim(graph: onnx.GraphProto) -> None:
    """Take away the results of Ifs that nothing reads, in place: they may be of any shape."""
    nodes = decisions.nodes(graph)
    held = [inner for node in nodes for inner in graphs(node)]
    read = {name for node in nodes for name in node.input} | {o.name for g in (graph, *held) for o in g.output}
    for node in nodes:
        if node.op_type == "If" and read & {*node.output}:
            for index in reversed([i for i, name in enumerate(node.output) if name not in read]):
                for results in (node.output, *(branch.output for branch in graphs(node))):
                    del results[index]


def _branch(node: onnx.NodeProto, taken: bool, scope: Scope) -> tuple[list[onnx.NodeProto], list[str]]:
    graph = attribute(node, "then_branch" if taken else "else_branch")
    return spliced([*constants(graph), *others(graph)], [output.name for output in graph.output], {}, scope)


def _both(node: onnx.NodeProto, walk: Walk) -> Sequence[Item]:
    start, before, scope = len(walk.kept), walk.changed, walk.scope
    (then, ones), (otherwise, zeros) = (_branch(node, taken, scope) for taken in (True, False))
    scalar, condition = as_scalar(node.input[0], node, scope)
    walk.guarded += 1

    def choose() -> Sequence[Item] | None:
        walk.guarded -= 1
        if any(_difference(scope.whole_type(a), scope.whole_type(b)) for a, b in zip(ones, zeros, strict=True)):
            del walk.kept[start:]
            walk.changed = before
            walk.keep(node)
            return None
        nodes = Nodes(node, scope)
        for one, zero, result in zip(ones, zeros, node.output, strict=True):
            choice(nodes, condition, one, zero, scope.type(one), result)
        return nodes

    return [*scalar, *then, *otherwise, choose]


def choice(nodes: Nodes, condition: str, one: str, other: str, type_: int, result: str = "") -> str:
    """`one` where the condition holds, else `other`, both of one type and shape. ONNX Runtime has no Where of booleans."""
    if type_ != TensorProto.BOOL:
        return nodes("Where", condition, one, other, result=result)
    left = nodes("And", nodes("Not", condition), other)
    return nodes("Or", nodes("And", condition, one), left, result=result)


def as_scalar(condition: str, node: onnx.NodeProto, scope: Scope) -> tuple[list[onnx.NodeProto], str]:
    """Nodes that make a condition, which may have the shape [1], a scalar, and its name."""
    if scope.shape(condition) == ():
        return [], condition
    scalar = scope.fresh(condition)
    shape = scope.add(np.array([], np.int64), TensorProto.INT64)
    return [helper.make_node("Reshape", [condition, shape], [scalar], node.name)], scalar


def is_static(type_: onnx.TypeProto) -> bool:
    """Whether all of a tensor's type is known."""
    tensor = type_.tensor_type
    return bool(tensor.elem_type) and tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim)


def _difference(one: onnx.TypeProto, other: onnx.TypeProto) -> str:
    """Why there is no choice between values of these types; empty if there is."""
    if not (one.tensor_type.elem_type and other.tensor_type.elem_type):
        return "chooses between results that are no tensors"
    if not (is_static(one) and is_static(other)):
        return "chooses between results of shapes that are not known"
    if one.tensor_type.elem_type != other.tensor_type.elem_type:
        return "chooses between results of different types"
    dims = [[dim.dim_value for dim in type_.tensor_type.shape.dim] for type_ in (one, other)]
    return "" if dims[0] == dims[1] else f"chooses between results of different shapes, {dims[0]} and {dims[1]}"


def may_compile(node: onnx.NodeProto, scope: Scope) -> bool:
    """Whether IREE may have code for an If as it is."""
    then, otherwise = (attribute(node, name) for name in ("then_branch", "else_branch"))
    inner = [Scope(graph, scope) for graph in (then, otherwise)]
    pairs = [
        (inner[0].whole_type(a.name).tensor_type, inner[1].whole_type(b.name).tensor_type)
        for a, b in zip(then.output, otherwise.output, strict=True)
    ]
    return all(
        one.elem_type == other.elem_type != 0
        and one.HasField("shape")
        and other.HasField("shape")
        and len(one.shape.dim) == len(other.shape.dim)
        for one, other in pairs
    )


def why_not(node: onnx.NodeProto, scope: Scope) -> str:
    """Why an If is not replaced."""
    then, otherwise = (attribute(node, name) for name in ("then_branch", "else_branch"))
    inner = [Scope(graph, scope) for graph in (then, otherwise)]
    for a, b in zip(then.output, otherwise.output, strict=True):
        if why := _difference(inner[0].whole_type(a.name), inner[1].whole_type(b.name)):
            return why
    return "its branches cannot both be computed"
