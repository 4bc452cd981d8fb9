"""A decoder small enough to be written by hand: twenty attention heads, each of which looks one character further back.

What a head sees is turned into how much it speaks for each next character, as counted in TEXT; together they know it by heart. It
is made as two ONNX files that share weights: `prefill` reads a text, `step` one character more, with the keys and values of those
before. Characters are bytes.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

TEXT = """\
One file. Wherever it goes, it runs code that is right for the device, the fastest it holds; and it can say which, and why.
"""
HEADS, CHARACTERS, LONGEST = 20, 128, 256
_SHARP = np.float32(40.0)


def _weights() -> dict[str, np.ndarray]:
    """`characters` and `places`: a vector for each, none like another; `speaks`: HEADS x CHARACTERS x CHARACTERS."""
    counts = np.zeros((HEADS, CHARACTERS, CHARACTERS))
    codes = np.frombuffer(TEXT.encode() * 2, np.uint8)
    for head in range(HEADS):
        np.add.at(counts[head], (codes[: len(codes) - head - 1], codes[head + 1 :]), 1.0)
    share = counts / np.maximum(counts.sum(-1, keepdims=True), 1)
    speaks = np.where(counts > 0, share, -10).astype(np.float32)  # what a head has never seen it speaks against
    return {
        "characters": np.eye(CHARACTERS, dtype=np.float32),
        "places": np.eye(LONGEST, dtype=np.float32),
        "speaks": speaks,
    }


def _constants() -> dict[str, np.ndarray]:
    whole = {"zero": 0, "one": 1, "first": [0], "axis": [0]}
    short = {"none": 0, "single": 1, "back": np.arange(HEADS)[:, None]}
    found = {name: np.asarray(value, np.int64) for name, value in whole.items()}
    return found | {name: np.asarray(value, np.int32) for name, value in short.items()} | {"sharp": _SHARP}


def _attention(length: str) -> list[NodeProto]:
    """Logits of the character after the last of `length` ones, from `all_keys` and `all_values`."""
    node = helper.make_node
    return [
        node("Cast", [length], ["many"], to=TensorProto.INT32),  # for which there is code on any GPU
        node("Sub", ["many", "single"], ["now"]),
        node("Sub", ["now", "back"], ["looked"]),  # HEADS x 1
        node("Max", ["looked", "none"], ["there"]),
        node("Gather", ["places", "there"], ["queries"]),  # HEADS x 1 x LONGEST
        node("Transpose", ["all_keys"], ["turned"], perm=[0, 2, 1]),  # 1 x LONGEST x length
        node("MatMul", ["queries", "turned"], ["alike"]),
        node("Mul", ["alike", "sharp"], ["scores"]),
        node("Softmax", ["scores"], ["weights"], axis=-1),
        node("MatMul", ["weights", "all_values"], ["seen"]),  # HEADS x 1 x CHARACTERS
        node("MatMul", ["seen", "speaks"], ["said"]),
        node("ReduceSum", ["said", "axis"], ["logits"], keepdims=0),  # 1 x CHARACTERS
    ]


def _model(name: str, nodes: list[NodeProto], inputs: dict[str, tuple[int, list[int | str]]], length: str) -> ModelProto:
    grown = {"keys": [1, length, LONGEST], "values": [1, length, CHARACTERS]}
    outputs = {"logits": [1, CHARACTERS], **{f"all_{kind}": shape for kind, shape in grown.items()}}
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(n, type_, shape) for n, (type_, shape) in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in outputs.items()],
        [numpy_helper.from_array(array, n) for n, array in {**_weights(), **_constants()}.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9, producer_name="")


def prefill() -> ModelProto:
    """`codes` 1 x T int64 → `logits`, and `all_keys` and `all_values` of those T."""
    node = helper.make_node
    nodes = [
        node("Shape", ["codes"], ["size"], start=1, end=2),
        node("Squeeze", ["size", "first"], ["length"]),
        node("Range", ["zero", "length", "one"], ["order"]),
        node("Unsqueeze", ["order", "first"], ["rows"]),
        node("Cast", ["rows"], ["short_rows"], to=TensorProto.INT32),
        node("Cast", ["codes"], ["short_codes"], to=TensorProto.INT32),
        node("Gather", ["places", "short_rows"], ["all_keys"]),
        node("Gather", ["characters", "short_codes"], ["all_values"]),
        *_attention("length"),
    ]
    return _model("prefill", nodes, {"codes": (TensorProto.INT64, [1, "T"])}, "T")


def step() -> ModelProto:
    """`code` 1 x 1 int64, and `keys` and `values` of P characters → `logits`, and those of P + 1."""
    node = helper.make_node
    nodes = [
        node("Shape", ["keys"], ["size"], start=1, end=2),
        node("Unsqueeze", ["size", "first"], ["row"]),
        node("Cast", ["row"], ["short_row"], to=TensorProto.INT32),
        node("Cast", ["code"], ["short_code"], to=TensorProto.INT32),
        node("Gather", ["places", "short_row"], ["key"]),
        node("Gather", ["characters", "short_code"], ["value"]),
        node("Concat", ["keys", "key"], ["all_keys"], axis=1),
        node("Concat", ["values", "value"], ["all_values"], axis=1),
        node("Squeeze", ["size", "first"], ["before"]),
        node("Add", ["before", "one"], ["length"]),
        *_attention("length"),
    ]
    inputs = {
        "code": (TensorProto.INT64, [1, 1]),
        "keys": (TensorProto.FLOAT, [1, "P", LONGEST]),
        "values": (TensorProto.FLOAT, [1, "P", CHARACTERS]),
    }
    return _model("step", nodes, inputs, "L")
