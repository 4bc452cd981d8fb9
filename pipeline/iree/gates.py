"""Gates: when a variant may be chosen, as values. One meaning for the compiler's IR, the manifest and every prediction.

A gate compares one query that IREE's runtime answers for a device with constants. Facts are a device's answers. `decide`
is the whole of selection; the IR that `link` puts into a module is generated from the same gates and does the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.names import whole_number

# The function that every artifact exports: it returns the index of the variant the device runs, or -1. Tools of IREE that
# look for the only exported function pass over names that begin with two underscores.
SELECTED = "__selected_variant"
# The attribute of that function that tells, as JSON, the variants with their gates and where their code is.
DESCRIPTION = "vmfb.variants"
# Where it tells which segment of the file, by its number among all, is the constant of `file.choice`.
CHOICE = "vmfb.choice"
# Where it says which model it is: see `manifest.types.Identity`.
IDENTITY = "vmfb.identity"

_GATE = re.compile(r"(?P<category>[\w.]+)::(?P<key>[\w.-]+)\s*(?P<op>==|>=|in)\s*(?P<values>\d+|\[\s*\d+(?:\s*,\s*\d+)*\s*\])")


class GateError(ValueError):
    """Text that is not a gate, or code whose demands no gate can express."""


@dataclass(frozen=True, order=True)
class Gate:
    """`category::key op values`: the device's answer equals a value, lies in a set of them, or is at least a value.

    Values are unsigned 32-bit, as the runtime's answers are read (a limit of 4294967295 is that, not -1).
    """

    category: str
    key: str
    op: str
    values: tuple[int, ...]

    @property
    def query(self) -> str:
        """The query's name as IREE writes it: `category::key`."""
        return f"{self.category}::{self.key}"

    def __str__(self) -> str:
        value = list(self.values) if self.op == "in" else self.values[0]
        return f"{self.query} {self.op} {value}"

    @staticmethod
    def parse(text: str) -> Gate:
        """A gate from `category::key == 1`, `… >= 128` or `… in [32, 64]`. Raises GateError saying what is wrong."""
        match = _GATE.fullmatch(text.strip())
        if not match:
            raise GateError(f"{text!r} is not a gate: write `category::key == value`, `… >= value` or `… in [a, b]`")
        numbers = [whole_number(v.strip()) for v in match["values"].strip("[]").split(",")]
        values = tuple(sorted({v for v in numbers if v is not None}))
        if None in numbers or values[-1] >= 2**32:
            raise GateError(f"{text!r:.200}: values are unsigned 32-bit")
        gate = Gate(match["category"], match["key"], match["op"], values)
        if gate.op != "in" and match["values"].startswith("["):
            raise GateError(f"{text!r}: a list of values needs `in`")
        return gate

    def holds(self, value: int) -> bool:
        """Whether an answer of `value` satisfies this gate."""
        value &= 0xFFFFFFFF
        return value >= self.values[0] if self.op == ">=" else value in self.values

    def implies(self, other: Gate) -> bool:
        """Whether every answer that satisfies this gate satisfies `other`, a gate on the same query."""
        if self.op == ">=":
            return other.op == ">=" and self.values[0] >= other.values[0]
        return all(other.holds(v) for v in self.values)


@dataclass(frozen=True)
class Facts:
    """What a HAL device answers: the executable formats it takes, and the value of each query it answers."""

    name: str
    formats: frozenset[str]
    answers: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Gated:
    """A variant as selection sees it: its name, its executable format, and gates that must all hold."""

    name: str
    format: str
    gates: tuple[Gate, ...]


@dataclass(frozen=True)
class Decision:
    """Whether a device may run a variant; if not, `reason` names the query, the value wanted and the value found."""

    variant: str
    accepted: bool
    reason: str


def _refusal(gate: Gate, facts: Facts) -> str | None:
    found = facts.answers.get(gate.query)
    if found is None:
        return f"wants {gate}, but the device does not answer {gate.query}"
    return None if gate.holds(found) else f"wants {gate}, the device has {found & 0xFFFFFFFF}"


def decide(variants: Iterable[Gated], facts: Facts) -> tuple[Decision, ...]:
    """For each variant, in order: may this device run it, and why not."""
    decisions = []
    for variant in variants:
        if variant.format not in facts.formats:
            reason = f"needs the executable format {variant.format}, which the device does not take"
        else:
            reason = "; ".join(r for gate in variant.gates if (r := _refusal(gate, facts)))
        decisions.append(Decision(variant.name, not reason, reason or "every gate holds"))
    return tuple(decisions)


def select(variants: Iterable[Gated], facts: Facts) -> str | None:
    """The variant that the device runs: the first accepted one. None: the module refuses to load there."""
    return next((d.variant for d in decide(variants, facts) if d.accepted), None)


def _satisfiable(gates: Sequence[Gate]) -> bool:
    for gate in gates:
        same = [g for g in gates if g.query == gate.query]
        if gate.op != ">=" and not any(all(g.holds(v) for g in same) for v in gate.values):
            return False
    return True


def unreachable(variants: Sequence[Gated]) -> list[str]:
    """One sentence for each variant that no device can ever run, naming the earlier variant that shadows it."""
    problems = []
    for index, variant in enumerate(variants):
        if not _satisfiable(variant.gates):
            problems.append(f"{variant.name} can never be chosen: its own gates contradict each other")
            continue
        for earlier in variants[:index]:
            if earlier.format == variant.format and all(
                any(mine.query == gate.query and mine.implies(gate) for mine in variant.gates) for gate in earlier.gates
            ):
                problems.append(
                    f"{variant.name} can never be chosen: every device that satisfies its gates satisfies those of "
                    f"{earlier.name}, which comes first"
                )
                break
    return problems
