"""What the compile stage tells the later ones: `compiled.json` beside `module.vmfb`. Verify writes it again if it drops."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.files import write
from pipeline.iree.gates import Gate, Gated
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
    """One target's code in the file, with what it was generated for and when it may be chosen."""

    gated: Gated
    backend: str
    device: str
    flags: tuple[str, ...]
    attribute: str
    code: tuple[Piece, ...]


@dataclass(frozen=True)
class Dropped:
    """A target that a bundle names and the file does not hold, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Compiled:
    """A compiled bundle: variants in order of preference, targets left out, compile flags and the compiler."""

    variants: tuple[Variant, ...]
    dropped: tuple[Dropped, ...]
    flags: tuple[str, ...]
    compiler: dict[str, str]
    seconds: float

    @property
    def warm_up(self) -> Piece | None:
        """The code that a CPU loads before its gates are evaluated: of the weakest CPU variant, for the first dispatch."""
        cpu = [variant for variant in self.variants if variant.backend == "llvm-cpu"]
        return cpu[-1].code[0] if cpu else None

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
    )
