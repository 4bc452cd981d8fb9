"""The IO signature of a model: the names, shapes and dtypes of what its entry function takes and returns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.spec.types import MLIR_DTYPES


@dataclass(frozen=True)
class Tensor:
    """One input or output: numpy `dtype`; a dimension that is only known when the model runs is None."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    @property
    def mlir(self) -> str:
        """The type as MLIR writes it: `tensor<1x2048xi32>`."""
        element = MLIR_DTYPES[self.dtype].removeprefix("s").removeprefix("u")
        dimensions = "".join("?x" if size is None else f"{size}x" for size in self.shape)
        return f"tensor<{dimensions}{element}>"


@dataclass(frozen=True)
class Signature:
    """The entry function and what it takes and returns, in order."""

    entry: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def declaration(self) -> str:
        """The signature as IREE's tools show it (`iree.abi.declaration`)."""
        ins, outs = (", ".join(f"%{t.name}: {t.mlir}" for t in tensors) for tensors in (self.inputs, self.outputs))
        return f"sync func @{self.entry}({ins}) -> ({outs})"

    def write(self, path: Path) -> None:
        """Write as JSON to `path`. (Callers stage the path.)"""
        path.write_text(json.dumps(asdict(self), indent=1))

    @staticmethod
    def read(path: Path) -> Signature:
        """The signature that `write` wrote."""
        data = json.loads(path.read_text())

        def tensors(items: Sequence[dict[str, str | list[int | None]]]) -> tuple[Tensor, ...]:
            return tuple(Tensor(str(t["name"]), str(t["dtype"]), tuple(t["shape"])) for t in items)  # type: ignore[arg-type]

        return Signature(data["entry"], tensors(data["inputs"]), tensors(data["outputs"]))
