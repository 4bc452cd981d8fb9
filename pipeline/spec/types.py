"""What `targets/` says, as frozen values. After this package nothing is a dict of unknown shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Union

from pipeline.compare import Tolerance
from pipeline.iree.attributes import AttributeValue
from pipeline.iree.gates import Gate

# numpy's names of the element types a model's inputs and outputs may have; MLIR's names for them.
MLIR_DTYPES: Mapping[str, str] = {
    "float16": "f16",
    "float32": "f32",
    "float64": "f64",
    "int8": "si8",
    "int16": "si16",
    "int32": "si32",
    "int64": "si64",
    "uint8": "ui8",
    "uint16": "ui16",
    "uint32": "ui32",
    "uint64": "ui64",
    "bool": "i1",
}


# A number, or numbers in nested lists.
Value = Union[bool, int, float, Sequence["Value"]]  # noqa: UP007  # it names itself


@dataclass(frozen=True)
class Executable:
    """An executable target: what IREE generates code for, and when that code may be chosen.

    `device` is what the backend calls it: a GPU's architecture, a CPU's name. `attribute` overrides
    entries of the compiler's own target attribute; `twin` overrides more of them, for a software device to run the same
    lowering.
    """

    name: str
    path: Path
    about: str
    backend: str
    device: str
    flags: tuple[str, ...]
    attribute: Mapping[str, AttributeValue]
    gates: tuple[Gate, ...]
    twin: Mapping[str, AttributeValue] | None


@dataclass(frozen=True)
class Bundle:
    """Executable targets that share one fat vmfb, in order of preference. `on_failure`: `fail` or `drop`."""

    name: str
    path: Path
    about: str
    targets: tuple[str, ...]
    flags: tuple[str, ...]
    on_failure: str


@dataclass(frozen=True)
class PathSource:
    """A file, by its path relative to the spec that names it."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class WheelSource:
    """A file inside a wheel of the package index: `member` of `package` at exactly `version`."""

    package: str
    version: str
    member: str
    sha256: str


@dataclass(frozen=True)
class ScriptSource:
    """A file that a Python script makes: it is run with the path to write as its only argument."""

    script: Path
    sha256: str


Source = PathSource | WheelSource | ScriptSource


@dataclass(frozen=True)
class Input:
    """An input of the model: fixed `shape`, numpy `dtype`, and its test data.

    Test data is `file` (.npy), or drawn with numpy's default_rng(seed): integers of [low, high), or floats of
    [0, 1) scaled to [low, high). `is_open`: floats of which the spec says neither range nor file.
    With a `value` it becomes a constant of the model, and is no input of what is released.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    seed: int
    low: float
    high: float
    file: Path | None
    is_open: bool = False
    value: Value | None = None


@dataclass(frozen=True)
class Model:
    """A model to build: its source, its inputs with test data, its reference outputs and the bundles it goes into.

    `reference` is `onnxruntime`, `baseline` (the weakest CPU variant) or a tuple of .npy files, one for each output.
    `constant` names outputs that are meant to be the same whatever the inputs.
    """

    name: str
    path: Path
    about: str
    licence: str
    format: str
    source: Source
    entry: str | None
    inputs: tuple[Input, ...]
    reference: str | tuple[Path, ...]
    tolerance: Tolerance | None
    bundles: tuple[str, ...]
    constant: tuple[str, ...] = ()


@dataclass(frozen=True)
class Spec:
    """Everything under `targets/`, by name, each mapping in alphabetical order."""

    executables: Mapping[str, Executable]
    bundles: Mapping[str, Bundle]
    models: Mapping[str, Model]
