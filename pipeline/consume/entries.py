"""Entry points, found by name and by the arrays that go in: a release's, from its manifest, a file's, from its own word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from pipeline.errors import PipelineError
from pipeline.manifest.types import DimensionInfo, TensorInfo
from pipeline.names import did_you_mean
from pipeline.plain import plain


class Signature(Protocol):
    """What the manifest's `EntryInfo` and a file's `IdentifiedEntry` both have."""

    @property
    def name(self) -> str:
        """What callers ask for."""

    @property
    def function(self) -> str:
        """The exported function."""

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """What it takes."""

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """What it gives."""

    @property
    def dimensions(self) -> tuple[DimensionInfo, ...]:
        """The ranges of the dimensions that shapes name."""


class Shaped(Protocol):
    """An array, here or on a device."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions."""

    @property
    def dtype(self) -> Any:
        """Its numpy dtype."""


E = TypeVar("E", bound=Signature)


def groups(entries: Sequence[E]) -> dict[str, list[E]]:
    """Entry points by name: several functions with one name are buckets, one for each size of a dimension."""
    found: dict[str, list[E]] = {}
    for entry in entries:
        found.setdefault(entry.name, []).append(entry)
    return found


def asked(entries: Sequence[E], wanted: str, where: str, how: str = "--function NAME") -> list[E]:
    """The functions that `wanted` means: all buckets of an entry point, one function, or if it is empty the only entry point.

    Raises PipelineError where there is none or no single one; `how` tells people to name one.
    """
    known = groups(entries)
    found = known.get(wanted) or [entry for entry in entries if entry.function == wanted]
    if wanted and not found:
        others = {*known, *(entry.function for entry in entries)}
        raise PipelineError(f"has no entry point {wanted!r}: {did_you_mean(wanted, others)}", where=where)
    if not wanted and len(known) != 1:
        raise PipelineError(f"has {len(known)} entry points", where=where, hint=f"{how}, one of: {', '.join(known)}")
    return found or list(entries)


def fitting(entries: Sequence[E], arrays: Sequence[Shaped]) -> E:
    """The one of `entries`, which are buckets of one entry point, that takes arrays of these dtypes and shapes.

    Raises PipelineError that says which array does not fit, or which bucket would.
    """
    problems = []
    for entry in entries:
        problem = _misfit(entry, arrays, _range(entry))
        if problem is None:
            return entry
        problems.append(problem)
    name = _bucketed(entries)
    if name:
        sizes: dict[str, tuple[int, str]] = {}
        free = {**_range(entries[0]), name: DimensionInfo(name, 0, 1 << 62, 1)}
        problem = _misfit(entries[0], arrays, free, sizes)
        if problem is None and name in sizes:
            problem = _no_bucket(entries, name, sizes[name][0])
        problems.insert(0, problem or problems[0])
    raise problems[0]


def smallest(entries: Sequence[Signature], name: str, size: int) -> int:
    """The smallest size that the dimension `name` may have and that holds `size`: for programs that pad.

    Raises PipelineError for a dimension that is not there, and where all its sizes are smaller.
    """
    ranges = [d for entry in entries for d in entry.dimensions if d.name == name]
    if not ranges:
        known = {d.name for entry in entries for d in entry.dimensions}
        raise PipelineError(f"there is no dimension {name!r}: {did_you_mean(name, known)}")
    found = [fit for d in ranges if (fit := -(-max(size, d.min) // d.multiple) * d.multiple) <= d.max]
    if not found:
        kind = "bucket" if len(ranges) > 1 else "size"
        raise PipelineError(f"{name} is {size}, the largest {kind} is {max(d.max for d in ranges)}{_list(entries, name)}")
    return min(found)


def _list(entries: Sequence[Signature], name: str) -> str:
    buckets = sorted({d.max for entry in entries for d in entry.dimensions if d.name == name})
    return f"; buckets: {', '.join(map(str, buckets))}" if len(buckets) > 1 else ""


def _no_bucket(entries: Sequence[Signature], name: str, size: int) -> PipelineError:
    try:
        fit = smallest(entries, name, size)
    except PipelineError as error:
        return error
    return PipelineError(f"{name} is {size}: pad it to {fit}, the smallest bucket that fits{_list(entries, name)}")


def _range(entry: Signature) -> dict[str, DimensionInfo]:
    return {d.name: d for d in entry.dimensions}


def _bucketed(entries: Sequence[Signature]) -> str:
    """The dimension by whose size these entry points differ; empty where there is none."""
    names = _range(entries[0]) if len(entries) > 1 else {}
    for name in names:
        found = [_range(entry).get(name) for entry in entries]
        if all(d is not None and d.min == d.max for d in found) and len({d.max for d in found if d}) > 1:
            return name
    return ""


def _shown(array: Shaped) -> str:
    return f"{'x'.join(map(str, array.shape)) or 'scalar'} {array.dtype}"


def require_given(entries: Sequence[Signature], arrays: Sequence[Shaped]) -> None:
    """Raise PipelineError if no arrays were given to one of these, which all take some."""
    if not arrays and all(entry.inputs for entry in entries):
        count = len(entries[0].inputs)
        what = f"takes {count} input{'s' * (count != 1)}, not 0: give --input for each, x.npy or like 1x37xi64=5"
        raise PipelineError(what, hint=describe(entries[0].inputs, entries))


def _misfit(
    entry: Signature,
    arrays: Sequence[Shaped],
    ranges: Mapping[str, DimensionInfo],
    sizes: dict[str, tuple[int, str]] | None = None,
) -> PipelineError | None:
    """Why `entry` does not take `arrays`, or None. `sizes` is told of each named dimension its size and whose it is."""
    sizes = {} if sizes is None else sizes
    if len(arrays) != len(entry.inputs):
        count = f"{len(entry.inputs)} input{'s' * (len(entry.inputs) != 1)}"
        return PipelineError(f"takes {count}, not {len(arrays)}", hint=describe(entry.inputs, [entry]))
    for array, tensor in zip(arrays, entry.inputs, strict=True):
        fits = len(array.shape) == len(tensor.shape) and all(
            isinstance(want, str) or want in (None, got) for got, want in zip(array.shape, tensor.shape, strict=True)
        )
        if str(array.dtype) != tensor.dtype or not fits:
            wants = describe([tensor], [entry])
            return PipelineError(f"the input {plain(tensor.name)} is {_shown(array)}, but the model takes {wants}")
        for size, name in zip(array.shape, tensor.shape, strict=True):
            if isinstance(name, str) and (problem := _wrong_size(ranges[name], size, plain(tensor.name), sizes)):
                return problem
    return None


def _wrong_size(range_: DimensionInfo, size: int, tensor: str, sizes: dict[str, tuple[int, str]]) -> PipelineError | None:
    name = plain(range_.name)
    known, first = sizes.setdefault(range_.name, (size, tensor))
    if size != known:
        return PipelineError(f"{name} is {known} in the input {first}, but {size} in the input {tensor}: it must be the same")
    if not range_.min <= size <= range_.max:
        bounds = f"goes from {range_.min} to {range_.max}" if range_.min < range_.max else f"is {range_.max} here"
        return PipelineError(f"{name} is {size} in the input {tensor}, but it {bounds}")
    if size % range_.multiple:
        return PipelineError(f"{name} is {size} in the input {tensor}, but it must be a multiple of {range_.multiple}")
    return None


def describe(tensors: Sequence[TensorInfo], entries: Sequence[Signature] = ()) -> str:
    """The tensors for people: `x: 1xTx80 float32, … (T: 1 to 512)`, with what their named dimensions may be in `entries`."""
    shown = ", ".join(
        f"{t.name}: {'x'.join('?' if d is None else str(d) for d in t.shape) or 'scalar'} {t.dtype}" for t in tensors
    )
    names = dict.fromkeys(size for t in tensors for size in t.shape if isinstance(size, str))
    said = "; ".join(filter(None, (sizes(name, entries) for name in names)))
    return plain(f"{shown} ({said})" if said else shown)


def sizes(name: str, entries: Sequence[Signature]) -> str:
    """The sizes that a named dimension may have: `T: 1 to 512`; empty where nobody says."""
    ranges = [d for entry in entries for d in entry.dimensions if d.name == name]
    if any(d.min < d.max for d in ranges):
        d = ranges[0]
        return f"{name}: {d.min} to {d.max}" + (f", a multiple of {d.multiple}" if d.multiple > 1 else "")
    return f"{name}: {', '.join(str(d.max) for d in ranges)}" if ranges else ""
