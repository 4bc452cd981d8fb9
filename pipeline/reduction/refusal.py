"""The smallest part of a model that the compiler refuses, or crashes on, as it does on the whole."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import onnx

from pipeline.cache import Cache, LocalCache
from pipeline.errors import PipelineError
from pipeline.files import fresh_folder
from pipeline.importers import onnx as importer
from pipeline.importers.child import Options
from pipeline.importers.rewrites import folding
from pipeline.iree import compiler
from pipeline.iree.codegen.front import front_half
from pipeline.reduction.job import Found, Job
from pipeline.reduction.model import Subject
from pipeline.reduction.search import Part, Search
from pipeline.reduction.subgraph import FUNCTION, Graph

# What is wrong with a part, empty if nothing; and who hears of what was found.
Problem = Callable[[onnx.ModelProto], str]
Said = Callable[[Found, onnx.ModelProto | None], None]
_PART = Options(FUNCTION, parameters="inline")
_CACHE = 1 << 30  # bytes for what the parts of one search have in common


def kind(error: PipelineError) -> str:
    """What an error says but for what differs from part to part: names of nodes and kernels, numbers."""
    text = re.sub(r"'[^']*' needs|node '[^']*'|\S*dispatch_\S*", "…", error.what)
    return f"{type(error).__name__}: {re.sub(r'[0-9]+', '#', text.partition(' (killed by')[0])}"


class Compiler:
    """Compiles parts in `folder` for the targets of a job, as far as that needs."""

    def __init__(self, job: Job, folder: Path) -> None:
        self._job, self._folder = job, folder / "part"
        self._cache = Cache(LocalCache(folder / "cache", _CACHE))

    def error(self, model: onnx.ModelProto) -> PipelineError | None:
        """What the compiler says against the model, if anything."""
        try:
            with fresh_folder(self._folder) as folder:
                importer.translate(model, folder, "the part", options=_PART)
                source = folder / "model.mlirbc"
                if self._job.code:
                    declared = {target.name: () for target in self._job.targets}
                    compiler.compile_module(source, folder, self._job.targets, declared, self._job.flags, self._cache)
                else:
                    front_half(source, folder, self._job.targets, self._job.flags, self._cache.local)
        except PipelineError as error:
            return error
        return None


def smallest(job: Job, folder: Path, said: Said) -> None:
    """Look for the smallest part that fails as the whole does. Every smaller one is `said`, with its model."""
    subject, tools, deadline = Subject(job), Compiler(job, folder), time.monotonic() + job.seconds
    whole = tools.error(subject.model)
    if whole is None:
        return

    def problem(model: onnx.ModelProto) -> str:
        error = tools.error(model)
        return error.what if error is not None and kind(error) == kind(whole) else ""

    minimise(subject, _graph(subject, problem), problem, job, deadline, said)


def _graph(subject: Subject, problem: Problem) -> Graph:
    """The model, in which shapes that are computed are constants, if it still fails: parts of it need to compute none."""
    try:
        folded = folding.folded(subject.model)
    except onnx.shape_inference.InferenceError:
        folded = None
    return subject.graph(folded if folded is not None and problem(folded) else None)


def minimise(subject: Subject, graph: Graph, problem: Problem, job: Job, deadline: float, said: Said) -> None:
    """Find the smallest part of `graph` that has a problem, beginning with the suspects of the job."""
    problems: dict[Part, str] = {}

    def fails(part: Part) -> bool:
        model = graph.part(part)
        problems[part] = problem(model) if model is not None else ""
        return bool(problems[part])

    def tell(part: Part, is_smallest: bool = False) -> None:
        nodes = [graph.nodes[index] for index in part]
        called, names = tuple(subject.called(node) for node in nodes), tuple(node.name for node in nodes)
        said(Found(called, names, len(graph.nodes), problems[part], is_smallest), graph.part(part))

    everything = tuple(range(len(graph.nodes)))
    suspects = [index for index in everything if graph.nodes[index].name in job.suspects]
    search = Search(len(everything), fails, deadline, tell)
    search.run([suspects, graph.around(suspects)] if suspects else [])
    if search.best == everything and not fails(everything):
        return  # cut out, even the whole of it is another program
    tell(search.best, search.is_smallest)
