"""Reference: the model's test data. `inputs.npz` as the spec says, `outputs.npz` from ONNX Runtime or the given files.

For a model whose reference is `baseline` there is no `outputs.npz`: the verify stage takes the weakest CPU variant's.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from pipeline import process
from pipeline.errors import PipelineError, disk_errors
from pipeline.sources.fetch import require
from pipeline.spec.types import Input, Model
from pipeline.stages import record


def draw(spec: Input, where: str) -> object:
    """The test data of one input: its .npy file, or numbers drawn as `Input` says. Raises PipelineError on a misfit."""
    import numpy as np

    if spec.file:
        try:
            array = np.load(spec.file, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise PipelineError(f"not a .npy file: {error}", where=str(spec.file)) from error
        if array.shape != spec.shape or str(array.dtype) != spec.dtype:
            raise PipelineError(
                f"{spec.name!r} is {spec.dtype}{list(spec.shape)} in the spec, {array.dtype}{list(array.shape)} in the file",
                where=str(spec.file),
                hint=f"change {where} or the file",
            )
        return array
    generator = np.random.default_rng(spec.seed)
    if np.issubdtype(np.dtype(spec.dtype), np.floating):
        drawn = generator.random(spec.shape, dtype=np.float64 if spec.dtype == "float64" else np.float32)
        return (spec.low + (spec.high - spec.low) * drawn).astype(spec.dtype)
    return generator.integers(int(spec.low), int(spec.high), spec.shape, dtype=np.int64).astype(spec.dtype)


def run(model: Model, source: Path, folder: Path) -> None:
    """Write the test data of `model` into `folder`; ONNX Runtime works in a child process."""
    require(model, source)
    files = [source, *(i.file for i in model.inputs if i.file)]
    given = model.reference if isinstance(model.reference, tuple) else ()
    options = [asdict(i) | {"file": bool(i.file)} for i in model.inputs]
    kind = model.reference if isinstance(model.reference, str) else "files"
    key = record.key([*files, *given], inputs=options, reference=kind)
    if record.is_current(folder, key):
        return
    import numpy as np

    with disk_errors(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "outputs.npz").unlink(missing_ok=True)
        arrays = {str(n): draw(i, str(model.path)) for n, i in enumerate(model.inputs)}
        np.savez(folder / "inputs.npz", **arrays)  # type: ignore[arg-type]
        if given:
            np.savez(folder / "outputs.npz", **{str(n): np.load(p, allow_pickle=False) for n, p in enumerate(given)})
    if kind == "onnxruntime":
        names = [i.name for i in model.inputs]
        log = folder / "reference.log"
        process.run([sys.executable, "-m", "pipeline.importers.onnxruntime", source, folder, *names], log)
    outputs = ["inputs.npz"] + ([] if kind == "baseline" else ["outputs.npz"])
    record.write_record(folder, key, outputs)
