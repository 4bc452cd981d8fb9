"""DynamicQuantizeLSTM: an LSTM whose products are of quantized numbers, the inputs' by their range, the states' in each step.

ONNX Runtime quantizes the states of a batch in as many parts as it has threads, if the batch is large or the states small. That
is here what it is with threads enough: a part for each sequence. With fewer, ONNX Runtime is off by its quantization's noise.
"""

from __future__ import annotations

from onnx import TensorProto

from pipeline.importers.rewrites.microsoft.call import Call
from pipeline.importers.rewrites.microsoft.quantized import dynamic_product
from pipeline.importers.rewrites.recurrent import layer
from pipeline.importers.rewrites.recurrent.cells import Product, split

_QUANTIZATION = {1: (8, 9), 2: (10, 11)}  # where the scale and the zero point of weights are
_FEW, _SMALL = 4, 256  # sequences and units: where ONNX Runtime begins to part a batch
_MOST = 16  # sequences: of more, each would take nodes of its own, and nobody has the threads


def dynamic_lstm(call: Call) -> None:
    """DynamicQuantizeLSTM. The weights of its gates lie in columns."""
    layer.expand(call, "LSTM", _quantized)


def _quantized(side: layer.Side, number: int, _rows: tuple[int, int] | None) -> Product:
    call = side.call
    weights, scale, zero = (side.slice(call.input(index)) for index in (number, *_QUANTIZATION[number]))
    if call.rank(call.input(_QUANTIZATION[number][1])) > 1:  # ONNX Runtime refuses other than equal ones
        zero = call("Gather", zero, call.number(0, TensorProto.INT64), axis=0)

    def product(into: Call, value: str) -> str:
        return dynamic_product(into, value, weights, scale, zero, "")

    def by_sequence(into: Call, values: str) -> str:
        return into("Concat", *(product(into, row) for row in split(into, values, count, axis=0)), axis=0)

    count = call.shape(call.input(0))[1]
    is_parted = number == 2 and (_FEW < count <= _MOST or (1 < count <= _FEW and side.units <= _SMALL))
    return by_sequence if is_parted else product
