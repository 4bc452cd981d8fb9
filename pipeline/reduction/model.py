"""The model that a search is about: as IREE's importer gets it, what its inner values are, and what its nodes once were."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from pipeline.arrays import Array
from pipeline.errors import PipelineError
from pipeline.importers import decisions, functions, weights
from pipeline.importers import onnx as importer
from pipeline.importers.child import inputs_of
from pipeline.importers.draws import draw
from pipeline.importers.rewrites.proof import without_names
from pipeline.reduction.job import Job
from pipeline.reduction.subgraph import Graph, called
from pipeline.spec.types import Input

_LARGEST = 1 << 30  # bytes of a model, of which a search holds several copies, and values of all its nodes
_BYTES = 8  # of a value at most


class Subject:
    """The model of a job, and its test data: that of a run, or what the spec gives. PipelineError for one that is too large."""

    def __init__(self, job: Job) -> None:
        self._source = Path(job.source)
        self._data = Path(job.run.data) if job.run else None
        self._inputs = self._fixed(inputs_of(job.inputs))
        self.model, _ = importer.prepared(self._source, self._inputs)
        sizes = (math.prod(d.dim_value for d in v.type.tensor_type.shape.dim) for v in self.model.graph.value_info)
        if weights.size(self.model) > _LARGEST or sum(sizes) * _BYTES > 2 * _LARGEST:
            raise PipelineError("the model is too large to be searched", where=job.source)

    def _fixed(self, inputs: Sequence[Input]) -> list[Input]:
        """The inputs in the shapes of the test data: parts have no open dimensions."""
        from pipeline import arrays

        if self._data:
            shapes = iter([array.shape for array in arrays.read(self._data)])
            return [replace(spec, shape=next(shapes)) if spec.value is None else spec for spec in inputs]
        return [replace(spec, shape=spec.fixed) for spec in inputs]

    def graph(self, model: onnx.ModelProto | None = None) -> Graph:
        """The model, or a form of it, to cut parts from."""
        return Graph(model or self.model, lambda: {name: value.shape for name, value in self.values.items()})

    @functools.cached_property
    def inputs(self) -> list[Array]:
        """The test data."""
        from pipeline import arrays

        if self._data:
            return arrays.read(self._data)
        return [draw(spec, str(self._source)) for spec in self._inputs if spec.value is None]

    @functools.cached_property
    def values(self) -> Mapping[str, Array]:
        """What each input and inner value is for the test data; of those that ONNX Runtime gives as outputs."""
        names = [i.name for i in self.model.graph.input if i.name not in {w.name for w in self.model.graph.initializer}]
        return {**dict(zip(names, self.inputs, strict=True)), **evaluated(self.model, self.inputs)}

    @functools.cached_property
    def _originals(self) -> Mapping[str, str]:
        """The operators of the file's own nodes, by the names of these."""
        model = functions.inlined(weights.load(self._source))
        named = ((n.name or next(filter(None, n.output), ""), n) for n in decisions.nodes(model.graph))
        return {name: f"{n.domain or 'onnx'}.{n.op_type}" for name, n in named}

    def called(self, node: onnx.NodeProto) -> str:
        """A node for people, who know the file and not what the importer made of it."""
        text, was = called(node), self._originals.get(node.name, "")
        return text if not was or text.startswith(f"{was} ") else text.replace("(node", f"(in place of {was}, node")


def evaluated(model: onnx.ModelProto, inputs: Sequence[Array]) -> dict[str, Array]:
    """Every value that a node of the model's own graph computes, by name, as ONNX Runtime gives it."""
    from pipeline.importers import onnxruntime

    copy = without_names(model)
    there = {o.name for o in copy.graph.output}
    made = [name for node in copy.graph.node for name in node.output if name and name not in there]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    session = onnxruntime.session(copy)
    names = [o.name for o in session.get_outputs()]
    feed = dict(zip([i.name for i in session.get_inputs()], inputs, strict=True))
    found = zip(names, session.run(None, feed), strict=True)
    return {name: value for name, value in found if hasattr(value, "dtype")}  # a sequence has none
