"""Models in an operator set that IREE and ONNX Runtime know: older ones are raised by ONNX's converter."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.version_converter

from pipeline.errors import PipelineError
from pipeline.importers import decisions, functions
from pipeline.importers.rewrites.graph import Nodes, Scope, replaced

# IREE's ONNX front end lowers the operators of recent sets only (BatchNormalization from 15 on, for one).
MINIMUM_OPSET = 17
# Up to these sets Upsample and Resize know one rule, and PRelu has its slopes along the channels; the converter tells neither.
_OLD_RESIZE, _OLD_PRELU = 10, 6


def upgraded(model: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """`model` in at least operator set MINIMUM_OPSET."""
    version = functions.opset_of(model) or MINIMUM_OPSET
    if version >= MINIMUM_OPSET:
        return model
    try:
        raised = onnx.version_converter.convert_version(model, MINIMUM_OPSET)
    except (RuntimeError, onnx.version_converter.ConvertError) as error:
        raise PipelineError(f"cannot be raised from operator set {version} to {MINIMUM_OPSET}: {error}", where=where) from error
    if version <= _OLD_RESIZE:
        _say_the_rule(raised)
    return _with_slopes_of_channels(raised) if version <= _OLD_PRELU else raised


def _say_the_rule(model: onnx.ModelProto) -> None:
    """Write down, in place, what an old Resize does."""
    for node in decisions.nodes(model.graph):
        if node.op_type == "Resize":
            rule = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            kept = [a for a in node.attribute if a.name not in rule]
            del node.attribute[:]
            node.attribute.extend([*kept, *(onnx.helper.make_attribute(name, value) for name, value in rule.items())])


def _with_slopes_of_channels(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which each old PRelu takes one slope for each channel where it takes many, not for each of the last axis."""

    def change(node: onnx.NodeProto, scope: Scope) -> Nodes | None:
        if node.op_type != "PRelu":
            return None
        nodes, (values, slopes) = Nodes(node, scope), node.input
        rank, count = (len(scope.whole_type(name).tensor_type.shape.dim) for name in (values, slopes))
        if count != 1 or rank < 3 or scope.shape(slopes) == (1,):
            return None
        axes = scope.add(np.arange(1, rank - 1), onnx.TensorProto.INT64)
        nodes("PRelu", values, nodes("Unsqueeze", slopes, axes), result=node.output[0])
        return nodes

    return replaced(onnx.shape_inference.infer_shapes(model), change) or model
