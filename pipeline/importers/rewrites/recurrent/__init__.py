"""LSTM, GRU and RNN in the forms that IREE 3.13 refuses or gets wrong: as a Loop over their steps.

Measured on the CPU, 5 steps: IREE is right with LSTM forward and bidirectional, GRU and RNN forward, with any weights, states and
results. GRU and RNN bidirectional, all in reverse, LSTM and GRU with `clip`, and `input_forget` are refused; sequence lengths,
peepholes, the `clip` of RNN, activations of LSTM and GRU and most of RNN's are passed over. Those are what is rewritten.

A Loop was chosen by figures for LSTM with 64 inputs and units: its code and the time that the compiler takes are the same for any
number of steps, as IREE's own lowering's (1.4 seconds of one core, 153 kB). Written out, each step becomes kernels of its own,
for the slices lie at other places: 3 seconds for 20 steps, 10 for 100, 34 for 300. A Loop runs as fast as IREE's own: 2.8 ms and
3.2 ms for 100 steps, 36 and 76 for 1000, on two busy cores; written out, 100 steps take 0.3.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import TensorProto

from pipeline.importers.functions import opset_of
from pipeline.importers.rewrites.graph import Scope, attribute, replaced, widened
from pipeline.importers.rewrites.microsoft.call import Call, UnknownError, UnsupportedError
from pipeline.importers.rewrites.recurrent import layer

_DEFAULT = {"LSTM": ("sigmoid", "tanh", "tanh"), "GRU": ("sigmoid", "tanh"), "RNN": ("tanh",)}

_WIDER = dict.fromkeys((TensorProto.FLOAT16, TensorProto.BFLOAT16), TensorProto.FLOAT)


def _is_right(node: onnx.NodeProto, scope: Scope) -> bool:
    """Whether IREE's own lowering computes this form."""
    kind, direction = node.op_type, attribute(node, "direction") or b"forward"
    names = [name.decode().lower() for name in attribute(node, "activations") or []]
    default = _DEFAULT[kind] * (2 if direction == b"bidirectional" else 1)
    return (
        direction in ((b"forward", b"bidirectional") if kind == "LSTM" else (b"forward",))
        and (not names or tuple(names[: len(default)]) == default or (kind == "RNN" and names[:1] == ["relu"]))
        and not any(attribute(node, name) for name in ("clip", "input_forget", "layout"))
        and not (len(node.input) > 7 and node.input[7])
        and not layer.lengths_matter(node, scope)
    )


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Put Loops in their places; None if there are none of these.

    In float32 where the node has less: so does ONNX Runtime.
    """
    opset = opset_of(model)

    def widen(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
        return widened(node, scope, _WIDER) if node.op_type in _DEFAULT and not _is_right(node, scope) else None

    def change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
        if node.op_type not in _DEFAULT or _is_right(node, scope):
            return None
        try:
            call = Call(node, scope, opset)
            layer.expand(call)
        except (UnknownError, UnsupportedError):
            return None
        return call

    return replaced(replaced(model, widen) or model, change)
