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


@dataclass(frozen=True)
class FrontHalf:
    """A model's dispatches: `sources` is the module of the `executable-sources` phase, without places in the model.

    `flags` are those that the model itself needed for that. `nodes` are those of the model that each kernel computes, by its
    name, with the operators of each; as far as the compiler kept track.
    """

    sources: Path
    flags: tuple[str, ...]
    nodes: Mapping[str, Mapping[str, Sequence[str]]]


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
    keys = [sha256_bytes(json.dumps([what, *made_of]).encode()) for what in ("front half", "nodes of kernels")]
    sources, nodes = map(cache.get, keys)
    if sources is not None and nodes is not None:
        output.write_bytes(sources)
        return FrontHalf(output, own, json.loads(nodes))
    try:
        found = _lower(source, output, devices, flags, folder / "sources.log")
    except CompilerCrashedError as error:
        raise _crashed(error, source) from error
    except CompilerRefusedError as error:
        raise FrontHalfError(error.what, where=str(source), hint=error.hint) from error
    for key, data in zip(keys, (output.read_bytes(), json.dumps(found).encode()), strict=True):
        cache.put(key, data)
    return FrontHalf(output, own, found)


def _lower(source: Path, output: Path, devices: str, flags: Sequence[str], log: Path) -> dict[str, dict[str, list[str]]]:
    """Write the `executable-sources` phase of the model; the nodes of each kernel.

    The compiler is given the names of the model's nodes, so that its complaints have them too. They are taken away from what it
    makes: the code of a kernel is the same wherever it comes from. It makes the same as if they had been taken away before.
    """
    given, made = output.with_name("input.mlirbc"), output.with_name("named.mlirbc")
    with mlir.opened(source) as module:
        operators = mlir.operators(module)
        mlir.set_targets(module, devices)
        mlir.save(module, given)
    iree_compile(given, made, [*_STEP, *flags], log)
    with mlir.opened(made) as module:
        found = _nodes(module, operators)
        mlir.strip_locations(module)
        mlir.save(module, output)
    for path in (given, made):
        path.unlink()
    return found


def _nodes(module: ir.Module, operators: Mapping[str, list[str]]) -> dict[str, dict[str, list[str]]]:
    """The nodes that each kernel of an `executable-sources` module computes, by its name, with their `operators`."""
    found = {}
    for executable in mlir.operations(module, "hal.executable"):
        inside = {node: operators.get(node, []) for node in mlir.nodes_inside(executable)}
        for export in mlir.operations(executable, "hal.executable.export"):
            found[mlir.symbol(export)] = inside
    return found


def _crashed(error: CompilerCrashedError, source: Path) -> FrontHalfError:
    what = f"{error.what}: a fault of IREE, in one of the model's operators: {', '.join(reading.operators(source))}"
    return FrontHalfError(what, where=str(source), hint=error.hint)
