"""The entries of a model as one: their functions in one module, and their weights, where they are parameters, in one archive.

Run as a child process (`python -m pipeline.importers.merge FOLDER PART…`).
"""

from __future__ import annotations

import json
import mmap
import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from iree.compiler import ir
from iree.runtime import FileHandle, ParameterIndex

from pipeline import process
from pipeline.errors import disk_errors
from pipeline.files import staged
from pipeline.importers import parameters, ranges
from pipeline.importers.mlir import Origin
from pipeline.importers.signature import Signature, write_all
from pipeline.iree import entry, mlir

ARCHIVE = "parameters.irpa"


def merge(folder: Path, folders: Sequence[Path]) -> None:
    """Make of what the importers left in `folders`, one for each entry, in FOLDER: `model.mlirbc` with all
    functions, `signature.json`, a list, `rewrites.json`, the names of the rewrites by function, and `parameters.irpa`,
    if any of them has parameters. The same entries give the same bytes.
    """
    signatures = [Signature.read(each / "signature.json") for each in folders]
    functions = [signature.entry for signature in signatures]
    _archive([p for each in folders for p in parameters.read(each / parameters.FILE)], folder / ARCHIVE)
    with staged(folder / "model.mlirbc") as path, disk_errors(str(path)):
        if len(folders) == 1:
            shutil.copyfile(folders[0] / "model.mlirbc", path)
        else:
            _join(folders, functions, path)
    with staged(folder / "signature.json") as path:
        write_all(path, signatures)
    rewrites = {name: json.loads((each / "rewrites.json").read_text()) for name, each in zip(functions, folders, strict=True)}
    with staged(folder / "rewrites.json") as path:
        path.write_text(json.dumps(rewrites))


def _archive(found: Sequence[parameters.Parameter], output: Path) -> None:
    """Write the archive of these, each once, in the order of their keys; nothing for none."""
    if not found:
        output.unlink(missing_ok=True)
        return
    index, by_key = ParameterIndex(), {parameter.key: parameter for parameter in reversed(found)}
    with ExitStack() as opened:
        handles: dict[str, FileHandle] = {}
        for key in sorted(by_key):
            parameter = by_key[key]
            if parameter.file not in handles:
                file = opened.enter_context(Path(parameter.file).open("rb"))
                handles[parameter.file] = FileHandle.wrap_memory(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            index.add_from_file_handle(key, handles[parameter.file], parameter.length, parameter.offset)
        with staged(output) as path, disk_errors(str(output)):
            index.create_archive_file(str(path))


def _join(folders: Sequence[Path], functions: Sequence[str], output: Path) -> None:
    """Write one module with what the modules in `folders` hold. Parameters are in it once, and so is what stands in one file."""
    with ir.Context(), ir.Location.unknown():
        joined = ir.Module.create()
        there: set[str] = set()
        for group in _groups(folders, functions):
            module = ir.Module.parse((group[0] / "model.mlirbc").read_bytes())
            mine = _finish(module, group)
            shared = _rename(module, there, {*functions} - mine)
            for operation in module.body.operations:
                if "sym_name" not in operation.attributes or mlir.symbol(operation) not in shared:
                    operation.operation.clone(ip=ir.InsertionPoint(joined.body))
            there |= mlir.symbols(module).keys()
        mlir.save(joined, output)


def _groups(folders: Sequence[Path], functions: Sequence[str]) -> list[list[Path]]:
    """The folders of entries that are in one MLIR file, which may share state; and each other by itself."""
    found: dict[str, list[Path]] = {}
    for folder, function in zip(folders, functions, strict=True):
        origin = Origin.read(folder)
        found.setdefault(origin.sha256 if origin else function, []).append(folder)
    return list(found.values())


def _finish(module: ir.Module, group: Sequence[Path]) -> set[str]:
    """Name and describe the functions of all entries of a group in the module, which is that of the first; their names."""
    signatures = [Signature.read(folder / "signature.json") for folder in group]
    names = {signature.entry for signature in signatures}
    first, *origins = [Origin.read(folder) for folder in group]
    there = mlir.symbols(module)
    others = [there[first.moved.get(o.entry, o.entry)] for o in origins if first and o]
    for operation in [*others, *(there[name] for name in names - {signatures[0].entry} if name in there)]:
        mlir.rename(module, operation, mlir.fresh(mlir.symbol(operation), mlir.symbols(module).keys() | names))
    for operation, signature in zip(others, signatures[1:], strict=True):
        mlir.rename(module, operation, signature.entry)
        ranges.tie(operation, signature.inputs)
        entry.finish(operation, signature)
    return names


def _rename(module: ir.Module, there: set[str], reserved: set[str]) -> set[str]:
    """Give symbols of the module that are called as those in `there` other names, but for parameters, which are the same.

    Returns the names of these.
    """
    shared: set[str] = set()
    for name, operation in mlir.symbols(module).items():
        if name in there and parameters.is_one(operation):
            shared.add(name)
        elif name in there | reserved:
            mlir.rename(module, operation, mlir.fresh(name, mlir.symbols(module).keys() | there | reserved))
    return shared


def main(arguments: list[str]) -> int:
    """Merge, as the command line says."""
    folder, *parts = map(Path, arguments)
    merge(folder, parts)
    return 0


if __name__ == "__main__":
    sys.exit(process.serve(main))
