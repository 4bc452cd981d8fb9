"""A file in `targets/models/` → Model: its entry points, once for each of their buckets."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from pipeline.compare import Tolerance
from pipeline.files import is_file
from pipeline.spec.evaluate import read_evaluation
from pipeline.spec.inputs import read_inputs
from pipeline.spec.keys import ENTRY, OF_ONE, WITH_FUNCTIONS, WITH_WEIGHTS
from pipeline.spec.reader import Fields
from pipeline.spec.sources import read_source
from pipeline.spec.types import EVALUATORS, Dimension, Entry, Input, Model, PathSource, Source


def _reference(fields: Fields, format: str) -> str | tuple[Path, ...]:
    if isinstance(fields.data.get("reference"), list):
        names = fields.texts("reference")
        paths = tuple(fields.path.parent / name for name in names)
        for path in paths:
            if not is_file(str(path)):
                fields.problem("reference", f"there is no file {path}")
        return paths
    choices = (*EVALUATORS.get(format, ()), "baseline")
    return fields.text("reference", choices[0], choices)


def _tolerance(fields: Fields | None) -> Tolerance | None:
    if fields is None:
        return None
    result = Tolerance(fields.number("absolute"), fields.number("relative"))
    fields.done()
    return result


def _entries(fields: Fields, format: str, name: str, source: Source | None) -> list[Entry]:
    """The entry point that `fields` describe, once for each of its buckets. `name` is empty for the only one."""
    inputs, dimensions = read_inputs(fields, format)
    asked = fields.text("entry" if not name else "function") if format in WITH_FUNCTIONS else ""
    reference = _reference(fields, format)
    own = fields.sub("source", required=source is None)
    entry = Entry(
        name=name or asked or "main",
        function=name or asked or ("" if format == "mlir" else "main"),
        source=read_source(own, f"model.{format}") if own else source or PathSource(Path(), ""),
        inputs=inputs,
        reference=reference,
        tolerance=_tolerance(fields.sub("tolerance")),
        constant=fields.texts("constant"),
        asked=asked or (name if format == "mlir" else ""),
        evaluate=read_evaluation(fields.sub("evaluate"), inputs, format, reference),
    )
    if not dimensions.buckets:
        return [entry]
    if isinstance(reference, tuple):
        fields.problem("reference", "files are for one size: with buckets, leave it out, or give an entry for each size")
    bucketed, sizes = next(iter(dimensions.buckets.items()))

    def cut(spec: Input, size: int) -> Input:
        shape = (replace(d, min=size, max=size) if isinstance(d, Dimension) and d.name == bucketed else d for d in spec.shape)
        return replace(spec, shape=tuple(shape))

    return [
        replace(entry, function=f"{entry.function}_{size}", inputs=tuple(cut(spec, size) for spec in inputs)) for size in sizes
    ]


def _several(fields: Fields, format: str) -> list[Entry]:
    """The entry points of `entries`."""
    for key in OF_ONE:
        if key in fields.data:
            fields.known.add(key)
            fields.problem(key, "stands in each of `entries`: move it there")
    shared = fields.sub("source")
    source = read_source(shared, f"model.{format}") if shared else None
    found: list[Entry] = []
    every = fields.sub("entries", required=True)
    for name in every.data if every else ():
        if not isinstance(name, str) or not re.fullmatch(ENTRY, name):
            fields.problem("entries", f"{name!r} cannot name an entry point: letters, digits and '_', a letter first")
        elif every and (sub := every.sub(name)):
            found += _entries(sub, format, name, source)
            sub.done()
    if every is not None and not found:
        fields.problem("entries", "must not be empty")
    names = [entry.function for entry in found]
    for name in {n for n in names if names.count(n) > 1}:
        fields.problem("entries", f"two make the function {name!r}: rename one")
    asked = [(entry.source.sha256, entry.asked) for entry in found if format == "mlir"]  # whose files stay whole
    for _, name in {a for a in asked if asked.count(a) > 1}:
        fields.problem("entries", f"two are the function {name!r} of one file: remove one")
    return found


def read_model(fields: Fields) -> Model:
    """The model that a file describes."""
    format = fields.text("format")
    several = "entries" in fields.data
    model = Model(
        name=fields.path.stem,
        path=fields.path,
        about=fields.text("about"),
        licence=fields.text("licence"),
        format=format,
        entries=tuple(_several(fields, format) if several else _entries(fields, format, "", None)),
        bundles=fields.texts("bundles"),
        parameters=fields.text("parameters"),
    )
    if model.parameters and format not in WITH_WEIGHTS:
        fields.problem("parameters", f"is for ONNX and TFLite files: the weights of {format} stay in the vmfb")
    if not several and "entry" in fields.data and format not in WITH_FUNCTIONS:
        fields.known.add("entry")
        fields.problem("entry", "is for MLIR and StableHLO files: others have one graph")
    return model
