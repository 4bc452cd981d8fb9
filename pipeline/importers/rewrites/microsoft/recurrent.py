"""DynamicQuantizeLSTM: an LSTM whose products are of quantized numbers, the inputs' by their range, the states' in each step.

With more than one thread ONNX Runtime quantizes the states of a batch in parts. The pipeline gives it one for such a model.
"""

from __future__ import annotations

from onnx import TensorProto

from pipeline.importers.rewrites.microsoft.call import Call
from pipeline.importers.rewrites.microsoft.quantized import dynamic_product
from pipeline.importers.rewrites.recurrent import layer
from pipeline.importers.rewrites.recurrent.cells import Product

_QUANTIZATION = {1: (8, 9), 2: (10, 11)}  # where the scale and the zero point of weights are


def dynamic_lstm(call: Call) -> None:
    """DynamicQuantizeLSTM. The weights of its gates lie in columns."""
    layer.expand(call, "LSTM", _quantized)


def _quantized(side: layer.Side, number: int, _rows: tuple[int, int] | None) -> Product:
    call = side.call
    weights, scale, zero = (side.slice(call.input(index)) for index in (number, *_QUANTIZATION[number]))
    if call.rank(call.input(_QUANTIZATION[number][1])) > 1:  # ONNX Runtime refuses other than equal ones
        zero = call("Gather", zero, call.number(0, TensorProto.INT64), axis=0)
    return lambda into, value: dynamic_product(into, value, weights, scale, zero, "")
