"""Score: how well each model's reference does on its data set. The variants are measured against that when they are verified."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline import process
from pipeline.accuracy import text
from pipeline.accuracy.dataset import DataSet
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import fresh_folder
from pipeline.importers import signature
from pipeline.importers.child import inputs_as_text
from pipeline.importers.evaluation import MODULES
from pipeline.importers.score import job_as_text
from pipeline.importers.signature import Signature
from pipeline.sources.fetch import require
from pipeline.spec.types import Entry
from pipeline.stages import record
from pipeline.stages.origin import Origin
from pipeline.stages.scored import NAME, Scored, described, write_scores

_LIMIT = 6 * 3600.0  # seconds


def _asked(origin: Origin, entry: Entry, source: Path, own: Signature, folder: Path) -> Mapping[str, Any]:
    """What the evaluator's child finds. Raises PipelineError with what is wrong with the data, the metric or the model."""
    assert entry.evaluate
    folder.mkdir()
    evaluator, result, spec = MODULES[str(entry.reference)], folder / "result.json", str(origin.model.path)
    job = job_as_text(entry.evaluate, origin.data, [output.name for output in own.outputs], spec)
    words: list[str | Path] = [sys.executable, "-m", "pipeline.importers.score", evaluator, source, folder, result]
    process.run([*words, inputs_as_text(entry.inputs), job], folder / "score.log", timeout=_LIMIT)
    found: Mapping[str, Any] = json.loads(result.read_text())
    if "problem" in found:
        raise PipelineError(**found["problem"])
    return found


def _scored(entry: Entry, own: Signature, found: Mapping[str, Any], where: str) -> Scored:
    score, evaluator = found["score"], str(entry.reference)
    assert entry.evaluate
    if not (math.isfinite(score) and math.isfinite(found["part"])):
        what = (
            f"{entry.evaluate.metric} of {text.evaluator(evaluator)} is {score} on all samples, {found['part']} on the first ones"
        )
        raise PipelineError(what, where=where, hint="give labels that count")
    return Scored(own.entry, evaluator, tuple(found["numbers"]), score, found["part"], found["bytes"])


def _require_taken(origin: Origin, found: Mapping[int, Mapping[str, Any]]) -> None:
    """Raise PipelineError for a sample that no bucket of an entry point takes. `found` is by the numbers of the entries."""
    model = origin.model
    for name in {model.entries[number].name for number in found}:
        mine = {n: one for n, one in found.items() if model.entries[n].name == name}
        taken = {number for one in mine.values() for number in one["numbers"]}
        left = next((number for number in range(max(one["count"] for one in mine.values())) if number not in taken), None)
        entry = model.entries[max(mine)]
        if left is not None and entry.evaluate:
            why = DataSet(entry.evaluate, entry.given, origin.data, str(model.path)).misfit(left)
            raise PipelineError(f"sample {left} is none that {name} takes: {why}", where=str(model.path))


def run(origin: Origin, imported: Path, folder: Path) -> None:
    """Score the references of the model's data sets; `scores.json` into `folder`."""
    model = origin.model
    for path, entry in origin.files.items():
        require(entry.source, path)
    for file, path in origin.data.items():
        require(file.source, path)
    entries = [
        {
            "inputs": repr([(spec.name, spec.shape, spec.dtype, spec.value) for spec in entry.inputs]),
            "reference": str(entry.reference),
            "source": model.sources.index(entry.source),
            "evaluate": described(replace(entry.evaluate, limit=0.0)),  # which decides nothing here
        }
        for entry in model.entries
        if entry.evaluate
    ]
    files = [*origin.all_files, *origin.data.values(), *model.metrics, imported / "signature.json"]
    key = record.key(files, entries=entries, revision=record.REVISIONS["score"])
    if record.is_current(folder, key):
        return
    with disk_errors(str(folder)), fresh_folder(folder):
        signatures = signature.read_all(imported / "signature.json")
        three = enumerate(zip(model.entries, origin.sources, signatures, strict=True))
        found = {n: _asked(origin, entry, source, own, folder / str(n)) for n, (entry, source, own) in three if entry.evaluate}
        _require_taken(origin, found)
        scored = [(model.entries[n], signatures[n], one) for n, one in found.items() if one["numbers"]]
        scores = [_scored(entry, own, one, str(model.path)) for entry, own, one in scored]
        write_scores(folder, scores)
    record.write_record(folder, key, [NAME])
