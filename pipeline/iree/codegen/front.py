"""The front half: a model up to its dispatches, which is the same whatever the targets are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from iree.compiler import ir

from pipeline.cache import LocalCache
from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes, sha256_file
from pipeline.iree import backends, mlir, toolchain
from pipeline.iree.codegen import reading
from pipeline.iree.targets import Target, device
from pipeline.iree.toolchain import CompilerCrashedError, CompilerRefusedError, iree_compile

_STEP = ("--compile-to=executable-sources", "--emit-mlir-bytecode")


Nodes = Mapping[str, Mapping[str, Sequence[str]]]  # kernel → node → operators


@dataclass(frozen=True)
class FrontHalf:
    """A model's dispatches: `sources` is the module of the `executable-sources` phase, which has names of nodes as locations.

    `flags` are those that the model itself needed for that. By the name of each kernel, `nodes` are those of the model that are
    in it, and `called_for` those that it is called for, each with its operators; as far as the compiler kept track. Nodes that
    compute the same share a kernel, which has the first one's in it.
    """

    sources: Path
    flags: tuple[str, ...]
    nodes: Nodes
    called_for: Nodes


class FrontHalfError(PipelineError):
    """The model itself cannot be compiled: this has nothing to do with any target."""


def front_flags(source: Path, folder: Path, flags: Sequence[str], cache: LocalCache) -> tuple[str, ...]:
    """The flags for the front half that the model at `source` needs besides a bundle's `flags`. Logs go into `folder`.

    Raises FrontHalfError for a model that IREE does not take, or takes for some data only.
    """
    try:
        found = reading.read(source, folder, cache)
        found.require_unconditional(str(source))
    except CompilerCrashedError as error:
        raise _crashed(error, source) from error
    except PipelineError as error:
        raise FrontHalfError(error.what, where=error.where, hint=error.hint) from error
    return found.flags(flags)


def front_half(source: Path, folder: Path, targets: Sequence[Target], flags: Sequence[str], cache: LocalCache) -> FrontHalf:
    """`source` up to the `executable-sources` phase, where its dispatches are known: `folder/sources.mlirbc`.

    Without flags the outcome is the same for all targets, so it is made once. (Some flags, like data tiling, change that.)
    """
    any_device = next(backend.any_device for backend in backends.every() if backend.any_device)
    devices, output = device(targets) if flags else any_device, folder / "sources.mlirbc"
    own = front_flags(source, folder, flags, cache)
    flags = [*own, *flags]
    made_of = [sha256_file(source), devices, flags, toolchain.digest()]
    readers = [sha256_file(Path(file)) for file in (__file__, mlir.__file__)]
    keys = [sha256_bytes(json.dumps(key).encode()) for key in (["front half, named", *made_of], ["nodes", *made_of, *readers])]
    sources, nodes = map(cache.get, keys)
    if sources is not None and nodes is not None:
        output.write_bytes(sources)
        return FrontHalf(output, own, *json.loads(nodes))
    try:
        found = _lower(source, output, devices, flags, folder / "sources.log")
    except CompilerCrashedError as error:
        raise _crashed(error, source) from error
    except CompilerRefusedError as error:
        raise FrontHalfError(error.what, where=str(source), hint=error.hint) from error
    for key, data in zip(keys, (output.read_bytes(), json.dumps(found).encode()), strict=True):
        cache.put(key, data)
    return FrontHalf(output, own, *found)


def _lower(source: Path, output: Path, devices: str, flags: Sequence[str], log: Path) -> tuple[Nodes, Nodes]:
    """Write the `executable-sources` phase of the model; the nodes that are in each kernel, and those that it is called for.

    The compiler is given the names of the model's nodes, so that its complaints have them too. But for locations it makes the
    same with them as without.
    """
    given = output.with_name("input.mlirbc")
    with mlir.opened(source) as module:
        operators = mlir.operators(module)
        mlir.set_targets(module, devices)
        mlir.save(module, given)
    iree_compile(given, output, [*_STEP, *flags], log)
    given.unlink()
    with mlir.opened(output) as module:
        return _nodes(module, operators), _called_for(module, operators)


def _nodes(module: ir.Module, operators: Mapping[str, list[str]]) -> Nodes:
    """The nodes that are in each kernel of an `executable-sources` module, with their `operators`."""
    found = {}
    for executable in mlir.operations(module, "hal.executable"):
        inside = {node: operators.get(node, []) for node in mlir.nodes_inside(executable)}
        for export in mlir.operations(executable, "hal.executable.export"):
            found[mlir.symbol(export)] = inside
    return found


def _called_for(module: ir.Module, operators: Mapping[str, list[str]]) -> Nodes:
    """The nodes that each kernel of an `executable-sources` module is called for, with their `operators`."""
    found: dict[str, dict[str, list[str]]] = {}
    for dispatch in mlir.operations(module, "stream.cmd.dispatch"):
        for kernel in ir.ArrayAttr(dispatch.attributes["entry_points"]):
            name = str(ir.SymbolRefAttr(kernel).value[-1])
            found.setdefault(name, {}).update({node: operators.get(node, []) for node in mlir.nodes_of(dispatch)})
    return found


def _crashed(error: CompilerCrashedError, source: Path) -> FrontHalfError:
    what = f"{error.what}: a fault of IREE, in one of the model's operators: {', '.join(reading.operators(source))}"
    return FrontHalfError(what, where=str(source), hint=error.hint)
