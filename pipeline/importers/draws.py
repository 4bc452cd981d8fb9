"""Test data of a model: what its spec gives, and more draws from what the spec says of its inputs.

Random numbers of one range miss what only shows at its ends, for small or for large values, or for another sign.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.arrays import Array, load
from pipeline.errors import PipelineError
from pipeline.spec.types import Dimension, Input

GIVEN = "given"
# Where a spec says nothing of a float's range, these leave [0, 1). What the model makes of large numbers may overflow.
_BEYOND = ("signs", "large")
LARGE = "large"
_WHOLE = 4  # from this size on, an axis has a slice to spare


def draw(spec: Input, where: str, sizes: Mapping[str, int] | None = None) -> Array:
    """The test data of one input: its .npy file, or numbers drawn as `Input` says. Raises PipelineError on a misfit.

    `sizes` are those of open dimensions, by name.
    """
    at = spec.at(sizes or {})
    if spec.file:
        array = _loaded(spec, where)
        return array if array.shape == at.shape or not sizes else _resized(at, array)
    return _uniform(at, np.random.default_rng(spec.seed), spec.low, spec.high)


def _loaded(spec: Input, where: str) -> Array:
    """The array in the input's .npy file."""
    assert spec.file
    array = load(spec.file)
    if str(array.dtype) != spec.dtype or not _fits(array.shape, spec.shape):
        shape = ", ".join(str(size) for size in spec.shape)
        raise PipelineError(
            f"{spec.name!r} is {spec.dtype}[{shape}] in the spec, {array.dtype}{list(array.shape)} in the file",
            where=str(spec.file),
            hint=f"change {where} or the file",
        )
    return array


def _fits(shape: Sequence[int], wanted: Sequence[int | Dimension]) -> bool:
    return len(shape) == len(wanted) and all(
        size in range(want.min, want.max + 1, want.multiple) if isinstance(want, Dimension) else size == want
        for size, want in zip(shape, wanted, strict=True)
    )


def _resized(spec: Input, array: Array) -> Array:
    """Values of `array` in the input's shape: of another size than the file's, whose values alone are known to be good."""
    chosen: Array = np.random.default_rng(spec.seed).choice(array.ravel(), spec.fixed)
    return chosen.astype(spec.dtype)


def _is_float(spec: Input) -> bool:
    return np.issubdtype(np.dtype(spec.dtype), np.floating)


def _uniform(spec: Input, generator: np.random.Generator, low: float, high: float) -> Array:
    if _is_float(spec):
        drawn = generator.random(spec.fixed, dtype=np.float64 if spec.dtype == "float64" else np.float32)
        return np.asarray(low + (high - low) * drawn, spec.dtype)
    if spec.dtype == "uint64":
        return np.asarray(generator.integers(int(low), int(high), spec.fixed, dtype=np.uint64))
    return np.asarray(generator.integers(int(low), int(high), spec.fixed, dtype=np.int64), spec.dtype)


def _again(spec: Input, generator: np.random.Generator) -> Array:
    return _uniform(spec, generator, spec.low, spec.high)


def _ends(spec: Input, generator: np.random.Generator) -> Array:
    """Half of the values at an end of the range, or zero where that is in it; and along each axis the first slice all zero, which
    is where a norm is zero too."""
    least, most = np.array(spec.low, spec.dtype), np.array(spec.high if _is_float(spec) else int(spec.high) - 1, spec.dtype)
    if _is_float(spec):
        most = np.nextafter(most, least)
    zero = np.zeros((), spec.dtype) if spec.low <= 0 < spec.high else least
    points = [least, most, zero]
    chosen = np.stack(points)[generator.integers(0, len(points), spec.fixed)]
    result = np.where(generator.random(spec.fixed) < 0.5, chosen, _again(spec, generator))
    for axis, size in enumerate(spec.fixed):
        if size >= _WHOLE:
            np.moveaxis(result, axis, 0)[0] = zero
    return result


def _small(spec: Input, generator: np.random.Generator) -> Array:
    """Floats near zero, or near the least of a range without it; integers as drawn before."""
    if not _is_float(spec):
        return _again(spec, generator)
    down = 5e-5 if spec.dtype == "float16" else 1e-6  # of [-1, 1) in float16: subnormal
    middle = 0.0 if spec.low <= 0 <= spec.high else spec.low
    return _uniform(spec, generator, middle + (spec.low - middle) * down, middle + (spec.high - middle) * down)


def _signs(spec: Input, generator: np.random.Generator) -> Array:
    return _uniform(spec, generator, -1.0, 1.0) if spec.is_open else _again(spec, generator)


def _large(spec: Input, generator: np.random.Generator) -> Array:
    return _uniform(spec, generator, 0.0, 256.0) if spec.is_open else _again(spec, generator)


_KINDS: Mapping[str, Callable[[Input, np.random.Generator], Array]] = {
    "again": _again,
    "ends": _ends,
    "small": _small,
    "signs": _signs,
    LARGE: _large,
}


def _other(kind: str, number: int, spec: Input, given: Array) -> Array:
    generator = np.random.default_rng([zlib.crc32(kind.encode()), number, spec.seed])
    if not spec.file:
        return _KINDS[kind](spec, generator)
    # Of a file's range nothing is known. Its own floats stay in it; integers may be indices or lengths.
    return _of_a_file(kind, given, generator) if _is_float(spec) else given


def _of_a_file(kind: str, given: Array, generator: np.random.Generator) -> Array:
    """The floats of a file in another order; of `ends` and `small` some more than once, and the least or the largest of them
    never: what is made of all of them, such as their maximum, mean or norm, is the same in any order."""
    with np.errstate(invalid="ignore"):
        kept = {"ends": given[given > given.min(initial=np.inf)], "small": given[given < given.max(initial=-np.inf)]}
    chosen = kept.get(kind)
    some: Array = generator.permuted(given.ravel()) if chosen is None or not chosen.size else generator.choice(chosen, given.size)
    return some.reshape(given.shape)


def _sizes(inputs: Sequence[Input], where: str) -> dict[str, dict[str, int]]:
    """Sizes of the open dimensions for sets of test data, by its name: `given` as the files have them, else between the ends."""
    open_ = {d.name: d for spec in inputs for d in spec.dimensions if d.min < d.max}
    fixed = {d.name: d.min for spec in inputs for d in spec.dimensions}
    given = fixed | {d.name: d.between for d in open_.values()}
    said: dict[str, tuple[int, Path]] = {}
    for spec in (spec for spec in inputs if spec.file and spec.dimensions):
        for size, want in zip(_loaded(spec, where).shape, spec.shape, strict=True):
            if isinstance(want, Dimension) and spec.file:
                other = said.setdefault(want.name, (size, spec.file))
                if other[0] != size:
                    what = f"{want.name} is {size} here, and {other[0]} in {other[1]}"
                    raise PipelineError(what, where=str(spec.file), hint="give files of one size")
    found = {GIVEN: given | {name: size for name, (size, _) in said.items()}}
    if open_:
        ends = [{d.name: getattr(d, end) for d in open_.values()} for end in ("min", "max")]
        crossed = {d.name: ends[number % 2][d.name] for number, d in enumerate(open_.values())}
        for name, sizes in (("smallest", ends[0]), ("largest", ends[1]), *([("crossed", crossed)] if len(open_) > 1 else [])):
            if fixed | sizes not in found.values():
                found[name] = fixed | sizes
        if (between := fixed | {d.name: d.between for d in open_.values()}) not in found.values():
            found["between"] = between
    return found


def at_one_size(inputs: Sequence[Input], where: str) -> list[Input]:
    """`inputs` with fixed sizes: those of their files, else between the ends. Raises PipelineError for a file that misfits."""
    sizes = _sizes(inputs, where)[GIVEN]
    return [spec.at(sizes) for spec in inputs]


def draws(inputs: Sequence[Input], where: str) -> dict[str, list[Array]]:
    """Sets of test data by name, `given` first: arrays in the order of `inputs`. Raises PipelineError for a file that misfits.

    The same for the same specs, on any machine. `again`: other numbers of the same range. `ends`: many at its ends.
    `small`: near zero. `signs` and `large`: where a float's range is not said,
    [-1, 1) and [0, 256). Of a file's floats: in another order, without the least, without the largest.
    Where dimensions are open, these are of one size; `smallest` and `largest` have the ends of all of them, `crossed` the
    one's smallest and the next one's largest.
    """
    try:
        return _draws(inputs, where)
    except (MemoryError, ValueError) as error:
        if isinstance(error, ValueError) and "array is too big" not in str(error):
            raise
        what = f"there is not enough memory for the test data: {error}"
        hint = "give a smaller `max` to open dimensions, smaller shapes, or free memory"
        raise PipelineError(what, where=where, hint=hint) from error


def _draws(inputs: Sequence[Input], where: str) -> dict[str, list[Array]]:
    sizes = _sizes(inputs, where)
    given = [draw(spec, where, sizes[GIVEN]) for spec in inputs]
    found = {GIVEN: given}
    open_ = any(spec.is_open for spec in inputs)
    for kind in (k for k in _KINDS if open_ or k not in _BEYOND):
        pairs = enumerate(zip((spec.at(sizes[GIVEN]) for spec in inputs), given, strict=True))
        made = [_other(kind, n, spec, array) for n, (spec, array) in pairs]
        if not any(all(map(_same, made, other)) for other in found.values()):
            found[kind] = made
    for name in sizes.keys() - found.keys():
        found[name] = [draw(replace(spec, seed=spec.seed + 1), where, sizes[name]) for spec in inputs]
    return {name: found[name] for name in (GIVEN, *_KINDS, *sizes) if name in found}


def _same(a: Array, b: Array) -> bool:
    return a.tobytes() == b.tobytes()


def moved(arrays: Sequence[Array], seed: int) -> list[Array]:
    """`arrays` with every float moved up or down by one unit in the last place; integers, zeros and infinities as they are."""
    generator = np.random.default_rng(seed)
    return [_moved(array, generator) if array.dtype.kind == "f" else array for array in arrays]


def _moved(array: Array, generator: np.random.Generator) -> Array:
    to = np.where(generator.random(array.shape) < 0.5, -np.inf, np.inf).astype(array.dtype)
    with np.errstate(under="ignore", over="ignore"):
        result = np.nextafter(array, to)
    return np.where(np.isfinite(result) & np.isfinite(array) & (array != 0), result, array).astype(array.dtype)
