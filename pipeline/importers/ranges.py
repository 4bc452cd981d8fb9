"""What is known of open dimensions, said in the imported module: the file checks its sizes itself, and the compiler may use them.

IREE 3.13 takes a dimension of unknown size as any number, and two of them as different ones; where inputs share a size, or
broadcast, its code is then slower, and for some models there is none. A module is told the range (`util.assume.int`), and which
sizes are one. So that nothing outside of it computes wrong numbers, or reads beyond an end, it is checked first, by the
module itself: in any program, not in those of this project alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from iree.compiler import ir

from pipeline.importers.signature import Tensor
from pipeline.spec.types import Dimension

_EQ, _LESS_OR_EQUAL, _GREATER_OR_EQUAL = 0, 7, 9  # arith's numbers for comparisons without sign


def _made(name: str, result: ir.Type, *operands: ir.Value, **attributes: ir.Attribute) -> ir.Value:
    return ir.Operation.create(name, [result], list(operands), attributes).result


def _number(value: int) -> ir.Value:
    index = ir.IndexType.get()
    return _made("arith.constant", index, value=ir.IntegerAttr.get(index, value))


def _compared(how: int, a: ir.Value, b: ir.Value) -> ir.Value:
    predicate = ir.IntegerAttr.get(ir.IntegerType.get_signless(64), how)
    return _made("arith.cmpi", ir.IntegerType.get_signless(1), a, b, predicate=predicate)


def _both(a: ir.Value, b: ir.Value) -> ir.Value:
    return _made("arith.andi", ir.IntegerType.get_signless(1), a, b)


def _require(holds: ir.Value, otherwise: str) -> None:
    ir.Operation.create("cf.assert", [], [holds], {"msg": ir.StringAttr.get(otherwise)})


def _check(dimension: Dimension, found: Sequence[tuple[str, ir.Value]]) -> None:
    """Let the function fail where the sizes of the dimension, which these inputs have, are not of its range, or differ."""
    (name, size), *others = found
    within = _compared(_GREATER_OR_EQUAL, size, _number(dimension.min))
    within = _both(within, _compared(_LESS_OR_EQUAL, size, _number(dimension.max)))
    if dimension.multiple > 1:
        left = _made("arith.remui", ir.IndexType.get(), size, _number(dimension.multiple))
        within = _both(within, _compared(_EQ, left, _number(0)))
    _require(within, f"input {name!r} has a size that is not in {dimension}")
    for other, same in others:
        said = f"of input {name!r} and of input {other!r} differ" if other != name else f"is two sizes in input {name!r}"
        _require(_compared(_EQ, same, size), f"{dimension.name} {said}")


def _known(dimension: Dimension, size: ir.Value) -> ir.Value:
    """The size, of which the compiler knows the range."""
    said = f"umin = {dimension.min}, umax = {dimension.max}, udiv = {dimension.multiple}"
    assumed = ir.Attribute.parse(f"[[#util.int.assumption<{said}>]]")
    return _made("util.assume.int", ir.IndexType.get(), size, assumptions=assumed)


@dataclass(frozen=True)
class _Open:
    """An argument with open dimensions: `plain` is it as a builtin tensor."""

    argument: ir.Value
    plain: ir.Value
    dimensions: Sequence[Dimension]
    users: Sequence[ir.Operation]


def _casts(argument: ir.Value) -> tuple[str, str]:
    """What makes the argument a builtin tensor without signs, and that such as the argument is: Torch's, or one with signs."""
    if isinstance(argument.type, ir.RankedTensorType):
        return "stablehlo.bitcast_convert", "stablehlo.bitcast_convert"
    return "torch_c.to_builtin_tensor", "torch_c.from_builtin_tensor"


def _is_open(argument: ir.Value, tensor: Tensor) -> list[bool]:
    """Which dimensions of the argument are open: in a file of MLIR also such as the spec says are not."""
    if isinstance(argument.type, ir.RankedTensorType):
        return [argument.type.is_dynamic_dim(axis) for axis in range(argument.type.rank)]
    return [size is None for size in tensor.fixed]


def _opened(argument: ir.Value, tensor: Tensor, sizes: dict[Dimension, list[tuple[str, ir.Value]]]) -> _Open:
    users, is_open = [use.owner for use in argument.uses], _is_open(argument, tensor)
    shape = tuple(None if is_one else size for is_one, size in zip(is_open, tensor.fixed, strict=True))
    type_, plain, dimensions = ir.Type.parse(Tensor("", tensor.dtype, shape).mlir), argument, []
    if argument.type != type_:
        plain = _made(_casts(argument)[0], type_, argument)
    for axis, (size, is_one) in enumerate(zip(tensor.shape, is_open, strict=True)):
        if is_one and size is not None:
            size = size if isinstance(size, Dimension) else Dimension(f"axis {axis}", size, size)
            found = _made("tensor.dim", ir.IndexType.get(), plain, _number(axis))
            sizes.setdefault(size, []).append((tensor.name, found))
            dimensions.append(size)
    return _Open(argument, plain, dimensions, users)


def tie(function: ir.Operation, inputs: Sequence[Tensor]) -> None:
    """Let `function`, which takes `inputs`, check and know the sizes of its open dimensions, also of those that are one size.

    IREE then makes a fixed dimension of the latter, and refuses others itself.
    """
    block = function.regions[0].blocks[0]
    pairs = [(a, t) for a, t in zip(list(block.arguments), inputs, strict=True) if any(_is_open(a, t))]
    if not pairs:
        return
    sizes: dict[Dimension, list[tuple[str, ir.Value]]] = {}
    with ir.InsertionPoint(block.operations[0]), ir.Location.unknown():
        opened = [_opened(*pair, sizes) for pair in pairs]
        # All of this first: once the compiler knows a size, it takes it for that of other inputs, and checks nothing.
        for dimension, found in sizes.items():
            _check(dimension, found)
        known = {dimension: _known(dimension, found[0][1]) for dimension, found in sizes.items()}
        for one in opened:
            value = _made("flow.tensor.tie_shape", one.plain.type, one.plain, *(known[d] for d in one.dimensions))
            if one.argument.type != one.plain.type:
                value = _made(_casts(one.argument)[1], one.argument.type, value)
            for user in one.users:
                for number, operand in enumerate(user.operands):
                    if operand == one.argument:
                        user.operands[number] = value
