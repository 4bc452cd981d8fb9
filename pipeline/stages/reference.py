"""Reference: the model's test data. Inputs as the spec says and more draws of them; outputs from ONNX Runtime or given files.

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
from pipeline.compare import Tolerance
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import fresh_folder
from pipeline.importers.child import inputs_as_text
from pipeline.importers.signature import Signature
from pipeline.names import did_you_mean
from pipeline.sources.fetch import require
from pipeline.spec.types import Model
from pipeline.stages import record

if TYPE_CHECKING:
    from pipeline.arrays import Array

_UNTESTED = "the test data does not test all of the model"


def _refusal(log: Path) -> str:
    """What ONNX Runtime says in its child's log, with operator and node in front, and without where in it that is said."""
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


def _ask_onnxruntime(model: Model, source: Path, folder: Path, draws: list[str]) -> Mapping[str, Any]:
    """What `pipeline.importers.onnxruntime` finds. Raises PipelineError where ONNX Runtime does not run the model."""
    result, log = folder / "onnxruntime.json", folder / "reference.log"
    inputs = inputs_as_text(model.inputs)
    words: list[str | Path] = [sys.executable, "-m", "pipeline.importers.onnxruntime", source, folder, result, inputs, *draws]
    ended = process.execute(words, log)
    if ended.returncode:
        said = _refusal(log) if ended.returncode > 0 else f"the process was {ended.ending}"
        hint = (
            "give test data that it takes (low, high or file in `inputs`), "
            f"or the outputs, one for each: `reference: [file.npy, …]`; the whole log is {log}"
        )
        raise PipelineError(f"ONNX Runtime does not run it: {said}", where=str(source), hint=hint)
    found: Mapping[str, Any] = json.loads(result.read_text())
    return found


def _left_open(model: Model, source: Path, folder: Path, made: Mapping[str, Sequence[Array]]) -> str:
    """What test data does not test of a model whose outputs are not ONNX Runtime's, as far as that can run it; for the notes."""
    from pipeline import arrays

    if model.format != "onnx":
        return ""
    folder.mkdir()
    for name, inputs in made.items():
        arrays.write(folder / f"{name}.inputs.npz", inputs)
    try:
        found = _ask_onnxruntime(model, source, folder, list(made))["unsettled"]
    except PipelineError:
        return ""
    return f"{_UNTESTED}: {'; '.join(found)}" if found else ""


def _make(model: Model, source: Path, imported: Path, folder: Path) -> None:
    from pipeline import arrays
    from pipeline.compare import tolerances_for
    from pipeline.importers.draws import GIVEN, draws
    from pipeline.stages.testdata import Draw, TestData, settled

    names = tuple(t.name for t in Signature.read(imported / "signature.json").outputs)
    made = draws([i for i in model.inputs if i.value is None], str(model.path))
    if isinstance(model.reference, tuple):
        if len(model.reference) != len(names):
            what = f"reference: {len(model.reference)} files are given, the model has {len(names)} outputs: {', '.join(names)}"
            raise PipelineError(what, where=str(model.path), hint="give one .npy file for each output, in this order")
        made = {GIVEN: made[GIVEN]}
        outputs = [arrays.load(path) for path in model.reference]
        arrays.write(folder / f"{GIVEN}.outputs.npz", outputs)
    for name, inputs in made.items():
        arrays.write(folder / f"{name}.inputs.npz", inputs)
    if unknown := [name for name in model.constant if name not in names]:
        raise PipelineError(
            f"constant: the model has no output {unknown[0]!r}: {did_you_mean(unknown[0], names)}", where=str(model.path)
        )
    data = TestData(folder, tuple(Draw(name, ()) for name in made), names, (True,) * len(names), {})
    if model.reference == "onnxruntime":
        found = _ask_onnxruntime(model, source, folder, list(made))
        if found["random"]:
            what = f"output {found['random'][0]!r} is another each time ONNX Runtime runs the model: it is drawn by chance"
            raise PipelineError(what, where=str(source), hint="let the model take random numbers as an input")
        if found["unsettled"]:
            hint = "give test data that decides both ways (low, high or file in `inputs`), or compute this part outside the model"
            what = f"{_UNTESTED}: {'; '.join(found['unsettled'])}"
            raise PipelineError(what, where=str(model.path), hint=hint)
        tolerances = {name: tuple(Tolerance(**t) for t in those) for name, those in found["tolerances"].items()}
        kept = tuple(Draw(name, tolerances[name]) for name in made if name in tolerances)
        left_out = {name: f"ONNX Runtime does not run it: {why}" for name, why in found["failed"].items()}
        strict = [Tolerance(**t) for t in found["strict"]]
        data = settled(TestData(folder, kept, names, tuple(found["depends"]), left_out, found["note"]), model, strict)
    else:
        data = replace(data, note=_left_open(model, source, folder / "watched", made))
    if isinstance(model.reference, tuple):
        data = settled(
            TestData(folder, (Draw(GIVEN, tuple(tolerances_for(outputs))),), names, data.depends, {}, data.note), model
        )
    data.write()


def run(model: Model, source: Path, imported: Path, folder: Path) -> None:
    """Write the test data of `model` into `folder`; ONNX Runtime works in a child process."""
    require(model.source, source)
    files = [source, *(i.file for i in model.inputs if i.file)]
    given = model.reference if isinstance(model.reference, tuple) else ()
    kind = model.reference if isinstance(model.reference, str) else "files"
    key = record.key(
        [*files, *given, imported / "signature.json"],
        inputs=[asdict(i) | {"file": bool(i.file)} for i in model.inputs],
        reference=kind,
        tolerance=repr(model.tolerance),
        constant=model.constant,
        revision=record.REVISIONS["reference"],
    )
    if record.is_current(folder, key):
        return
    with disk_errors(str(folder)), fresh_folder(folder):
        _make(model, source, imported, folder)
    outputs = [path.name for path in folder.iterdir() if path.suffix in (".npz", ".json")]
    record.write_record(folder, key, sorted(outputs))
