"""The host's part of a module for several targets: stubs in the place of code while IREE makes it, and then the code.

IREE dispatches a kernel in a branch for each of its variants, 133 kernels for six targets in 10,000 lines, and takes most of its
time for them. But all that it does differently is how many work groups there are, for the executable is loaded from one global
whichever was created. So a kernel has one stub for all targets, whose work-group count asks which variant was chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from iree.compiler import ir
from iree.compiler.dialects import arith

from pipeline.iree.codegen.pieces import Code, Piece, canonical, exports_of
from pipeline.iree.linking import link
from pipeline.iree.mlir import body, operations, symbol
from pipeline.iree.targets import Target, device


def assemble(
    module: ir.Module,
    targets: Sequence[Target],
    pieces: Mapping[tuple[str, str], Piece],
    code: Mapping[str, Code],
    *,
    joined: bool,
) -> None:
    """Make the `executable-sources` module one for `targets`, with stubs for all code.

    `joined`: one for all targets where they can be. That one is created for any of them, so `straighten` has to follow.
    """
    targets = sorted(targets, key=lambda target: target.format)
    places: dict[str, dict[str, int]] = {}
    held: dict[str, list[str]] = {}
    for executable in operations(module, "hal.executable"):
        name = symbol(executable)
        variant = operations(executable, "hal.executable.variant")[0]
        places[name] = {symbol(export): index for index, export in enumerate(exports_of(variant))}
        same_name = len({pieces[name, target.name].symbol for target in targets}) == 1
        stubs = {target.name: code[pieces[name, target.name].key].stub for target in targets}
        held[name] = _put_stubs(executable, stubs, joined=joined and same_name)
    for dispatch in operations(module, "stream.cmd.dispatch"):
        points = {(path[0], path[2]): None for path in map(_path, ir.ArrayAttr(dispatch.attributes["entry_points"]))}
        dispatch.attributes["entry_points"] = ir.ArrayAttr.get(
            [
                ir.SymbolRefAttr.get([name, target, canonical(pieces[name, target].symbol, places[name][export])])
                for name, export in points
                for target in held[name]
            ]
        )
    for variable in operations(module, "util.global"):
        if symbol(variable) == "__device_0":
            variable.attributes["initial_value"] = ir.Attribute.parse(device(targets))


def _path(reference: Any) -> list[str]:
    return list(ir.SymbolRefAttr(reference).value)


def _put_stubs(executable: ir.Operation, stubs: Mapping[str, str], *, joined: bool) -> list[str]:
    """Replace the executable's variants by `stubs`, by target: one each with its condition, or one. Returns whose they are."""
    parsed = ir.Module.parse("".join(f'hal.executable private @"{i}" {{ {stub} }}' for i, stub in enumerate(stubs.values())))
    variants = [operations(holder, "hal.executable.variant")[0] for holder in parsed.body.operations]
    old = operations(executable, "hal.executable.variant")
    names = list(stubs)
    if joined := joined and _can_be_joined(variants):
        _join_counts(variants, names)
    for name, variant in list(zip(names, variants, strict=True))[: 1 if joined else None]:
        with ir.InsertionPoint(old[0]):
            copy = variant.clone()
        copy.attributes["sym_name"] = ir.StringAttr.get(name)
        if not joined:
            link.add_condition(copy, name)
    for variant in old:
        variant.erase()
    return names[:1] if joined else names


def _can_be_joined(variants: Sequence[ir.Operation]) -> bool:
    """Whether the stubs have nothing but the same exports, each with a count of work groups of the same arguments."""
    shapes = []
    for variant in variants:
        exports = exports_of(variant)
        *inside, _end = body(variant).operations
        if len(exports) != len(inside) or any(len(export.regions[0].blocks) != 1 for export in exports):
            return False
        shapes.append([[argument.type for argument in body(export).arguments] for export in exports])
    return all(shape == shapes[0] for shape in shapes)


def _join_counts(variants: Sequence[ir.Operation], names: Sequence[str]) -> None:
    """Make each export of the first variant count as that of the chosen one, of these `names`, does."""
    for exports in zip(*(exports_of(variant) for variant in variants), strict=True):
        blocks = [body(export) for export in exports]
        end = blocks[0].operations[-1].operation
        counts = [list(block.operations[-1].operation.operands) for block in blocks]
        for block in blocks[1:]:
            for mine, its in zip(blocks[0].arguments, block.arguments, strict=True):
                its.replace_all_uses_with(mine)
            for operation in list(block.operations)[:-1]:
                operation.operation.move_before(end)
        with ir.InsertionPoint(end):
            chosen = [link.is_chosen(blocks[0].arguments[0], name) for name in names]
            for number, found in enumerate(counts[-1]):
                for flag, count in list(zip(chosen, counts, strict=True))[-2::-1]:
                    found = arith.SelectOp(flag, count[number], found).result
                end.operands[number] = found


def insert(module: ir.Module, pieces: Mapping[tuple[str, str], Piece], code: Mapping[str, Code]) -> None:
    """Replace the stubs in a `hal` phase module by all code: a `hal.executable.binary` for each target, named as it is."""
    held: dict[str, list[tuple[str, Piece]]] = {}
    for (dispatch, target), piece in pieces.items():
        held.setdefault(dispatch, []).append((target, piece))
    for executable in operations(module, "hal.executable"):
        stubs = operations(executable, "hal.executable.variant")
        for target, piece in held[symbol(executable)]:
            found = code[piece.key]
            attributes = {
                "sym_name": ir.StringAttr.get(target),
                "sym_visibility": ir.StringAttr.get("public"),
                "format": ir.StringAttr.get(found.format),
                "mime_type": ir.StringAttr.get(found.mime_type),
                "data": ir.Attribute.parse(f'dense<"0x{found.data.hex()}"> : vector<{len(found.data)}xi8>'),
            }
            with ir.InsertionPoint(stubs[0]):
                ir.Operation.create("hal.executable.binary", attributes=attributes)
        for stub in stubs:
            stub.erase()
