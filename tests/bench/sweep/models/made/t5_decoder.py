"""T5's decoder, all tokens at once: see `t5`."""

from __future__ import annotations

import sys

from graph import Graph
from onnx import TensorProto
from t5 import LAYERS, VOCABULARY, WIDTH, attention, mask_of, norm, perceptron, position_bias, save_int8


def main(path: str) -> None:
    """Write the ONNX file to `path`."""
    graph = Graph(seed=8)
    tokens = graph.input("input_ids", TensorProto.INT64, ["batch", "sequence"])
    kept = graph.input("encoder_attention_mask", TensorProto.INT64, ["batch", "encoded"])
    source = graph.input("encoder_hidden_states", TensorProto.FLOAT, ["batch", "encoded", WIDTH])
    hidden = graph.op("Gather", graph.weight([VOCABULARY, WIDTH], "words", 1.0), tokens)
    bias, mask = position_bias(graph, tokens, both=False), mask_of(graph, kept)
    for number in range(LAYERS):
        name = f"layer.{number}"
        normed = norm(graph, hidden, f"{name}.first")
        hidden = graph.op("Add", hidden, attention(graph, normed, normed, bias, f"{name}.self"))
        normed = norm(graph, hidden, f"{name}.second")
        hidden = graph.op("Add", hidden, attention(graph, normed, source, mask, f"{name}.cross"))
        hidden = graph.op("Add", hidden, perceptron(graph, norm(graph, hidden, f"{name}.third"), name))
    logits = graph.matmul(norm(graph, hidden, "last"), WIDTH, VOCABULARY, "head")
    graph.output(logits, "logits", TensorProto.FLOAT, ["batch", "sequence", VOCABULARY])
    save_int8(graph, path)


if __name__ == "__main__":
    main(sys.argv[1])
