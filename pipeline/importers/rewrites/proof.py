"""Whether a rewritten model computes what it did before, by running both."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from pipeline.arrays import Array
from pipeline.compare import Tolerance, compare, tolerances_for
from pipeline.importers import decisions, weights
from pipeline.importers.draws import GIVEN, draws
from pipeline.spec.types import Input


class Proof:
    """The outputs of a model, to compare others with."""

    def __init__(self, model: onnx.ModelProto, inputs: Sequence[Input], where: str) -> None:
        self._model, self._inputs, self._where = model, inputs, where

    @functools.cached_property
    def _cases(self) -> list[tuple[list[Array], list[Array]]]:
        """Inputs and outputs, of those draws that the model takes: `given`, and what else it can be run with."""
        found, running = [], _session(self._model)
        for name, arrays in draws(self._inputs, self._where).items():
            try:
                found.append((arrays, _outputs(running, self._feed(arrays))))
            except Exception:
                if name == GIVEN:
                    raise
        return found

    @property
    def _data(self) -> list[list[Array]]:
        return [arrays for arrays, _ in self._cases]

    @property
    def _expected(self) -> list[list[Array]]:
        return [outputs for _, outputs in self._cases]

    def _feed(self, arrays: Sequence[Array]) -> dict[str, Array]:
        return dict(zip([i.name for i in self._inputs], arrays, strict=True))

    def _run(self, model: onnx.ModelProto) -> list[list[Array]]:
        running = _session(model)
        return [_outputs(running, self._feed(arrays)) for arrays in self._data]

    @functools.cached_property
    def _tolerances(self) -> list[list[Tolerance]]:
        """How far each output of each set of data may be off: the yardstick of verification, without noise, which takes time."""
        from pipeline.importers.onnxruntime import precisions

        return [tolerances_for(outputs, precisions(self._model)) for outputs in self._expected]

    @functools.cached_property
    def _with_noise(self) -> list[list[Tolerance]]:
        """The same with noise: quantized numbers on the verge of the next one go either way with the order of roundings."""
        from pipeline.importers.onnxruntime import Others, precisions

        others, coarsest = Others(self._model), precisions(self._model)
        pairs = zip(self._expected, self._data, strict=True)
        return [tolerances_for(outputs, coarsest, others.run(arrays)) for outputs, arrays in pairs]

    def problem(self, candidate: onnx.ModelProto) -> str:
        """How `candidate` differs from the model on the test data, or why nobody knows; empty where it does not."""
        try:
            found = self._run(candidate)
            compared = [compare(*three) for three in zip(found, self._expected, self._tolerances, strict=True)]
            if any(result.problem for result in compared):
                compared = [compare(*three) for three in zip(found, self._expected, self._with_noise, strict=True)]
        except Exception as error:  # whatever an evaluator raises: it says no
            return f"cannot be run: {(str(error).strip() or repr(error)).splitlines()[0]}"
        return next((result.problem for result in compared if result.problem), "")


def without_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose nodes have no names: ONNX Runtime refuses two of one name, which those that replace one node have."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in decisions.nodes(copy.graph):
        node.ClearField("name")
    return copy


def _session(model: onnx.ModelProto) -> Any:
    """What runs the model: ONNX Runtime as it stands, or ONNX's reference where that lacks an operator."""
    from onnx.reference import ReferenceEvaluator

    from pipeline.importers import onnxruntime

    try:
        return onnxruntime.session(without_names(model))
    except Exception:  # its exceptions have no common base that it exports
        return ReferenceEvaluator(weights.inside(model))


def _outputs(running: Any, feed: dict[str, Array]) -> list[Array]:
    with np.errstate(all="ignore"):
        return [np.asarray(output) for output in running.run(None, feed)]
