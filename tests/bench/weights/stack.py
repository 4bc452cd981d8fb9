"""A stack of matrix products with random weights, written without being in memory.

`python -m tests.bench.weights.stack FOLDER [--bytes 3e9] [--width 4096] [--inside]` writes `stack.onnx`, and its weights beside
it, as exporters write external data, or `--inside` it, up to the 2 GB of protobuf; and prints a spec of it. The same arguments
give the same bytes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from pipeline.files import sha256_file

DATA = "stack.onnx.data"
_ROWS = 512  # of a matrix that are made at a time
_ALIGNMENT = 64


def _pieces(width: int, number: int) -> Iterator[bytes]:
    """The bytes of a matrix that keeps the size of what it is multiplied with, rectified."""
    generator = np.random.default_rng(number)
    for row in range(0, width, _ROWS):
        some = generator.standard_normal((min(_ROWS, width - row), width), dtype=np.float32)
        yield (some * np.float32((2 / width) ** 0.5)).tobytes()


def _tensor(name: str, shape: list[int], offset: int) -> TensorProto:
    tensor = TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    said = {"location": DATA, "offset": str(offset), "length": str(4 * int(np.prod(shape)))}
    for key, value in said.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def write(folder: Path, size: float, width: int = 4096, inside: bool = False) -> Path:
    """Write the model with about `size` bytes of weights into `folder`; the path of the ONNX file."""
    folder.mkdir(parents=True, exist_ok=True)
    layers = max(1, round(size / (4 * width * width)))
    nodes, held = [], []
    with (folder / DATA).open("wb") as file:
        for number in range(layers):
            held.append(_tensor(f"w{number}", [width, width], file.tell()))
            file.writelines(_pieces(width, number))
            held.append(_tensor(f"b{number}", [width], file.tell()))
            file.write(np.random.default_rng(10_000 + number).uniform(-0.1, 0.1, width).astype(np.float32).tobytes())
            file.write(bytes(-file.tell() % _ALIGNMENT))
            before, after = f"h{number}" if number else "x", f"h{number + 1}" if number < layers - 1 else "y"
            nodes += [
                helper.make_node("MatMul", [before, f"w{number}"], [f"m{number}"], f"product {number}"),
                helper.make_node("Add", [f"m{number}", f"b{number}"], [f"a{number}"], f"sum {number}"),
                helper.make_node("Relu", [f"a{number}"], [after], f"rectified {number}"),
            ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, width]) for name in "xy"]
    graph = helper.make_graph(nodes, "stack", ends[:1], ends[1:], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path = folder / "stack.onnx"
    if inside:
        onnx.load_external_data_for_model(model, str(folder))
        (folder / DATA).unlink()
    onnx.save(model, path)
    return path


def spec(path: Path, width: int) -> str:
    """The text of a spec for the model at `path`."""
    data = path.parent / DATA
    beside = f", data: {{{DATA}: {sha256_file(data)}}}" if data.exists() else ""
    return (
        "about: A stack of matrix products with random weights\n"
        "licence: CC0-1.0\n"
        "format: onnx\n"
        f"source: {{kind: path, path: {path.name}, sha256: {sha256_file(path)}{beside}}}\n"
        f"inputs:\n  - {{name: x, shape: [1, {width}], dtype: float32, low: -1, high: 1}}\n"
        "bundles: [desktop]\n"
    )


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.weights.stack")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bytes", type=float, default=3e9)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--inside", action="store_true")
    said = parser.parse_args(argv)
    print(spec(write(said.folder, said.bytes, said.width, said.inside), said.width), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
