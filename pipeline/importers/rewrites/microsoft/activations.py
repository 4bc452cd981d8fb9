"""Activations, and products and convolutions with one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.importers.rewrites.microsoft.call import Call, UnsupportedError

# Their parameters, by position.
_ACTIVATIONS: Mapping[str, tuple[str, ...]] = {
    "": (),
    "Relu": (),
    "Sigmoid": (),
    "Tanh": (),
    "Softplus": (),
    "Softsign": (),
    "HardSwish": (),
    "LeakyRelu": ("alpha",),
    "Elu": ("alpha",),
    "ThresholdedRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "Clip": ("min", "max"),
}


def _activated(call: Call, value: str, kind: str, parameters: Sequence[float]) -> str:
    if kind not in _ACTIVATIONS:
        raise UnsupportedError(f"its activation is {kind}")
    if not kind:
        return value
    if kind == "Clip":
        return call(kind, value, *(call.number(number) for number in parameters))
    attributes: dict[str, Any] = dict(zip(_ACTIVATIONS[kind], parameters, strict=False))
    return call(kind, value, **attributes)


def _gelu(call: Call, x: str) -> str:
    one = call("Add", call("Erf", call("Mul", x, call.number(math.sqrt(0.5)))), call.number(1))
    return call("Mul", call("Mul", x, call.number(0.5)), one)


def gelu(call: Call) -> None:
    """Gelu and BiasGelu."""
    call.last(_gelu(call, call.plus(call.input(0), call.input(1))))


def fast_gelu(call: Call) -> None:
    """Gelu by way of tanh."""
    x = call.plus(call.input(0), call.input(1))
    inner = call("Add", call("Mul", call("Mul", x, x), call.number(0.044715)), call.number(1))
    tanh = call("Tanh", call("Mul", call("Mul", x, call.number(math.sqrt(2 / math.pi))), inner))
    call.last(call("Mul", call("Mul", x, call.number(0.5)), call("Add", tanh, call.number(1))))


def quick_gelu(call: Call) -> None:
    """x · sigmoid(alpha · x)."""
    x = call.input(0)
    call.last(call("Mul", x, call("Sigmoid", call("Mul", x, call.number(call.attribute("alpha", 1.702))))))


def _transposed(call: Call, side: str, value: str) -> str:
    """An operand of a FusedMatMul: its first axis after the other batches (transBatch), and the last two exchanged (trans)."""
    batch, last = call.attribute(f"transBatch{side}", 0), call.attribute(f"trans{side}", 0)
    rank = call.rank(value) if batch or last else 0
    if rank < 2:
        return value
    axes = [*range(rank)]
    if batch:
        axes = [*axes[1:-1], axes[0], axes[-1]]
    if last:
        axes = [*axes[:-2], axes[-1], axes[-2]]
    return call("Transpose", value, perm=axes)


def matmul(call: Call) -> None:
    """FusedMatMul and TransposeMatMul."""
    result = call("MatMul", *(_transposed(call, side, call.input(i)) for i, side in enumerate("AB")))
    alpha = call.attribute("alpha", 1.0)
    call.last(result if alpha == 1 else call("Mul", result, call.number(alpha)))


def gemm(call: Call) -> None:
    """FusedGemm."""
    result = call(
        "Gemm", *call.node.input, **{n: v for n in ("alpha", "beta", "transA", "transB") if (v := call.attribute(n)) is not None}
    )
    names = ("activation_alpha", "activation_beta")
    call.last(
        _activated(call, result, call.attribute("activation", ""), [v for n in names if (v := call.attribute(n)) is not None])
    )


def conv(call: Call) -> None:
    """FusedConv: a fourth input is added before the activation."""
    result = call("Conv", *(list(call.node.input[:3]) if call.input(2) else list(call.node.input[:2])))
    call[-1].attribute.extend(a for a in call.node.attribute if not a.name.startswith("activation"))
    result = call.plus(result, call.input(3))
    call.last(_activated(call, result, call.attribute("activation", ""), call.attribute("activation_params", [])))
