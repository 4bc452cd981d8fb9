"""LSTM, GRU and RNN in the forms that IREE 3.13 refuses, gets wrong or makes slow: as a Loop over their steps.

Measured on the CPU: IREE is right with LSTM forward and bidirectional, and with GRU and RNN forward, whatever weights, states and
results they have; where sizes are open, with LSTM alone, and of the others it takes an open length of steps, as a Loop, and no
open batch. It refuses GRU and RNN bidirectional, all in reverse, `input_forget`, and the clip of LSTM and GRU. It passes over
lengths of sequences, peepholes, the clip of RNN, and all functions but the default ones, Relu and Sigmoid of RNN.

A Loop was chosen by figures, for LSTM of 64 inputs and units on two cores. Code and compile time are the same for any number of
steps, and as small as those of IREE's own lowering (153 kB, 2 seconds). Written out, each step becomes kernels of its own, as its
slices lie at other places: 3 seconds for 20 steps, 10 for 100, 34 for 300, over 150 for 1000. In milliseconds a run:

| steps | IREE's own | Loop | written out |
| --- | --- | --- | --- |
| 50 | 1.0 | 1.0 | |
| 100 | 1.2 | 1.3 | 0.3 |
| 300 | 21 | 6.4 | 0.8 |
| 1000 | 79 | 36 | |

Of one sequence, `faster.recurrences` writes the steps out so that they share their kernels.
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
_LONG = 200  # steps: of more, IREE's own lowering takes several times as long


def _is_right(node: onnx.NodeProto, scope: Scope) -> bool:
    """Whether IREE's own lowering computes this form, and in time."""
    kind, direction = node.op_type, attribute(node, "direction") or b"forward"
    names = [name.decode().lower() for name in attribute(node, "activations") or []]
    default = _DEFAULT[kind] * (2 if direction == b"bidirectional" else 1)
    shape = scope.shape(node.input[0])
    return (
        (kind == "LSTM" if shape is None else shape[0] <= _LONG)
        and direction in ((b"forward", b"bidirectional") if kind == "LSTM" else (b"forward",))
        and (not names or tuple(names[: len(default)]) == default or (kind == "RNN" and names[0] in ("relu", "sigmoid")))
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
