"""Reference outputs from ONNX Runtime: `python -m pipeline.importers.onnxruntime MODEL FOLDER INPUT_NAME…`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime


def main(source: str, folder: Path, names: list[str]) -> None:
    """Run the model on `folder/inputs.npz` (arrays by position, named by `names`); outputs to `folder/outputs.npz`."""
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    with np.load(folder / "inputs.npz") as arrays:
        outputs = session.run(None, {name: arrays[str(index)] for index, name in enumerate(names)})
    np.savez(folder / "outputs.npz", **{str(i): output for i, output in enumerate(outputs)})


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
