"""One dispatch for all variants where IREE has one in a branch for each.

By IR surgery on the `hal` phase. What a variant's branch does differs from what others do only in the executable, which is
loaded from one global whichever was created, and in constants, as counts of workgroups. Measured with IREE 3.13 on 133
dispatches for six targets: from `hal` to `vm` took 2.1 s of CPU, and takes 0.5 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from iree.compiler import ir
from iree.compiler.dialects import arith

from pipeline.iree.mlir import operations

_LOOKUP, _TARGET = "hal.executable.lookup.function", "entry_point"
Selected = dict[tuple[Any, ...], ir.Value]


def join(module: ir.Module) -> None:
    """Make one dispatch of those in the branches of each `cf.switch` that differ in their variant and in constants alone.

    Some variant must have been selected when it runs: there is no branch for none any more.
    """
    for function in (*operations(module, "util.func"), *operations(module, "util.initializer")):
        selected: Selected = {}
        for switch in operations(function, "cf.switch"):
            if branches := _branches(switch):
                _join(switch, branches, selected)


def _branches(switch: ir.Operation) -> list[list[ir.Operation]]:
    """The operations of each branch, if they are one of each variant, do the same and go on in one place; else nothing."""
    after, *blocks = list(switch.successors)
    if len(switch.operands) != 1 or isinstance(switch.operands[0].owner, ir.Block) or len(after.arguments):
        return []
    branches = []
    for block in blocks:
        *inner, last = (o.operation for o in block.operations)
        if last.name != "cf.br" or last.successors[0] != after or len(list(block.predecessors)) != 1:
            return []
        branches.append(inner)
    variants = [{_variant(operation) for operation in branch if operation.name == _LOOKUP} for branch in branches]
    one_each = all(len(mine) == 1 for mine in variants) and len(set().union(*variants)) == len(branches)
    return branches if one_each and all(_alike(branches[0], branch) for branch in branches) else []


def _variant(lookup: ir.Operation) -> str:
    return str(ir.SymbolRefAttr(lookup.attributes[_TARGET]).value[1])


def _alike(first: Sequence[ir.Operation], other: Sequence[ir.Operation]) -> bool:
    """Whether two branches do the same, but for their variant and for constants from outside."""
    if len(first) != len(other):
        return False
    made: dict[ir.Value, ir.Value] = {}
    for one, two in zip(first, other, strict=True):
        if one.name != two.name or len(one.regions) or _said(one) != _said(two) or len(one.operands) != len(two.operands):
            return False
        for mine, its in zip(one.operands, two.operands, strict=True):
            if made.get(mine, mine) != its and not (_is_constant(mine) and _is_constant(its) and mine.type == its.type):
                return False
        if [r.type for r in one.results] != [r.type for r in two.results]:
            return False
        made |= zip(one.results, two.results, strict=True)
    return True


def _said(operation: ir.Operation) -> dict[str, Any]:
    """The operation's attributes; of a function that is looked up all but the variant."""
    said = {name: operation.attributes[name] for name in operation.attributes}
    if operation.name == _LOOKUP:
        dispatch, _variant, *rest = ir.SymbolRefAttr(said[_TARGET]).value
        said[_TARGET] = (dispatch, *rest)
    return said


def _is_constant(value: ir.Value) -> bool:
    return not isinstance(value.owner, ir.Block) and value.owner.name == "arith.constant"


def _join(switch: ir.Operation, branches: Sequence[Sequence[ir.Operation]], selected: Selected) -> None:
    """Do once, before the `switch`, what all its branches do, and go on."""
    flag = switch.operands[0]
    cases = [int(value) for value in ir.DenseIntElementsAttr(switch.attributes["case_values"])]
    inside = {result for operation in branches[0] for result in operation.results}
    for operations_ in zip(*branches, strict=True):
        first = operations_[0]
        for number, mine in enumerate(first.operands):
            values = [operation.operands[number] for operation in operations_]
            if mine not in inside and any(value != mine for value in values):
                first.operands[number] = _select(flag, cases, values, selected)
    for operation in branches[0]:
        operation.move_before(switch)
    for branch in branches[1:]:
        for operation in reversed(branch):
            operation.erase()
    with ir.InsertionPoint(switch):
        ir.Operation.create("cf.br", successors=[switch.successors[0]])
    switch.erase()


def _select(flag: ir.Value, cases: Sequence[int], constants: Sequence[ir.Value], selected: Selected) -> ir.Value:
    """The one of `constants` whose case `flag` is; computed where the flag is, and once in a function."""
    attributes = [constant.owner.attributes["value"] for constant in constants]
    key = (flag, *cases, *attributes)
    if key not in selected:
        with ir.InsertionPoint.after(flag.owner):
            found = arith.ConstantOp(constants[-1].type, attributes[-1]).result
            for case, constant, attribute in list(zip(cases, constants, attributes, strict=True))[-2::-1]:
                value = arith.ConstantOp(constant.type, attribute).result
                number = arith.ConstantOp(flag.type, ir.IntegerAttr.get(flag.type, case)).result
                is_it = arith.CmpIOp(arith.CmpIPredicate.eq, flag, number).result
                found = arith.SelectOp(is_it, value, found).result
        selected[key] = found
    return selected[key]
