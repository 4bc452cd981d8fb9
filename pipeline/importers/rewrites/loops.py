"""Loop: its rounds one after the other where they are few, else a Loop as IREE 3.13 compiles it.

Measured: of Loops IREE compiles those that carry values of fixed shapes, and nothing else. Those that stack results of their
rounds it refuses, and it does not look at conditions, so that numbers are wrong. A round that is written out takes its compiler
0.2 seconds (a product of matrices and what goes with it, on two cores), a Loop of any length 1.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper

from pipeline.importers import decisions
from pipeline.importers.rewrites.branches import as_scalar, choice, identities, is_static
from pipeline.importers.rewrites.graph import Nodes, Scope, attribute
from pipeline.importers.rewrites.splicing import constants, others, spliced

if TYPE_CHECKING:
    from pipeline.importers.rewrites.folding import Item, Walk

_FEW = 64  # nodes: of more, a Loop stays one where it can
_MOST = 8192  # nodes of all rounds together
_ENDLESS = 1 << 24  # rounds: who asks for more means that the condition ends it


def opened(node: onnx.NodeProto, walk: Walk) -> Sequence[Item] | None:
    """The rounds of a Loop, or a Loop that IREE compiles; None to leave it."""
    count, condition = _count(node, walk.scope), _condition(node, walk.scope)
    if condition is None:
        return _masked(node, walk)
    size = len(decisions.nodes(attribute(node, "body")))
    # Rounds that choose by what the last one chose take IREE's compiler time without end where they are written out.
    few = 0 if walk.guarded else _FEW
    if condition and (count is None or min(count, _MOST) * size > few):
        if (counted := _counted(node, walk, count)) is not None:
            walk.keep(*counted)
            return []
        if count is None:
            return _masked(node, walk)
    return Rounds(node, walk, (count or 0) if condition else 0).begin()


def _count(node: onnx.NodeProto, scope: Scope) -> int | None:
    if not node.input[0]:
        return _ENDLESS
    count = scope.constant(node.input[0])
    return None if count is None else min(max(int(count.item()), 0), _ENDLESS)


def _condition(node: onnx.NodeProto, scope: Scope) -> bool | None:
    if len(node.input) < 2 or not node.input[1]:
        return True
    condition = scope.constant(node.input[1])
    return None if condition is None else bool(condition.item())


class Rounds:
    """A Loop whose rounds are written out, each when the one before it is known."""

    def __init__(self, node: onnx.NodeProto, walk: Walk, count: int) -> None:
        self._node, self._walk, self._count = node, walk, count
        self._body = attribute(node, "body")
        self._start, self._before = len(walk.kept), walk.changed
        self._carried, self._condition, self._done = [*node.input[2:]], "", 0
        self._stacked: list[list[str]] = [[] for _ in self._body.output[1 + len(self._carried) :]]
        self._names: dict[str, str] = {}
        self._size = len(decisions.nodes(self._body))

    def begin(self) -> Sequence[Item]:
        """What is the same in all rounds, and the first of them."""
        held = constants(self._body)
        names = [node.output[0] for node in held]
        nodes, new = spliced(held, names, {}, self._walk.scope)
        truth = self._walk.scope.add(np.array(True), TensorProto.BOOL)
        self._names = {**dict(zip(names, new, strict=True)), self._body.input[1].name: truth}
        return [*nodes, self._next]

    def _next(self) -> Sequence[Item] | None:
        scope, walk = self._walk.scope, self._walk
        condition = scope.constant(self._condition) if self._condition else np.array(True)
        if condition is None or len(walk.kept) - self._start > _MOST or self._done >= _MOST:
            del walk.kept[self._start :]
            walk.changed = self._before
            masked = _masked(self._node, walk) if condition is None else None
            if masked is None:
                walk.keep(self._node)
            return masked
        if not condition.item() or self._done == self._count:
            return self._shorter() or self._end()
        number = scope.add(np.array(self._done), TensorProto.INT64)
        carried = [value.name for value in self._body.input[2:]]
        given = {**self._names, self._body.input[0].name: number, **dict(zip(carried, self._carried, strict=True))}
        results = [output.name for output in self._body.output]
        nodes, (self._condition, *made) = spliced(others(self._body), results, given, scope)
        self._carried, stacked = made[: len(carried)], made[len(carried) :]
        for values, value in zip(self._stacked, stacked, strict=True):
            values.append(value)
        self._done += 1
        return [*nodes, self._next]

    def _shorter(self) -> Sequence[Item]:
        """A Loop of as many rounds, where these are many."""
        if self._done * self._size <= _FEW or (counted := _counted(self._node, self._walk, self._done, True)) is None:
            return []
        del self._walk.kept[self._start :]
        return [lambda: self._walk.keep(*counted)]

    def _end(self) -> Sequence[Item]:
        nodes = Nodes(self._node, self._walk.scope)
        results = self._node.output
        first = self._walk.scope.add(np.array([0]), TensorProto.INT64)
        outputs = self._body.output[1 + len(self._carried) :]
        for values, result, output in zip(self._stacked, results[len(self._carried) :], outputs, strict=False):
            if values and result:
                nodes("Concat", *(nodes("Unsqueeze", value, first) for value in values), result=result, axis=0)
            elif result:
                type_ = output.type.tensor_type
                empty = np.zeros((0, *(dim.dim_value for dim in type_.shape.dim)))
                nodes("Identity", self._walk.scope.add(empty, type_.elem_type), result=result)
        carried = results[: len(self._carried)]
        return [*identities(self._carried[: len(carried)], carried, self._node), *nodes]


def _tried(node: onnx.NodeProto, walk: Walk) -> tuple[onnx.NodeProto, Scope, bool]:
    """A copy of a Loop whose body was walked through, what was found there, and whether what it carries keeps its type.

    All rounds but the last have a condition that is true, and all carry values of one type, if the first leaves it as it is.
    """
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    body = attribute(copy, "body")
    scope = Scope(body, walk.scope)
    number, condition = (helper.make_tensor_type_proto(t, []) for t in (TensorProto.INT64, TensorProto.BOOL))
    types = [number, condition, *(walk.scope.whole_type(name) for name in node.input[2:])]
    for value, type_ in zip(body.input, types, strict=True):
        value.type.CopyFrom(type_)
        scope.learn(value.name, type_)
    scope.define(onnx.numpy_helper.from_array(np.array(True), body.input[1].name))
    walk.inside(body, scope).run()
    found = [scope.whole_type(output.name) for output in body.output]
    return copy, scope, all(is_static(a) and a == b for a, b in zip(types[2:], found[1:], strict=False))


def _counted(
    node: onnx.NodeProto, walk: Walk, count: int | None, is_known: bool = False
) -> tuple[onnx.NodeProto, list[onnx.TypeProto]] | None:
    """A Loop that runs as often and carries what it stacked, with the types of its results; None where shapes change.

    Or where a condition may end it: with `is_known` it is known that none does.
    """
    loop, scope, keeps = _tried(node, walk)
    body = attribute(loop, "body")
    goes_on, types = scope.constant(body.output[0].name), [scope.whole_type(output.name) for output in body.output[1:]]
    if not (is_known or (goes_on is not None and goes_on.item())) or not keeps or not all(map(is_static, types)):
        return None
    carried, nodes = len(node.input) - 2, Nodes(node, scope)
    if count is None and len(types) > carried:
        return None
    loop.input[1] = walk.scope.add(np.array(True), TensorProto.BOOL)
    loop.input[0] = _bound(node, walk, count)
    loop.output[:] = [name or scope.fresh("unused") for name in loop.output]
    loop.output.extend(scope.fresh("unused") for _ in body.output[1 + len(loop.output) :])
    for index, type_ in enumerate(types[carried:], carried):
        value, shape = body.output[1 + index].name, [dim.dim_value for dim in type_.tensor_type.shape.dim]
        body.value_info.append(helper.make_value_info(value, type_))  # no longer one of the results, which say their types
        types[index] = helper.make_tensor_type_proto(type_.tensor_type.elem_type, [count, *shape])
        before, places = scope.fresh(value), np.arange(count or 0).reshape(-1, *[1] * len(shape))
        is_here = nodes("Equal", body.input[0].name, scope.add(places, TensorProto.INT64))
        body.input.append(helper.make_value_info(before, types[index]))
        body.output[1 + index].name = choice(nodes, is_here, value, before, type_.tensor_type.elem_type)
        empty = helper.make_tensor("value", type_.tensor_type.elem_type, [1], [0])
        loop.input.append(scope.fresh(value))
        size = walk.scope.add(np.array([count, *shape]), TensorProto.INT64)
        walk.settle(helper.make_node("ConstantOfShape", [size], [loop.input[-1]], node.name, value=empty))
    body.output[0].name = nodes("Identity", body.input[1].name)
    body.node.extend(nodes)
    for output, type_ in zip(body.output, [helper.make_tensor_type_proto(TensorProto.BOOL, []), *types], strict=True):
        output.type.CopyFrom(type_)
    return loop, types


def _bound(node: onnx.NodeProto, walk: Walk, count: int | None) -> str:
    """How often a Loop runs, as a scalar."""
    if count is not None:
        return walk.scope.add(np.array(count), TensorProto.INT64)
    nodes, name = as_scalar(node.input[0], node, walk.scope)
    for scalar in nodes:
        walk.settle(scalar)
    return name


def _masked(node: onnx.NodeProto, walk: Walk) -> Sequence[Item] | None:
    """A Loop that runs to its count, and carries what it had when its condition ended it; None where it cannot be.

    What a round computes that should not run may be anything: see `guards`.
    """
    if not walk.choosing or why_not(node, walk):
        return None
    scope, copy = walk.scope, onnx.NodeProto()
    copy.CopyFrom(node)
    body = attribute(copy, "body")
    nodes, going = Nodes(node, scope), scope.fresh("goes_on")
    before, first = as_scalar(node.input[1], node, scope) if node.input[1] else ([], scope.add(np.array(True), TensorProto.BOOL))
    inner = Scope(body, scope)
    shaping, asked = as_scalar(body.output[0].name, node, inner)
    nodes.extend(shaping)
    condition = nodes("And", going, asked)
    for value, output in zip(body.input[2:], body.output[1:], strict=True):
        output.name = choice(nodes, going, output.name, value.name, value.type.tensor_type.elem_type)
    truth = nodes("Identity", body.input[1].name)
    kind = helper.make_tensor_type_proto(TensorProto.BOOL, [])
    results = [helper.make_value_info(name, kind) for name in (truth, condition)]
    values = [*body.input[:2], helper.make_value_info(going, kind), *body.input[2:]]
    made = helper.make_graph([*body.node, *nodes], "body", values, [*results, *body.output[1:]], body.initializer)
    truth = scope.add(np.array(True), TensorProto.BOOL)
    outputs = [scope.fresh("unused"), *node.output]
    loop = helper.make_node("Loop", [node.input[0], truth, first, *node.input[2:]], outputs, node.name, body=made)
    walk.guarded += 1

    def leave() -> Sequence[Item]:
        walk.guarded -= 1
        return []

    return [*before, loop, leave]


def is_counted(node: onnx.NodeProto, scope: Scope) -> bool:
    """Whether IREE compiles a Loop: it carries values only, and its condition is true and stays so."""
    body, condition = attribute(node, "body"), scope.constant(node.input[1])
    kept = {n.output[0]: n.input[0] for n in body.node if n.op_type == "Identity"}
    carries = len(body.output) == len(body.input) - 1 and kept.get(body.output[0].name) == body.input[1].name
    return carries and condition is not None and bool(condition.item())


def why_not(node: onnx.NodeProto, walk: Walk) -> str:
    """Why a Loop that data ends cannot run to its count; empty if it can."""
    count, body = _count(node, walk.scope), attribute(node, "body")
    if count is not None and count >= _ENDLESS:
        return "ends when data says, and nothing else bounds its rounds"
    if len(body.output) > len(body.input) - 1:
        return "runs as often as data says, which what its rounds stack is as long as"
    if not _tried(node, walk)[2]:
        return "runs as often as data says, and carries values whose types change or are not known"
    return ""
