"""Writes the example's model: a perceptron with random weights. Called with the path to write."""

import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

rng = np.random.default_rng(1)
weights = {
    "w0": (rng.standard_normal((16, 32)) / 4).astype(np.float32),
    "w1": (rng.standard_normal((32, 8)) / 4).astype(np.float32),
}
graph = helper.make_graph(
    [
        helper.make_node("MatMul", ["x", "w0"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w1"], ["y"]),
    ],
    "example",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8])],
    [numpy_helper.from_array(value, name) for name, value in weights.items()],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
Path(sys.argv[1]).write_bytes(model.SerializeToString())
