"""The inputs of an entry point: their shapes, with dimensions that stay open, and their test data."""

from __future__ import annotations

import re

import numpy as np

from pipeline.spec.keys import DIMENSION, LARGEST, OPEN_DIMENSION, WITH_WEIGHTS
from pipeline.spec.reader import Fields
from pipeline.spec.types import MLIR_DTYPES, Dimension, Input


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST


class Dimensions:
    """The open dimensions of an entry point as its inputs name them. A name has one range."""

    def __init__(self) -> None:
        self.known: dict[str, Dimension] = {}
        self.buckets: dict[str, tuple[int, ...]] = {}

    def read(self, fields: Fields, unnamed: str) -> Dimension:
        """The dimension that `fields` say; without a name it is called `unnamed`."""
        while "name" not in fields.data and unnamed in self.known:  # of an input that is called almost the same
            unnamed += "_"
        name = fields.text("name", unnamed)
        if not re.fullmatch(DIMENSION, name):
            fields.problem("name", f"{name!r} cannot name a dimension: letters, digits and '_', no digit first")
        if fields.data.keys() == {"name"} and name in self.known:
            fields.done()
            return self.known[name]
        if "buckets" in fields.data:
            made = self._bucketed(fields, name)
        else:
            least, most = (fields.integer(key, required=True) for key in ("min", "max"))
            multiple = fields.integer("multiple")
            made = Dimension(name, least, most, multiple)
            if min(least, most, multiple) < 1:
                pass  # that is said already
            elif most <= least:
                hint = "give a fixed size as a number" if most == least else "the smallest size is min, the largest max"
                fields.problem("max", f"must be above min, which is {least}: {hint}")
            elif least % multiple or most % multiple:
                fields.problem("multiple", f"min and max must be multiples of {multiple}")
        if self.known.setdefault(name, made) != made:
            fields.problem("name", f"{name!r} has another range elsewhere: give it once, and `{{name: {name}}}` after")
        fields.done()
        return made

    def _bucketed(self, fields: Fields, name: str) -> Dimension:
        sizes = fields.items("buckets")
        if not all(map(_is_size, sizes)) or sorted(set(sizes)) != sizes:
            fields.problem("buckets", f"must be whole numbers of 1 to {LARGEST} that ascend, not {sizes!r}")
            sizes = []
        if self.buckets and name not in self.buckets:
            fields.problem(
                "buckets", f"stand at {next(iter(self.buckets))!r} already: one dimension of an entry point may have some"
            )
        self.buckets.setdefault(name, tuple(sizes))
        return Dimension(name, min(sizes, default=1), max(sizes, default=1))


def _shape(fields: Fields, name: str, dimensions: Dimensions) -> tuple[int | Dimension, ...]:
    shape: list[int | Dimension] = []
    for index, size in enumerate(fields.items("shape")):
        if _is_size(size):
            shape.append(size)
        elif isinstance(size, dict):
            where = f"{fields.where}.shape[{index}]".lstrip(".")
            unnamed = re.sub(r"\W", "_", name, flags=re.ASCII) + f".{index}"
            shape.append(
                dimensions.read(
                    Fields(fields.path, where, size, OPEN_DIMENSION, fields.problems), f"_{unnamed}"[unnamed[:1].isalpha() :]
                )
            )
        else:
            hint = "one that is open is {min: 1, max: 512}"
            fields.problem(f"shape[{index}]", f"must be a whole number of 1 to {LARGEST}, not {size!r}: {hint}")
    return tuple(shape)


def _input(fields: Fields, dimensions: Dimensions) -> Input:
    name = fields.text("name")
    shape = _shape(fields, name, dimensions)
    dtype = fields.text("dtype")
    if "value" in fields.data:
        return _baked(fields, shape, dtype)
    # Integers drawn from [0, 1) are all 0, which tests nothing: their range must be said. A bool has only one.
    high = {"bool": 2.0}.get(dtype, 1.0) if "int" not in dtype or "file" in fields.data else None
    result = Input(
        name=name,
        shape=shape,
        dtype=dtype,
        seed=fields.integer("seed"),
        low=fields.number("low"),
        high=fields.number("high", high, required=high is None),
        file=fields.file("file") if "file" in fields.data else None,
        is_open=dtype.startswith("float") and not {"low", "high", "file"} & fields.data.keys(),
    )
    if result.file is None and dtype in MLIR_DTYPES:
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


def read_inputs(fields: Fields, format: str) -> tuple[tuple[Input, ...], Dimensions]:
    """`inputs` of a model in this format, and the open dimensions that they name."""
    dimensions = Dimensions()
    inputs = tuple(_input(sub, dimensions) for sub in fields.subs("inputs", required=True))
    for index, spec in enumerate(inputs):
        if spec.value is not None and format not in WITH_WEIGHTS:
            fields.problem(f"inputs[{index}].value", "is for ONNX and TFLite files: write it into the model's file")
    names = [i.name for i in inputs]
    for name in {n for n in names if n and names.count(n) > 1}:
        fields.problem("inputs", f"the input {name!r} stands twice: remove one")
    if dimensions.buckets and format == "mlir":
        fields.problem("inputs", "buckets are not for MLIR files: give a function for each size in `entries`")
    return inputs, dimensions
