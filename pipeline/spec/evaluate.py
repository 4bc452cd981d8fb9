"""`evaluate` of an entry point: the data set on which it is scored, by which metric, and how much worse a variant may be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.files import is_file
from pipeline.spec.keys import EVALUATION
from pipeline.spec.reader import Fields
from pipeline.spec.sources import read_source
from pipeline.spec.types import EVALUATORS, METRICS, DataFile, Evaluation, Input, PathSource


def read_evaluation(fields: Fields | None, inputs: Sequence[Input], format: str, reference: object) -> Evaluation | None:
    """The evaluation that `fields` describe; None where there is none. `reference` is what the entry point says of its own."""
    if fields is None:
        return None
    if reference not in EVALUATORS.get(format, ()):
        known = ", ".join(name for names in EVALUATORS.values() for name in names)
        fields.problem("", f"needs a reference that can be scored too: `reference` must be one of {known}")
    metric, program = _metric(fields)
    better = fields.text("better") if program else METRICS.get(metric, "")
    for key, said in EVALUATION.named.items():
        if said.only and key in fields.data and metric not in said.only[1]:
            fields.known.add(key)
            fields.problem(key, f"is for {', '.join(said.only[1])}: remove it")
    vocabulary = fields.sub("vocabulary")
    result = Evaluation(
        inputs=_inputs(fields, [spec.name for spec in inputs if spec.value is None]),
        labels=_file(fields.sub("labels"), "the labels"),
        metric=metric,
        limit=fields.number("limit"),
        samples=fields.integer("samples"),
        program=program,
        better=better,
        output=fields.text("output"),
        ignore=fields.integer("ignore") if "ignore" in fields.data else None,
        vocabulary=_file(vocabulary, "the vocabulary") if vocabulary else None,
        blank=fields.integer("blank") if "blank" in fields.data else None,
    )
    fields.done()
    return result


def _metric(fields: Fields) -> tuple[str, Path | None]:
    """The metric's name, and the Python file that it is in, where it is a function of the project's own."""
    if "function" not in fields.data:
        return fields.text("metric", required=True), None
    if "metric" in fields.data:
        fields.known.add("metric")
        fields.problem("metric", "stands beside `function`: remove one")
    text = fields.text("function")
    path, _, name = text.rpartition(":")
    program = fields.path.parent / path
    if text and not (path.endswith(".py") and name.isidentifier()):
        fields.problem("function", f"must be like metrics.py:name, not {text!r}")
    elif text and not is_file(str(program)):
        fields.problem("function", f"there is no file {program}")
    return name, program


def _inputs(fields: Fields, names: Sequence[str]) -> tuple[DataFile, ...]:
    sub = fields.sub("inputs")
    if sub is None:
        return ()
    if not names:
        fields.problem("inputs", "the model takes none, so there is nothing to score")
    found = tuple(_file(sub.sub(name), f"the samples of {name!r}") for name in names)
    sub.done()
    return found


def _file(fields: Fields | None, name: str) -> DataFile:
    if fields is None:
        return DataFile(name, PathSource(Path(), ""), "")
    array = fields.text("array")
    return DataFile(name, read_source(fields, ""), fields.where, array)
