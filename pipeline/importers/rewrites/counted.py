"""Loops that IREE 3.13 compiles: those that carry values of fixed shapes, run to their count, and do nothing else.

Measured: it refuses those that stack results of their rounds, and does not look at conditions, so that numbers are wrong. So what
is stacked becomes a value that is carried, in which each round writes its place: by ScatterND, for by Where 2000 rounds of 512
numbers took four times as long. And where data ends a Loop, the rounds that are left run too, and what is carried stays as it
is in them: see `guards` for what must not happen there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.importers.rewrites.branches import as_scalar, choice, is_static
from pipeline.importers.rewrites.graph import Nodes, Scope, attribute, is_kept

if TYPE_CHECKING:
    from pipeline.importers.rewrites.folding import Item, Walk

ENDLESS = 1 << 24  # rounds: who asks for more means that the condition ends it
_IDLE = 1 << 16  # rounds: so many may run for nothing
_SCALAR = helper.make_tensor_type_proto(TensorProto.BOOL, [])


def is_counted(node: onnx.NodeProto, scope: Scope) -> bool:
    """Whether a Loop is such a one."""
    body, condition = attribute(node, "body"), scope.constant(node.input[1])
    kept = {n.output[0]: n.input[0] for n in body.node if n.op_type == "Identity"}
    keeps = [is_kept(a.type, b.type) for a, b in zip(body.input[2:], body.output[1:], strict=False)]
    carries = len(body.output) == len(body.input) - 1 and kept.get(body.output[0].name) == body.input[1].name
    return carries and all(keeps) and condition is not None and bool(condition.item())


def _tried(node: onnx.NodeProto, walk: Walk) -> tuple[onnx.NodeProto, Scope, bool]:
    """A copy of a Loop whose body was walked through, what was found there, and whether what it carries keeps its type.

    In every round the condition is true, and what is carried is of one type, if the first round leaves that as it is.
    """
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    body = attribute(copy, "body")
    scope = Scope(body, walk.scope)
    carried = [walk.scope.whole_type(name) for name in node.input[2:]]
    for value, type_ in zip(body.input, [helper.make_tensor_type_proto(TensorProto.INT64, []), _SCALAR, *carried], strict=True):
        value.type.CopyFrom(type_)
        scope.learn(value.name, type_)
    scope.define(numpy_helper.from_array(np.array(True), body.input[1].name))
    walk.inside(body, scope).run()
    found = [scope.whole_type(output.name) for output in body.output[1:]]
    return copy, scope, all(is_static(a) and a == b for a, b in zip(carried, found, strict=False))


def counted(
    node: onnx.NodeProto, walk: Walk, count: int | None, is_known: bool = False
) -> tuple[onnx.NodeProto, list[onnx.TypeProto]] | None:
    """A Loop of that kind that does the same, with the types of its results; None where there is none.

    A count of None is one that data says. With `is_known` no condition ends it before, whatever it is made of.
    """
    loop, scope, keeps = _tried(node, walk)
    body, carried = attribute(loop, "body"), len(node.input) - 2
    goes_on, types = scope.constant(body.output[0].name), [scope.whole_type(output.name) for output in body.output[1:]]
    ends = not is_known and (goes_on is None or not goes_on.item())
    if ends or not keeps or not all(map(is_static, types)) or (count is None and len(types) > carried):
        return None
    loop.input[:2] = [_bound(node, walk, count), walk.scope.add(np.array(True), TensorProto.BOOL)]
    loop.output[:] = [name or scope.fresh("unused") for name in loop.output]
    loop.output.extend(scope.fresh("unused") for _ in types[len(loop.output) :])
    nodes = Nodes(node, scope)
    for index in range(carried, len(types)):
        types[index] = _carry(loop, nodes, index, types[index], count or 0, walk, scope)
    body.output[0].name = nodes("Identity", body.input[1].name)
    body.node.extend(nodes)
    for output, type_ in zip(body.output, [_SCALAR, *types], strict=True):
        output.type.CopyFrom(type_)
    return loop, types


def _carry(
    loop: onnx.NodeProto, nodes: Nodes, index: int, type_: onnx.TypeProto, count: int, walk: Walk, scope: Scope
) -> onnx.TypeProto:
    """Let a Loop carry what it stacks as its result of that number; the type of all of it."""
    body, element = attribute(loop, "body"), type_.tensor_type.elem_type
    output = body.output[1 + index]
    shape = [dim.dim_value for dim in type_.tensor_type.shape.dim]
    body.value_info.append(helper.make_value_info(output.name, type_))  # no longer one of the results, which say their types
    whole, before, all_ = helper.make_tensor_type_proto(element, [count, *shape]), scope.fresh(output.name), scope.fresh("empty")
    body.input.append(helper.make_value_info(before, whole))
    # Constants of the body: ONNX does not look at those outside when it infers shapes there.
    row = nodes("Unsqueeze", output.name, nodes("Constant", value_ints=[0]))
    place = nodes("Reshape", body.input[0].name, nodes("Constant", value_ints=[1, 1]))
    output.name = nodes("ScatterND", before, place, row)
    size = walk.scope.add(np.array([count, *shape]), TensorProto.INT64)
    zero = helper.make_tensor("value", element, [1], [0])
    walk.settle(helper.make_node("ConstantOfShape", [size], [all_], loop.name, value=zero))
    loop.input.append(all_)
    return whole


def _bound(node: onnx.NodeProto, walk: Walk, count: int | None) -> str:
    """How often a Loop runs, as a scalar."""
    if count is not None:
        return walk.scope.add(np.array(count), TensorProto.INT64)
    nodes, name = as_scalar(node.input[0], node, walk.scope)
    for scalar in nodes:
        walk.settle(scalar)
    return name


def masked(node: onnx.NodeProto, walk: Walk, count: int | None) -> Sequence[Item] | None:
    """A Loop that data ends as one that runs to its count; None where it cannot be, or not `walk.choosing`."""
    if not walk.choosing or why_not_masked(node, walk, count):
        return None
    scope, copy = walk.scope, onnx.NodeProto()
    copy.CopyFrom(node)
    body, nodes, going = attribute(copy, "body"), Nodes(node, scope), scope.fresh("goes_on")
    truth = scope.add(np.array(True), TensorProto.BOOL)
    before, first = as_scalar(node.input[1], node, scope) if node.input[1] else ([], truth)
    shaping, asked = as_scalar(body.output[0].name, node, Scope(body, scope))
    nodes.extend(shaping)
    still = nodes("And", going, asked)
    for value, output, name in zip(body.input[2:], body.output[1:], node.input[2:], strict=True):
        output.name = choice(nodes, going, output.name, value.name, scope.type(name))
    stays = nodes("Identity", body.input[1].name)
    inputs = [*body.input[:2], helper.make_value_info(going, _SCALAR), *body.input[2:]]
    outputs = [*(helper.make_value_info(name, _SCALAR) for name in (stays, still)), *body.output[1:]]
    inner = helper.make_graph([*body.node, *nodes], "body", inputs, outputs, body.initializer)
    results = [scope.fresh("unused"), *node.output]
    loop = helper.make_node("Loop", [node.input[0], truth, first, *node.input[2:]], results, node.name, body=inner)
    walk.guarded += 1

    def leave() -> Sequence[Item]:
        walk.guarded -= 1
        return []

    return [*before, loop, leave]


def why_not_masked(node: onnx.NodeProto, walk: Walk, count: int | None) -> str:
    """Why a Loop that data ends cannot run to its count; empty if it can."""
    body = attribute(node, "body")
    if count is not None and count >= ENDLESS:
        return "ends when data says, and nothing else bounds its rounds"
    if count is not None and count > _IDLE:
        return f"ends when data says, before {count} rounds, all of which would run"
    if len(body.output) > len(body.input) - 1:
        return "runs as often as data says, which what its rounds stack is as long as"
    if not _tried(node, walk)[2]:
        return "runs as often as data says, and carries values whose types change or are not known"
    # All of its rounds would run, and who says that there is no limit gives the largest number.
    return "ends when data says, and how often it may run is data too" if count is None else ""
