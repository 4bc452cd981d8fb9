"""Straight code where IREE branches for every dispatch: its last passes take quadratic time in branches and live values.

By IR surgery on the `hal` phase. Measured with IREE 3.13 on 1,000 dispatches for two targets: 34 s from `hal` to a vmfb
became 3 s. (A plain compile for one target takes 9 s.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from iree.compiler import ir

from pipeline.iree.linking.link import render
from pipeline.iree.mlir import operations, symbol

_UNAVAILABLE = 14  # as iree_status_code_e has it
_EXECUTABLE = "!hal.executable"


def straighten(module: ir.Module, variants: Sequence[str]) -> bool:
    """Create all executables of the selected one of `variants` in one block, and load each where it is used.

    Where IREE creates them in a way that this does not know, all stays as it is, and it returns False.
    """
    initializers = [o for o in operations(module, "util.initializer") if operations(o, "hal.executable.create")]
    globals_ = _globals(initializers[0]) if len(initializers) == 1 else {}
    if not globals_:
        return False
    _declare_mutable(module, globals_)
    _sink_loads(module)
    snippet = ir.Module.parse(render("executables.mlir.j2", globals=globals_, variants=variants, unavailable=_UNAVAILABLE))
    with ir.InsertionPoint(initializers[0]):
        operations(snippet, "util.initializer")[0].clone()
    initializers[0].erase()
    return True


def _globals(initializer: ir.Operation) -> dict[str, str]:
    """Dispatch → the global that holds its executable: what is created goes through a branch into one store.

    Nothing, if any is created otherwise.
    """
    found: dict[str, str] = {}
    for create in operations(initializer, "hal.executable.create"):
        dispatch, _variant = ir.SymbolRefAttr(create.attributes["executable_target"]).value
        branches = [use for use in create.results[0].uses if use.owner.name == "cf.br"]
        blocks = [(use.owner.successors[0], use.operand_number) for use in branches]
        stores = [use.owner for block, number in blocks for use in block.arguments[number].uses]
        if (
            len(create.operands) != 2
            or len(list(create.results[0].uses)) != 1
            or len(stores) != 1
            or stores[0].name != "util.global.store"
        ):
            return {}
        found[dispatch] = ir.FlatSymbolRefAttr(stores[0].attributes["global"]).value
    return found


def _declare_mutable(module: ir.Module, globals_: Mapping[str, str]) -> None:
    """Otherwise IREE takes a store in each block for one too many, and hoists every load to the top of its function."""
    for variable in operations(module, "util.global"):
        if symbol(variable) in globals_.values():
            variable.attributes["is_mutable"] = ir.UnitAttr.get()


def _sink_loads(module: ir.Module) -> None:
    for load in operations(module, "util.global.load"):
        if str(load.results[0].type) != _EXECUTABLE:
            continue
        for use in list(load.results[0].uses):
            user = use.owner.operation
            with ir.InsertionPoint(user):
                copy = load.clone()
            if "is_immutable" in copy.attributes:
                del copy.attributes["is_immutable"]
            user.operands[use.operand_number] = copy.results[0]
        load.erase()
