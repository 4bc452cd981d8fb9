"""The steps of a recurrent layer one after the other: as a Loop, which carries the states and the rows made so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx
from onnx import TensorProto, helper

from pipeline.importers.rewrites.graph import Size
from pipeline.importers.rewrites.microsoft.call import Call
from pipeline.importers.rewrites.recurrent.cells import Step

# Steps that are written out: of so many all, of more those of a round.
_MOST, _AT_ONCE = 64, 16


@dataclass(frozen=True)
class Sequences:
    """A batch of them: their steps, their number, the units of a state, and a column of lengths where these differ.

    `written_out`: the steps of a round, of all that there are where these are few.
    """

    steps: Size
    count: Size
    units: int
    lengths: str = ""
    written_out: bool = False


def run(call: Call, step: Step, x: str, states: Sequence[str], of: Sequences, backwards: bool) -> tuple[str, list[str]]:
    """The first state after each step, [steps, number, units], and all states after the last. `x` has a row for each step."""
    if of.steps == 1:
        row = call("Squeeze", x, call.integers(0))
        last = _kept(call, step(call, row, states), states, of, call.number(0, TensorProto.INT32))
        rows = call("Unsqueeze", last[0], call.integers(0))
    elif of.written_out and isinstance(of.steps, int) and isinstance(of.count, int):
        rows, last = _in_rounds(call, step, x, states, of, backwards)
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


def _in_rounds(call: Call, step: Step, x: str, states: Sequence[str], of: Sequences, backwards: bool) -> tuple[str, list[str]]:
    """The rows and the last states, by rounds of as many steps, if there are many; those that are over are at the end."""
    total = call.fixed(of.steps)
    in_rounds = total - total % _AT_ONCE if total > _MOST else 0
    last, parts = [*states], list[str]()

    def rounds() -> None:
        nonlocal last
        some = call("Slice", x, *(call.integers(n) for n in (0, in_rounds, 0)))
        some = call.shaped(some, [in_rounds // _AT_ONCE, _AT_ONCE, of.count, -1])
        found, *last = _loop(call, step, some, last, replace(of, steps=in_rounds // _AT_ONCE), backwards, _AT_ONCE)
        parts.append(call.shaped(found, [in_rounds, of.count, of.units]))

    def rest() -> None:
        nonlocal last
        some = call("Slice", x, *(call.integers(n) for n in (in_rounds, total, 0))) if in_rounds else x
        places = [call.number(n, TensorProto.INT32) for n in range(in_rounds, total)]
        found, last = _written_out(call, step, some, last, of, backwards, places)
        parts.append(found)

    both = [*([rounds] if in_rounds else []), *([rest] if in_rounds < total else [])]
    for part in reversed(both) if backwards else both:
        part()
    parts = parts[::-1] if backwards else parts
    return call("Concat", *parts, axis=0) if len(parts) > 1 else parts[0], last


def _written_out(
    call: Call, step: Step, x: str, states: Sequence[str], of: Sequences, backwards: bool, places: Sequence[str]
) -> tuple[str, list[str]]:
    """The rows and the last states of these steps, whose rows `x` has."""
    rows, last = [""] * len(places), [*states]
    # A row is two dimensions here, and made one after it is cut out: IREE does not put that into the kernel that reads it, which
    # then is the same for all steps.
    pair = 1 if of.units % 2 else 2
    x = call("Reshape", x, call("Constant", value_ints=[len(places), -1, pair]))
    for n in reversed(range(len(places))) if backwards else range(len(places)):
        # Constants where the steps are: ONNX infers no shapes in a body by values that lie outside.
        row = call("Slice", x, *(call("Constant", value_ints=[i]) for i in (n, n + 1, 0)))
        row = call("Reshape", row, call("Constant", value_ints=[of.count, -1]))
        last = _kept(call, step(call, row, last), last, of, places[n])
        rows[n] = call("Unsqueeze", last[0], call("Constant", value_ints=[0]))
    return call("Concat", *rows, axis=0), last


def _loop(call: Call, step: Step, x: str, states: Sequence[str], of: Sequences, backwards: bool, at_once: int = 0) -> list[str]:
    """The rows and the last states. With `at_once`, each of the steps of `of` is as many, and `x` has their rows in it."""
    scope, body, type_ = call.scope, Call(call.node, call.scope, call.opset), call.float_type
    number, condition, before, *old = (scope.fresh(call.node.output[0] or "step") for _ in range(3 + len(states)))
    if isinstance(of.steps, int):
        count, last = (call.number(n, TensorProto.INT64) for n in (of.steps, of.steps - 1))
    else:
        count = call("Squeeze", of.steps, call.integers(0))
        last = call("Sub", count, call.number(1, TensorProto.INT64))
    place = body("Sub", last, number) if backwards else number
    short = body("Cast", place, to=TensorProto.INT32)
    given = body("Gather", x, place, axis=0)
    if at_once:
        first = body("Mul", short, call.number(at_once, TensorProto.INT32)) if of.lengths else short
        places = [body("Add", first, call.number(n, TensorProto.INT32)) if of.lengths else "" for n in range(at_once)]
        made, new = _written_out(body, step, given, old, of, backwards, places)
    else:
        new = _kept(body, step(body, given, old), old, of, short)
        made = new[0]
    # Constants of the body: see above.
    row = body("Unsqueeze", made, body("Constant", value_ints=[0]))
    after = body("ScatterND", before, body("Reshape", place, body("Constant", value_ints=[1, 1])), row)
    goes_on = body("Identity", condition)

    rows = (of.steps, *([at_once] if at_once else []), of.count, of.units)
    shapes: list[tuple[Size, ...]] = [rows, *[(of.count, of.units)] * len(states)]
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
