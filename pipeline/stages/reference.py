"""Reference: the model's test data. `inputs.npz` as the spec says, `outputs.npz` from ONNX Runtime or the given files.

For a model whose reference is `baseline` there is no `outputs.npz`: the verify stage takes the weakest CPU variant's.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from pipeline import process
from pipeline.errors import disk_errors
from pipeline.sources.fetch import require
from pipeline.spec.types import Model
from pipeline.stages import record


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

    from pipeline.importers.draws import draw

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
