"""A BERT of the size of MiniLM with random weights, written as PyTorch's exporter writes one: tokens, a mask, six layers."""

from __future__ import annotations

import sys

import numpy as np
from graph import Graph
from onnx import TensorProto

VOCABULARY, WIDTH, HEADS, LAYERS, INNER, LONGEST = 8192, 384, 12, 6, 1536, 512


def attention(graph: Graph, hidden: str, mask: str, name: str) -> str:
    """Self-attention of every head at once."""
    size = WIDTH // HEADS
    parts = []
    for part in ("query", "key", "value"):
        projected = graph.linear(hidden, WIDTH, WIDTH, f"{name}.{part}")
        split = graph.op("Reshape", projected, graph.ints([0, 0, HEADS, size]))
        parts.append(graph.op("Transpose", split, perm=[0, 2, 3, 1] if part == "key" else [0, 2, 1, 3]))
    query, key, value = parts
    scores = graph.op("Div", graph.op("MatMul", query, key), graph.floats(np.sqrt(size)))
    weights = graph.op("Softmax", graph.op("Add", scores, mask), axis=-1)
    mixed = graph.op("Transpose", graph.op("MatMul", weights, value), perm=[0, 2, 1, 3])
    return graph.linear(graph.op("Reshape", mixed, graph.ints([0, 0, WIDTH])), WIDTH, WIDTH, f"{name}.out")


def gelu(graph: Graph, x: str) -> str:
    """As PyTorch's exporter writes it, by Erf."""
    half = graph.op("Mul", x, graph.floats(0.5))
    return graph.op("Mul", half, graph.op("Add", graph.op("Erf", graph.op("Div", x, graph.floats(np.sqrt(2)))), graph.floats(1)))


def layer(graph: Graph, hidden: str, mask: str, name: str) -> str:
    """Attention and a perceptron, each added to its input and normalized."""
    hidden = graph.norm(graph.op("Add", attention(graph, hidden, mask, name), hidden), WIDTH, f"{name}.norm")
    inner = gelu(graph, graph.linear(hidden, WIDTH, INNER, f"{name}.inner"))
    return graph.norm(graph.op("Add", graph.linear(inner, INNER, WIDTH, f"{name}.outer"), hidden), WIDTH, f"{name}.last")


def main(path: str) -> None:
    """Write the ONNX file to `path`."""
    graph = Graph(seed=7)
    tokens = graph.input("input_ids", TensorProto.INT64, ["batch", "sequence"])
    kept = graph.input("attention_mask", TensorProto.INT64, ["batch", "sequence"])
    words = graph.op("Gather", graph.weight([VOCABULARY, WIDTH], "words", 0.5), tokens)
    length = graph.op("Gather", graph.op("Shape", tokens), graph.ints(1))
    places = graph.op(
        "Slice", graph.weight([LONGEST, WIDTH], "places", 0.5), graph.ints([0]), graph.op("Unsqueeze", length, graph.ints([0]))
    )
    hidden = graph.norm(graph.op("Add", words, places), WIDTH, "norm")
    wide = graph.op("Cast", graph.op("Unsqueeze", kept, graph.ints([1, 2])), to=TensorProto.FLOAT)
    mask = graph.op("Mul", graph.op("Sub", graph.floats(1), wide), graph.floats(-10000))
    for number in range(LAYERS):
        hidden = layer(graph, hidden, mask, f"layer.{number}")
    graph.output(hidden, "last_hidden_state", TensorProto.FLOAT, ["batch", "sequence", WIDTH])
    graph.save(path)


if __name__ == "__main__":
    main(sys.argv[1])
