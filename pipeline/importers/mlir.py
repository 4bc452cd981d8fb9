"""MLIR → MLIR: the module passes through; its entry function is found, checked against the spec and described.

Run as a child process (`python -m pipeline.importers.mlir MODEL FOLDER INPUTS OPTIONS`).
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from iree.compiler import ir

from pipeline.errors import PipelineError
from pipeline.files import sha256_file, write
from pipeline.importers import part
from pipeline.importers.child import Options, main
from pipeline.importers.signature import Signature, Tensor
from pipeline.iree import entry, mlir
from pipeline.spec.types import Input

_PLAIN = Options()
_ORIGIN = "origin.json"


def named(found: Signature, inputs: Sequence[Input], where: str) -> Signature:
    """`found` with the spec's inputs. Raises PipelineError where shapes or dtypes differ."""
    if len(found.inputs) != len(inputs):
        raise PipelineError(f"@{found.entry} takes {len(found.inputs)} inputs, the spec gives {len(inputs)}", where=where)
    tensors = tuple(Tensor(i.name, i.dtype, i.shape) for i in inputs)
    for mine, given in zip(found.inputs, tensors, strict=True):
        fits = len(mine.shape) == len(given.shape) and all(m in (None, g) for m, g in zip(mine.fixed, given.fixed, strict=True))
        # MLIR integers carry no sign here: the spec says which is meant.
        if mine.mlir.split("x")[-1] != given.mlir.split("x")[-1] or not fits:
            raise PipelineError(f"input {given.name!r} is {mine.mlir} in the file, {given.mlir} in the spec", where=where)
    return dataclasses.replace(found, inputs=tensors)


def _name(module: ir.Module, function: ir.Operation, name: str) -> dict[str, str]:
    """Give the function this name, and another to what has it; the new names of both by the old ones."""
    before, there = mlir.symbol(function), mlir.symbols(module)
    if name == before:
        return {}
    moved = {before: name}
    if name in there:
        moved[name] = mlir.fresh(name, there)
        mlir.rename(module, there[name], moved[name])
    mlir.rename(module, function, name)
    return moved


@dataclass(frozen=True)
class Origin:
    """What an imported module was made of: the file's SHA-256, the function's name in it, and what is called otherwise since."""

    sha256: str
    entry: str
    moved: Mapping[str, str]

    def write(self, folder: Path) -> None:
        """Write into the folder of the imported module."""
        write(folder / _ORIGIN, json.dumps(dataclasses.asdict(self)).encode())

    @staticmethod
    def read(folder: Path) -> Origin | None:
        """What `write` wrote; None for a module that was made of no MLIR."""
        path = folder / _ORIGIN
        return Origin(**json.loads(path.read_text())) if path.exists() else None


def convert(source: Path, folder: Path, inputs: Sequence[Input], options: Options = _PLAIN) -> None:
    """Write `model.mlirbc`, `signature.json`, `rewrites.json` (there are none) and the module's `Origin` into `folder`.

    `options` say which function of the file it is, if there are several, and its name in the result.
    """
    with mlir.opened(source) as module:
        function = entry.entry_function(module, options.entry or None, str(source))
        signature = named(entry.read_signature(function, str(source)), inputs, str(source))
        origin = Origin(sha256_file(source), signature.entry, _name(module, function, options.function or signature.entry))
        signature = dataclasses.replace(signature, entry=mlir.symbol(function))
        entry.hide_others(module, function)
        mlir.strip_locations(module)
        part.save(module, function, signature, folder)
    part.save_rewrites([], folder)
    origin.write(folder)


if __name__ == "__main__":
    sys.exit(main(convert))
