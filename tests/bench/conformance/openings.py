"""Which dimensions of a test's inputs can be open: those of which ONNX Runtime takes the test at other sizes too."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from pipeline.importers.draws import draws
from pipeline.spec.types import Dimension, Input
from tests.bench.conformance.suite import Suite, input_names, inputs_of, settings

# An input, and an axis of it.
Place = tuple[str, int]


def said(dimension: Dimension) -> dict[str, object]:
    """A dimension as a spec says it."""
    return {"name": dimension.name, "min": dimension.min, "max": dimension.max}


def without_sizes(file: bytes, opened: Collection[Place]) -> bytes:
    """The model without the sizes of these dimensions, and, if there are any, of all outputs' dimensions."""
    model = onnx.ModelProto.FromString(file)
    for value in inputs_of(model):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if (value.name, axis) in opened:
                dim.Clear()
    for dim in (dim for output in model.graph.output for dim in output.type.tensor_type.shape.dim):
        dim.Clear()
    return model.SerializeToString() if opened else file


def _session(file: bytes) -> onnxruntime.InferenceSession:
    """ONNX Runtime without threads, which a process that forks must not have."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


class _Trial:
    """A test, and whether ONNX Runtime takes it with some of its dimensions open."""

    def __init__(self, suite: Suite, name: str, folder: Path) -> None:
        self._suite, self._name = suite, name
        file, self.shapes = suite.file(name), dict[str, tuple[int, ...]]()
        self._files = {}
        for number, (title, array) in enumerate(zip(input_names(file), suite.arrays(name, "input"), strict=True)):
            self._files[title], self.shapes[title] = folder / f"{number}.npy", array.shape
            np.save(self._files[title], array)

    def takes(self, opened: Mapping[Place, Dimension]) -> bool:
        """Whether it runs at all sizes that the pipeline would try, and the numbers of values follow the sizes."""
        inputs = [self._input(title, opened) for title in self.shapes]
        try:
            running = _session(without_sizes(self._suite.file(self._name), opened))
            for arrays in draws(inputs, self._name).values():
                running.run(None, dict(zip(self.shapes, arrays, strict=True)))
        except Exception:  # its exceptions have no common base that it exports
            return False
        return True

    def _input(self, title: str, opened: Mapping[Place, Dimension]) -> Input:
        sizes = tuple(opened.get((title, axis), size) for axis, size in enumerate(self.shapes[title]))
        return Input(title, sizes, str(np.load(self._files[title], mmap_mode="r").dtype), 0, 0, 1, self._files[title])


def _named(places: Iterable[Place], name: str, size: int) -> dict[Place, Dimension]:
    return {place: Dimension(name, max(size - 1, 1), size + 1) for place in places}


def opening(suite: Suite, name: str, folder: Path) -> dict[Place, Dimension]:
    """The dimensions of a test that can be open, from one less to one more than the test's size; all of them together.

    One that may change alone has a name of its own. Those of one size that may change only together share theirs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trial, fixed = _Trial(suite, name, folder), settings(suite.file(name))
    sizes = {(t, a): n for t, shape in trial.shapes.items() if t not in fixed for a, n in enumerate(shape) if n > 1}
    groups: list[dict[Place, Dimension]] = []
    together: dict[int, list[Place]] = {}
    for number, (place, size) in enumerate(sizes.items()):
        alone = _named([place], f"n{number}", size)
        if trial.takes(alone):
            groups.append(alone)
        else:
            together.setdefault(size, []).append(place)
    groups += [_named(places, f"of{size}", size) for size, places in together.items() if len(places) > 1]
    found: dict[Place, Dimension] = {}
    for group in groups:
        if trial.takes(wider := {**found, **group}):
            found = wider
    return found
