"""What is known of open dimensions, said in the imported module: the file checks its sizes itself, and the compiler may use them.

IREE 3.13 takes a dimension of unknown size as any number, and two of them as different ones; where inputs share a size, or
broadcast, its code is then slower, and for some models there is none. A module is told the range (`util.assume.int`), and which
sizes are one. So that nothing outside of it computes wrong numbers, or reads beyond an end, it is checked first, by the
module itself: in any program, not in those of this project alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from iree.compiler import ir

from pipeline.importers.signature import Tensor
from pipeline.spec.types import Dimension

_EQ, _LESS_OR_EQUAL, _GREATER_OR_EQUAL = 0, 7, 9  # arith's numbers for comparisons without sign


def _made(name: str, result: ir.Type, *operands: ir.Value, **attributes: ir.Attribute) -> ir.Value:
    return ir.Operation.create(name, [result], list(operands), attributes).result


class _Checks:
    """The ranges of a function's dimensions, in the operations that are put in front of it."""

    def __init__(self) -> None:
        self._index, self._bit = ir.IndexType.get(), ir.IntegerType.get_signless(1)
        self._sizes: dict[Dimension, tuple[str, ir.Value, ir.Value]] = {}

    def number(self, value: int) -> ir.Value:
        return _made("arith.constant", self._index, value=ir.IntegerAttr.get(self._index, value))

    def _compared(self, how: int, a: ir.Value, b: ir.Value) -> ir.Value:
        return _made("arith.cmpi", self._bit, a, b, predicate=ir.IntegerAttr.get(ir.IntegerType.get_signless(64), how))

    def _require(self, holds: ir.Value, otherwise: str) -> None:
        ir.Operation.create("cf.assert", [], [holds], {"msg": ir.StringAttr.get(otherwise)})

    def size(self, dimension: Dimension, found: ir.Value, name: str) -> ir.Value:
        """The size of a dimension of the input `name`, of which the compiler knows the range, or that another input has it."""
        if dimension in self._sizes:
            first, same, known = self._sizes[dimension]
            other = f"input {name!r}" if name != first else "another dimension of it"
            self._require(self._compared(_EQ, found, same), f"{dimension.name} of input {first!r} and of {other} differ")
            return known
        within = self._compared(_GREATER_OR_EQUAL, found, self.number(dimension.min))
        within = _made("arith.andi", self._bit, within, self._compared(_LESS_OR_EQUAL, found, self.number(dimension.max)))
        if dimension.multiple > 1:
            left = _made("arith.remui", self._index, found, self.number(dimension.multiple))
            within = _made("arith.andi", self._bit, within, self._compared(_EQ, left, self.number(0)))
        self._require(within, f"input {name!r} has a size that is not in {dimension}")
        said = f"umin = {dimension.min}, umax = {dimension.max}, udiv = {dimension.multiple}"
        assumed = ir.Attribute.parse(f"[[#util.int.assumption<{said}>]]")
        known = _made("util.assume.int", self._index, found, assumptions=assumed)
        self._sizes[dimension] = (name, found, known)
        return known


def tie(function: ir.Operation, inputs: Sequence[Tensor]) -> None:
    """Let `function`, which takes `inputs`, check and know the sizes of its open dimensions."""
    block = function.regions[0].blocks[0]
    checks, open_ = _Checks(), [any(size is None for size in tensor.fixed) for tensor in inputs]
    if not any(open_):
        return
    first = block.operations[0]
    with ir.InsertionPoint(first), ir.Location.unknown():
        for argument, tensor, is_open in zip(list(block.arguments), inputs, open_, strict=True):
            if is_open:
                _tie(checks, argument, tensor)


def _tie(checks: _Checks, argument: ir.Value, tensor: Tensor) -> None:
    users = [use.owner for use in argument.uses]
    plain, value = ir.Type.parse(tensor.mlir), argument
    is_torch = argument.type != plain
    if is_torch:
        value = _made("torch_c.to_builtin_tensor", plain, argument)
    sizes = []
    for axis, (size, fixed) in enumerate(zip(tensor.shape, tensor.fixed, strict=True)):
        if fixed is None and isinstance(size, Dimension):
            found = _made("tensor.dim", ir.IndexType.get(), value, checks.number(axis))
            sizes.append(checks.size(size, found, tensor.name))
    value = _made("flow.tensor.tie_shape", plain, value, *sizes)
    if is_torch:
        value = _made("torch_c.from_builtin_tensor", argument.type, value)
    for user in users:
        for number, operand in enumerate(user.operands):
            if operand == argument:
                user.operands[number] = value
