"""MLIR modules by the compiler's bindings: read, written, searched."""

from __future__ import annotations

import io
import itertools
import re
import sys
import threading
from collections.abc import Container, Iterator
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from iree.compiler import ir, passmanager

from pipeline.errors import PipelineError

_DIALECTS = "iree.compiler.dialects."


class _Dialects(MetaPathFinder, Loader):
    """Finds an empty module for each dialect that the bindings have no Python module of, as SPIR-V.

    They look for it again at each of its operations that is touched: four fifths of the time that Python took for Vulkan code.
    """

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        """The specification of the dialect's own module if there is one, else of an empty one."""
        if not name.startswith(_DIALECTS) or "." in name.removeprefix(_DIALECTS):
            return None
        return PathFinder.find_spec(name, path, target) or ModuleSpec(name, self)

    def create_module(self, spec: ModuleSpec) -> None:
        """As Python makes modules."""

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is in it."""


sys.meta_path.insert(0, _Dialects())


_contexts = threading.local()


@contextmanager
def one_context() -> Iterator[None]:
    """All modules that this thread parses inside are in one context: to make one takes as long as to parse a few kernels."""
    before = getattr(_contexts, "shared", None)
    with ir.Context() as context:
        _contexts.shared = context
        try:
            yield
        finally:
            _contexts.shared = before


@contextmanager
def parsed(source: bytes, where: str = "") -> Iterator[ir.Module]:
    """The MLIR module (text or bytecode) in `source`, in a context of its own or `one_context`'s; PipelineError if it is none."""
    with getattr(_contexts, "shared", None) or ir.Context(), ir.Location.unknown():
        try:
            module = ir.Module.parse(source)
        except ir.MLIRError as error:
            raise PipelineError(f"not valid MLIR: {str(error).splitlines()[0]}", where=where) from error
        yield module


@contextmanager
def opened(path: Path) -> Iterator[ir.Module]:
    """The MLIR module in the file at `path`, as `parsed` gives it."""
    with parsed(path.read_bytes(), str(path)) as module:
        yield module


def to_bytes(module: ir.Module) -> bytes:
    """`module` as MLIR bytecode."""
    file = io.BytesIO()
    module.operation.write_bytecode(file)
    return file.getvalue()


def save(module: ir.Module, path: Path) -> None:
    """Write `module` as MLIR bytecode. (Callers stage the path.)"""
    with path.open("wb") as file:
        module.operation.write_bytecode(file)


def operations(root: Any, *names: str) -> list[ir.Operation]:
    """All operations called one of `names` in `root`, at any depth; those of `hal.executable` without a look into kernels."""
    found: list[ir.Operation] = []
    outside = all(name.startswith("hal.executable") for name in names)
    top = root.operation

    def visit(operation: ir.Operation) -> ir.WalkResult:
        name = operation.name
        if name in names:
            found.append(operation)
        # A kernel has thousands of operations, and each costs a call of Python.
        return ir.WalkResult.SKIP if outside and name == "builtin.module" and operation != top else ir.WalkResult.ADVANCE

    top.walk(visit, ir.WalkOrder.PRE_ORDER if outside else ir.WalkOrder.POST_ORDER)
    return found


def body(operation: Any) -> ir.Block:
    """The block that is the whole of `operation`."""
    return operation.operation.regions[0].blocks[0]


def symbol(operation: Any) -> str:
    """The name of `operation`, which is a symbol."""
    return str(ir.StringAttr(operation.attributes["sym_name"]).value)


def symbols(module: ir.Module) -> dict[str, ir.Operation]:
    """The operations of `module` that have names, by these."""
    named = [operation.operation for operation in module.body.operations if "sym_name" in operation.attributes]
    return {symbol(operation): operation for operation in named}


def rename(module: ir.Module, operation: ir.Operation, name: str) -> None:
    """Give a symbol of `module` another name, there and where it is used."""
    ir.SymbolTable.replace_all_symbol_uses(symbol(operation), name, module.operation)
    operation.attributes["sym_name"] = ir.StringAttr.get(name)


def fresh(name: str, taken: Container[str]) -> str:
    """A name like this one that is not taken."""
    return next(new for number in itertools.count(1) if (new := f"{name}_{number}") not in taken)


_FLOATS = {"bf16": "bfloat16", "f16": "float16", "f32": "float32", "f64": "float64"}  # coarsest first


def coarsest_float(path: Path) -> str:
    """numpy's name of the coarsest float type that the module at `path` computes in; `float32` where it has none."""
    with opened(path) as module:
        return coarsest_in(module.operation.get_asm(large_elements_limit=8)) or "float32"


def coarsest_in(text: str) -> str:
    """numpy's name of the coarsest float type that MLIR's `text` names; empty where it names none."""
    return next((name for type_, name in _FLOATS.items() if re.search(rf"(\b|x){type_}\b", text)), "")


def makers(path: Path, function: str) -> list[str]:
    """For each result of a function of the ONNX module at `path`, the operator and node that makes it; empty if unknown."""
    with opened(path) as module:
        found = [op for op in operations(module, "func.func") if symbol(op) == function]
        (returned, *more) = [op for one in found for op in operations(one, "func.return")] or [None]
        return [_maker(operand.owner) for operand in returned.operands] if returned and not more else []


def _maker(owner: Any) -> str:
    if isinstance(owner, ir.Block) or owner.name != "torch.operator":
        return ""
    operator, called = ir.StringAttr(owner.attributes["name"]).value, node(owner.operation)
    return f"{operator}, node {called!r}" if called else str(operator)


def node(operation: ir.Operation) -> str:
    """The name of the graph's node that `operation` comes from, empty if it is unknown."""
    named = re.search(r'loc\("([^"]*)"\)|fused<.*?"([^"]*)"|\["([^"]*)"', str(operation.location))
    return next(filter(None, named.groups()), "") if named else ""


def nodes_of(operation: ir.Operation) -> list[str]:
    """The names of all nodes of the graph that `operation` itself comes from, in order."""
    return re.findall(r'"([^"]+)"(?!:\d)', str(operation.location))  # and no "file":line:column


def nodes_inside(operation: ir.Operation) -> list[str]:
    """The names of the graph's nodes that anything computed inside `operation` comes from, in order."""
    found: dict[str, None] = {}

    def visit(inner: ir.Operation) -> ir.WalkResult:
        if inner.name.startswith(("linalg.", "iree_linalg_ext.")):
            found.update(dict.fromkeys(nodes_of(inner)))
        return ir.WalkResult.ADVANCE

    operation.walk(visit)
    return list(found)


def operators(module: ir.Module) -> dict[str, list[str]]:
    """The operators of an ONNX module, each once, by the names of the nodes that they come from: `onnx.Conv`."""
    found: dict[str, list[str]] = {}
    for operation in operations(module, "torch.operator"):
        mine, name = found.setdefault(node(operation), []), str(ir.StringAttr(operation.attributes["name"]).value)
        mine += [name] if name not in mine and name != "onnx.Constant" else []
    return found


def strip_locations(module: ir.Module) -> None:
    """Take away what tells where each operation comes from: files of this machine, nodes of a graph."""
    passmanager.PassManager.parse("builtin.module(strip-debuginfo)").run(module.operation)


def set_targets(module: ir.Module, device: str) -> None:
    """Make `device`, an MLIR attribute, the only device that `module` is compiled for."""
    module.operation.attributes["hal.device.targets"] = ir.ArrayAttr.get([ir.Attribute.parse(device)])
