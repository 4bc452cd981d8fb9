"""T5's encoder and decoder, small, with random weights, and quantized dynamically to int8 by ONNX Runtime's own tool.

As exporters write them: root-mean-square norms in plain operators, a bias by buckets of relative positions that is computed from
the sequence's length; the decoder takes tokens, the encoder's result and its mask, and masks the future. Attention is scaled, for
random weights are not.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

from graph import Graph
from onnx import TensorProto
from onnxruntime.quantization import QuantType, quantize_dynamic

VOCABULARY, WIDTH, HEADS, SIZE, LAYERS, INNER, BUCKETS, FARTHEST = 8192, 384, 8, 32, 4, 1536, 32, 128


def norm(graph: Graph, x: str, name: str) -> str:
    """Divided by the root of the mean of squares."""
    mean = graph.op("ReduceMean", graph.op("Pow", x, graph.floats(2)), axes=[-1], keepdims=1)
    scaled = graph.op("Div", x, graph.op("Sqrt", graph.op("Add", mean, graph.floats(1e-6))))
    return graph.op("Mul", scaled, graph.op("Add", graph.weight([WIDTH], f"{name}.scale", 0.02), graph.floats(1)))


def _span(graph: Graph, tokens: str) -> str:
    length = graph.op("Gather", graph.op("Shape", tokens), graph.ints(1))
    return graph.op("Range", graph.ints(0), length, graph.ints(1))


def _distances(graph: Graph, tokens: str) -> str:
    """The place of every key less that of every query."""
    span = _span(graph, tokens)
    return graph.op("Sub", graph.op("Unsqueeze", span, graph.ints([0])), graph.op("Unsqueeze", span, graph.ints([1])))


def _buckets(graph: Graph, distances: str, both: bool) -> str:
    """The bucket of each distance: half of them exact, the others ever wider; of `both` directions, or of the past."""
    buckets = BUCKETS // 2 if both else BUCKETS
    exact = buckets // 2
    if both:
        after = graph.op("Cast", graph.op("Greater", distances, graph.ints(0)), to=TensorProto.INT64)
        start, back = graph.op("Mul", after, graph.ints(buckets)), graph.op("Abs", distances)
    else:
        start, back = graph.ints(0), graph.op("Neg", graph.op("Min", distances, graph.ints(0)))
    ratio = graph.op("Div", graph.op("Cast", back, to=TensorProto.FLOAT), graph.floats(exact))
    # A hundredth more than nothing: the logarithm of what lies on the border of two buckets is for no rounding to decide.
    far = graph.op(
        "Mul",
        graph.op("Log", graph.op("Add", ratio, graph.floats(1e-2))),
        graph.floats((buckets - exact) / math.log(FARTHEST / exact)),
    )
    wide = graph.op("Add", graph.op("Cast", far, to=TensorProto.INT64), graph.ints(exact))
    near = graph.op("Less", back, graph.ints(exact))
    return graph.op("Add", start, graph.op("Where", near, back, graph.op("Min", wide, graph.ints(buckets - 1))))


def position_bias(graph: Graph, tokens: str, both: bool) -> str:
    """What attention adds for relative positions, `1 × HEADS × queries × keys`; without `both`, the future is masked."""
    distances = _distances(graph, tokens)
    bias = graph.op("Gather", graph.weight([BUCKETS, HEADS], "positions", 0.5), _buckets(graph, distances, both))
    bias = graph.op("Unsqueeze", graph.op("Transpose", bias, perm=[2, 0, 1]), graph.ints([0]))
    if both:
        return bias
    future = graph.op("Cast", graph.op("Greater", distances, graph.ints(0)), to=TensorProto.FLOAT)
    return graph.op("Add", bias, graph.op("Mul", future, graph.floats(-10000)))


def mask_of(graph: Graph, kept: str) -> str:
    """What attention adds for a mask of 0 and 1."""
    wide = graph.op("Cast", graph.op("Unsqueeze", kept, graph.ints([1, 2])), to=TensorProto.FLOAT)
    return graph.op("Mul", graph.op("Sub", graph.floats(1), wide), graph.floats(-10000))


def attention(graph: Graph, hidden: str, source: str, bias: str, name: str) -> str:
    """Attention of `hidden` to `source`."""
    parts = []
    for part in ("query", "key", "value"):
        projected = graph.matmul(hidden if part == "query" else source, WIDTH, HEADS * SIZE, f"{name}.{part}")
        split = graph.op("Reshape", projected, graph.ints([0, -1, HEADS, SIZE]))
        parts.append(graph.op("Transpose", split, perm=[0, 2, 3, 1] if part == "key" else [0, 2, 1, 3]))
    scores = graph.op("Add", graph.op("Div", graph.op("MatMul", *parts[:2]), graph.floats(math.sqrt(SIZE))), bias)
    mixed = graph.op("Transpose", graph.op("MatMul", graph.op("Softmax", scores, axis=-1), parts[2]), perm=[0, 2, 1, 3])
    joined = graph.op("Reshape", mixed, graph.ints([0, -1, HEADS * SIZE]))
    return graph.matmul(joined, HEADS * SIZE, WIDTH, f"{name}.out")


def perceptron(graph: Graph, hidden: str, name: str) -> str:
    """Two products with a Relu between."""
    inner = graph.op("Relu", graph.matmul(hidden, WIDTH, INNER, f"{name}.inner"))
    return graph.matmul(inner, INNER, WIDTH, f"{name}.outer")


def save_int8(graph: Graph, path: str) -> None:
    """Write the graph with its products quantized dynamically."""
    with tempfile.TemporaryDirectory() as name:
        graph.save(str(Path(name) / "plain.onnx"))
        quantize_dynamic(Path(name) / "plain.onnx", path, weight_type=QuantType.QInt8)
