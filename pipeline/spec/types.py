"""What `targets/` says, as frozen values. After this package nothing is a dict of unknown shape."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Union

from pipeline.compare import Tolerance
from pipeline.iree.attributes import AttributeValue
from pipeline.iree.gates import Gate
from pipeline.iree.tuning import Record
from pipeline.plain import public_url

# numpy's names of the element types a model's inputs and outputs may have; MLIR's names for them.
_TILE = 129  # of a kernel's loop, at most, and one more
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

# The metrics that a data set may be scored by, and which scores are better.
METRICS: Mapping[str, str] = {
    **dict.fromkeys(("top-1", "top-5", "mean-iou", "cosine"), "higher"),
    "word-error-rate": "lower",
}

# A number, or numbers in nested lists.
Value = Union[bool, int, float, Sequence["Value"]]  # noqa: UP007  # it names itself


@dataclass(frozen=True)
class Executable:
    """An executable target: what IREE generates code for, and when that code may be chosen.

    `device` is what the backend calls it: a GPU's architecture, a CPU's name. `attribute` overrides
    entries of the compiler's own target attribute; `twin` overrides more of them, for a software device to run the same
    lowering. `tuning` is its tuning record, from `tuning_files`; `record` is the file that more would go into. `tuning_spec`
    is the MLIR text of a tuning spec of IREE's.
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
    tuning_spec: str = ""
    tuning: Record = field(default_factory=dict, compare=False, repr=False)
    tuning_files: tuple[Path, ...] = field(default=(), compare=False, repr=False)
    record: Path = field(default=Path(), compare=False, repr=False)


@dataclass(frozen=True)
class Policy:
    """What a channel asks of a release: the `evidence` that every variant has at least, and what becomes of those that are
    `untested`: `refused`, `allowed` or `left out` of the file.

    How much worse than the channel's present release it may be, None for any: `slower` and `larger` by a part, `less_exact` by
    a factor of the tolerance that is used. `path` is the file that says so.
    """

    evidence: str
    untested: str
    slower: float | None
    larger: float | None
    less_exact: float | None
    path: Path = field(default=Path("targets/policy.yaml"), compare=False, repr=False)


@dataclass(frozen=True)
class Bundle:
    """Executable targets that share one fat vmfb, in order of preference. `on_failure`: `fail` or `drop`.

    `policy`: what channels ask of its files, those that are named here; the others are the project's.
    """

    name: str
    path: Path
    about: str
    targets: tuple[str, ...]
    flags: tuple[str, ...]
    on_failure: str
    policy: Mapping[str, Policy] = field(default_factory=dict, hash=False)


def _data() -> Mapping[str, str]:
    return field(default_factory=dict, hash=False)


# A source is where the model's file comes from. `sha256` is that file's digest. `data` are the files that belong beside it,
# such as an ONNX model's external data: names relative to its folder → digests. `location` is for people, without secrets.


@dataclass(frozen=True)
class PathSource:
    """A file, by its path relative to the spec that names it."""

    kind: ClassVar = "path"
    path: Path
    sha256: str
    data: Mapping[str, str] = _data()

    @property
    def location(self) -> str:
        """The file's name."""
        return self.path.name


@dataclass(frozen=True)
class WheelSource:
    """A file inside a wheel of the package index: `member` of `package` at exactly `version`."""

    kind: ClassVar = "wheel"
    package: str
    version: str
    member: str
    sha256: str
    data: Mapping[str, str] = _data()

    @property
    def location(self) -> str:
        """The package with its version, and the member."""
        return f"{self.package}=={self.version}: {self.member}"


@dataclass(frozen=True)
class ScriptSource:
    """A file that a Python script makes: it is run with the path to write as its only argument. It writes `data` beside it."""

    kind: ClassVar = "script"
    script: Path
    sha256: str
    data: Mapping[str, str] = _data()

    @property
    def location(self) -> str:
        """The script's name."""
        return self.script.name


@dataclass(frozen=True, repr=False)
class HttpsSource:
    """A file of a web server: `url` is `https://…` or `http://…`, and may have user, password and a query that are secret."""

    kind: ClassVar = "https"
    url: str
    sha256: str
    data: Mapping[str, str] = _data()

    @property
    def location(self) -> str:
        """The URL without user, password and query."""
        return public_url(self.url)

    def __repr__(self) -> str:
        return f"HttpsSource(url={self.location!r}, sha256={self.sha256!r}, data={self.data!r})"


@dataclass(frozen=True)
class S3Source:
    """An object in a bucket: `key` of `bucket`, by the usual AWS chain."""

    kind: ClassVar = "s3"
    bucket: str
    key: str
    sha256: str
    data: Mapping[str, str] = _data()

    @property
    def location(self) -> str:
        """The object's URL."""
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True)
class HubSource:
    """A file on the Hugging Face hub: `path` in the model repository `repo` at the commit `revision`, 40 hex digits."""

    kind: ClassVar = "hub"
    repo: str
    revision: str
    path: str
    sha256: str
    data: Mapping[str, str] = _data()

    @property
    def location(self) -> str:
        """Repository, commit and path."""
        return f"{self.repo}@{self.revision}: {self.path}"


Source = PathSource | WheelSource | ScriptSource | HttpsSource | S3Source | HubSource


def beside(path: str, name: str) -> str:
    """The path of `name` in the folder of the file `path`, where folders are separated by `/`."""
    return posixpath.join(posixpath.dirname(path), name)


def source_files(source: Source, output: Path) -> Mapping[Path, str]:
    """The files that `source` becomes, and their digests: `output`, the model's own, and its data files beside it."""
    return {output: source.sha256} | {output.parent / name: digest for name, digest in source.data.items()}


@dataclass(frozen=True)
class Dimension:
    """A dimension that stays open: from `min` to `max`, in steps of `multiple`. Inputs that share a `name` share its size."""

    name: str
    min: int
    max: int
    multiple: int = 1

    @property
    def between(self) -> int:
        """A size between the smallest and the largest, odd where `multiple` allows it, for what only even sizes hide.

        Never far from the smallest: a tile of any kernel fits in, and what is left over of one.
        """
        steps = (self.min + min((self.max - self.min) // 3, _TILE)) // self.multiple
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
class DataFile:
    """A file of a data set, `name` in messages: its source, and which `array` of an .npz it is; empty for all of it.

    `where` is its place in the spec.
    """

    name: str
    source: Source
    where: str
    array: str = ""


@dataclass(frozen=True)
class Evaluation:
    """How well an entry point does its work on a data set: see `pipeline.accuracy`.

    `inputs` are those of the entry point that have no value, in order. A `metric` has a name, or is `function` in the Python
    file `program`; `better` is `higher` or `lower`. The score of a variant may be at most `limit` worse than that of the
    reference. `samples`: the first ones; 0 for all. `output`: the one that the metric is of; empty where there is only one.
    `ignore`: the label that does not count. `vocabulary` and `blank`: tokens as words.
    """

    inputs: tuple[DataFile, ...]
    labels: DataFile
    metric: str
    limit: float
    samples: int = 0
    program: Path | None = None
    better: str = "higher"
    output: str = ""
    ignore: int | None = None
    vocabulary: DataFile | None = None
    blank: int | None = None

    @property
    def files(self) -> tuple[DataFile, ...]:
        """All files of the data set."""
        return (*self.inputs, self.labels, *([self.vocabulary] if self.vocabulary else []))


@dataclass(frozen=True)
class Entry:
    """An entry point of a model: where it comes from, its inputs with test data and its reference outputs.

    `name` is what callers ask for, `function` what it is called in the vmfb; with buckets several entries have one name.
    `reference` says who computes the outputs, or is a tuple of .npy files, one for each.
    `constant` names outputs that are meant to be the same whatever the inputs. `asked` is the function in an MLIR file.
    `evaluate`: the data set on which it is scored, if there is one.
    """

    name: str
    function: str
    source: Source
    inputs: tuple[Input, ...]
    reference: str | tuple[Path, ...]
    tolerance: Tolerance | None = None
    constant: tuple[str, ...] = ()
    asked: str = ""
    evaluate: Evaluation | None = None

    @property
    def given(self) -> tuple[Input, ...]:
        """The inputs that callers give: those without a value."""
        return tuple(spec for spec in self.inputs if spec.value is None)

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
    def data_files(self) -> tuple[DataFile, ...]:
        """The files of its data sets."""
        return tuple(dict.fromkeys(file for entry in self.entries if entry.evaluate for file in entry.evaluate.files))

    @property
    def metrics(self) -> tuple[Path, ...]:
        """The Python files of metrics that are the project's own."""
        found = (entry.evaluate.program for entry in self.entries if entry.evaluate)
        return tuple(dict.fromkeys(path for path in found if path))

    @property
    def judged(self) -> list[str]:
        """What the spec says of right and wrong numbers."""
        return [f"{entry.function} {entry.tolerance!r} {entry.constant}" for entry in self.entries]


OTHERS = ""  # the bundles of a store's releases that are under no name here, or no longer


@dataclass(frozen=True)
class Spec:
    """Everything under `targets/`, by name, each mapping in alphabetical order."""

    executables: Mapping[str, Executable]
    bundles: Mapping[str, Bundle]
    models: Mapping[str, Model]
    policy: Mapping[str, Policy] = field(default_factory=dict)

    def policies(self, channel: str) -> dict[str, Policy]:
        """What the channel asks of the files of each bundle, of those of which it asks anything; and of OTHERS."""
        found = {name: bundle.policy.get(channel) or self.policy.get(channel) for name, bundle in self.bundles.items()}
        found[OTHERS] = self.policy.get(channel)
        return {name: policy for name, policy in found.items() if policy}

    @property
    def channels(self) -> frozenset[str]:
        """The channels that policies name."""
        return frozenset(self.policy).union(*(bundle.policy for bundle in self.bundles.values()))
