"""TFLite → ONNX by tf2onnx → MLIR by the ONNX importer.

Run as a child process, see `child`. Needs tf2onnx and TensorFlow, which the extra `tflite` brings.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.files import staged
from pipeline.importers import onnx
from pipeline.importers.child import Options, main
from pipeline.spec.types import Input

_PLAIN = Options()
_OPSET = 18  # the newest that tf2onnx 1.17 writes
_MAGIC = b"TFL3"  # at the fifth byte


def require_tflite(path: Path) -> None:
    """Raise PipelineError where the file at `path` is no TFLite model."""
    with path.open("rb") as file:
        if file.read(8)[4:] != _MAGIC:
            raise PipelineError("is no TFLite file", where=str(path), hint="write it with TensorFlow's or LiteRT's converter")


def converted(source: Path, output: Path) -> None:
    """Write the model as ONNX. Raises PipelineError where tf2onnx does not take it, or is not installed."""
    require_tflite(source)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import tf2onnx.convert
    except ImportError as error:
        hint = "pip install 'vmfb-pipeline[tflite]'"
        raise PipelineError(f"the format tflite needs tf2onnx and TensorFlow: {error}", hint=hint) from error
    try:
        with staged(output) as path:
            tf2onnx.convert.from_tflite(str(source), opset=_OPSET, output_path=str(path))
    except Exception as error:  # its own, and every kind that a missing operator or a broken file leads to
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]
        hint = "compute this part outside the model, or give it as ONNX"
        raise PipelineError(f"tf2onnx does not convert it: {said}", where=str(source), hint=hint) from error


def convert(source: Path, folder: Path, inputs: Sequence[Input], options: Options = _PLAIN) -> None:
    """Write `model.onnx`, `model.mlirbc`, `signature.json` and `rewrites.json` into `folder`."""
    converted(source, folder / "model.onnx")
    onnx.convert(folder / "model.onnx", folder, inputs, options)


if __name__ == "__main__":
    sys.exit(main(convert))
