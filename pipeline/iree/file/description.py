"""What one of our files says of itself, in its head: its variants, their gates, and which segments are their code."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pipeline.errors import PipelineError
from pipeline.iree.file.vmfb import Module, Segment
from pipeline.iree.gates import CHOICE, DESCRIPTION, IDENTITY, SELECTED, Gate, Gated, GateError


@dataclass(frozen=True)
class Described:
    """A variant as the file describes it. `code`: stretches of segment numbers, [first, count]."""

    gated: Gated
    code: tuple[tuple[int, int], ...]

    def segments(self, module: Module) -> set[Segment]:
        """The segments of `module` that are this variant's code."""
        return {s for s in module.segments if any(first <= s.number < first + count for first, count in self.code)}


def _described(value: dict[str, Any]) -> Described:
    gates = tuple(Gate.parse(str(gate)) for gate in value["gates"])
    code = tuple((int(first), int(count)) for first, count in value["code"])
    return Described(Gated(str(value["name"]), str(value["format"]), gates), code)


def _said(module: Module, key: str) -> str:
    return next((e.attributes.get(key, "") for e in module.exports if e.name == SELECTED), "")


def identity(module: Module) -> str:
    """Which model the file says it is, JSON; empty for one that does not say."""
    return _said(module, IDENTITY)


def choice(module: Module) -> str:
    """The number of the segment that says which variant runs; empty for a file that does not say."""
    return _said(module, CHOICE)


def read(module: Module, where: str) -> tuple[Described, ...]:
    """The variants in order of preference; empty for a file that does not describe itself. PipelineError if damaged."""
    text = _said(module, DESCRIPTION)
    if not text:
        return ()
    try:
        return tuple(_described(value) for value in json.loads(text))
    except (ValueError, ArithmeticError, KeyError, TypeError, RecursionError, GateError) as error:
        raise PipelineError(f"its description of variants is damaged: {error}", where=where) from error
