"""Writes a small text classifier: embedded words of any number, a window of three of them, the largest of each feature."""

import sys

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

WORDS, WIDTH, FEATURES, CLASSES = 500, 32, 48, 5

generator = np.random.default_rng(11)
weights = {
    "words": generator.standard_normal((WORDS, WIDTH)) * 0.5,
    "windows": generator.standard_normal((FEATURES, WIDTH, 3)) * 0.2,
    "classes": generator.standard_normal((FEATURES, CLASSES)) * 0.3,
}
nodes = [
    helper.make_node("Gather", ["words", "ids"], ["embedded"]),
    helper.make_node("Transpose", ["embedded"], ["turned"], perm=[0, 2, 1]),
    helper.make_node("Conv", ["turned", "windows"], ["seen"], kernel_shape=[3], pads=[1, 1]),
    helper.make_node("ReduceMax", ["seen", "last"], ["features"], keepdims=0),
    helper.make_node("MatMul", ["features", "classes"], ["scores"]),
    helper.make_node("Softmax", ["scores"], ["probabilities"], axis=-1),
]
constants = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
constants.append(numpy_helper.from_array(np.array([2]), "last"))
graph = helper.make_graph(
    nodes,
    "words",
    [helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", "T"])],
    [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", CLASSES])],
    constants,
)
save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9, producer_name=""), sys.argv[1])
