"""What a graph decides by its data: which branch of an If runs, how often a Loop does.

Test data that never takes a branch says nothing of what is compiled for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from pipeline.arrays import Array

# Operators whose results depend on the shapes of what they take and on nothing else of it; ConstantOfShape takes a shape.
_SHAPES = frozenset(["Shape", "Size", "EyeLike", "ConstantOfShape"])
_DECIDING = frozenset(["If", "Loop"])


def nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """All nodes of a graph and of those inside it."""
    found = list(graph.node)
    for node in graph.node:
        found += [n for inner in inside(node) for n in nodes(inner)]
    return found


def inside(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that are attributes of a node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def alive(graph: onnx.GraphProto, outside: set[str] | None = None) -> set[str]:
    """The values of a graph that depend on the values of its inputs, or on those of `outside`, and not on shapes alone."""
    weights = {t.name for t in graph.initializer}
    found = outside if outside is not None else {i.name for i in graph.input} - weights
    for node in graph.node:
        # What a graph inside takes from outside is not among the node's inputs.
        taken = {*node.input, *(name for inner in inside(node) for n in nodes(inner) for name in n.input)}
        if node.op_type not in _SHAPES and taken & found:
            found |= {name for name in node.output if not _is_mask(node, name)}
    return found


def _is_mask(node: onnx.NodeProto, name: str) -> bool:
    """Whether this is the mask of a Dropout that does not train, which keeps all."""
    return node.op_type == "Dropout" and len(node.input) < 3 and name in node.output[1:]


@dataclass(frozen=True)
class Decision:
    """A node that decides by data, and whether that can be seen: not inside another one's graph."""

    operator: str
    node: str
    is_seen: bool

    def unsettled(self, values: Sequence[Array]) -> str:
        """What test data that led to `values` leaves open, in a sentence; empty if nothing."""
        called = f"onnx.{self.operator}" + (f" (node {self.node!r})" if self.node else "")
        if not self.is_seen:
            return f"{called} decides by data inside another graph, where it cannot be seen whether test data tries both ways"
        if len({value.tobytes() for value in values}) > 1:
            return ""
        if self.operator == "If":
            return f"{called} takes the same branch for all test data: what is compiled for the other would not be verified"
        return f"{called} runs as often for all test data: whether it ends as data wants it would not be verified"


def _loop_decides(node: onnx.NodeProto, values: set[str]) -> bool:
    """Whether how often a Loop runs depends on data: on its count, its first condition, or what its body makes of it."""
    (body,) = inside(node)
    if set(node.input[:2]) & values:
        return True
    carried = {i.name for i in body.input[2:]}
    return body.output[0].name in alive(body, values | carried)


def exposed(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Decision]]:
    """A copy of `model` with an output more for each decision that can be seen, and all decisions, those that can first."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    values = alive(graph)
    seen: list[Decision] = []
    hidden: list[Decision] = []
    for number, node in enumerate(graph.node):
        if node.op_type == "If" and node.input[0] in values:
            name = f"__taken_{number}"
            graph.node.append(helper.make_node("Identity", [node.input[0]], [name]))
            graph.output.append(helper.make_tensor_value_info(name, TensorProto.BOOL, None))
            seen.append(Decision("If", node.name, True))
        elif node.op_type == "Loop" and _loop_decides(node, values):
            (body,) = inside(node)
            name = f"__rounds_{number}"
            body.node.append(helper.make_node("Identity", [body.input[0].name], [name]))
            body.output.append(helper.make_tensor_value_info(name, TensorProto.INT64, None))
            node.output.append(name)
            graph.output.append(helper.make_tensor_value_info(name, TensorProto.INT64, None))
            seen.append(Decision("Loop", node.name, True))
        for inner in inside(node):
            hidden += [
                Decision(n.op_type, n.name, False) for n in nodes(inner) if n.op_type in _DECIDING and set(node.output) & values
            ]
    return copy, [*seen, *hidden]


def unsettled(decisions: Sequence[Decision], values: Mapping[str, Sequence[Array]]) -> list[str]:
    """A sentence for each decision that test data leaves open; `values` are those of the added outputs, by draw."""
    found = []
    for index, decision in enumerate(decisions):
        found.append(decision.unsettled([draw[index] for draw in values.values()] if decision.is_seen else []))
    return [sentence for sentence in found if sentence]
