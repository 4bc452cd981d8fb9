"""`evaluate` of an entry point: the data set on which it is scored, by which metric, and how much worse a variant may be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.files import is_file
from pipeline.spec.reader import Fields
from pipeline.spec.sources import read_source
from pipeline.spec.types import EVALUATORS, METRICS, DataFile, Evaluation, Input, PathSource

# What a metric can be told beside the data.
_OPTIONS = {"ignore": ("top-1", "top-5", "mean-iou"), "vocabulary": ("word-error-rate",), "blank": ("word-error-rate",)}


def read_evaluation(fields: Fields | None, inputs: Sequence[Input], format: str, reference: object) -> Evaluation | None:
    """The evaluation that `fields` describe; None where there is none. `reference` is what the entry point says of its own."""
    if fields is None:
        return None
    if reference not in EVALUATORS.get(format, ()):
        known = ", ".join(name for names in EVALUATORS.values() for name in names)
        fields.problem("", f"needs a reference that can be scored too: `reference` must be one of {known}")
    metric, program = _metric(fields)
    better = fields.text("better", "higher", ("higher", "lower")) if program else METRICS.get(metric, "")
    for key, metrics in _OPTIONS.items():
        if key in fields.data and metric not in metrics:
            fields.known.add(key)
            fields.problem(key, f"is for {', '.join(metrics)}: remove it")
    vocabulary = fields.sub("vocabulary")
    result = Evaluation(
        inputs=_inputs(fields, [spec.name for spec in inputs if spec.value is None]),
        labels=_file(fields.sub("labels", required=True), "the labels"),
        metric=metric,
        limit=fields.number("limit", None),
        samples=fields.integer("samples", 0),
        program=program,
        better=better,
        output=fields.text("output", ""),
        ignore=fields.integer("ignore", None, signed=True) if "ignore" in fields.data else None,
        vocabulary=_file(vocabulary, "the vocabulary") if vocabulary else None,
        blank=fields.integer("blank", None) if "blank" in fields.data else None,
    )
    if result.limit < 0:
        fields.problem("limit", "must not be negative")
    if "samples" in fields.data and not result.samples:
        fields.problem("samples", "must be 1 or more")
    fields.done()
    return result


def _metric(fields: Fields) -> tuple[str, Path | None]:
    """The metric's name, and the Python file that it is in, where it is a function of the project's own."""
    if "function" not in fields.data:
        return fields.text("metric", choices=METRICS), None
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
    sub = fields.sub("inputs", required=True)
    if sub is None:
        return ()
    if not names:
        fields.problem("inputs", "the model takes none, so there is nothing to score")
    found = tuple(_file(sub.sub(name, required=True), f"the samples of {name!r}") for name in names)
    sub.done()
    return found


def _file(fields: Fields | None, name: str) -> DataFile:
    if fields is None:
        return DataFile(name, PathSource(Path(), ""), "")
    array = fields.text("array", "")
    return DataFile(name, read_source(fields, ""), fields.where, array)
