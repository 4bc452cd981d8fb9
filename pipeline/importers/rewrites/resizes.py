"""Resizes that IREE 3.13 refuses or gets wrong: as weighted sums of values that are gathered, axis by axis.

Measured: refused are `pytorch_half_pixel`, `align_corners` and `half_pixel_symmetric` of nearest values, tf_crop_and_resize,
`axes`, another aspect policy, other than space resized, `linear` in one or three dimensions or in float16, `cubic` with other
coefficients, and `antialias`. With `round_prefer_ceil` neighbours at a tie are not ONNX Runtime's.

Which values count for how much is what ONNX Runtime makes of a unit matrix, so there is no second reading of ONNX's rules here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from pipeline.arrays import Array
from pipeline.importers.rewrites.graph import Nodes, Scope, attribute, replaced

_TAPS = 12  # values that one result is made of; with more it is a matrix product
_RIGHT = {
    "nearest": (b"half_pixel", b"asymmetric"),
    "linear": (b"half_pixel", b"pytorch_half_pixel", b"align_corners", b"asymmetric", b"half_pixel_symmetric"),
    "cubic": (b"half_pixel", b"pytorch_half_pixel", b"align_corners", b"asymmetric"),
}
# What concerns all axes together is settled before one of them is looked at.
_TOGETHER = ("axes", "keep_aspect_ratio_policy", "extrapolation_value")
_MARK = 1e6  # no weight is as large


def _is_right(node: onnx.NodeProto, shape: Sequence[int], result: Sequence[int], type_: int) -> bool:
    """Whether IREE makes of `node` what ONNX Runtime does."""
    said = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    mode = said.get("mode", b"nearest").decode()
    known = {"mode", "coordinate_transformation_mode", "nearest_mode"}
    plain = said.get("coordinate_transformation_mode", b"half_pixel") in _RIGHT[mode]
    plain &= all(name in known or not value for name, value in said.items() if name != "extrapolation_value")
    ranks = (3, 4, 5) if mode == "nearest" else (4,)
    plain &= len(shape) in ranks and list(shape[:2]) == list(result[:2])
    if mode == "nearest":
        return plain and said.get("nearest_mode", b"") != b"round_prefer_ceil"
    return plain and type_ == TensorProto.FLOAT


def _change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    if node.op_type != "Resize":
        return None
    given = [*node.input, "", "", ""]
    shape, result = scope.shape(given[0]), scope.shape(node.output[0])
    roi, scales, sizes = (scope.constant(name) if name else None for name in given[1:4])
    type_ = scope.type(given[0])
    if shape is None or result is None or (scales is None and sizes is None) or _is_right(node, shape, result, type_):
        return None
    axes = [a % len(shape) for a in attribute(node, "axes") or range(len(shape))]
    factors = dict(zip(axes, (scales if scales is not None and scales.size else []), strict=False))
    policy = attribute(node, "keep_aspect_ratio_policy") not in (None, b"stretch")
    nodes, value, outside = Nodes(node, scope), given[0], np.zeros([1] * len(shape), bool)
    for axis, (old, new) in enumerate(zip(shape, result, strict=True)):
        crop = _crop(node, roi, axes, axis)
        factor = factors.get(axis)
        if factor is None and policy and sizes is not None and axis in axes:
            pairs = [(size / shape[a]) for a, size in zip(axes, sizes.tolist(), strict=True)]
            factor = (min if attribute(node, "keep_aspect_ratio_policy") == b"not_larger" else max)(pairs)
        if old == new and crop == (0, 1) and factor in (None, 1):
            continue
        matrix = _matrix(node, old, new, factor, crop)
        marked = _matrix(node, old, new, factor, crop, _MARK)
        if matrix is None or marked is None:
            return None
        lines = [-1 if a == axis else 1 for a in range(len(shape))]
        outside = outside | (marked == _MARK).all(axis=1).reshape(lines)
        value = _applied(nodes, scope, value, type_, axis, len(shape), matrix)
    beyond = attribute(node, "extrapolation_value")
    if beyond and outside.any():
        nodes("Where", scope.add(outside, TensorProto.BOOL), scope.add(np.array(beyond), type_), value, result=node.output[0])
    else:
        nodes("Identity", value, result=node.output[0])
    return nodes


def _crop(node: onnx.NodeProto, roi: Array | None, axes: Sequence[int], axis: int) -> tuple[float, float]:
    """The part of an axis that is resized."""
    crops = attribute(node, "coordinate_transformation_mode") == b"tf_crop_and_resize"
    if not crops or roi is None or not roi.size or axis not in axes:
        return 0.0, 1.0
    return float(roi[axes.index(axis)]), float(roi[axes.index(axis) + len(axes)])


def _matrix(
    node: onnx.NodeProto, old: int, new: int, factor: float | None, crop: tuple[float, float], beyond: float = 0.0
) -> Array | None:
    """How much of each of `old` values is in each of `new`, and `beyond` in those that lie outside of a crop.

    None where ONNX Runtime does not say it.
    """
    from pipeline.importers import onnxruntime

    region = np.array([0, 0, crop[0], 0, 1, 1, crop[1], 1], np.float32)
    if factor is None:
        name, how = "sizes", np.array([1, 1, new, old])
    else:
        name, how = "scales", np.array([1, 1, factor, 1], np.float32)
    inner = helper.make_node("Resize", ["x", "roi", name, ""] if factor is not None else ["x", "roi", "", name], ["y"])
    inner.attribute.extend(a for a in node.attribute if a.name not in _TOGETHER)
    inner.attribute.append(helper.make_attribute("extrapolation_value", beyond))
    values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, old, old])]
    constants = [onnx.numpy_helper.from_array(region, "roi"), onnx.numpy_helper.from_array(how, name)]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([inner], "g", values, [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    try:
        (found,) = onnxruntime.session(model).run(None, {"x": np.eye(old, dtype=np.float32)[None, None]})
    except Exception:  # its exceptions have no common base that it exports
        return None
    return np.asarray(found[0, 0])


def _applied(nodes: Nodes, scope: Scope, value: str, type_: int, axis: int, rank: int, matrix: Array) -> str:
    """`value` with `matrix` applied to an axis."""
    taps = max(int((matrix != 0).sum(axis=1).max()), 1)
    if taps > _TAPS:
        last = [*(i for i in range(rank) if i != axis), axis]
        turned = nodes("Transpose", value, perm=last)
        made = nodes("MatMul", turned, scope.add(matrix.T, type_))
        return str(nodes("Transpose", made, perm=np.argsort(last).tolist()))
    # The heaviest first; in the order in which they lie, so that sums are made in the same order for all.
    places = np.sort(np.argsort(matrix == 0, axis=1, kind="stable")[:, :taps], axis=1)
    weights = np.take_along_axis(matrix, places, axis=1)
    parts = []
    for tap in range(taps):
        part = nodes("Gather", value, scope.add(places[:, tap], TensorProto.INT32), axis=axis)
        if not (weights[:, tap] == 1).all():
            by = weights[:, tap].reshape([-1, *[1] * (rank - 1 - axis)])
            part = nodes("Mul", part, scope.add(by, type_))
        parts.append(part)
    total = parts[0]
    for part in parts[1:]:
        total = nodes("Add", total, part)
    return total


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Gather what such resizes take; None if there are none."""
    return replaced(model, _change)
