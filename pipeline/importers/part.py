"""What an importer leaves of an entry point: a module whose function checks its sizes, a signature, the rewrites used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from iree.compiler import ir

from pipeline.files import staged, write
from pipeline.importers import ranges
from pipeline.importers.signature import Signature
from pipeline.iree import entry, mlir


def save(module: ir.Module, function: ir.Operation, signature: Signature, folder: Path) -> None:
    """Finish the function as `signature` says, and write `model.mlirbc` and `signature.json` into `folder`."""
    ranges.tie(function, signature.inputs)
    entry.finish(function, signature)
    with staged(folder / "model.mlirbc") as path:
        mlir.save(module, path)
    with staged(folder / "signature.json") as path:
        signature.write(path)


def save_rewrites(names: Sequence[str], folder: Path) -> None:
    """Write `rewrites.json`, the names of what was changed in the model."""
    write(folder / "rewrites.json", json.dumps(list(names)).encode())
