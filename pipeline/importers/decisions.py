"""What a graph decides by its data: which branch of an If runs, how often a Loop does.

Test data that never takes a branch says nothing of what is compiled for it. What is decided is a number, how often a Loop runs or
whether the first branch of an If does, and it is seen as two: the number and its opposite, whose maxima over all test data, and
over the rounds of Loops around it, tell the largest and the smallest.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.arrays import Array

# Operators whose results depend on the shapes of what they take and on nothing else of it.
_SHAPES = frozenset(["Shape", "Size", "EyeLike"])
_DECIDING = frozenset(["If", "Loop"])
_NEVER = np.full(2, -(1 << 62))  # what is seen of a decision that is not reached


def nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """All nodes of a graph and of those inside it."""
    found = list(graph.node)
    for node in graph.node:
        found += [n for inner in inside(node) for n in nodes(inner)]
    return found


def inside(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that are attributes of a node."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
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


def number_nodes(model: onnx.ModelProto) -> None:
    """Give the nodes that decide names of their own, in place: two in different graphs may share one, and are still two."""
    for number, node in enumerate(nodes(model.graph)):
        if node.op_type in _DECIDING:
            node.name += f"#{number}"


@dataclass(frozen=True)
class Decision:
    """A node that decides by data, and whether that can be seen. `node` is its name, with the number that may stand behind it."""

    operator: str
    node: str
    is_seen: bool

    def unsettled(self, values: Sequence[Array]) -> str:
        """What test data that led to `values` leaves open, in a sentence; empty if nothing."""
        name = re.sub(r"#\d+$", "", self.node)
        called = f"onnx.{self.operator}" + (f" (node {name!r})" if name else "")
        if not self.is_seen:
            return f"{called} decides by data inside another graph, where it cannot be seen whether test data tries both ways"
        opposite, most = np.max([_NEVER, *values], axis=0)
        if most < 0:
            return f"{called} is reached by no test data: what is compiled for it would not be verified"
        if most != -opposite:
            return ""
        if self.operator == "If":
            return f"{called} takes the same branch for all test data: what is compiled for the other would not be verified"
        return f"{called} runs as often for all test data: whether it ends as data wants it would not be verified"


def _carried(node: onnx.NodeProto, values: set[str]) -> set[str]:
    """What a Loop or Scan carries from round to round, or takes slices of, that depends on data."""
    (body,) = inside(node)
    before, first = (node.input[2:], 2) if node.op_type == "Loop" else (node.input, 0)
    after = [output.name for output in body.output[1 if node.op_type == "Loop" else 0 :]]
    inputs = [value.name for value in body.input[first:]]
    found = {name for name, value in zip(inputs, before, strict=True) if value in values}
    while more := {i for i, o in zip(inputs, after, strict=False) if o in alive(body, values | found)} - found:
        found |= more
    return found


@dataclass
class _Watch:
    """Adds to a model what shows its decisions."""

    opset: int
    hidden: list[Decision] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def name(self) -> str:
        return f"__decision_{next(self._numbers)}"

    def add(self, graph: onnx.GraphProto, kind: str, *inputs: str, **attributes: object) -> str:
        graph.node.append(helper.make_node(kind, inputs, [name := self.name()], **attributes))
        return name

    def constant(self, graph: onnx.GraphProto, array: Array) -> str:
        return self.add(graph, "Constant", value=numpy_helper.from_array(array))

    def both(self, graph: onnx.GraphProto, number: str) -> str:
        """The two numbers that show one."""
        column = self.add(graph, "Reshape", number, self.constant(graph, np.array([1])))
        return self.add(graph, "Concat", self.add(graph, "Neg", column), column, axis=0)

    def decisions(self, graph: onnx.GraphProto, values: set[str]) -> list[tuple[str, Decision]]:
        """The decisions of a graph and of those inside it with the names of what shows them there; `values` depend on data."""
        found = []
        for node in list(graph.node):
            if node.op_type == "If":
                found += self._branches(graph, node, values)
                if node.input[0] in values:
                    number = self.add(graph, "Cast", node.input[0], to=TensorProto.INT64)
                    found.append((self.both(graph, number), Decision("If", node.name, True)))
            elif node.op_type in ("Loop", "Scan"):
                found += self._rounds(graph, node, values)
            elif set(node.output) & values:
                self.hidden += [
                    Decision(n.op_type, n.name, False) for g in inside(node) for n in nodes(g) if n.op_type in _DECIDING
                ]
        return found

    def _branches(self, graph: onnx.GraphProto, node: onnx.NodeProto, values: set[str]) -> list[tuple[str, Decision]]:
        found, both = [], [attribute.g for attribute in node.attribute if attribute.HasField("g")]
        for branch, other in (both, both[::-1]):
            for name, decision in self.decisions(branch, alive(branch, set(values))):
                node.output.append(result := self.name())
                branch.output.append(helper.make_tensor_value_info(name, TensorProto.INT64, [2]))
                never = self.constant(other, _NEVER)
                other.output.append(helper.make_tensor_value_info(never, TensorProto.INT64, [2]))
                found.append((result, decision))
        return found

    def _rounds(self, graph: onnx.GraphProto, node: onnx.NodeProto, values: set[str]) -> list[tuple[str, Decision]]:
        (body,) = inside(node)
        is_loop = node.op_type == "Loop"
        live = alive(body, values | _carried(node, values))
        found = []
        for name, decision in self.decisions(body, live):
            rows = self._stacked(node, body, name, [2])
            never = self.constant(graph, _NEVER[None])
            all_rows = self.add(graph, "Concat", never, rows, axis=0)
            if self.opset < 18:
                most = self.add(graph, "ReduceMax", all_rows, axes=[0], keepdims=0)
            else:
                most = self.add(graph, "ReduceMax", all_rows, self.constant(graph, np.array([0])), keepdims=0)
            found.append((most, decision))
        if is_loop and ({*node.input[:2]} & values or body.output[0].name in live):
            number = self.add(body, "Identity", body.input[0].name)
            rounds = self.add(graph, "Size", self._stacked(node, body, number, []))
            found.append((self.both(graph, rounds), Decision("Loop", node.name, True)))
        return found

    def _stacked(self, node: onnx.NodeProto, body: onnx.GraphProto, name: str, shape: Sequence[int]) -> str:
        """What a value is in each round."""
        results = len(body.output) - (node.op_type == "Loop")
        node.output.extend(self.name() for _ in range(results - len(node.output)))
        node.output.append(result := self.name())
        body.output.append(helper.make_tensor_value_info(name, TensorProto.INT64, shape))
        for attribute in node.attribute:
            if attribute.name in ("scan_output_axes", "scan_output_directions"):
                attribute.ints.append(0)
        return result


def exposed(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Decision]]:
    """A copy of `model` with an output more for each decision that can be seen, and all decisions, those that can first."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    watch = _Watch(next((wanted.version for wanted in model.opset_import if wanted.domain in ("", "ai.onnx")), 0))
    found = watch.decisions(copy.graph, alive(copy.graph))
    copy.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.INT64, [2]) for name, _ in found)
    return copy, [*(decision for _, decision in found), *watch.hidden]


def unsettled(decisions: Sequence[Decision], values: Mapping[str, Sequence[Array]]) -> list[str]:
    """A sentence for each decision that test data leaves open; `values` are those of the added outputs, by draw."""
    seen: dict[Decision, list[Array]] = {}
    found: list[tuple[Decision, list[Array]]] = []
    for index, decision in enumerate(decisions):
        shown = [draw[index] for draw in values.values()] if decision.is_seen else []
        if decision in seen and decision.node:  # the same node, in another round of a Loop
            seen[decision].extend(shown)
        else:
            found.append((decision, shown))
            seen[decision] = shown
    return [sentence for decision, shown in found if (sentence := decision.unsettled(shown))]
