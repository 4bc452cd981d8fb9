"""The IO signature of a model: the names, shapes and dtypes of what each of its functions takes and returns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.spec.types import MLIR_DTYPES, Dimension, Input


@dataclass(frozen=True)
class Tensor:
    """One input or output: numpy `dtype`; a dimension that is only known when the model runs is None."""

    name: str
    dtype: str
    shape: tuple[int | Dimension | None, ...]

    @property
    def fixed(self) -> tuple[int | None, ...]:
        """The shape as code is compiled for it: None where the size is not always the same."""
        return tuple((d.min if d.min == d.max else None) if isinstance(d, Dimension) else d for d in self.shape)

    @property
    def mlir(self) -> str:
        """The type as MLIR writes it: `tensor<1x2048xi32>`."""
        element = MLIR_DTYPES[self.dtype].removeprefix("s").removeprefix("u")
        dimensions = "".join("?x" if size is None else f"{size}x" for size in self.fixed)
        return f"tensor<{dimensions}{element}>"

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """The dimensions of its shape that have a name."""
        return tuple(size for size in self.shape if isinstance(size, Dimension))


@dataclass(frozen=True)
class Signature:
    """A function and what it takes and returns, in order."""

    entry: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def declaration(self) -> str:
        """The signature as IREE's tools show it (`iree.abi.declaration`)."""
        ins, outs = (", ".join(f"%{t.name}: {t.mlir}" for t in tensors) for tensors in (self.inputs, self.outputs))
        return f"sync func @{self.entry}({ins}) -> ({outs})"

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """The named dimensions of its inputs, each once."""
        return tuple(dict.fromkeys(d for tensor in self.inputs for d in tensor.dimensions))

    def write(self, path: Path) -> None:
        """Write as JSON to `path`. (Callers stage the path.)"""
        path.write_text(json.dumps(asdict(self), indent=1))

    @staticmethod
    def read(path: Path) -> Signature:
        """The signature that `write` wrote."""
        return _signature(json.loads(path.read_text()))


def _size(size: Any) -> int | Dimension | None:
    return Dimension(**size) if isinstance(size, dict) else size


def _signature(data: dict[str, Any]) -> Signature:
    def tensors(items: Sequence[dict[str, Any]]) -> tuple[Tensor, ...]:
        return tuple(Tensor(t["name"], t["dtype"], tuple(map(_size, t["shape"]))) for t in items)

    return Signature(data["entry"], tensors(data["inputs"]), tensors(data["outputs"]))


def shapes_of(inputs: Sequence[Input]) -> str:
    """The shapes that a spec gives, for messages."""
    return ", ".join(f"{spec.name} [{', '.join(map(str, spec.shape))}]" for spec in inputs)


def write_all(path: Path, signatures: Sequence[Signature]) -> None:
    """Write the signatures of all functions of a module as JSON to `path`. (Callers stage the path.)"""
    path.write_text(json.dumps([asdict(signature) for signature in signatures], indent=1))


def read_all(path: Path) -> tuple[Signature, ...]:
    """What `write_all` wrote."""
    return tuple(map(_signature, json.loads(path.read_text())))
