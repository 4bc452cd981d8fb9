"""Import: the model's files → `model.mlirbc`, its functions named and described, and their signatures.

`rewrites.json` lists for each function what the importer changed in the model: see `pipeline.importers.rewrites`. Large weights
may be in `parameters.irpa`, with `parameters.json`, which names it by its digest.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from pipeline import process
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import fresh_folder, write
from pipeline.importers.child import FASTER, Options, inputs_as_text
from pipeline.sources.fetch import require
from pipeline.spec.types import EVALUATORS, Entry, Model
from pipeline.stages import parameters, record
from pipeline.stages.origin import Origin

_LIMIT = 3600.0  # seconds
_importers = {name: process.Forks([sys.executable, "-m", f"pipeline.importers.{name}"]) for name in (*EVALUATORS, "merge")}
OUTPUTS = ("model.mlirbc", "signature.json", "rewrites.json")


def _run(importer: str, arguments: list[str | Path], log: Path, where: str) -> None:
    """Run an importer's child process. Raises PipelineError with what it says."""
    result = _importers[importer].execute(arguments, log, timeout=_LIMIT, env={})
    if result.returncode:
        lines = log.read_text("utf-8", "replace").splitlines()
        said = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), "")
        what = said or f"the importer was {result.ending}: {lines[-1][:300]}"
        hint = next((line.removeprefix("hint: ") for line in lines if line.startswith("hint: ")), "")
        raise PipelineError(what, where=where, hint=hint or f"the importer's whole output is in {log}")


def import_entry(origin: Origin, entry: Entry, source: Path, folder: Path, faster: bool = True) -> None:
    """Import one entry point into `folder`. Raises PipelineError for what the importer refuses."""
    model = origin.model
    options = Options(entry.function, entry.asked, model.parameters, faster)
    several = f"{entry.function}: " if len(model.entries) > 1 else ""
    arguments: list[str | Path] = [source, folder, inputs_as_text(entry.inputs), json.dumps(asdict(options))]
    _run(model.format, arguments, folder / "import.log", f"{model.path}: {several}{source}")


def _described(model: Model, entry: Entry) -> dict[str, object]:
    inputs = [asdict(i) | {"file": bool(i.file)} for i in entry.inputs]
    return {"inputs": inputs, "function": entry.function, "asked": entry.asked, "source": model.sources.index(entry.source)}


def run(origin: Origin, folder: Path) -> None:
    """Import the model into `folder`. Raises PipelineError for what the importer or the spec's inputs refuse."""
    model = origin.model
    for path, entry in origin.files.items():
        require(entry.source, path)
    files = [*origin.all_files, *model.test_files]  # rewrites are proved on the test data
    entries, revision = [_described(model, entry) for entry in model.entries], record.REVISIONS["import"]
    key = record.key(files, entries=entries, format=model.format, parameters=model.parameters, revision=revision)
    if record.is_current(folder, key):
        return
    with disk_errors(str(folder)), fresh_folder(folder):
        record.write_record(folder, key, _import(origin, folder))


def plainly(origin: Origin, imported: Path, folder: Path) -> Path | None:
    """The model imported once more, into `folder`, without what was changed in it for speed; None where nothing was, and where
    its weights would be others, which all bundles share."""
    used = {name for names in json.loads((imported / "rewrites.json").read_text()).values() for name in names}
    if not used.intersection(FASTER):
        return None
    with disk_errors(str(folder)), fresh_folder(folder):
        _import(origin, folder, faster=False)
    return folder if parameters.read(folder) == parameters.read(imported) else None


def _import(origin: Origin, folder: Path, faster: bool = True) -> list[str]:
    """Import all entry points; the names of the files that were made."""
    model = origin.model
    parts = [folder / str(number) for number in range(len(model.entries))]
    for entry, source, part in zip(model.entries, origin.sources, parts, strict=True):
        part.mkdir()
        import_entry(origin, entry, source, part, faster)
    _run("merge", [folder, *parts], folder / "merge.log", str(model.path))
    archive = folder / parameters.ARCHIVE
    if archive.is_file():
        write(folder / parameters.NAME, record.canonical(parameters.describe(archive)))
    made = [path.name for path in (archive, folder / parameters.NAME) if path.is_file()]
    return [*OUTPUTS, *made]
