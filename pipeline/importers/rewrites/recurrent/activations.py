"""The functions of recurrent layers, with the parameters that ONNX Runtime gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pipeline.importers.rewrites.microsoft.call import Call, UnsupportedError

Function = Callable[[Call, str], str]
# Which parameters a function takes, and what they are where the node does not say; zero for all others.
_PARAMETERS = {
    "affine": "alpha beta",
    "elu": "alpha",
    "hardsigmoid": "alpha beta",
    "leakyrelu": "alpha",
    "scaledtanh": "alpha beta",
    "thresholdedrelu": "alpha",
}
_ALPHA, _BETA = {"leakyrelu": 0.01, "hardsigmoid": 0.2, "elu": 1.0}, {"hardsigmoid": 0.5}


def functions(call: Call, default: Sequence[str]) -> list[Function]:
    """The functions of all directions, in the node's order; `default` are those of one."""
    directions = 2 if call.attribute("direction") == "bidirectional" else 1
    given = [name.decode() for name in call.attribute("activations", [])] or [*default] * directions
    names = [name.lower() for name in given][: len(default) * directions]
    alphas, betas = (list(call.attribute(f"activation_{letter}", [])) for letter in ("alpha", "beta"))
    left = iter(alphas), iter(betas)
    return [_function(name, _next("alpha", name, left[0], _ALPHA), _next("beta", name, left[1], _BETA)) for name in names]


def _next(parameter: str, name: str, left: Iterator[float], default: dict[str, float]) -> float:
    return next(left, default.get(name, 0.0)) if parameter in _PARAMETERS.get(name, "").split() else 0.0


def _function(name: str, alpha: float, beta: float) -> Function:
    """A function by its name in lower case."""

    def affine(call: Call, x: str) -> str:
        return call.plus(call("Mul", x, call.number(alpha)), call.number(beta))

    def scaled_tanh(call: Call, x: str) -> str:
        return call("Mul", call("Tanh", call("Mul", x, call.number(beta))), call.number(alpha))

    def softsign(call: Call, x: str) -> str:
        return call("Div", x, call.plus(call("Abs", x), call.number(1)))

    def thresholded(call: Call, x: str) -> str:
        return call("Where", call("Greater", x, call.number(alpha)), x, call.number(0))

    table: dict[str, Function] = {
        "affine": affine,
        "elu": lambda call, x: call("Elu", x, alpha=alpha),
        "hardsigmoid": lambda call, x: call("HardSigmoid", x, alpha=alpha, beta=beta),
        "leakyrelu": lambda call, x: call("LeakyRelu", x, alpha=alpha),
        "relu": lambda call, x: call("Relu", x),
        "scaledtanh": scaled_tanh,
        "sigmoid": lambda call, x: call("Sigmoid", x),
        "softplus": lambda call, x: call("Softplus", x),
        "softsign": softsign,
        "tanh": lambda call, x: call("Tanh", x),
        "thresholdedrelu": thresholded,
    }
    if name not in table:
        raise UnsupportedError(f"its activation {name} is none of ONNX's")
    return table[name]
