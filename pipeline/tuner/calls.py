"""How a model calls its kernels: with which constants and buffers, for inputs of given shapes.

The host's part is read, not run: of its arithmetic on sizes what a call needs is evaluated. What is not known so, such as a size
that is computed from data, leaves the kernel out.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from iree.compiler import ir

from pipeline.iree.mlir import operations, symbol

_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Region:
    """From `offset` on, in bytes, a buffer holds elements of this MLIR type."""

    offset: int
    element: str


@dataclass(frozen=True)
class Buffer:
    """A buffer that a kernel is called with: its length in bytes, whether it is `written`, and what it holds."""

    length: int
    written: bool
    regions: tuple[Region, ...]


@dataclass(frozen=True)
class Call:
    """A call of a kernel: what its number of work groups depends on, its constants (32 bits each), its buffers in order."""

    workload: tuple[int, ...]
    constants: tuple[int, ...]
    buffers: tuple[Buffer, ...]

    @property
    def bytes(self) -> int:
        """Of all buffers."""
        return sum(buffer.length for buffer in self.buffers)


class _UnknownError(Exception):
    """A value that does not follow from shapes and constants."""


def _ceiling(a: int, b: int) -> int:
    return -(-a // b)


_ARITHMETIC: Mapping[str, Callable[[int, int], int]] = {
    "arith.addi": operator.add,
    "arith.subi": operator.sub,
    "arith.muli": operator.mul,
    "arith.divui": operator.floordiv,
    "arith.divsi": operator.floordiv,
    "arith.ceildivui": _ceiling,
    "arith.ceildivsi": _ceiling,
    "arith.remui": operator.mod,
    "arith.remsi": operator.mod,
    "arith.minui": min,
    "arith.minsi": min,
    "arith.maxui": max,
    "arith.maxsi": max,
    "arith.andi": operator.and_,
    "arith.ori": operator.or_,
    "arith.xori": operator.xor,
    "arith.shrui": operator.rshift,
    "arith.shli": lambda a, b: (a << b) & _MASK,
    "util.align": lambda a, b: _ceiling(a, b) * b,
}
_CASTS = ("arith.index_cast", "arith.index_castui", "arith.extui", "arith.extsi", "util.assume.int", "util.optimization_barrier")
_COMPARED: Sequence[Callable[[int, int], bool]] = (
    *(operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge),
    *(operator.lt, operator.le, operator.gt, operator.ge),
)


class _Evaluator:
    """The numbers that values of a module have, by what its leaves have."""

    def __init__(self, leaf: Callable[[ir.Operation], int]) -> None:
        self._leaf = leaf
        self._known: dict[Any, int] = {}

    def __call__(self, value: ir.Value) -> int:
        if value not in self._known:
            if isinstance(value.owner, ir.Block):
                raise _UnknownError("an argument")
            self._known[value] = self._compute(value.owner.operation, ir.OpResult(value).result_number)
        return self._known[value]

    def _compute(self, operation: ir.Operation, number: int) -> int:
        name, operands = operation.name, operation.operands
        if name == "arith.constant":
            return int(ir.IntegerAttr(operation.attributes["value"]).value)
        if name in _ARITHMETIC:
            return int(_ARITHMETIC[name](self(operands[0]), self(operands[1])))
        if name in _CASTS:
            return self(operands[number])
        if name == "arith.trunci":
            return self(operands[0]) & ((1 << int(ir.IntegerType(operation.results[0].type).width)) - 1)
        if name == "arith.cmpi":
            predicate = ir.IntegerAttr(operation.attributes["predicate"]).value
            return int(_COMPARED[predicate](self(operands[0]), self(operands[1])))
        if name == "arith.select":
            return self(operands[1] if self(operands[0]) else operands[2])
        return self._leaf(operation)


def _dimension(shapes: Sequence[Sequence[int]]) -> Callable[[ir.Operation], int]:
    """What the sizes of a function's arguments are."""

    def leaf(operation: ir.Operation) -> int:
        if operation.name != "hal.buffer_view.dim" or not isinstance(operation.operands[0].owner, ir.Block):
            raise _UnknownError(operation.name)
        number = ir.BlockArgument(operation.operands[0]).arg_number
        return int(shapes[number][int(ir.IntegerAttr(operation.attributes["index"]).value)])

    return leaf


def _regions(variant: ir.Operation, constants: Sequence[int]) -> dict[int, set[Region]]:
    """What each buffer of a kernel holds, by its number, where the kernel looks."""

    def leaf(operation: ir.Operation) -> int:
        if operation.name != "hal.interface.constant.load":
            raise _UnknownError(operation.name)
        return constants[int(ir.IntegerAttr(operation.attributes["ordinal"]).value)]

    found: dict[int, set[Region]] = {}
    number = _Evaluator(leaf)
    for subspan in operations(variant, "hal.interface.binding.subspan"):
        binding = ir.IntegerAttr(subspan.attributes["binding"]).value
        type_ = str(subspan.results[0].type)
        element = re.search(r"(?:tensor|memref)<(?:[^<>]*x)?([a-z]+\d+|index)[,>]", type_)
        if not element:
            raise _UnknownError(type_)
        offset = number(subspan.operands[0]) if len(subspan.operands) else 0
        found.setdefault(binding, set()).add(Region(offset, element[1]))
    return found


def _call(dispatch: ir.Operation, number: _Evaluator, variant: ir.Operation) -> Call:
    counts = [int(size) for size in ir.DenseI32ArrayAttr(dispatch.attributes["operandSegmentSizes"])]
    parts, start = [], 0
    for count in counts:
        parts.append(list(dispatch.operands)[start : start + count])
        start += count
    workload, constants, _, _, _, lengths = parts
    values = tuple(map(number, constants))
    if any(str(constant.type) != "i32" for constant in constants):
        raise _UnknownError("a constant that is not of 32 bits")
    regions = _regions(variant, values)
    accesses = [ir.IntegerAttr(one).value for one in ir.ArrayAttr(dispatch.attributes["resource_accesses"])]
    buffers = tuple(
        Buffer(number(length), bool(access & 2), tuple(sorted(regions.get(index, ()), key=lambda region: region.offset)))
        for index, (length, access) in enumerate(zip(lengths, accesses, strict=True))
    )
    return Call(tuple(map(number, workload)), values, buffers)


def find(module: ir.Module, shapes: Mapping[str, Sequence[Sequence[int]]]) -> dict[str, Call]:
    """The first call of each executable of an `executable-sources` module that can be told, by the executable's name.

    `shapes` are those of the inputs of each function.
    """
    executables = {symbol(one): one for one in operations(module, "hal.executable")}
    found: dict[str, Call] = {}
    for function in operations(module, "util.func"):
        given = shapes.get(symbol(function).partition("$")[0])
        if given is None:
            continue
        number = _Evaluator(_dimension(given))
        for dispatch in operations(function, "stream.cmd.dispatch"):
            path = ir.SymbolRefAttr(ir.ArrayAttr(dispatch.attributes["entry_points"])[0]).value
            if path[0] in found:
                continue
            try:
                variant = operations(executables[path[0]], "hal.executable.variant")[0]
                found[path[0]] = _call(dispatch, number, variant)
            except (_UnknownError, ZeroDivisionError, IndexError, KeyError, RecursionError):
                continue
    return found
