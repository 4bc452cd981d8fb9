"""What LiteRT's plain kernels give for a model's test data, and how far that might be off: what its other kernels give, and how
far the model as ONNX moves.

Run as a child process: see `evaluation`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from pipeline.arrays import Array
from pipeline.errors import PipelineError
from pipeline.importers import onnxruntime, tflite
from pipeline.importers.baked import bake
from pipeline.importers.draws import moved
from pipeline.importers.evaluation import Run, evaluate, main, tried
from pipeline.spec.types import Input


def _runner(source: Path, inputs: Sequence[Input], kernels: str) -> Run:
    """The model as a function of arrays, of those of `inputs` that have no value; each shape is set up anew."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    fixed = {
        spec.name: np.broadcast_to(np.array(spec.value, spec.dtype), spec.fixed) for spec in inputs if spec.value is not None
    }
    names = [spec.name for spec in inputs if spec.value is None]

    def run(given: Sequence[Array]) -> list[Array]:
        running = Interpreter(str(source), num_threads=1, experimental_op_resolver_type=OpResolverType[kernels])
        arrays = {**fixed, **dict(zip(names, given, strict=True))}
        details = running.get_input_details()
        for detail in details:
            running.resize_tensor_input(detail["index"], arrays[detail["name"]].shape)
        running.allocate_tensors()
        for detail in details:
            running.set_tensor(detail["index"], arrays[detail["name"]])
        running.invoke()
        return [running.get_tensor(detail["index"]) for detail in running.get_output_details()]

    return run


class _Noise:
    """Outputs moved as far as those of the model as ONNX move: where it is quantized, by what is on the verge of a number."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._plain, self._others = onnxruntime.session(model), onnxruntime.Others(model)

    def of(self, outputs: Sequence[Array], given: Sequence[Array]) -> list[list[Array]]:
        plain = onnxruntime.run_session(self._plain, given)
        return [
            [own + (array - before).astype(own.dtype) for own, array, before in zip(outputs, other, plain, strict=True)]
            for other in self._others.run(given)
        ]


def _require() -> None:
    """Raise PipelineError unless LiteRT is installed."""
    try:
        import ai_edge_litert.interpreter  # noqa: F401
    except ImportError as error:
        raise PipelineError(f"LiteRT is not installed: {error}", hint="pip install 'vmfb-pipeline[tflite]'") from error


@contextmanager
def prepared(source: Path, folder: Path, inputs: Sequence[Input]) -> Iterator[Run]:
    """The model as a function of arrays, while the block lasts."""
    _require()
    yield _runner(source, inputs, "BUILTIN_REF")


def run(source: Path, folder: Path, inputs: Sequence[Input], draws: Sequence[str]) -> dict[str, Any]:
    """What `evaluate` finds, and what is known of the model's outputs."""
    _require()
    tflite.converted(source, folder / "model.onnx")
    model = onnx.load(folder / "model.onnx")
    bake(model, inputs)
    noise = tried([partial(_Noise, model)])  # where ONNX Runtime has no kernel for it, there is none
    plain, *likewise = [_runner(source, inputs, kernels) for kernels in ("BUILTIN_REF", "BUILTIN", "AUTO")]

    def others(given: Sequence[Array]) -> list[list[Array]]:
        noisy = tried([partial(plain, moved(given, 0)), *(partial(run, given) for run in likewise)])
        return [*noisy, *(outputs for found in tried([partial(n.of, plain(given), given) for n in noise]) for outputs in found)]

    names = [output.name for output in model.graph.output]
    found = evaluate(folder, draws, names, onnxruntime.precisions(model), plain, others)
    return found | {"depends": onnxruntime.depends(model)}


if __name__ == "__main__":
    sys.exit(main(run))
