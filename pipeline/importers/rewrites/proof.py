"""Whether a rewritten model computes what it did before, by running both."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import onnx

from pipeline.arrays import Array
from pipeline.importers.draws import draws
from pipeline.spec.types import Input

# How far floats may be off, of the root mean square of all that are finite: roundings in between may be fewer than before.
_TOLERANCES = {"float16": 2e-2, "bfloat16": 1e-1, "float32": 1e-4, "float64": 1e-9}


class Proof:
    """The outputs of a model, to compare others with."""

    def __init__(self, model: onnx.ModelProto, inputs: Sequence[Input], where: str) -> None:
        self._model, self._inputs, self._where = model, inputs, where

    @functools.cached_property
    def _data(self) -> list[list[Array]]:
        return list(draws(self._inputs, self._where).values())

    @functools.cached_property
    def _expected(self) -> list[list[Array]]:
        return self._run(self._model)

    def _run(self, model: onnx.ModelProto) -> list[list[Array]]:
        return _run(model, [dict(zip([i.name for i in self._inputs], arrays, strict=True)) for arrays in self._data])

    def problem(self, candidate: onnx.ModelProto) -> str:
        """How `candidate` differs from the model on the test data, or why nobody knows; empty where it does not."""
        try:
            found = self._run(candidate)
            pairs = [pair for e, f in zip(self._expected, found, strict=True) for pair in zip(e, f, strict=True)]
        except Exception as error:  # whatever an evaluator raises: it says no
            return f"cannot be run: {(str(error).strip() or repr(error)).splitlines()[0]}"
        return next((problem for pair in pairs if (problem := _difference(*pair))), "")


def _run(model: onnx.ModelProto, feeds: Sequence[dict[str, Array]]) -> list[list[Array]]:
    """The model's outputs by ONNX Runtime as it stands, or by ONNX's reference where that lacks an operator."""
    import onnxruntime
    from onnx.reference import ReferenceEvaluator

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # its exceptions have no common base that it exports
        session = ReferenceEvaluator(model)
    with np.errstate(all="ignore"):
        return [[np.asarray(output) for output in session.run(None, feed)] for feed in feeds]


def _difference(expected: Array, found: Array) -> str:
    if expected.dtype != found.dtype or expected.shape != found.shape:
        return f"{found.dtype}{list(found.shape)} instead of {expected.dtype}{list(expected.shape)}"
    if (tolerance := _TOLERANCES.get(str(expected.dtype))) is None:
        return "" if (expected == found).all() else "integers differ"
    a, b = expected.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(b[finite]).all():
        return "infinities or NaN differ"
    size, error = (float(np.sqrt(np.square(values).mean())) if values.size else 0.0 for values in (a[finite], (a - b)[finite]))
    return f"off by {error:.2g} of {size:.2g}" if error > tolerance * size else ""
