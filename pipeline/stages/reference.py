"""Reference: the model's test data. Inputs as the spec says and more draws of them; outputs from an evaluator or given files.

For a model whose reference is `baseline` there are no outputs yet: the verify stage takes the weakest CPU variant's.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import process
from pipeline.accuracy.text import evaluator
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import fresh_folder
from pipeline.importers.child import inputs_as_text
from pipeline.importers.evaluation import MODULES
from pipeline.importers.signature import Signature, read_all
from pipeline.names import did_you_mean
from pipeline.sources.fetch import require
from pipeline.spec.types import Entry, Model
from pipeline.stages import record
from pipeline.stages.origin import Origin
from pipeline.stages.testdata import Draw, TestData, settled

if TYPE_CHECKING:
    from pipeline.arrays import Array

_UNTESTED = "the test data does not test all of the model"


def _refusal(log: Path) -> str:
    """What the evaluator says in its log; what ONNX Runtime says with operator and node in front, and without where in it."""
    if error := _said(log, "error: "):
        return error
    lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if "[ONNXRuntimeError]" in line), lines[-1])
    why = re.sub(r"^[\w.]+: (\[ONNXRuntimeError\] : \d+ : \w+ : )?", "", said).strip()[:600]
    ran = re.search(r"running (\w+) node\. Name:'(.*?)' Status Message: (?:/\S+:\d+ .*?\) )?(.*)", why)
    lacking = re.search(r"an implementation for (\w+)\(\d+\) node with name '(.*?)'", why)
    invalid = re.search(r'In Node, \("(?P<node>.*?)", (?P<type>\w+),.*?Error (?P<why>.*)', why)
    if ran:
        return f"onnx.{ran[1]} (node {ran[2]!r}): {ran[3]}"
    if lacking:
        return f"onnx.{lacking[1]} (node {lacking[2]!r}): it has no implementation of it for these types"
    return f"onnx.{invalid['type']} (node {invalid['node']!r}): {invalid['why']}" if invalid else why


def _ask(kind: str, entry: Entry, source: Path, folder: Path, draws: list[str]) -> Mapping[str, Any]:
    """What the evaluator finds. Raises PipelineError where it does not run the model."""
    module, called = MODULES[kind], evaluator(kind)
    result, log = folder / f"{module}.json", folder / "reference.log"
    inputs = inputs_as_text(entry.inputs)
    words: list[str | Path] = [sys.executable, "-m", f"pipeline.importers.{module}", source, folder, result, inputs, *draws]
    ended = process.execute(words, log)
    if ended.returncode:
        said = _refusal(log) if ended.returncode > 0 else f"the process was {ended.ending}"
        hint = _said(log, "hint: ") or (
            "give test data that it takes (low, high or file in `inputs`), "
            f"or the outputs, one for each: `reference: [file.npy, …]`; the whole log is {log}"
        )
        raise PipelineError(f"{called} does not run it: {said}", where=str(source), hint=hint)
    found: Mapping[str, Any] = json.loads(result.read_text())
    return found


def _said(log: Path, mark: str) -> str:
    lines = log.read_text("utf-8", "replace").splitlines()
    return next((line.removeprefix(mark) for line in lines if line.startswith(mark)), "")


def _left_open(entry: Entry, source: Path, folder: Path, made: Mapping[str, Sequence[Array]]) -> str:
    """What test data does not test of a model whose outputs are not ONNX Runtime's, as far as that can run it; for the notes."""
    from pipeline import arrays

    folder.mkdir()
    for name, inputs in made.items():
        arrays.write(folder / f"{name}.inputs.npz", inputs)
    try:
        found = _ask("onnxruntime", entry, source, folder, list(made))["unsettled"]
    except PipelineError:
        return ""
    return f"{_UNTESTED}: {'; '.join(found)}" if found else ""


class _Maker:
    """Makes the test data of one entry point into `folder`."""

    def __init__(self, origin: Origin, entry: Entry, source: Path, signature: Signature, folder: Path) -> None:
        self._entry, self._source, self._folder = entry, source, folder
        self._where, self._is_onnx = str(origin.model.path), origin.model.format == "onnx"
        self._function, self._names = signature.entry, tuple(t.name for t in signature.outputs)

    def make(self) -> TestData:
        """Write the arrays; returns what `data.json` is to say."""
        from pipeline import arrays
        from pipeline.importers.draws import GIVEN, draws

        entry = self._entry
        made = draws([i for i in entry.inputs if i.value is None], self._where)
        if unknown := [name for name in entry.constant if name not in self._names]:
            what = f"constant: the model has no output {unknown[0]!r}: {did_you_mean(unknown[0], self._names)}"
            raise PipelineError(what, where=self._where)
        made = {GIVEN: made[GIVEN]} if isinstance(entry.reference, tuple) else made
        for name, inputs in made.items():
            arrays.write(self._folder / f"{name}.inputs.npz", inputs)
        if entry.reference in MODULES:
            return self._evaluated(list(made))
        note = _left_open(entry, self._source, self._folder / "watched", made) if self._is_onnx else ""
        return self._filed(note) if isinstance(entry.reference, tuple) else self._data([Draw(name, ()) for name in made], note)

    def _data(self, draws: Sequence[Draw], note: str = "") -> TestData:
        names = self._names
        return TestData(self._folder, self._function, tuple(draws), names, (True,) * len(names), {}, note)

    def _filed(self, note: str) -> TestData:
        """Outputs of the spec's own files."""
        from pipeline import arrays
        from pipeline.compare import tolerances_for
        from pipeline.importers.draws import GIVEN

        paths, names = self._entry.reference, self._names
        assert isinstance(paths, tuple)
        if len(paths) != len(names):
            what = f"reference: {len(paths)} files are given, the model has {len(names)} outputs: {', '.join(names)}"
            raise PipelineError(what, where=self._where, hint="give one .npy file for each output, in this order")
        outputs = [arrays.load(path) for path in paths]
        arrays.write(self._folder / f"{GIVEN}.outputs.npz", outputs)
        if any(d.min < d.max for d in self._entry.dimensions):
            note = "; ".join(filter(None, [note, "verified at the size of the given files alone"]))
        data = self._data([Draw(GIVEN, tuple(tolerances_for(outputs)))], note)
        return settled(data, self._entry, self._where)

    def _evaluated(self, names: list[str]) -> TestData:
        """Outputs that an evaluator gives."""
        from pipeline.compare import Tolerance

        kind = str(self._entry.reference)
        found, called = _ask(kind, self._entry, self._source, self._folder, names), evaluator(kind)
        if found["random"]:
            what = f"output {found['random'][0]!r} is another each time {called} runs the model: it is drawn by chance"
            raise PipelineError(what, where=str(self._source), hint="let the model take random numbers as an input")
        if found["unsettled"]:
            hint = "give test data that decides both ways (low, high or file in `inputs`), or compute this part outside the model"
            what = f"{_UNTESTED}: {'; '.join(found['unsettled'])}"
            raise PipelineError(what, where=self._where, hint=hint)
        tolerances = {name: tuple(Tolerance(**t) for t in those) for name, those in found["tolerances"].items()}
        data = self._data([Draw(name, tolerances[name]) for name in names if name in tolerances], found["note"])
        left_out = {name: f"{called} does not run it: {why}" for name, why in found["failed"].items()}
        strict = [Tolerance(**t) for t in found["strict"]]
        data = replace(data, depends=tuple(found["depends"]), left_out=left_out)
        return settled(data, self._entry, self._where, strict)


def _described(model: Model, entry: Entry) -> dict[str, object]:
    inputs = [asdict(i) | {"file": bool(i.file)} for i in entry.inputs]
    kind = entry.reference if isinstance(entry.reference, str) else "files"
    return {"inputs": inputs, "reference": kind, "source": model.sources.index(entry.source)}


def run(origin: Origin, imported: Path, folder: Path) -> None:
    """Write the test data of the model into `folder`; evaluators work in child processes."""
    model = origin.model
    for path, entry in origin.files.items():
        require(entry.source, path)
    given = [path for entry in model.entries if isinstance(entry.reference, tuple) for path in entry.reference]
    key = record.key(
        [*origin.all_files, *model.test_files, *given, imported / "signature.json"],
        entries=[_described(model, entry) for entry in model.entries],
        judged=model.judged,
        revision=record.REVISIONS["reference"],
    )
    if record.is_current(folder, key):
        return
    with disk_errors(str(folder)), fresh_folder(folder):
        signatures = read_all(imported / "signature.json")
        for number, (entry, source, signature) in enumerate(zip(model.entries, origin.sources, signatures, strict=True)):
            part = folder / str(number)
            part.mkdir()
            _Maker(origin, entry, source, signature, part).make().write()
        made = [path for path in folder.glob("*/*") if path.suffix in (".npz", ".json")]
    record.write_record(folder, key, sorted(str(path.relative_to(folder)) for path in made))
