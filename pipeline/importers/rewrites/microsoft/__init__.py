"""Operators of ONNX Runtime's own domain, as its quantizer and its transformer optimizer write them, said in standard ones.

IREE 3.13 imports none of them. Where ONNX Runtime computes in an order of its own, the rule does too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx

from pipeline.importers.functions import opset_of
from pipeline.importers.rewrites.graph import Scope, replaced
from pipeline.importers.rewrites.microsoft import activations, attention, norms, quantized, recurrent
from pipeline.importers.rewrites.microsoft.call import Call, UnknownError, UnsupportedError

DOMAIN = "com.microsoft"
# What ONNX Runtime writes into ONNX's own domain.
_STANDARD = frozenset(["SimplifiedLayerNormalization"])
_RULES: Mapping[str, Callable[[Call], None]] = {
    "Attention": attention.attention,
    "BiasGelu": activations.gelu,
    "DequantizeLinear": quantized.linear,
    "DynamicQuantizeLSTM": recurrent.dynamic_lstm,
    "DynamicQuantizeMatMul": quantized.dynamic_matmul,
    "EmbedLayerNormalization": norms.embed_layer,
    "FastGelu": activations.fast_gelu,
    "FusedConv": activations.conv,
    "FusedGemm": activations.gemm,
    "FusedMatMul": activations.matmul,
    "Gelu": activations.gelu,
    "GroupQueryAttention": attention.group_query,
    "MatMulIntegerToFloat": quantized.matmul_to_float,
    "MatMulNBits": quantized.matmul_bits,
    "MultiHeadAttention": attention.multi_head,
    "QAttention": attention.quantized_attention,
    "QGemm": quantized.gemm,
    "QLinearAdd": quantized.add,
    "QLinearAveragePool": quantized.average_pool,
    "QLinearConcat": quantized.concat,
    "QLinearConv": quantized.conv,
    "QLinearGlobalAveragePool": quantized.global_average_pool,
    "QLinearLeakyRelu": quantized.leaky_relu,
    "QLinearMul": quantized.multiply,
    "QLinearSigmoid": quantized.sigmoid,
    "QLinearSoftmax": quantized.softmax,
    "QLinearWhere": quantized.where,
    "QuantizeLinear": quantized.linear,
    "QuickGelu": activations.quick_gelu,
    "RotaryEmbedding": norms.rotary,
    "SimplifiedLayerNormalization": norms.simplified_layer,
    "SkipLayerNormalization": norms.skip_layer,
    "SkipSimplifiedLayerNormalization": norms.skip_simplified_layer,
    "TransposeMatMul": activations.matmul,
}


def _made(node: onnx.NodeProto, scope: Scope, opset: int) -> Call | None:
    """The nodes for a node that there is a rule for. Raises UnsupportedError and UnknownError."""
    if node.op_type not in _RULES or (node.domain != DOMAIN and node.op_type not in _STANDARD):
        return None
    call = Call(node, scope, opset)
    _RULES[node.op_type](call)
    return call


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Put standard operators in their places; None if there are none of these.

    ONNX infers no types of what they give, so those after them may have to wait for them.
    """
    opset = opset_of(model)

    def change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
        try:
            return _made(node, scope, opset)
        except (UnsupportedError, UnknownError):
            return None

    found = replaced(model, change, DOMAIN)
    while found is not None and (more := replaced(found, change, DOMAIN)) is not None:
        found = more
    return found


def why_not(model: onnx.ModelProto, node: onnx.NodeProto) -> str:
    """Why a node of the model's own graph was left, empty where it cannot be said."""
    try:
        return "" if _made(node, Scope(model.graph), opset_of(model)) else "there is no rule for it"
    except UnsupportedError as error:
        return str(error)
    except UnknownError:
        return "the type or shape of an input is not known"
