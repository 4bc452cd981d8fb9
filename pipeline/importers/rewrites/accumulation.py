"""Sums and products in 16 bits: IREE 3.13 adds up in the type of the values, ONNX Runtime in float32.

Measured for float16, 4096 values: ReduceMean of numbers about 75 is infinite, of [0, 1) off by 5e-3; ReduceL2 and
ReduceSumSquare by 3 to 6 %, LogSoftmax and LpNormalization by 3 to 17 %. Right are MatMul, Gemm, Einsum, Conv and
ConvTranspose (they add up in float32), and in float16 Softmax, ReduceLogSumExp and normalization of layers, instances, batches.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import TensorProto

from pipeline.importers.rewrites.graph import Scope, replaced, widened

_OPERATORS = frozenset(
    """AveragePool CumSum GlobalAveragePool GlobalLpPool LRN LogSoftmax LpNormalization LpPool MeanVarianceNormalization
    ReduceL1 ReduceL2 ReduceLogSum ReduceMean ReduceProd ReduceSum ReduceSumSquare""".split()
)
_OF_BFLOAT16 = _OPERATORS | frozenset(
    "BatchNormalization GroupNormalization InstanceNormalization LayerNormalization ReduceLogSumExp Softmax".split()
)


def _change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    wider = {TensorProto.FLOAT16: TensorProto.FLOAT} if node.op_type in _OPERATORS else {}
    wider |= {TensorProto.BFLOAT16: TensorProto.FLOAT} if node.op_type in _OF_BFLOAT16 else {}
    return widened(node, scope, wider)


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Compute such operators in float32; None if there are none."""
    return replaced(model, _change)
