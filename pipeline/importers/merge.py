"""The entry points of a model, each imported alone → one module: `python -m pipeline.importers.merge FOLDER PART…`.

Each PART is a folder with `model.mlirbc`, `signature.json` and `rewrites.json`; FOLDER gets the same of all of them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline import process
from pipeline.files import staged, write
from pipeline.importers import signature


def merge(folder: Path, parts: Sequence[Path]) -> None:
    """Write `model.mlirbc`, `signature.json` and `rewrites.json` of all `parts` into `folder`."""
    signatures = [signature.Signature.read(part / "signature.json") for part in parts]
    rewrites = {s.entry: json.loads((part / "rewrites.json").read_text()) for s, part in zip(signatures, parts, strict=True)}
    (only,) = parts
    write(folder / "model.mlirbc", (only / "model.mlirbc").read_bytes())
    write(folder / "rewrites.json", json.dumps(rewrites).encode())
    with staged(folder / "signature.json") as path:
        signature.write_all(path, signatures)


def main(arguments: list[str]) -> int:
    """Merge, as the command line says."""
    folder, *parts = map(Path, arguments)
    merge(folder, parts)
    return 0


if __name__ == "__main__":
    sys.exit(process.serve(main))
