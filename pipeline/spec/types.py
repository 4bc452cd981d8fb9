"""What `targets/` says, as frozen values. After this package nothing is a dict of unknown shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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


# The formats of models, and what may run one for its reference: the first by default.
EVALUATORS: Mapping[str, tuple[str, ...]] = {
    "onnx": ("onnxruntime",),
    "mlir": (),
    "stablehlo": ("jax",),
    "torch": ("torch",),
    "tflite": ("litert",),
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
class Dimension:
    """A dimension that stays open: from `min` to `max`, in steps of `multiple`. Inputs that share a `name` share its size."""

    name: str
    min: int
    max: int
    multiple: int = 1

    @property
    def between(self) -> int:
        """A size between the smallest and the largest, odd where `multiple` allows it, for what only even sizes hide."""
        steps = (self.min + (self.max - self.min) // 3) // self.multiple
        size = (steps + (steps % 2 == 0)) * self.multiple
        return size if self.min <= size <= self.max else self.max

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes that are verified, that between the others first."""
        return tuple(dict.fromkeys((self.between, self.min, self.max)))

    def __str__(self) -> str:
        step = f", a multiple of {self.multiple}" if self.multiple > 1 else ""
        return f"{self.name}: {self.min} to {self.max}{step}" if self.min < self.max else f"{self.name}: {self.min}"


@dataclass(frozen=True)
class Input:
    """An input of the model: `shape`, numpy `dtype`, and its test data.

    Test data is `file` (.npy), or drawn with numpy's default_rng(seed): integers of [low, high), or floats of
    [0, 1) scaled to [low, high). `is_open`: floats of which the spec says neither range nor file.
    With a `value` it becomes a constant of the model, and is no input of what is released.
    """

    name: str
    shape: tuple[int | Dimension, ...]
    dtype: str
    seed: int
    low: float
    high: float
    file: Path | None
    is_open: bool = False
    value: Value | None = None

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """Its open dimensions."""
        return tuple(size for size in self.shape if isinstance(size, Dimension))

    def at(self, sizes: Mapping[str, int]) -> Input:
        """The input with these sizes of open dimensions, by name; those that are not among them have their `between`."""
        shape = (sizes.get(size.name, size.between) if isinstance(size, Dimension) else size for size in self.shape)
        return replace(self, shape=tuple(shape))

    @property
    def fixed(self) -> tuple[int, ...]:
        """Its shape; where dimensions are open, one of its shapes."""
        return tuple(size.between if isinstance(size, Dimension) else size for size in self.shape)


@dataclass(frozen=True)
class Entry:
    """An entry point of a model: where it comes from, its inputs with test data and its reference outputs.

    `name` is what callers ask for, `function` what it is called in the vmfb; with buckets several entries have one name.
    `reference` says who computes the outputs, or is a tuple of .npy files, one for each.
    `constant` names outputs that are meant to be the same whatever the inputs. `asked` is the function in an MLIR file.
    """

    name: str
    function: str
    source: Source
    inputs: tuple[Input, ...]
    reference: str | tuple[Path, ...]
    tolerance: Tolerance | None = None
    constant: tuple[str, ...] = ()
    asked: str = ""

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """The open dimensions of its inputs, each once."""
        return tuple(dict.fromkeys(dimension for spec in self.inputs for dimension in spec.dimensions))


@dataclass(frozen=True)
class Model:
    """A model to build: its entry points, and the bundles it goes into.

    `parameters` says where large weights are: `inline` in the vmfb, `external` in a file of their own, or empty, by their size.
    """

    name: str
    path: Path
    about: str
    licence: str
    format: str
    entries: tuple[Entry, ...]
    bundles: tuple[str, ...]
    parameters: str = ""

    @property
    def sources(self) -> tuple[Source, ...]:
        """The files that its entry points come from, each once."""
        return tuple(dict.fromkeys(entry.source for entry in self.entries))

    @property
    def test_files(self) -> tuple[Path, ...]:
        """The files that hold test data."""
        return tuple(spec.file for entry in self.entries for spec in entry.inputs if spec.file)

    @property
    def judged(self) -> list[str]:
        """What the spec says of right and wrong numbers."""
        return [f"{entry.function} {entry.tolerance!r} {entry.constant}" for entry in self.entries]


@dataclass(frozen=True)
class Spec:
    """Everything under `targets/`, by name, each mapping in alphabetical order."""

    executables: Mapping[str, Executable]
    bundles: Mapping[str, Bundle]
    models: Mapping[str, Model]
