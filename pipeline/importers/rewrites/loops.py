"""Loop: its rounds one after the other where they are few, else a Loop as IREE 3.13 compiles it, see `counted`.

Measured: a round that is written out takes IREE's compiler 0.2 seconds (a product of matrices and what goes with it, on two
cores), a Loop of any length 1.4. Twenty rounds that choose by what the last one chose took it more than two minutes, and a Loop
of them 5 seconds: so these are never written out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.importers import decisions
from pipeline.importers.rewrites.branches import identities
from pipeline.importers.rewrites.counted import ENDLESS, counted, masked, why_not_masked
from pipeline.importers.rewrites.graph import Nodes, Scope, attribute
from pipeline.importers.rewrites.splicing import constants, others, spliced

if TYPE_CHECKING:
    from pipeline.importers.rewrites.folding import Item, Walk

_FEW = 64  # nodes of all rounds together: of more, a Loop stays one where it can
_MOST = 8192  # nodes of all rounds together


def opened(node: onnx.NodeProto, walk: Walk) -> Sequence[Item] | None:
    """The rounds of a Loop, or a Loop that IREE compiles; None to leave it."""
    count, goes_on = _count(node, walk.scope), _condition(node, walk.scope)
    if goes_on is None:
        return masked(node, walk, count)
    size = len(decisions.nodes(attribute(node, "body")))
    if goes_on and (count is None or walk.guarded or min(count, _MOST) * size > _FEW):
        if (loop := counted(node, walk, count)) is not None:
            walk.keep(*loop)
            return []
        if count is None:
            return masked(node, walk, count)
    return _Rounds(node, walk, (count or 0) if goes_on else 0).begin()


def _count(node: onnx.NodeProto, scope: Scope) -> int | None:
    """How often a Loop runs at most, None if data says."""
    if not node.input[0]:
        return ENDLESS
    count = scope.constant(node.input[0])
    return None if count is None else min(max(int(count.item()), 0), ENDLESS)


def _condition(node: onnx.NodeProto, scope: Scope) -> bool | None:
    """Whether a Loop begins, None if data says."""
    if len(node.input) < 2 or not node.input[1]:
        return True
    condition = scope.constant(node.input[1])
    return None if condition is None else bool(condition.item())


class _Rounds:
    """A Loop whose rounds are written out, each when the one before it is known."""

    def __init__(self, node: onnx.NodeProto, walk: Walk, count: int) -> None:
        self._node, self._walk, self._count = node, walk, count
        self._body = attribute(node, "body")
        self._start, self._before = len(walk.kept), walk.changed
        self._carried, self._condition, self._done = [*node.input[2:]], "", 0
        self._stacked: list[list[str]] = [[] for _ in self._body.output[1 + len(self._carried) :]]
        self._names: dict[str, str] = {}
        self._size = len(decisions.nodes(self._body))

    def begin(self) -> Sequence[Item]:
        """What is the same in all rounds, and the first of them."""
        held = constants(self._body)
        names = [node.output[0] for node in held]
        nodes, new = spliced(held, names, {}, self._walk.scope)
        truth = self._walk.scope.add(np.array(True), TensorProto.BOOL)
        self._names = {**dict(zip(names, new, strict=True)), self._body.input[1].name: truth}
        return [*nodes, self._next]

    def _next(self) -> Sequence[Item] | None:
        condition = self._walk.scope.constant(self._condition) if self._condition else np.array(True)
        if condition is None or len(self._walk.kept) - self._start > _MOST or self._done >= _MOST:
            return self._give_up(condition is None)
        if not condition.item() or self._done == self._count:
            return self._shorter() or self._end()
        number = self._walk.scope.add(np.array(self._done), TensorProto.INT64)
        carried = [value.name for value in self._body.input[2:]]
        given = {**self._names, self._body.input[0].name: number, **dict(zip(carried, self._carried, strict=True))}
        results = [output.name for output in self._body.output]
        nodes, (self._condition, *made) = spliced(others(self._body), results, given, self._walk.scope)
        self._carried = made[: len(carried)]
        for values, value in zip(self._stacked, made[len(carried) :], strict=True):
            values.append(value)
        self._done += 1
        return [*nodes, self._next]

    def _give_up(self, decided_by_data: bool) -> Sequence[Item] | None:
        """Undo the rounds; what may take their place, or the Loop as it is."""
        del self._walk.kept[self._start :]
        self._walk.changed = self._before
        found = masked(self._node, self._walk, self._count) if decided_by_data else None
        if found is None:
            self._walk.keep(self._node)
        return found

    def _shorter(self) -> Sequence[Item]:
        """A Loop of as many rounds, where these are many."""
        if self._done * self._size <= _FEW or (loop := counted(self._node, self._walk, self._done, True)) is None:
            return []
        del self._walk.kept[self._start :]
        return [lambda: self._walk.keep(*loop)]

    def _end(self) -> Sequence[Item]:
        """What gives the results their names."""
        nodes, results = Nodes(self._node, self._walk.scope), self._node.output
        first = self._walk.scope.add(np.array([0]), TensorProto.INT64)
        outputs = self._body.output[1 + len(self._carried) :]
        for values, result, output in zip(self._stacked, results[len(self._carried) :], outputs, strict=False):
            if values and result:
                nodes("Concat", *(nodes("Unsqueeze", value, first) for value in values), result=result, axis=0)
            elif result:
                type_ = output.type.tensor_type
                empty = np.zeros((0, *(dim.dim_value for dim in type_.shape.dim)))
                nodes("Identity", self._walk.scope.add(empty, type_.elem_type), result=result)
        carried = results[: len(self._carried)]
        return [*identities(self._carried[: len(carried)], carried, self._node), *nodes]


def why_not(node: onnx.NodeProto, walk: Walk) -> str:
    """Why a Loop is not replaced."""
    count = _count(node, walk.scope)
    return why_not_masked(node, walk, count) or "carries other shapes in each round, which are too many to be written out"
