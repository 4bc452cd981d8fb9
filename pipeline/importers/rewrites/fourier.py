"""DFT and STFT: as products with a matrix of cosines and sines.

Measured: IREE 3.13 refuses the DFT of every set ("not supported" or a constant that is not lowered) and the STFT.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.arrays import Array
from pipeline.importers.functions import opset_of
from pipeline.importers.rewrites.graph import Nodes, Scope, Size, attribute, replaced

_LARGEST = 1 << 24  # values of a matrix: a larger one would be more than the model
_AXIS_IS_AN_INPUT = 20  # from this set on; before, the axis is an attribute, 1 if it is not said


@dataclass(frozen=True)
class _Transform:
    """From `taken` values of `parts` parts (real, and perhaps imaginary) to `kept` of the `length` values of the transform."""

    taken: int
    parts: int
    length: int
    kept: int
    inverse: bool

    @property
    def size(self) -> int:
        return self.parts * self.taken * 2 * self.kept

    def matrix(self) -> Array:
        """Real parts before imaginary ones, in its rows and in its columns."""
        angles = 2 * np.pi * (np.outer(np.arange(self.taken), np.arange(self.kept)) % self.length) / self.length
        real, imaginary = np.cos(angles), np.sin(angles) * (1 if self.inverse else -1)
        rows = [np.hstack([real, imaginary]), np.hstack([-imaginary, real])][: self.parts]
        return np.asarray(np.vstack(rows) / (self.length if self.inverse else 1))


def _integers(scope: Scope, *values: int) -> str:
    return scope.add(np.array(values), TensorProto.INT64)


def _integer(scope: Scope, name: str) -> int | None:
    """The value of a constant with one, None for anything else."""
    value = scope.constant(name) if name else None
    return int(value.item()) if value is not None and value.size == 1 else None


def _along(
    nodes: Nodes, scope: Scope, source: str, shape: Sequence[Size], axis: int, transform: _Transform, type_: int, result: str
) -> None:
    """Transform `source` along `axis`; its last axis has the parts."""
    if shape[axis] != transform.taken:
        source = nodes("Slice", source, _integers(scope, 0), _integers(scope, transform.taken), _integers(scope, axis))
    last = len(shape) - 1
    order = [*(a for a in range(last) if a != axis), last, axis]
    others = [shape[a] for a in order[:-2]]
    rows = nodes("Transpose", source, perm=order)
    rows = nodes.shaped(rows, [*others, transform.parts * transform.taken])
    product = nodes("MatMul", rows, scope.add(transform.matrix(), type_))
    found = nodes.shaped(product, [*others, 2, transform.kept])
    nodes("Transpose", found, perm=[order.index(a) for a in range(last + 1)], result=result)


def _dft(node: onnx.NodeProto, scope: Scope, opset: int) -> Sequence[onnx.NodeProto] | None:
    given = [*node.input, "", ""]
    shape, type_ = scope.sizes(given[0]), scope.type(given[0])
    if opset >= _AXIS_IS_AN_INPUT:
        axis = _integer(scope, given[2]) if given[2] else -2
    else:
        axis = 1 if attribute(node, "axis") is None else attribute(node, "axis")
    if shape is None or axis is None or len(shape) < 2:
        return None
    axis, inverse, onesided = axis % len(shape), bool(attribute(node, "inverse")), bool(attribute(node, "onesided"))
    length = _integer(scope, given[1]) if given[1] else shape[axis]
    taken, parts = shape[axis], shape[-1]
    if not length or taken is None or parts is None or axis == len(shape) - 1 or (inverse and onesided):
        return None
    kept = length // 2 + 1 if onesided else length
    transform = _Transform(min(taken, length), parts, length, kept, inverse)
    if transform.size > _LARGEST:
        return None
    nodes = Nodes(node, scope)
    _along(nodes, scope, given[0], nodes.sizes(given[0]), axis, transform, type_, node.output[0])
    return nodes


def _stft(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    """The transforms of windows of the signal, which are gathered."""
    signal, _, window, _ = given = [*node.input, "", ""][:4]
    shape, type_, step, width = scope.sizes(signal), scope.type(signal), _integer(scope, given[1]), scope.shape(window)
    length = _integer(scope, given[3]) if given[3] else width[0] if width else None
    if shape is None or not step or not length:
        return None
    nodes, onesided = Nodes(node, scope), attribute(node, "onesided") != 0
    if len(shape) == 2:
        signal, shape = nodes("Unsqueeze", signal, _integers(scope, 2)), (*shape, 1)
    count, samples, parts = nodes.sizes(signal, shape)
    frames = nodes.reckoned("Add", nodes.reckoned("Div", nodes.reckoned("Sub", samples, length), step), 1)
    if not isinstance(parts, int) or (isinstance(frames, int) and frames < 1) or (width and width[0] != length):
        return None
    transform = _Transform(length, parts, length, length // 2 + 1 if onesided else length, False)
    if transform.size > _LARGEST:
        return None
    if isinstance(frames, int):
        places = scope.add(np.arange(frames)[:, None] * step + np.arange(length), TensorProto.INT64)
    else:
        starts = nodes("Mul", nodes.counted(frames, TensorProto.INT64), scope.add(np.array(step), TensorProto.INT64))
        places = nodes("Add", nodes("Unsqueeze", starts, _integers(scope, 1)), nodes.counted(length, TensorProto.INT64))
    pieces = nodes("Gather", signal, places, axis=1)
    if window:
        pieces = nodes("Mul", pieces, nodes("Unsqueeze", window, _integers(scope, 1)))
    _along(nodes, scope, pieces, [count, frames, length, parts], 2, transform, type_, node.output[0])
    return nodes


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Put products in their place; None if there are none, or of lengths that depend on data."""
    opset = opset_of(model)

    def change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
        if node.op_type == "DFT":
            return _dft(node, scope, opset)
        return _stft(node, scope) if node.op_type == "STFT" else None

    return replaced(model, change)
