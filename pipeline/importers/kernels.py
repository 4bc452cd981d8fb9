"""What ONNX Runtime has no kernel for, said in what it has kernels for, so that it computes the reference of such a model too.

Measured with ONNX Runtime 1.32 on the CPU: it has none for operators of sets before 7, for some of the newest sets
(RoiAlign of 22), for a few types (Max and Min of 16 bits, reductions and products of small and of unsigned integers, Pow to
unsigned powers, bfloat16), and for some that ONNX defines by others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import onnx
import onnx.version_converter
from onnx import TensorProto

from pipeline.errors import PipelineError
from pipeline.importers import decisions
from pipeline.importers.functions import opset_of
from pipeline.importers.opsets import MINIMUM_OPSET, upgraded
from pipeline.importers.rewrites import bodies
from pipeline.importers.rewrites.graph import Scope, inferred, replaced, widened

Runs = Callable[[onnx.ModelProto], object]

_SMALL = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16)
# Types that hold all values of another one, the nearest first. Integers that are wrapped around are the same in the end.
_WIDER = (
    {**dict.fromkeys(_SMALL, TensorProto.INT32), TensorProto.BFLOAT16: TensorProto.FLOAT},
    dict.fromkeys((*_SMALL, TensorProto.INT32, TensorProto.UINT32), TensorProto.INT64),
)
_WITHIN = "an operator within another"
_BACK = 21  # the set whose kernels ONNX Runtime has for all operators


def supported(model: onnx.ModelProto, runs: Runs) -> tuple[onnx.ModelProto, str] | None:
    """A model that computes what `model` does, for which ONNX Runtime has all kernels, and what was changed, or None.

    `runs` raises what ONNX Runtime says of a model.
    """
    for changed, said in _changed(model, runs):
        if _missing(changed, runs)[0] is None:
            return changed, f"reference: ONNX Runtime lacks a kernel for the model as it is, and ran it {said}"
    return None


def _missing(model: onnx.ModelProto, runs: Runs) -> tuple[Exception | None, str]:
    """What ONNX Runtime says of `model`, None if it runs it; and the operator that it has no kernel for, if that is why.

    `_WITHIN` is one within another's definition, which ONNX Runtime has put in by itself.
    """
    named = onnx.ModelProto()
    named.CopyFrom(model)
    nodes = decisions.nodes(named.graph)
    for number, node in enumerate(nodes):
        node.name = f"node-{number}"
    try:
        runs(named)
    except Exception as error:  # its exceptions have no common base that it exports
        if "NOT_IMPLEMENTED" not in str(error):
            return error, ""
        return error, next((n.op_type for n in nodes if f"'{n.name}'" in str(error)), _WITHIN)
    return None, ""


def _changed(model: onnx.ModelProto, runs: Runs) -> Iterator[tuple[onnx.ModelProto, str]]:
    """Models that are the same as `model`, and in what they differ."""
    try:
        if 0 < opset_of(model) < MINIMUM_OPSET:
            model = upgraded(model, "")
            yield model, f"in operator set {opset_of(model)}"
        if opset_of(model) > _BACK:
            yield onnx.version_converter.convert_version(model, _BACK), f"in operator set {_BACK}"
    except (PipelineError, RuntimeError, onnx.version_converter.ConvertError):
        pass  # the converter does not know all operators
    said: list[str] = []
    try:
        model = inferred(model)
    except onnx.shape_inference.InferenceError:
        return
    while (operator := _missing(model, runs)[1]) and (found := _without(model, operator, runs)):
        model = found[0]
        said.append(found[1])
        yield model, " and ".join(said)


def _without(model: onnx.ModelProto, operator: str, runs: Runs) -> tuple[onnx.ModelProto, str] | None:
    """`model` with nodes of `operator` replaced such that ONNX Runtime lacks none of them; None if that cannot be."""
    operators = {node.op_type for node in decisions.nodes(model.graph)} if operator == _WITHIN else {operator}
    if (found := bodies.expanded(model, lambda node: node.op_type in operators)) is not None:
        what = "definitions in place of operators" if operator == _WITHIN else f"the definition of {operator} in its place"
        return found, f"with {what}"
    for wider in _WIDER:

        def wide(node: onnx.NodeProto, scope: Scope, wider: dict[int, int] = wider) -> Sequence[onnx.NodeProto] | None:
            return widened(node, scope, wider) if node.op_type == operator else None

        if (found := replaced(model, wide)) is not None and _missing(found, runs)[1] != operator:
            return found, f"with {operator} computed in a wider type"
    return None
