"""The front half: a model up to its dispatches, which is the same whatever the targets are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.cache import LocalCache
from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes, sha256_file
from pipeline.iree import backends, mlir, toolchain
from pipeline.iree.codegen import reading
from pipeline.iree.targets import Target, device
from pipeline.iree.toolchain import CompilerCrashedError, CompilerRefusedError, iree_compile

_STEP = ("--compile-to=executable-sources", "--emit-mlir-bytecode")


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


def front_half(
    source: Path, folder: Path, targets: Sequence[Target], flags: Sequence[str], cache: LocalCache
) -> tuple[Path, tuple[str, ...]]:
    """`source` up to the `executable-sources` phase, where its dispatches are known: `folder/sources.mlirbc`.

    With it, the flags that the model itself needed for that.
    Without flags the outcome is the same for all targets, so it is made once. (Some flags, like data tiling, change that.)
    """
    any_device = next(backend.any_device for backend in backends.every() if backend.any_device)
    devices, output = device(targets) if flags else any_device, folder / "sources.mlirbc"
    own = front_flags(source, folder, flags, cache)
    flags = [*own, *flags]
    key = sha256_bytes(json.dumps(["front half", sha256_file(source), devices, flags, toolchain.digest()]).encode())
    if (found := cache.get(key)) is not None:
        output.write_bytes(found)
        return output, own
    try:
        _lower(source, output, devices, flags, folder / "sources.log", named=False)
    except CompilerCrashedError as error:
        raise _crashed(error, source) from error
    except CompilerRefusedError as error:
        told = _with_node(source, folder, devices, flags) or error
        raise FrontHalfError(told.what, where=str(source), hint=error.hint) from error
    cache.put(key, output.read_bytes())
    return output, own


def _lower(source: Path, output: Path, devices: str, flags: Sequence[str], log: Path, named: bool) -> None:
    """Write the `executable-sources` phase of the model; unless `named`, without the names of the model's nodes."""
    given = output.with_name("input.mlirbc")
    with mlir.opened(source) as module:
        if not named:
            mlir.strip_locations(module)  # the code of a kernel is the same wherever it comes from
        mlir.set_targets(module, devices)
        mlir.save(module, given)
    iree_compile(given, output, [*_STEP, *flags], log)
    given.unlink()


def _crashed(error: CompilerCrashedError, source: Path) -> FrontHalfError:
    what = f"{error.what}: a fault of IREE, in one of the model's operators: {', '.join(reading.operators(source))}"
    return FrontHalfError(what, where=str(source), hint=error.hint)


def _with_node(source: Path, folder: Path, devices: str, flags: Sequence[str]) -> CompilerRefusedError | None:
    """The compiler's complaint once more, with the node that it is about."""
    try:
        _lower(source, folder / "named.mlirbc", devices, flags, folder / "named.log", named=True)
    except CompilerRefusedError as error:
        return error
    except PipelineError:
        return None
    return None


def nodes_of_kernels(source: Path, folder: Path, targets: Sequence[Target], flags: Sequence[str]) -> dict[str, list[str]]:
    """The nodes of the model that each kernel computes, by its name; as far as the compiler kept track. Takes a front half."""
    any_device = next(backend.any_device for backend in backends.every() if backend.any_device)
    output = folder / "named.mlirbc"
    _lower(source, output, device(targets) if flags else any_device, flags, folder / "named.log", named=True)
    found = {}
    with mlir.opened(output) as module:
        for executable in mlir.operations(module, "hal.executable"):
            for export in mlir.operations(executable, "hal.executable.export"):
                found[mlir.symbol(export)] = mlir.nodes_inside(executable)
    output.unlink()
    return found
