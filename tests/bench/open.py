"""What open dimensions cost: `python -m tests.bench.open [--rounds N] [--untold] [MODEL…]`.

Compiles small models with random weights with fixed sizes and with open ones, for the highest x86-64 level that this CPU has and
for `vulkan-any`. All compute the same at one size, in turn, `--rounds` times. It judges nothing: it prints a table of the
milliseconds of an inference with fixed sizes (the median of the rounds) and of how many times as long it takes with open ones
(the median of each round's own ratio). `--untold` adds open sizes of which the compiler is not told the range.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.arrays import Array
from pipeline.importers import onnx as importer
from pipeline.importers import ranges
from pipeline.iree import devices
from pipeline.iree.compiler import compile_module
from pipeline.iree.targets import resolve
from pipeline.spec.load import load
from pipeline.spec.types import Dimension, Input
from tests.bench.fat import ROOT, _machine, latency
from tests.bench.tune import runs_on

LENGTH = Dimension("T", 1, 512)
HEIGHT, WIDTH = Dimension("H", 32, 320, 32), Dimension("W", 32, 320, 32)
UNITS = 256


@dataclass(frozen=True)
class Case:
    """A model, the shape and dtype of its input, and the sizes that are measured."""

    make: Callable[[Path], None]
    shape: Sequence[int | Dimension]
    dtype: str
    sizes: Mapping[str, int]


class _Graph:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(5)

    def constant(self, array: Array) -> str:
        self.weights.append(numpy_helper.from_array(array, f"w{len(self.weights)}"))
        return self.weights[-1].name

    def weight(self, *shape: int) -> str:
        fan = int(np.prod(shape[1:] if len(shape) > 2 else shape[:1]))
        return self.constant((self._random.standard_normal(shape) / np.sqrt(fan)).astype(np.float32))

    def __call__(self, kind: str, *inputs: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [f"v{len(self.nodes)}"], **attributes))
        return str(self.nodes[-1].output[0])

    def save(self, path: Path, shape: Sequence[int | Dimension], type_: int, result: str) -> None:
        sizes = [size.name if isinstance(size, Dimension) else size for size in shape]
        given = [helper.make_tensor_value_info("x", type_, sizes)]
        made = [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)]
        graph = helper.make_graph(self.nodes, "g", given, made, self.weights)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def _layer(graph: _Graph, x: str, heads: int = 4) -> str:
    parts = []
    for part in range(3):
        split = graph("Reshape", graph("MatMul", x, graph.weight(UNITS, UNITS)), graph.constant(np.array([0, 0, heads, -1])))
        parts.append(graph("Transpose", split, perm=[0, 2, 3, 1] if part == 1 else [0, 2, 1, 3]))
    scores = graph("Mul", graph("MatMul", parts[0], parts[1]), graph.constant(np.float32((UNITS // heads) ** -0.5)))
    mixed = graph("Transpose", graph("MatMul", graph("Softmax", scores, axis=-1), parts[2]), perm=[0, 2, 1, 3])
    x = graph(
        "Add", x, graph("MatMul", graph("Reshape", mixed, graph.constant(np.array([0, 0, UNITS]))), graph.weight(UNITS, UNITS))
    )
    x = graph("LayerNormalization", x, graph.weight(UNITS), axis=-1)
    inner = graph("Relu", graph("MatMul", x, graph.weight(UNITS, 4 * UNITS)))
    return graph("Add", x, graph("MatMul", inner, graph.weight(4 * UNITS, UNITS)))


def _attention(path: Path) -> None:
    graph = _Graph()
    graph.save(path, [1, LENGTH, UNITS], TensorProto.FLOAT, _layer(graph, "x"))


def _encoder(path: Path) -> None:
    graph = _Graph()
    x = graph("Gather", graph.weight(1000, UNITS), "x")
    for _ in range(2):
        x = _layer(graph, x)
    graph.save(path, [1, LENGTH], TensorProto.INT64, graph("ReduceMean", x, axes=[1], keepdims=0))


def _convolutions(path: Path) -> None:
    graph, x, channels = _Graph(), "x", 3
    for number, wide in enumerate((16, 32, 32, 64, 64)):
        stride = 2 - number % 2
        x = graph("Relu", graph("Conv", x, graph.weight(wide, channels, 3, 3), pads=[1] * 4, strides=[stride] * 2))
        channels = wide
    graph.save(path, [1, 3, HEIGHT, WIDTH], TensorProto.FLOAT, graph("GlobalAveragePool", x))


CASES = {
    "attention": Case(_attention, [1, LENGTH, UNITS], "float32", {"T": 128}),
    "convolutions": Case(_convolutions, [1, 3, HEIGHT, WIDTH], "float32", {"H": 96, "W": 160}),
    "encoder": Case(_encoder, [1, LENGTH], "int64", {"T": 64}),
}
FIXED, OPEN, UNTOLD = "fixed", "open", "open, range not told"


def _compiled(case: Case, target: str, way: str, folder: Path) -> Path:
    """The module of the case for a target, one way, in `folder`."""
    folder.mkdir(parents=True)
    case.make(folder / "model.onnx")
    spec = Input("x", tuple(case.shape), case.dtype, 0, 0, 1000 if case.dtype == "int64" else 1, None)
    spec = spec.at(case.sizes) if way == FIXED else spec
    with mock.patch.object(ranges, "tie", ranges.tie if way != UNTOLD else lambda *_: None):
        importer.convert(folder / "model.onnx", folder, [spec])
    compile_module(folder / "model.mlirbc", folder, [resolve(load(ROOT / "targets").executables[target])], {target: ()})
    array = np.random.default_rng(1).random(spec.at(case.sizes).fixed)
    np.save(folder / "x.npy", (array * spec.high).astype(case.dtype))
    return folder / "module.vmfb"


def measure(name: str, target: str, device: str, folder: Path, rounds: int, ways: Sequence[str]) -> None:
    """Print a row: a model on one device."""
    made: dict[str, Path] = {}
    for way in ways:
        with redirect_stdout(io.StringIO()):  # what importing says of rewrites
            made[way] = _compiled(CASES[name], target, way, folder / f"{name}-{target}-{len(made)}")
    times: dict[str, list[float]] = {way: [] for way in made}
    for _ in range(rounds):
        for way, module in made.items():
            times[way].append(latency(module, "main", [module.parent / "x.npy"], module.parent, device))
    at = ", ".join(f"{name} = {size}" for name, size in CASES[name].sizes.items())
    ratios = [statistics.median(b / a for a, b in zip(times[FIXED], times[way], strict=True)) for way in ways[1:]]
    cells = [name, at, target, f"{statistics.median(times[FIXED]):.1f}", *(f"{ratio:.2f}" for ratio in ratios)]
    print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Measure and print, model by model."""
    parser = argparse.ArgumentParser(description="Measure what open dimensions cost.")
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"one or more of {', '.join(CASES)} (default: all)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--untold", action="store_true", help="also with open sizes of which the compiler is not told the range")
    arguments = parser.parse_args()
    ways = (FIXED, OPEN, UNTOLD) if arguments.untold else (FIXED, OPEN)
    print(f"{_machine()}\n")
    print(f"| model | at | target | fixed, ms |{''.join(f' {way}, × |' for way in ways[1:])}")
    print("| --- | --- | --- |" + " ---: |" * len(ways))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        found = devices.find(folder)
        has = next(d for d in found if d.driver == "local-task")
        spec = load(ROOT / "targets")
        levels = map(resolve, (spec.executables[name] for name in ("x86-64-v4", "x86-64-v3", "x86-64")))
        level = next(target.name for target in levels if runs_on(target, has))
        for name in arguments.models or CASES:
            measure(name, level, "local-task", folder, arguments.rounds, ways)
            if any(d.driver == "vulkan" for d in found):
                measure(name, "vulkan-any", "vulkan", folder, arguments.rounds, ways)


if __name__ == "__main__":
    main()
