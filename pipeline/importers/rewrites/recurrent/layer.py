"""A whole recurrent layer: its directions, each with its weights, and the order in which ONNX lays them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.importers.rewrites.graph import Scope
from pipeline.importers.rewrites.microsoft.call import Call
from pipeline.importers.rewrites.recurrent import cells, steps
from pipeline.importers.rewrites.recurrent.activations import Function, functions
from pipeline.importers.rewrites.recurrent.cells import Part, Product, Step

_DEFAULT = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
# The product with the weights that are this input, between two rows of gates if these are given.
Weights = Callable[["Side", int, "tuple[int, int] | None"], Product]
W, _R, _B, _LENGTHS, _H, _C, _P = range(1, 8)


def lengths_matter(node: onnx.NodeProto, scope: Scope) -> bool:
    """Whether sequences end before the last step, or may."""
    name = node.input[_LENGTHS] if len(node.input) > _LENGTHS else ""
    lengths, shape = scope.constant(name) if name else None, scope.shape(node.input[0])
    return bool(name) and (lengths is None or shape is None or bool((lengths != shape[0]).any()))


def expand(call: Call, kind: str = "", weights: Weights | None = None, written_out: bool = False) -> None:
    """The layer of this kind, or of the node's, by its steps: a Loop, or `written_out`.

    Raises UnknownError and UnsupportedError.
    """
    kind = kind or call.node.op_type
    turned, bias = call.attribute("layout", 0) == 1, call.input(_B)
    x, states = call.input(0), [call.input(_H), call.input(_C)][: 2 if kind == "LSTM" else 1]
    shape = call.dimensions(x)
    if turned:
        x, shape = call("Transpose", x, perm=[1, 0, 2]), [shape[1], shape[0], shape[2]]
        states = [state and call("Transpose", state, perm=[1, 0, 2]) for state in states]
    units = call.attribute("hidden_size") or call.shape(call.input(_R))[-1]
    column = call("Reshape", call.input(_LENGTHS), call.integers(-1, 1)) if lengths_matter(call.node, call.scope) else ""
    of = steps.Sequences(shape[0], shape[1], units, column, written_out)
    direction, functions_ = call.attribute("direction", "forward"), functions(call, _DEFAULT[kind])
    flat, made = call.shaped(x, [call.product(shape[:2]), shape[2]]), []
    for index in range(2 if direction == "bidirectional" else 1):
        side = Side(call, kind, index, units, functions_[index * len(_DEFAULT[kind]) :], weights or plain, written_out)
        given, step = side.prepared(flat, side.slice(bias) if bias else "")
        given = call.shaped(given, [*shape[:2], side.gates * units])
        zero = onnx.helper.make_tensor("zero", call.float_type, [1], [0])
        if isinstance(shape[1], int):
            zeros = call.scope.add(np.zeros((shape[1], units)), call.float_type)
        else:
            zeros = call("ConstantOfShape", call.listed([shape[1], units]), value=zero)
        first = [side.slice(state) if state else zeros for state in states]
        made.append(steps.run(call, step, given, first, of, direction == "reverse" or index == 1))
    results = [_stacked(call, [rows for rows, _ in made], 1)]
    results += [_stacked(call, [last[number] for _, last in made], 0) for number in range(len(states))]
    for number, result in enumerate(results):
        if turned:
            result = call("Transpose", result, perm=[1, 0, 2] if number else [2, 0, 1, 3])
        call.last(result, to=number)


def _stacked(call: Call, values: list[str], axis: int) -> str:
    parts = [call("Unsqueeze", value, call.integers(axis)) for value in values]
    return call("Concat", *parts, axis=axis) if len(parts) > 1 else parts[0]


def plain(side: Side, number: int, rows: tuple[int, int] | None) -> Product:
    """Products with the weights of a standard layer: [results, values] of each direction."""
    call = side.call
    weights = call("Transpose", side.slice(call.input(number), rows), perm=[1, 0])
    return lambda into, value: into("MatMul", value, weights)


@dataclass(frozen=True)
class Side:
    """One direction of a layer."""

    call: Call
    kind: str
    index: int
    units: int
    functions: Sequence[Function]
    weights: Weights
    written_out: bool = False

    @property
    def of_four(self) -> bool:
        """Whether it is a GRU whose `weights` give four rows, see `cells.gru_of_four`."""
        return self.written_out and self.kind == "GRU" and bool(self.call.attribute("linear_before_reset", 0))

    @property
    def gates(self) -> int:
        """How many rows of gates the weights give."""
        return 4 if self.of_four else _GATES[self.kind]

    def slice(self, value: str, rows: tuple[int, int] | None = None) -> str:
        """What an input has for this direction; between two of its rows, in gates, if these are given."""
        call = self.call
        mine = call("Gather", value, call.number(self.index, TensorProto.INT64), axis=0)
        if rows is None:
            return mine
        return call("Slice", mine, *(call.integers(row * self.units) for row in rows), call.integers(0))

    def prepared(self, x: str, bias: str) -> tuple[str, Step]:
        """What the inputs give to all gates, and the step that takes a row of it."""
        call, gates = self.call, _GATES[self.kind]
        clip, after = call.attribute("clip", 0.0), bool(call.attribute("linear_before_reset", 0))
        given, mine = self.weights(self, W, None)(call, x), ""
        if bias:
            ends = [call.integers(n * self.units) for n in (0, gates, 2 * gates)]
            of_x, of_h = (call("Slice", bias, *pair, call.integers(0)) for pair in (ends[:2], ends[1:]))
            mine = of_h if self.kind == "GRU" and after and not self.of_four else ""
            summed = of_x if mine else call("Add", of_x, of_h)
            if self.of_four:
                ends = [call.integers(n * self.units) for n in (0, 2, 3)]
                first = call("Slice", summed, *ends[:2], call.integers(0))
                last = [call("Slice", part, *ends[1:], call.integers(0)) for part in (of_h, of_x)]
                summed = call("Concat", first, *last, axis=0)
            given = call.plus(given, summed)
        if self.kind == "GRU" and not after:
            part = Part(self.functions, clip, self.weights(self, _R, (0, 2)))
            return given, cells.gru(part, self.weights(self, _R, (2, 3)))
        part = Part(
            self.functions, clip, self.weights(self, _R, None), mine, self._peepholes(), bool(call.attribute("input_forget"))
        )
        return given, {"LSTM": cells.lstm, "GRU": cells.gru_of_four if self.of_four else cells.gru, "RNN": cells.rnn}[self.kind](
            part
        )

    def _peepholes(self) -> Sequence[str]:
        given = self.call.input(_P)
        return [self.slice(given, (n, n + 1)) for n in range(3)] if self.kind == "LSTM" and given else ("", "", "")
