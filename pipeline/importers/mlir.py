"""MLIR → MLIR: the module passes through; its entry function is found, checked against the spec and described.

Run as a child process (`python -m pipeline.importers.mlir MODEL FOLDER INPUTS OPTIONS`).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.files import staged
from pipeline.importers import ranges
from pipeline.importers.child import Options, main
from pipeline.importers.signature import Signature, Tensor
from pipeline.iree import entry, mlir
from pipeline.spec.types import Input

_PLAIN = Options()


def _named(found: Signature, inputs: Sequence[Tensor], where: str) -> Signature:
    """`found` with the spec's input names. Raises PipelineError where shapes or dtypes differ."""
    if len(found.inputs) != len(inputs):
        raise PipelineError(f"@{found.entry} takes {len(found.inputs)} inputs, the spec gives {len(inputs)}", where=where)
    for mine, given in zip(found.inputs, inputs, strict=True):
        fits = len(mine.shape) == len(given.shape) and all(m in (None, g) for m, g in zip(mine.fixed, given.fixed, strict=True))
        # MLIR integers carry no sign here: the spec says which is meant.
        if mine.mlir.split("x")[-1] != given.mlir.split("x")[-1] or not fits:
            raise PipelineError(f"input {given.name!r} is {mine.mlir} in the file, {given.mlir} in the spec", where=where)
    return dataclasses.replace(found, inputs=tuple(inputs))


def convert(source: Path, folder: Path, inputs: Sequence[Input], options: Options = _PLAIN) -> None:
    """Write `model.mlirbc`, `signature.json` and `rewrites.json` (there are none) into `folder`."""
    given = [Tensor(i.name, i.dtype, i.shape) for i in inputs]
    with mlir.opened(source) as module:
        function = entry.entry_function(module, options.entry or None, str(source))
        signature = _named(entry.read_signature(function, str(source)), given, str(source))
        signature = dataclasses.replace(signature, entry=options.function or signature.entry)
        ranges.tie(function, signature.inputs)
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
