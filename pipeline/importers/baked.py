"""Inputs of a model that have one value for ever: constants of it from the import on."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import numpy_helper

from pipeline.arrays import Array
from pipeline.spec.types import Input


def _array(spec: Input) -> Array:
    return np.array(np.broadcast_to(np.array(spec.value).astype(spec.dtype), spec.fixed))


def bake(model: onnx.ModelProto, inputs: Iterable[Input]) -> None:
    """Make those of `inputs` that have a value initializers of the graph. Those that the graph does not have are passed over."""
    values = {spec.name: _array(spec) for spec in inputs if spec.value is not None}
    # In files of IR version 3 every initializer is an input too, which no later one demands.
    model.ir_version = max(model.ir_version, 4)
    weights = {w.name for w in model.graph.initializer}
    for value in list(model.graph.input):
        if value.name in values and value.name not in weights:
            model.graph.initializer.append(numpy_helper.from_array(values[value.name], value.name))
        if value.name in values or value.name in weights:
            model.graph.input.remove(value)
