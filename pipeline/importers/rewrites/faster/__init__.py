"""Rewrites for speed: operators that IREE 3.13 compiles right, and slowly for CPUs, as others that it compiles well.

Measured on AVX2 with two threads, against IREE's own code: see each. What changes here is the order of sums, within what the
proof on the model allows; where that does not hold, nothing is changed.
"""

from __future__ import annotations

import onnx

from pipeline.importers.functions import opset_of
from pipeline.importers.rewrites.faster import depthwise, integers, lines, planes, points, products, recurrences, shuffles
from pipeline.importers.rewrites.graph import replaced


def transposed(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """ConvTranspose without the zeros between values."""
    return replaced(model, shuffles.change)


def whole_numbers(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Convolutions of integers as exact ones of float32."""
    return replaced(model, integers.change)


def windows(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Convolutions of one window, along one dimension, of planes, and of single channels, as products and sums."""
    kinds = (points, lines, planes, depthwise)
    return replaced(model, lambda node, scope: next((made for kind in kinds if (made := kind.change(node, scope))), None))


def rows(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Products of few rows with weights that are read in their order."""
    return replaced(model, products.change)


def steps(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Recurrent layers whose steps are written out."""
    opset = opset_of(model)
    return replaced(model, lambda node, scope: recurrences.change(node, scope, opset))
