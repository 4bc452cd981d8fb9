"""Puts the weights of khmersm, which its wheel has in a file beside the model, into the model."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import onnx
from unpack import unpacked


def main(path: str) -> None:
    """Write the ONNX file to `path`."""
    files = unpacked("khmersm==1.4.2", "khmersm/model.onnx", "khmersm/model.onnx.data")
    with tempfile.TemporaryDirectory() as name:
        for member, content in files.items():
            (Path(name) / Path(member).name).write_bytes(content)
        onnx.save(onnx.load(Path(name) / "model.onnx"), path)


if __name__ == "__main__":
    main(sys.argv[1])
