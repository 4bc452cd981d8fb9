"""What the compile stage tells the later ones: `compiled.json` beside `module.vmfb`. Verify writes it again if it drops."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.files import write
from pipeline.iree import backends
from pipeline.iree.gates import Gate, Gated
from pipeline.iree.tuning import Applied
from pipeline.stages.record import canonical


@dataclass(frozen=True)
class Piece:
    """The code of one dispatch in the file: the bytes belong to variant `owner`. Offset and length in bytes."""

    dispatch: str
    owner: str
    offset: int
    length: int
    sha256: str


@dataclass(frozen=True)
class Variant:
    """One target's code in the file, with what it was generated for and when it may be chosen.

    `tuning`: how much of it is lowered by the target's tuning record; None if nothing is.
    """

    gated: Gated
    backend: str
    device: str
    flags: tuple[str, ...]
    attribute: str
    code: tuple[Piece, ...]
    tuning: Applied | None = None

    def has_code_of(self, other: Variant) -> bool:
        """Whether its kernels are those of the other one, to the byte."""
        mine, theirs = ({(piece.dispatch, piece.sha256) for piece in one.code} for one in (self, other))
        return mine == theirs


@dataclass(frozen=True)
class Dropped:
    """A target that a bundle names and the file does not hold, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Compiled:
    """A compiled bundle: variants in order of preference, targets left out, compile flags and the compiler.

    `own_flags` are those of `flags` that the pipeline added for this model. `notes` say what else it did that it does not do
    for every model.
    """

    variants: tuple[Variant, ...]
    dropped: tuple[Dropped, ...]
    flags: tuple[str, ...]
    compiler: dict[str, str]
    seconds: float
    own_flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def warm_ups(self) -> dict[str, Piece]:
        """Of each format that needs it, the code that a device loads before its gates are evaluated.

        It is that of the format's variant without gates, for the first dispatch. Where there is none, the file holds other
        code for that, which no variant owns.
        """
        ungated = {v.gated.format: v.code[0] for v in self.variants if not v.gated.gates}
        return {f: code for f, code in ungated.items() if (backend := backends.of_format(f)) and f in backend.warm_ups}

    def write(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        write(path, canonical(asdict(self)))

    @staticmethod
    def read(path: Path) -> Compiled:
        """What `write` wrote."""
        data = json.loads(path.read_text())
        return Compiled(
            tuple(_variant(v) for v in data["variants"]),
            tuple(Dropped(**d) for d in data["dropped"]),
            tuple(data["flags"]),
            data["compiler"],
            data["seconds"],
            tuple(data["own_flags"]),
            tuple(data["notes"]),
        )


def _variant(data: dict[str, Any]) -> Variant:
    gated = data["gated"]
    gates = tuple(Gate(g["category"], g["key"], g["op"], tuple(g["values"])) for g in gated["gates"])
    return Variant(
        Gated(gated["name"], gated["format"], gates),
        data["backend"],
        data["device"],
        tuple(data["flags"]),
        data["attribute"],
        tuple(Piece(**p) for p in data["code"]),
        Applied(**data["tuning"]) if data["tuning"] else None,
    )
