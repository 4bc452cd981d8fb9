"""The steps of a recurrent layer one after the other: as a Loop that carries the states and the rows made so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from pipeline.importers.rewrites.graph import Size
from pipeline.importers.rewrites.microsoft.call import Call
from pipeline.importers.rewrites.recurrent.cells import Step


@dataclass(frozen=True)
class Sequences:
    """A batch of them: their steps, their number, the units of a state, and a column of lengths where these differ."""

    steps: Size
    count: Size
    units: int
    lengths: str = ""


def run(call: Call, step: Step, x: str, states: Sequence[str], of: Sequences, backwards: bool) -> tuple[str, list[str]]:
    """The first state after each step, [steps, number, units], and all states after the last. `x` has a row for each step."""
    if of.steps == 1:
        row = call("Squeeze", x, call.integers(0))
        last = _kept(call, step(call, row, states), states, of, call.number(0, TensorProto.INT32))
        rows = call("Unsqueeze", last[0], call.integers(0))
    else:
        rows, *last = _loop(call, step, x, states, of, backwards)
    if of.lengths:
        last = [call("Where", call("Greater", of.lengths, call.number(0, TensorProto.INT32)), h, call.number(0)) for h in last]
        places = call("Unsqueeze", call.counted(of.steps), call.integers(1, 2))
        rows = call("Where", call("Less", places, of.lengths), rows, call.number(0))
    return rows, last


def _kept(call: Call, new: Sequence[str], old: Sequence[str], of: Sequences, place: str) -> list[str]:
    """New states, where the sequences are not at their end."""
    if not of.lengths:
        return [*new]
    goes_on = call("Less", place, of.lengths)
    return [call("Where", goes_on, *pair) for pair in zip(new, old, strict=True)]


def _loop(call: Call, step: Step, x: str, states: Sequence[str], of: Sequences, backwards: bool) -> list[str]:
    """The rows and the last states."""
    scope, body, type_ = call.scope, Call(call.node, call.scope, call.opset), call.float_type
    number, condition, before, *old = (scope.fresh(call.node.output[0] or "step") for _ in range(3 + len(states)))
    if isinstance(of.steps, int):
        count, last = (call.number(n, TensorProto.INT64) for n in (of.steps, of.steps - 1))
    else:
        count = call("Squeeze", of.steps, call.integers(0))
        last = call("Sub", count, call.number(1, TensorProto.INT64))
    place = body("Sub", last, number) if backwards else number
    short = body("Cast", place, to=TensorProto.INT32)
    new = _kept(body, step(body, body("Gather", x, place, axis=0), old), old, of, short)
    # Constants of the body: ONNX infers no shapes there by values that lie outside.
    row = body("Unsqueeze", new[0], body("Constant", value_ints=[0]))
    after = body("ScatterND", before, body("Reshape", place, body("Constant", value_ints=[1, 1])), row)
    goes_on = body("Identity", condition)

    shapes: list[tuple[Size, ...]] = [(of.steps, of.count, of.units), *[(of.count, of.units)] * len(states)]
    counted = [_value(number, TensorProto.INT64, ()), _value(condition, TensorProto.BOOL, ())]
    carried = [_value(*three) for three in zip([before, *old], [type_] * len(shapes), shapes, strict=True)]
    results = [_value(*three) for three in zip([after, *new], [type_] * len(shapes), shapes, strict=True)]
    graph = helper.make_graph(body, "step", [*counted, *carried], [_value(goes_on, TensorProto.BOOL, ()), *results])
    zeros = call("ConstantOfShape", call.listed(shapes[0]), value=helper.make_tensor("zero", type_, [1], [0]))
    always = call.number(1, TensorProto.BOOL)
    names = [call("Loop", count, always, zeros, *states, body=graph), *(scope.fresh(name) for name in old)]
    call[-1].output.extend(names[1:])
    return names


def _value(name: str, type_: int, shape: Sequence[Size]) -> onnx.ValueInfoProto:
    """A value of such a shape; an open size is called as the value that has it."""
    return helper.make_tensor_value_info(name, type_, shape)
