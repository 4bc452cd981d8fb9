"""MLIR → MLIR: the module passes through; its entry function is found, checked against the spec and described.

Run as a child process (`python -m pipeline.importers.mlir MODEL FOLDER INPUTS ENTRY`).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.files import staged
from pipeline.importers.child import main
from pipeline.importers.signature import Signature, Tensor
from pipeline.iree import entry, mlir
from pipeline.spec.types import Input


def named(found: Signature, inputs: Sequence[Input], where: str, outputs: Sequence[str] = ()) -> Signature:
    """`found` with the spec's input names, and the names of `outputs`. Raises PipelineError where shapes or dtypes differ."""
    given = [Tensor(i.name, i.dtype, i.shape) for i in inputs]
    if len(found.inputs) != len(inputs):
        raise PipelineError(f"@{found.entry} takes {len(found.inputs)} inputs, the spec gives {len(inputs)}", where=where)
    for mine, spec in zip(found.inputs, given, strict=True):
        fits = len(mine.shape) == len(spec.shape) and all(m in (None, g) for m, g in zip(mine.shape, spec.shape, strict=True))
        # MLIR integers carry no sign here: the spec says which is meant.
        if mine.mlir.split("x")[-1] != spec.mlir.split("x")[-1] or not fits:
            raise PipelineError(f"input {spec.name!r} is {mine.mlir} in the file, {spec.mlir} in the spec", where=where)
    called = [dataclasses.replace(tensor, name=name) for tensor, name in zip(found.outputs, outputs, strict=True)] if outputs else None
    return dataclasses.replace(found, inputs=tuple(given), outputs=tuple(called or found.outputs))


def convert(source: Path, folder: Path, inputs: Sequence[Input], name: str | None) -> None:
    """Write `model.mlirbc`, `signature.json` and `rewrites.json` (there are none) into `folder`."""
    with mlir.opened(source) as module:
        function = entry.entry_function(module, name, str(source))
        signature = named(entry.read_signature(function, str(source)), inputs, str(source))
        entry.finish(function, signature)
        mlir.strip_locations(module)
        with staged(folder / "model.mlirbc") as path:
            mlir.save(module, path)
    with staged(folder / "signature.json") as path:
        signature.write(path)
    with staged(folder / "rewrites.json") as path:
        path.write_text("[]")


if __name__ == "__main__":
    sys.exit(main(convert))
