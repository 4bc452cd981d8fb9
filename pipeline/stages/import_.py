"""Import: the model file → `model.mlirbc`, its entry function named and described, and `signature.json`.

`rewrites.json` lists what the importer changed in the model: see `pipeline.importers.rewrites`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from pipeline import process
from pipeline.errors import PipelineError, disk_errors
from pipeline.importers.child import inputs_as_text
from pipeline.sources.fetch import require
from pipeline.spec.types import Model
from pipeline.stages import record

_LIMIT = 3600.0  # seconds
_importers = {name: process.Forks([sys.executable, "-m", f"pipeline.importers.{name}"]) for name in ("onnx", "mlir")}
OUTPUTS = ("model.mlirbc", "signature.json", "rewrites.json")


def run(model: Model, source: Path, folder: Path) -> None:
    """Import `source` into `folder`. Raises PipelineError for what the importer or the spec's inputs refuse."""
    require(model, source)
    inputs = [asdict(i) | {"file": bool(i.file)} for i in model.inputs]
    files = [source, *(i.file for i in model.inputs if i.file)]  # rewrites are proved on the test data
    revision = record.REVISIONS["import"]
    key = record.key(files, inputs=inputs, format=model.format, entry=model.entry, revision=revision)
    if record.is_current(folder, key):
        return
    with disk_errors(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
    log = folder / "import.log"
    arguments: list[str | Path] = [source, folder, inputs_as_text(model.inputs), json.dumps({"entry": model.entry or ""})]
    result = _importers[model.format].execute(arguments, log, timeout=_LIMIT, env={})
    if result.returncode:
        lines = log.read_text("utf-8", "replace").splitlines()
        said = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), "")
        what = said or f"the importer was {result.ending}: {lines[-1][:300]}"
        hint = next((line.removeprefix("hint: ") for line in lines if line.startswith("hint: ")), "")
        hint = hint or f"the importer's whole output is in {log}"
        raise PipelineError(what, where=f"{model.path}: {source}", hint=hint)
    record.write_record(folder, key, OUTPUTS)
