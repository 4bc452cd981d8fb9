"""One step of a recurrent layer: what LSTM, GRU and RNN make of a row of inputs and their states, as ONNX Runtime does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.importers.rewrites.microsoft.call import Call
from pipeline.importers.rewrites.recurrent.activations import Function

# Multiplies values by weights, in the graph that is being made.
Product = Callable[[Call, str], str]
# The new states, of what the inputs give to all gates, and the states before.
Step = Callable[[Call, str, Sequence[str]], list[str]]


@dataclass(frozen=True)
class Part:
    """One direction of a layer: its functions, and the names of its weights; those that it has not are empty."""

    functions: Sequence[Function]
    clip: float
    recurrent: Product
    recurrent_bias: str = ""  # where it is not among what the inputs give
    peepholes: Sequence[str] = ("", "", "")
    input_forget: bool = False

    def apply(self, call: Call, index: int, *summands: str) -> str:
        """A function of a sum."""
        value = call.plus(*summands)
        if self.clip:
            value = call("Clip", value, call.number(-self.clip), call.number(self.clip))
        return self.functions[index](call, value)


def split(call: Call, value: str, count: int) -> list[str]:
    """As many equal parts of a value's last axis."""
    number: dict[str, Any] = {"num_outputs": count} if call.opset >= 18 else {}
    names = [call("Split", value, axis=-1, **number), *(call.scope.fresh(value) for _ in range(count - 1))]
    call[-1].output.extend(names[1:])
    return names


def lstm(part: Part) -> Step:
    """The gates lie in the order input, output, forget, cell; the peepholes in the order input, output, forget."""

    def step(call: Call, x: str, states: Sequence[str]) -> list[str]:
        h, c = states
        i, o, f, g = split(call, call("Add", x, part.recurrent(call, h)), 4)
        to_i, to_o, to_f = part.peepholes

        def seen(peephole: str, cell: str) -> str:
            return call("Mul", peephole, cell) if peephole else ""

        i = part.apply(call, 0, i, seen(to_i, c))
        f = call("Sub", call.number(1), i) if part.input_forget else part.apply(call, 0, f, seen(to_f, c))
        c = call.plus(call("Mul", f, c), call("Mul", i, part.apply(call, 1, g)))
        o = part.apply(call, 0, o, seen(to_o, c))
        return [call("Mul", o, part.functions[2](call, c)), c]  # ONNX Runtime does not clip here

    return step


def gru(part: Part, candidate: Product | None = None) -> Step:
    """The gates lie in the order update, reset, hidden. With `candidate`, the reset is applied before that product."""

    def step(call: Call, x: str, states: Sequence[str]) -> list[str]:
        (h,) = states
        x_z, x_r, x_h = split(call, x, 3)
        products = split(call, call.plus(part.recurrent(call, h), part.recurrent_bias), 2 if candidate else 3)
        z, r = (part.apply(call, 0, a, b) for a, b in zip((x_z, x_r), products[:2], strict=True))
        reset = candidate(call, call("Mul", r, h)) if candidate else call("Mul", r, products[2])
        new = part.apply(call, 1, x_h, reset)
        return [call.plus(call("Mul", call("Sub", call.number(1), z), new), call("Mul", z, h))]

    return step


def gru_of_four(part: Part) -> Step:
    """As `gru` with the reset applied after the product, where inputs and product give four rows: update, reset, what the state
    gives to the hidden gate, and what the inputs give to it."""

    def step(call: Call, x: str, states: Sequence[str]) -> list[str]:
        (h,) = states
        z, r, of_h, of_x = split(call, call("Add", x, part.recurrent(call, h)), 4)
        z, r = part.apply(call, 0, z), part.apply(call, 0, r)
        new = part.apply(call, 1, of_x, call("Mul", r, of_h))
        return [call.plus(call("Mul", call("Sub", call.number(1), z), new), call("Mul", z, h))]

    return step


def rnn(part: Part) -> Step:
    """A function of what inputs and state give."""

    def step(call: Call, x: str, states: Sequence[str]) -> list[str]:
        return [part.apply(call, 0, x, part.recurrent(call, states[0]))]

    return step
