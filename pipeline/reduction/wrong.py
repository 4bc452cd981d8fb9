"""Where a model goes wrong on a device: the first inner value that differs from ONNX Runtime's, or the smallest part that does.

Inner values are made outputs to see them, a few at a time: each is one more thing that the compiler cannot fuse away.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from pipeline import arrays, cache
from pipeline.arrays import Array
from pipeline.cache import Cache
from pipeline.compare import compare, tolerances_for
from pipeline.errors import PipelineError
from pipeline.files import fresh_folder
from pipeline.importers import decisions
from pipeline.importers import onnx as importer
from pipeline.importers.child import Options
from pipeline.importers.rewrites.proof import without_names
from pipeline.iree import compiler, devices
from pipeline.reduction.job import Found, Job
from pipeline.reduction.model import Subject
from pipeline.reduction.refusal import Said, minimise
from pipeline.reduction.subgraph import FUNCTION, Graph, read_by
from pipeline.spec.types import MLIR_DTYPES

_PART = Options(FUNCTION, parameters="inline")
_WATCHED = 8


class Device:
    """Runs parts of the subject on the device of the job, and compares what they give."""

    def __init__(self, job: Job, subject: Subject, folder: Path) -> None:
        if job.run is None:
            raise ValueError("the job has no run")
        self._job, self._run, self._subject, self._folder = job, job.run, subject, folder / "part"

    def inputs(self, model: onnx.ModelProto) -> list[Array]:
        """What a part takes, as ONNX Runtime makes it."""
        return [self._subject.values[i.name] for i in model.graph.input]

    def wrong(self, model: onnx.ModelProto) -> dict[str, str]:
        """For each output what is wrong with it, empty if nothing. Raises PipelineError where the model cannot be run."""
        from pipeline.importers.onnxruntime import Others, precisions

        given, plain = self.inputs(model), without_names(model)
        expected = [self._subject.values[o.name] for o in model.graph.output]
        found = self._outputs(model, given)
        tolerances = tolerances_for(expected, precisions(plain), Others(plain).run(given))
        names = [o.name for o in model.graph.output]
        four = zip(names, found, expected, tolerances, strict=True)
        return {name: compare([a], [b], [tolerance], [f"value {name!r}"]).problem for name, a, b, tolerance in four}

    def _outputs(self, model: onnx.ModelProto, given: Sequence[Array]) -> list[Array]:
        with fresh_folder(self._folder) as folder:
            importer.translate(model, folder, "the part", options=_PART)
            targets, flags = self._job.targets, self._job.flags
            declared = {target.name: () for target in targets}
            kept = Cache(cache.local())  # most kernels are those of the whole model
            compiler.compile_module(folder / "model.mlirbc", folder, targets, declared, flags, kept, self._run.narrow)
            arrays.write(folder / "inputs.npz", given)
            module, device = folder / "module.vmfb", self._run.device
            ran = devices.run(module, device, FUNCTION, [folder / "inputs.npz"], folder, "run", timeout=self._job.seconds)
            if ran.error:
                raise PipelineError(ran.error, where=str(folder))
            return arrays.read(devices.outputs(folder, "run"))


class Trace:
    """The way back from a wrong output to the first wrong value."""

    def __init__(self, graph: Graph, subject: Subject) -> None:
        alive = decisions.alive(graph.model.graph)
        self._makers = dict(graph.values())
        self._graph = graph
        self.seen: dict[str, str] = {}
        self._visible = {n for n in self._makers if n in alive and self._is_visible(n, subject.values)}

    def _is_visible(self, name: str, values: Mapping[str, Array]) -> bool:
        return self._graph.type(name) is not None and name in values and str(values[name].dtype) in MLIR_DTYPES

    def node(self, name: str) -> onnx.NodeProto:
        """What makes a value."""
        return self._graph.nodes[self._makers[name]]

    def before(self, name: str) -> list[str]:
        """The nearest values that can be seen on the ways to a value."""
        found: dict[str, None] = {}
        waiting, known = [name], {name}
        while waiting:
            for read in read_by(self.node(waiting.pop())):
                if read in self._makers and read not in known:
                    known.add(read)
                    if read in self._visible:
                        found[read] = None
                    else:
                        waiting.append(read)
        return list(found)

    def _all_before(self, name: str) -> list[str]:
        """Every value that can be seen on the ways to a value and was not, in the order of the graph."""
        found, waiting = set[str](), [name]
        while waiting:
            new = [n for n in self.before(waiting.pop()) if n not in found]
            found.update(new)
            waiting += new
        return [n for n in self._makers if n in found and n not in self.seen]

    def watched(self, wrong: str, few: bool) -> list[str]:
        """What to look at next: the values just before a wrong one, and unless `few`, some far before it."""
        near = self.unseen(wrong)
        far = [] if few else self._all_before(wrong)
        step = max(1, -(-len(far) // _WATCHED))
        return list(dict.fromkeys([*far[step - 1 :: step], *near, *([wrong] if wrong in self._visible else [])]))

    def unseen(self, wrong: str) -> list[str]:
        """The values just before a wrong one that were not seen yet."""
        return [name for name in self.before(wrong) if name not in self.seen]

    def forget_right(self) -> None:
        """Forget values that were right: they were another program's."""
        self.seen = {name: problem for name, problem in self.seen.items() if problem}

    def first(self) -> str:
        """The first wrong value seen so far, empty if there is none."""
        return next((name for name in self._makers if self.seen.get(name)), "")


class Walk:
    """The search for the first wrong value: what is found is `said`, also before it is sure."""

    def __init__(self, job: Job, subject: Subject, folder: Path, said: Said) -> None:
        self._graph = subject.graph()
        self._trace, self._device = Trace(self._graph, subject), Device(job, subject, folder)
        self._subject, self._said = subject, said
        self._deadline = time.monotonic() + job.seconds

    def run(self) -> str:
        """The name of the node that makes the first wrong value, as far as that was found; empty if nothing is wrong."""
        wrong, few = self._look(()), False
        if not wrong:
            return ""  # it is right when it is compiled for this target alone
        while time.monotonic() < self._deadline and self._trace.unseen(wrong):
            self._tell(wrong)
            try:
                found = self._look(self._trace.watched(wrong, few))
            except PipelineError:  # with these as outputs it does not compile or run
                if few:
                    return self._tell(wrong)
                few = True
                continue
            if not found and few:
                return self._tell(wrong, hides=True)
            if not found:
                few = True
                self._trace.forget_right()
            wrong = found or wrong
        return self._tell(wrong, is_first=not self._trace.unseen(wrong))

    def _look(self, watched: Sequence[str]) -> str:
        """The first wrong value now that these were seen too; empty if none of all that are outputs now is wrong."""
        model = self._graph.part(range(len(self._graph.nodes)), watched)
        if model is None:
            raise PipelineError("an output has no shape")
        now = self._device.wrong(model)
        self._trace.seen |= {name: problem for name, problem in now.items() if problem or name not in self._trace.seen}
        return self._trace.first() if any(now.values()) else ""

    def _tell(self, wrong: str, is_first: bool = False, hides: bool = False) -> str:
        node = self._trace.node(wrong)
        why, count = self._trace.seen.get(wrong, ""), len(self._graph.nodes)
        self._said(Found((self._subject.called(node),), (node.name,), count, why, is_first, hides), None)
        return str(node.name)


def first(job: Job, folder: Path, said: Said) -> None:
    """Look for the first wrong value."""
    Walk(job, Subject(job), folder, said).run()


def smallest(job: Job, folder: Path, said: Said) -> None:
    """Look for the smallest part that gives a wrong value when it takes right ones; its data is in two .npz files in `folder`."""
    deadline, subject = time.monotonic() + job.seconds, Subject(job)
    device = Device(job, subject, folder)

    def problem(model: onnx.ModelProto) -> str:
        try:
            return next(filter(None, device.wrong(model).values()), "")
        except (PipelineError, KeyError):  # it cannot be compiled alone, or takes what ONNX Runtime does not show
            return ""

    def keep(found: Found, model: onnx.ModelProto | None) -> None:
        if model is not None:
            arrays.write(folder / "inputs.npz", device.inputs(model))
            arrays.write(folder / "outputs.npz", [subject.values[o.name] for o in model.graph.output])
        said(found, model)

    name = Walk(replace(job, seconds=job.seconds / 2), subject, folder, lambda found, model: None).run()
    if name:
        minimise(subject, subject.graph(), problem, replace(job, suspects=(name,)), deadline, keep)
