"""Makes a small float16 model: an attention block with random weights, the shape of work that matrix cores are for."""

from __future__ import annotations

import sys

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save

WIDTH = 128


def main(path: str) -> None:
    """Write the ONNX file to `path`; the bytes are the same on every machine."""
    generator = np.random.default_rng(7)
    names = ("query", "key", "value", "out")
    weights = [
        numpy_helper.from_array((generator.standard_normal((WIDTH, WIDTH)) / np.sqrt(WIDTH)).astype(np.float16), f"w_{name}")
        for name in names
    ]
    scale = numpy_helper.from_array(np.array(1 / np.sqrt(WIDTH), dtype=np.float16), "scale")
    nodes = [helper.make_node("MatMul", ["tokens", f"w_{name}"], [name]) for name in names[:3]]
    nodes += [
        helper.make_node("Transpose", ["key"], ["key_t"], perm=[1, 0]),
        helper.make_node("MatMul", ["query", "key_t"], ["raw_scores"]),
        helper.make_node("Mul", ["raw_scores", "scale"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "value"], ["mixed"]),
        helper.make_node("MatMul", ["mixed", "w_out"], ["projected"]),
        helper.make_node("Add", ["projected", "tokens"], ["result"]),
    ]
    tensors = [helper.make_tensor_value_info(n, TensorProto.FLOAT16, ["tokens", WIDTH]) for n in ("tokens", "result")]
    graph = helper.make_graph(nodes, "attention", tensors[:1], tensors[1:], [*weights, scale])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="")
    checker.check_model(model, full_check=True)
    save(model, path)


if __name__ == "__main__":
    main(sys.argv[1])
