"""`targets/` → Spec: reads every file, reports all problems of all files together."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import numpy as np

from pipeline.compare import Tolerance
from pipeline.errors import ManyProblemsError
from pipeline.files import is_file
from pipeline.iree import backends
from pipeline.iree.attributes import AttributeValue
from pipeline.iree.backends.base import Backend
from pipeline.names import RULE, did_you_mean, is_name
from pipeline.spec.reader import Fields, Problems, read
from pipeline.spec.types import (
    EVALUATORS,
    MLIR_DTYPES,
    Bundle,
    Dimension,
    Entry,
    Executable,
    HttpsSource,
    HubSource,
    Input,
    Model,
    PathSource,
    S3Source,
    ScriptSource,
    Source,
    Spec,
    WheelSource,
)
from pipeline.store.base import public_url

_WITH_FUNCTIONS = ("mlir", "stablehlo")  # formats whose files may hold several
_T = TypeVar("_T", Executable, Bundle, Model)
_LARGEST = 2**31 - 1  # size of a dimension
_LONGEST = 200  # bytes of a file's name; while it is written, the name is longer


def _attribute(fields: Fields | None, known: Collection[str]) -> Mapping[str, AttributeValue]:
    result: dict[str, AttributeValue] = {}
    if fields is None:
        return result
    for key, value in fields.data.items():
        if key not in known:
            fields.problem(key, f"is not a parameter that can be set: {did_you_mean(key, known)}")
        elif isinstance(value, list) and all(isinstance(v, int) for v in value):
            result[key] = tuple(value)
        elif isinstance(value, int | str) and not isinstance(value, bool):
            result[key] = value
        else:
            fields.problem(key, f"must be text, a whole number or a list of them, not {value!r}")
    return result


def _executable(fields: Fields) -> Executable:
    known = {backend.name: backend for backend in backends.every()}
    name = fields.text("backend", choices=list(known))
    backend = known.get(name, Backend())
    attribute, twin = fields.sub("attribute"), fields.sub("twin")
    able = {"attribute": [b for b in known.values() if b.overrides], "twin": [b for b in known.values() if b.has_twins]}
    for key, sub in (("attribute", attribute), ("twin", twin)):
        if sub and name in known and backend not in able[key]:
            fields.problem(key, f"is for {', '.join(b.name for b in able[key])} targets only: remove it, or use flags")
    gates = fields.parsed("gates", backends.parse_gate)
    for index, gate in enumerate(gates):
        if name in known and gate.category not in {**backend.queries, **backend.told}:
            fields.problem(f"gates[{index}]", f"a {name} target never runs on a device that answers {gate.query}")
    return Executable(
        name=fields.path.stem,
        path=fields.path,
        about=fields.text("about"),
        backend=name,
        device=fields.text("device"),
        flags=fields.texts("flags"),
        attribute=_attribute(attribute, backend.overrides),
        gates=gates,
        twin=_attribute(twin, backend.overrides) if twin else None,
    )


def _bundle(fields: Fields) -> Bundle:
    return Bundle(
        name=fields.path.stem,
        path=fields.path,
        about=fields.text("about"),
        targets=fields.texts("targets", required=True),
        flags=fields.texts("flags"),
        on_failure=fields.text("on_failure", "fail", ("fail", "drop")),
    )


def _source(fields: Fields, format: str) -> Source:
    kind = fields.text("kind", choices=_SOURCES)
    sha256, data = fields.digest(), _data(fields, f"model.{format}")
    source = _SOURCES.get(kind, _path)(fields, sha256, data)
    fields.done()
    return source


def _path(fields: Fields, sha256: str, data: Mapping[str, str]) -> Source:
    path = fields.file("path")
    for name in data:
        if not is_file(str(path.parent / name)):
            fields.problem(f"data.{name}", f"there is no file {path.parent / name}")
    return PathSource(path, sha256, data)


def _wheel(fields: Fields, sha256: str, data: Mapping[str, str]) -> Source:
    return WheelSource(fields.text("package"), fields.text("version"), fields.text("member"), sha256, data)


def _script(fields: Fields, sha256: str, data: Mapping[str, str]) -> Source:
    return ScriptSource(fields.file("script"), sha256, data)


def _https(fields: Fields, sha256: str, data: Mapping[str, str]) -> Source:
    url = fields.text("url")
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if url and not (good and url.isprintable()):
        fields.problem("url", f"must be like https://host/path, not {public_url(url)!r}")
    return HttpsSource(url, sha256, data)


def _s3(fields: Fields, sha256: str, data: Mapping[str, str]) -> Source:
    url = fields.text("url")
    match = re.fullmatch(r"s3://([^/]+)/(.*[^/])", url)
    if url and not match:
        fields.problem("url", f"must be like s3://bucket/key, not {public_url(url)!r}")
    bucket, key = match.groups() if match else ("", "")
    return S3Source(bucket, key, sha256, data)


def _hub(fields: Fields, sha256: str, data: Mapping[str, str]) -> Source:
    repo, revision, path = fields.text("repo"), fields.text("revision"), fields.text("path")
    if repo and not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repo, re.ASCII):
        fields.problem("repo", f"must be like organisation/name, not {repo!r}")
    if revision and not re.fullmatch("[0-9a-f]{40}", revision):
        fields.problem("revision", f"{revision!r} may move: give the commit, 40 lower-case hex digits")
    if path and (problem := _no_relative_name(path)):
        fields.problem("path", problem)
    return HubSource(repo, revision, path, sha256, data)


_SOURCES: Mapping[str, Callable[[Fields, str, Mapping[str, str]], Source]] = {
    "path": _path,
    "wheel": _wheel,
    "script": _script,
    "https": _https,
    "s3": _s3,
    "hub": _hub,
}


def _no_relative_name(name: str) -> str:
    """Why `name` cannot be that of a file in a folder or below it; empty where it can."""
    parts = name.split("/")
    if not name.isprintable() or any(not part or part in (".", "..") for part in parts):
        return "must be the name of a file, or folder/name, without '.' and '..'"
    if any(len(part.encode()) > _LONGEST for part in parts):
        return f"has a name of more than {_LONGEST} bytes in it"
    return ""


def _data(fields: Fields, model: str) -> Mapping[str, str]:
    """Names of data files and their digests. `model` is the name of the model's own file, beside which they are put."""
    sub = fields.sub("data")
    if sub is None:
        return {}
    result = {name: sub.digest(name) for name in sorted(sub.data)}
    for name in result:
        if problem := _no_relative_name(name):
            sub.problem(name, problem)
        elif name.startswith(".") or "/." in name:
            sub.problem(name, "must not be hidden: '.' cannot be first in a name")
        elif name.split("/")[0] in (model, "fetch.log"):
            sub.problem(name, f"{name.split('/')[0]} is what the pipeline names a file there: give this one another name")
        elif any(other.startswith(f"{name}/") for other in result):
            sub.problem(name, "is the name of a folder, too")
    return result


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LARGEST


class _Dimensions:
    """The open dimensions of an entry point as its inputs name them. A name has one range."""

    def __init__(self) -> None:
        self.known: dict[str, Dimension] = {}
        self.buckets: dict[str, tuple[int, ...]] = {}

    def read(self, fields: Fields, unnamed: str) -> Dimension:
        """The dimension that `fields` say; without a name it is called `unnamed`."""
        while "name" not in fields.data and unnamed in self.known:  # of an input that is called almost the same
            unnamed += "_"
        name = fields.text("name", unnamed)
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", name):
            fields.problem("name", f"{name!r} cannot name a dimension: letters, digits and '_', no digit first")
        if fields.data.keys() == {"name"} and name in self.known:
            fields.done()
            return self.known[name]
        if "buckets" in fields.data:
            made = self._bucketed(fields, name)
        else:
            least, most = (fields.integer(key, None) for key in ("min", "max"))
            multiple = fields.integer("multiple", 1)
            made = Dimension(name, least, most, multiple)
            if min(least, multiple) < 1:
                fields.problem("min" if least < 1 else "multiple", "must be 1 or more")
            elif most <= least:
                fields.problem("max", f"must be above min, which is {least}: give a fixed size as a number")
            elif most > _LARGEST:
                fields.problem("max", f"must be at most {_LARGEST}")
            elif least % multiple or most % multiple:
                fields.problem("multiple", f"min and max must be multiples of {multiple}")
        if self.known.setdefault(name, made) != made:
            fields.problem("name", f"{name!r} has another range elsewhere: give it once, and `{{name: {name}}}` after")
        fields.done()
        return made

    def _bucketed(self, fields: Fields, name: str) -> Dimension:
        sizes = fields.items("buckets", required=True)
        if not all(map(_is_size, sizes)) or sorted(set(sizes)) != sizes:
            fields.problem("buckets", f"must be whole numbers of 1 to {_LARGEST} that ascend, not {sizes!r}")
            sizes = []
        if self.buckets and name not in self.buckets:
            fields.problem(
                "buckets", f"stand at {next(iter(self.buckets))!r} already: one dimension of an entry point may have some"
            )
        self.buckets.setdefault(name, tuple(sizes))
        return Dimension(name, min(sizes, default=1), max(sizes, default=1))


def _shape(fields: Fields, name: str, dimensions: _Dimensions) -> tuple[int | Dimension, ...]:
    shape: list[int | Dimension] = []
    for index, size in enumerate(fields.items("shape")):
        if _is_size(size):
            shape.append(size)
        elif isinstance(size, dict):
            where = f"{fields.where}.shape[{index}]".lstrip(".")
            unnamed = re.sub(r"\W", "_", name, flags=re.ASCII) + f".{index}"
            shape.append(
                dimensions.read(Fields(fields.path, where, size, fields.problems), f"_{unnamed}"[unnamed[:1].isalpha() :])
            )
        else:
            hint = "one that is open is {min: 1, max: 512}"
            fields.problem(f"shape[{index}]", f"must be a whole number of 1 to {_LARGEST}, not {size!r}: {hint}")
    if "shape" not in fields.data:
        fields.problem("shape", "is missing: give the list of dimensions, [] for a scalar")
    return tuple(shape)


def _input(fields: Fields, dimensions: _Dimensions) -> Input:
    name = fields.text("name")
    shape = _shape(fields, name, dimensions)
    dtype = fields.text("dtype", choices=MLIR_DTYPES)
    if "value" in fields.data:
        return _baked(fields, shape, dtype)
    # Integers drawn from [0, 1) are all 0, which tests nothing: their range must be said. A bool has only one.
    high = {"bool": 2.0}.get(dtype, 1.0) if "int" not in dtype or "file" in fields.data else None
    result = Input(
        name=name,
        shape=shape,
        dtype=dtype,
        seed=fields.integer("seed", 0),
        low=fields.number("low", 0.0),
        high=fields.number("high", high),
        file=fields.file("file") if "file" in fields.data else None,
        is_open=dtype.startswith("float") and not {"low", "high", "file"} & fields.data.keys(),
    )
    if result.file is None:
        _check_range(fields, result)
    fields.done()
    return result


def _baked(fields: Fields, shape: tuple[int | Dimension, ...], dtype: str) -> Input:
    """An input that has one value for ever."""
    value = fields.anything("value")
    if others := [key for key in ("low", "high", "seed", "file") if key in fields.data]:
        fields.known.update(others)
        fields.problem(others[0], "is for test data, which an input with a value has none of: remove one of the two")
    fixed = [size for size in shape if not isinstance(size, Dimension)]
    if len(fixed) < len(shape):
        fields.problem("shape", "of an input with a value must be fixed")
    elif dtype in MLIR_DTYPES and (problem := _misfit(value, tuple(fixed), dtype)):
        fields.problem("value", problem)
    result = Input(fields.text("name"), shape, dtype, 0, 0.0, 1.0, None, value=value)
    fields.done()
    return result


def _misfit(value: object, shape: tuple[int, ...], dtype: str) -> str:
    """Why `value` is not one of `shape` and `dtype`; empty where it is."""
    try:
        array = np.array(value)
    except ValueError:
        return "must be a number, or lists of as many numbers each"
    kinds = {"bool": "b", "float": "iuf"}.get(dtype.rstrip("0123456789"), "iu")
    if array.size and array.dtype.kind not in kinds:
        what = {"b": "true or false", "iu": "a whole number"}.get(kinds, "a number")
        return f"must be {what}, or lists of them, for {dtype}, not {value!r}"
    if array.size and kinds == "iu" and not (np.iinfo(dtype).min <= array.min() and array.max() <= np.iinfo(dtype).max):
        return f"does not fit into {dtype}"
    with np.errstate(over="ignore"):
        if kinds == "iuf" and (np.isfinite(array) != np.isfinite(array.astype(dtype))).any():
            return f"does not fit into {dtype}"
    try:
        np.broadcast_to(array, shape)
    except ValueError:
        return f"has the shape {list(array.shape)}, which does not fit {list(shape)}"
    return ""


def _check_range(fields: Fields, spec: Input) -> None:
    if "int" in spec.dtype and not (spec.low.is_integer() and spec.high.is_integer()):
        fields.problem("high", f"low and high of {spec.dtype} must be whole numbers")
    elif spec.low >= spec.high and "high" in fields.data:
        fields.problem("high", f"must be above low: the range [{spec.low:g}, {spec.high:g}) is empty")
    if "int" in spec.dtype:
        bits = int(spec.dtype.lstrip("uint"))
        least, most = (0, 2**bits) if spec.dtype.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1))
        if spec.low < least or spec.high > most:
            fields.problem("high", f"the range [{spec.low:g}, {spec.high:g}) does not fit into {spec.dtype}")


def _reference(fields: Fields, format: str) -> str | tuple[Path, ...]:
    if isinstance(fields.data.get("reference"), list):
        names = fields.texts("reference", required=True)
        paths = tuple(fields.path.parent / name for name in names)
        for path in paths:
            if not is_file(str(path)):
                fields.problem("reference", f"there is no file {path}")
        return paths
    choices = (*EVALUATORS.get(format, ()), "baseline")
    return fields.text("reference", choices[0], choices)


def _tolerance(fields: Fields | None) -> Tolerance | None:
    if fields is None:
        return None
    result = Tolerance(fields.number("absolute", None), fields.number("relative", None))
    for key in ("absolute", "relative"):
        if getattr(result, key) < 0:
            fields.problem(key, "must not be negative")
    fields.done()
    return result


def _inputs(fields: Fields, format: str) -> tuple[tuple[Input, ...], _Dimensions]:
    dimensions = _Dimensions()
    inputs = tuple(_input(sub, dimensions) for sub in fields.subs("inputs"))
    for index, spec in enumerate(inputs):
        if spec.value is not None and format not in ("onnx", "tflite"):
            fields.problem(f"inputs[{index}].value", "is for ONNX and TFLite files: write it into the model's file")
    names = [i.name for i in inputs]
    for name in {n for n in names if n and names.count(n) > 1}:
        fields.problem("inputs", f"the input {name!r} stands twice: remove one")
    if dimensions.buckets and format == "mlir":
        fields.problem("inputs", "buckets are not for MLIR files: give a function for each size in `entries`")
    return inputs, dimensions


def _entries(fields: Fields, format: str, name: str, source: Source | None) -> list[Entry]:
    """The entry point that `fields` describe, once for each of its buckets. `name` is empty for the only one."""
    inputs, dimensions = _inputs(fields, format)
    asked = fields.text("entry" if not name else "function", "") if format in _WITH_FUNCTIONS else ""
    reference = _reference(fields, format)
    own = fields.sub("source", required=source is None)
    entry = Entry(
        name=name or asked or "main",
        function=name or asked or ("" if format == "mlir" else "main"),
        source=_source(own, format) if own else source or PathSource(Path(), ""),
        inputs=inputs,
        reference=reference,
        tolerance=_tolerance(fields.sub("tolerance")),
        constant=fields.texts("constant"),
        asked=asked or (name if format == "mlir" else ""),
    )
    if not dimensions.buckets:
        return [entry]
    if isinstance(reference, tuple):
        fields.problem("reference", "files are for one size: with buckets, leave it out, or give an entry for each size")
    bucketed, sizes = next(iter(dimensions.buckets.items()))

    def cut(spec: Input, size: int) -> Input:
        shape = (replace(d, min=size, max=size) if isinstance(d, Dimension) and d.name == bucketed else d for d in spec.shape)
        return replace(spec, shape=tuple(shape))

    return [
        replace(entry, function=f"{entry.function}_{size}", inputs=tuple(cut(spec, size) for spec in inputs)) for size in sizes
    ]


_OF_ONE = ("inputs", "entry", "reference", "tolerance", "constant")


def _several(fields: Fields, format: str) -> list[Entry]:
    """The entry points of `entries`."""
    for key in _OF_ONE:
        if key in fields.data:
            fields.known.add(key)
            fields.problem(key, "stands in each of `entries`: move it there")
    shared = fields.sub("source")
    source = _source(shared, format) if shared else None
    found: list[Entry] = []
    every = fields.sub("entries", required=True)
    for name in every.data if every else ():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            fields.problem("entries", f"{name!r} cannot name an entry point: letters, digits and '_', a letter first")
        elif every and (sub := every.sub(name, required=True)):
            found += _entries(sub, format, name, source)
            sub.done()
    if every is not None and not found:
        fields.problem("entries", "must not be empty")
    names = [entry.function for entry in found]
    for name in {n for n in names if names.count(n) > 1}:
        fields.problem("entries", f"two make the function {name!r}: rename one")
    asked = [(entry.source.sha256, entry.asked) for entry in found if format == "mlir"]  # whose files stay whole
    for _, name in {a for a in asked if asked.count(a) > 1}:
        fields.problem("entries", f"two are the function {name!r} of one file: remove one")
    return found


def _model(fields: Fields) -> Model:
    format = fields.text("format", choices=EVALUATORS)
    several = "entries" in fields.data
    model = Model(
        name=fields.path.stem,
        path=fields.path,
        about=fields.text("about"),
        licence=fields.text("licence"),
        format=format,
        entries=tuple(_several(fields, format) if several else _entries(fields, format, "", None)),
        bundles=fields.texts("bundles", required=True),
        parameters=fields.text("parameters", "", ("inline", "external")),
    )
    if model.parameters and format not in ("onnx", "tflite"):
        fields.problem("parameters", f"is for ONNX and TFLite files: the weights of {format} stay in the vmfb")
    if not several and "entry" in fields.data and format not in _WITH_FUNCTIONS:
        fields.known.add("entry")
        fields.problem("entry", "is for MLIR and StableHLO files: others have one graph")
    return model


def _folder(root: Path, kind: str, build: Callable[[Fields], _T], problems: Problems) -> dict[str, _T]:
    folder = root / kind
    result: dict[str, _T] = {}
    if not folder.is_dir():
        problems.add(folder, "", "there is no such folder")
        return result
    for path in sorted(folder.iterdir()):
        if path.suffix == ".yml":
            problems.add(path, "", "is not read: rename it to end in .yaml")
        if path.suffix != ".yaml":
            continue
        if not is_name(path.stem):
            problems.add(path, "", f"the file's name must be a name: {RULE}")
        if fields := read(path, problems):
            result[path.stem] = build(fields)
            fields.done()
    return result


def _references(
    root: Path, kind: str, named: Iterable[tuple[Path, str, Sequence[str]]], known: Iterable[str], problems: Problems
) -> None:
    """Note every name in `named` (file, key, names) that is not `known`. A file that could not be read has its own report."""
    for path, key, names in named:
        for index, name in enumerate(names):
            if name not in known and not is_file(str(root / f"{name}.yaml")):
                problems.add(path, f"{key}[{index}]", f"there is no {kind} {name!r}: {did_you_mean(name, known)}")


def load(root: Path) -> Spec:
    """Everything under `root` (`targets/`). Raises ManyProblemsError with all problems, each `file: path.to.key: what to do`."""
    problems = Problems()
    spec = Spec(
        _folder(root, "executables", _executable, problems),
        _folder(root, "bundles", _bundle, problems),
        _folder(root, "models", _model, problems),
    )
    bundles, models = spec.bundles.values(), spec.models.values()
    targets = [(b.path, "targets", b.targets) for b in bundles]
    _references(root / "executables", "executable target", targets, spec.executables, problems)
    _references(root / "bundles", "bundle", [(m.path, "bundles", m.bundles) for m in models], spec.bundles, problems)
    if problems.found:
        raise ManyProblemsError(problems.found)
    return spec
