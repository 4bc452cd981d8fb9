"""T5's encoder: see `t5`."""

from __future__ import annotations

import sys

from graph import Graph
from onnx import TensorProto
from t5 import LAYERS, VOCABULARY, WIDTH, attention, mask_of, norm, perceptron, position_bias, save_int8


def main(path: str) -> None:
    """Write the ONNX file to `path`."""
    graph = Graph(seed=7)
    tokens = graph.input("input_ids", TensorProto.INT64, ["batch", "sequence"])
    kept = graph.input("attention_mask", TensorProto.INT64, ["batch", "sequence"])
    hidden = graph.op("Gather", graph.weight([VOCABULARY, WIDTH], "words", 1.0), tokens)
    bias = graph.op("Add", position_bias(graph, tokens, both=True), mask_of(graph, kept))
    for number in range(LAYERS):
        normed = norm(graph, hidden, f"layer.{number}.first")
        hidden = graph.op("Add", hidden, attention(graph, normed, normed, bias, f"layer.{number}"))
        hidden = graph.op("Add", hidden, perceptron(graph, norm(graph, hidden, f"layer.{number}.second"), f"layer.{number}"))
    graph.output(norm(graph, hidden, "last"), "hidden_states", TensorProto.FLOAT, ["batch", "sequence", WIDTH])
    save_int8(graph, path)


if __name__ == "__main__":
    main(sys.argv[1])
