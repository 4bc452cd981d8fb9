"""Reading images at fractional places, in operators that IREE lowers: values of whole places, weighted and added up.

Images are [N, C, size, …]; places are given by axis, each [M, Q], of as many images.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from pipeline.importers.rewrites.graph import Nodes, Scope

_CUBIC = -0.75  # how far a cubic may swing, as ONNX Runtime has it
# A whole place on one axis, and how much of its value counts: None for all.
Tap = tuple[str, str | None]


@dataclass(frozen=True)
class Numbers:
    """Arithmetic on places, in nodes with constants of `type`."""

    nodes: Nodes
    scope: Scope
    type: int

    def constant(self, value: object) -> str:
        """A constant of the places' type."""
        return self.scope.add(np.array(value), self.type)

    def __call__(self, kind: str, *operands: str | float) -> str:
        """A node whose operands may be numbers."""
        return self.nodes(kind, *(o if isinstance(o, str) else self.constant(o) for o in operands))

    def clamped(self, value: str, low: float, high: float) -> str:
        """The nearest in [low, high]."""
        return self("Min", self("Max", value, low), high)

    def inside(self, value: str, low: float, high: float) -> str:
        """1 in [low, high], and 0 outside."""
        both = self.nodes("And", self("GreaterOrEqual", value, low), self("LessOrEqual", value, high))
        return self.nodes("Cast", both, to=self.type)


def linear(numbers: Numbers, place: str) -> list[Tap]:
    """The two whole places around `place`."""
    low = numbers("Floor", place)
    part = numbers("Sub", place, low)
    return [(low, numbers("Sub", 1.0, part)), (numbers("Add", low, 1.0), part)]


def nearest(numbers: Numbers, place: str) -> list[Tap]:
    """The nearest whole place, of two equally near the even one."""
    return [(numbers("Round", place), None)]


def cubic(numbers: Numbers, place: str) -> list[Tap]:
    """The four whole places around `place`."""
    low = numbers("Floor", place)
    part = numbers("Sub", place, low)
    found: list[Tap] = []
    for tap in range(-1, 3):
        distance = numbers("Abs", numbers("Sub", part, float(tap)))
        a = _CUBIC
        factors = (a + 2, -(a + 3), 0.0, 1.0) if tap in (0, 1) else (a, -5 * a, 8 * a, -4 * a)
        weight: str | float = factors[0]
        for factor in factors[1:]:
            weight = numbers("Add", numbers("Mul", weight, distance), factor)
        found.append((numbers("Add", low, float(tap)), str(weight)))
    return found


def zero_outside(numbers: Numbers, taps: Sequence[Tap], size: int) -> list[Tap]:
    """`taps` of which those outside of [0, size) do not count."""
    found: list[Tap] = []
    for place, weight in taps:
        inside = numbers.inside(place, 0.0, size - 1.0)
        found.append((numbers.clamped(place, 0.0, size - 1.0), numbers("Mul", weight, inside) if weight else inside))
    return found


@dataclass(frozen=True)
class Image:
    """Images to read from: `value` is [N, C, size, …] of `shape` and `type`."""

    value: str
    shape: tuple[int, ...]
    type: int

    def read(self, numbers: Numbers, taps: Sequence[Sequence[Tap]], first: str) -> str:
        """What the weighted taps of all axes give: [M, Q, C].

        `first` says which image each of the M reads from: integers [M, 1].
        """
        nodes, scope, sizes = numbers.nodes, numbers.scope, self.shape[2:]
        last = [0, *range(2, len(self.shape)), 1]
        rows = nodes(
            "Reshape", nodes("Transpose", self.value, perm=last), scope.add(np.array([-1, self.shape[1]]), TensorProto.INT64)
        )
        # In 32 bits: Vulkan code for places in 64 bits that come from floats does not compile.
        begin = nodes("Mul", nodes("Cast", first, to=TensorProto.INT32), scope.add(np.array(math.prod(sizes)), TensorProto.INT32))
        steps = [math.prod(sizes[a + 1 :]) for a in range(len(sizes))]
        total = ""
        for chosen in itertools.product(*taps):
            at = begin
            for (place, _), step in zip(chosen, steps, strict=True):
                whole = nodes("Cast", place, to=TensorProto.INT32)
                at = nodes("Add", at, nodes("Mul", whole, scope.add(np.array(step), TensorProto.INT32)))
            value = nodes("Gather", rows, at, axis=0)
            if weights := [weight for _, weight in chosen if weight]:
                weight = weights[0]
                for other in weights[1:]:
                    weight = nodes("Mul", weight, other)
                weight = nodes("Cast", weight, to=self.type) if self.type != numbers.type else weight
                value = nodes("Mul", value, nodes("Unsqueeze", weight, scope.add(np.array([2]), TensorProto.INT64)))
            total = nodes("Add", total, value) if total else value
        return total
