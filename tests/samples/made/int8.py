"""Writes two layers whose products are of 8-bit integers, quantized as they run, as ONNX Runtime's quantizer makes them."""

import itertools
import sys

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

WIDTHS = (96, 160, 40)

generator = np.random.default_rng(12)
nodes, constants = [], []
given = "x"
for layer, (width, out) in enumerate(itertools.pairwise(WIDTHS)):
    weight = generator.integers(-127, 128, (width, out)).astype(np.int8)
    constants.append(numpy_helper.from_array(weight, f"w{layer}"))
    constants.append(numpy_helper.from_array(np.array(0.9 / width / 64, np.float32), f"scale{layer}"))
    name = {part: f"{part}{layer}" for part in ("q", "s", "z", "sum", "float", "by", "made", "y")}
    nodes += [
        helper.make_node("DynamicQuantizeLinear", [given], [name["q"], name["s"], name["z"]]),
        helper.make_node("MatMulInteger", [name["q"], f"w{layer}", name["z"]], [name["sum"]]),
        helper.make_node("Cast", [name["sum"]], [name["float"]], to=TensorProto.FLOAT),
        helper.make_node("Mul", [name["s"], f"scale{layer}"], [name["by"]]),
        helper.make_node("Mul", [name["float"], name["by"]], [name["made"]]),
        helper.make_node("Tanh", [name["made"]], [name["y"]]),
    ]
    given = name["y"]
graph = helper.make_graph(
    nodes,
    "int8",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [8, WIDTHS[0]])],
    [helper.make_tensor_value_info(given, TensorProto.FLOAT, [8, WIDTHS[-1]])],
    constants,
)
save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9, producer_name=""), sys.argv[1])
