"""What a search for a faster lowering of a kernel found."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.iree.spaces import Values
from pipeline.iree.tuning import Lowering


@dataclass
class Outcome:
    """What was found of a kernel: the best lowering's `changes`, none if nothing is better, and `values`, empty where a record
    had it; seconds of a call, without and with, by one thread where the device has threads.

    `known` is what part of the untuned time the first lowering takes that was known before; None where that was not measured.
    `tried` ways were run, of which `wrong` ones gave other numbers: what was lowered how, and what differed; `refused` were not
    compiled, or did not run. `compiling` and `running` are the seconds that this took,
    `least` those that trying a single one takes. `ended`: by what was tried last there is nothing better to find.
    """

    changes: Lowering = ()
    values: Values = field(default_factory=dict)
    before: float = 0.0
    after: float = 0.0
    rounds: int = 0
    known: float | None = None
    tried: int = 0
    refused: int = 0
    wrong: list[tuple[Lowering, str]] = field(default_factory=list)
    compiling: float = 0.0
    running: float = 0.0
    least: float = 0.0
    ended: bool = False
