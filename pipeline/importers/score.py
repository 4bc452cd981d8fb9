"""How an evaluator scores on a data set: `python -m pipeline.importers.score EVALUATOR MODEL FOLDER RESULT.json INPUTS JOB`.

EVALUATOR is a module of this package with `prepared`; INPUTS are those of the spec and JOB what `job_as_text` makes, both JSON.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.accuracy import metrics
from pipeline.accuracy.dataset import PART, DataSet
from pipeline.errors import PipelineError
from pipeline.importers.child import inputs_of
from pipeline.importers.evaluation import Run
from pipeline.spec.types import DataFile, Evaluation, Input, PathSource


def job_as_text(evaluation: Evaluation, paths: Mapping[DataFile, Path], outputs: Sequence[str], spec: str) -> str:
    """What is to be scored, as JSON: an evaluation in the file `spec`, its files at `paths`, of a model with these outputs."""

    def file(said: DataFile | None) -> dict[str, str] | None:
        return {"name": said.name, "where": said.where, "array": said.array, "path": str(paths[said])} if said else None

    files = {"inputs": [file(one) for one in evaluation.inputs], "labels": file(evaluation.labels)}
    files["vocabulary"] = file(evaluation.vocabulary)
    program = str(evaluation.program) if evaluation.program else None
    return json.dumps({"evaluation": asdict(evaluation) | {"program": program, **files}, "outputs": outputs, "spec": spec})


def _evaluation(said: dict[str, Any]) -> Evaluation:
    def file(one: dict[str, str] | None) -> DataFile | None:
        return DataFile(one["name"], PathSource(Path(one["path"]), ""), one["where"], one["array"]) if one else None

    files = {"inputs": tuple(map(file, said["inputs"])), "labels": file(said["labels"]), "vocabulary": file(said["vocabulary"])}
    return Evaluation(**said | {"program": Path(said["program"]) if said["program"] else None} | files)


def _prepared(evaluator: str, source: Path, folder: Path, inputs: Sequence[Input]) -> AbstractContextManager[Run]:
    made: AbstractContextManager[Run] = importlib.import_module(f"pipeline.importers.{evaluator}").prepared(
        source, folder, inputs
    )
    return made


def run(evaluator: str, source: Path, folder: Path, inputs: Sequence[Input], job: dict[str, Any]) -> dict[str, Any]:
    """How many samples there are, and the numbers of those that the function takes; the score on these, and on the first PART of
    them, null where there are none; and the bytes of inputs and outputs of a call."""
    evaluation, spec = _evaluation(job["evaluation"]), job["spec"]
    paths = {file: file.source.path for file in evaluation.files if isinstance(file.source, PathSource)}
    data = DataSet(evaluation, [one for one in inputs if one.value is None], paths, spec)
    whole, part = (metrics.metric(evaluation, job["outputs"], data.vocabulary, spec) for _ in range(2))
    numbers, size, count = data.fitting(), 0, 0
    with _prepared(evaluator, source, folder, inputs) as call_model:
        for call in data.calls(numbers):
            try:
                outputs = call_model(call.inputs)
            except Exception as error:
                said = next(iter(str(error).splitlines()), type(error).__name__)
                raise PipelineError(f"it does not run sample {call.samples[0]}: {said}", where=data.where) from error
            size = max(size, sum(array.nbytes for array in (*call.inputs, *outputs)))
            for number, of_sample in call.each(outputs, data.where):
                whole.add(of_sample, data.labels[number])
                if count < PART:
                    part.add(of_sample, data.labels[number])
                count += 1
    return {
        "count": data.count,
        "numbers": numbers,
        "score": whole.score() if numbers else None,
        "part": part.score() if numbers else None,
        "bytes": size,
    }


def main(arguments: list[str]) -> int:
    """Write what `run` finds, or the problem, to RESULT.json; the exit code."""
    evaluator, source, folder, result, inputs, job = arguments
    try:
        found = run(evaluator, Path(source), Path(folder), inputs_of(inputs), json.loads(job))
    except PipelineError as error:
        found = {"problem": {"what": error.what, "where": error.where, "hint": error.hint}}
    Path(result).write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
