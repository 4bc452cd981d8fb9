"""Data sets: files of samples and labels → what a function is called with, and the label of each sample.

Samples are slices of an array, or arrays of their own where their sizes differ. Where an array has as many axes as the model's
input, the input's first axis is the batch.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.arrays import Array
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import ZIP_ERRORS
from pipeline.names import did_you_mean
from pipeline.spec.types import DataFile, Dimension, Evaluation, Input

PART = 16  # samples, where a device is too slow for all
_BATCH = 64  # the largest where its size is open
Label = Array | str


@dataclass(frozen=True)
class Call:
    """One call of the function: its inputs, and the numbers of the samples in it; `batched` along the first axis."""

    inputs: tuple[Array, ...]
    samples: range
    batched: bool

    def each(self, outputs: Sequence[Array], where: str) -> Iterator[tuple[int, list[Array]]]:
        """The numbers of its samples, and what the call gave for each. Raises PipelineError for an output that is no batch."""
        if not self.batched:
            yield self.samples[0], list(outputs)
            return
        size = self.inputs[0].shape[0]
        for number, array in enumerate(outputs):
            if array.shape[:1] != (size,):
                what = f"output {number} has shape {list(array.shape)}, no first axis of the {size} samples of a batch"
                raise PipelineError(what, where=where, hint="give samples with one axis more: each is an input as it is then")
        for place, number in enumerate(self.samples):
            yield number, [array[place] for array in outputs]


def _opened(path: Path, file: DataFile) -> Array | list[Array] | list[str]:
    """What the file holds: one array of samples, an array for each, or lines of text."""
    with path.open("rb") as opened:
        head = opened.read(6)
    if head == b"\x93NUMPY":
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
        return array
    if head[:2] != b"PK":
        return path.read_text("utf-8").splitlines()
    with np.load(path, allow_pickle=False) as archive:
        if file.array and file.array not in archive:
            raise PipelineError(f"has no array {file.array!r}: {did_you_mean(file.array, archive)}", where=file.where)
        if file.array:
            found: Array = archive[file.array]
            return found
        numbered = all(name.isdecimal() for name in archive)
        return [archive[name] for name in sorted(archive, key=int if numbered else str)]


def _read(file: DataFile, path: Path) -> Array | list[Array] | list[str]:
    """`_opened`. Raises PipelineError for a file that is damaged, or of another kind than the spec says."""
    try:
        with disk_errors(str(path)):
            found = _opened(path, file)
    except ZIP_ERRORS as error:
        raise PipelineError(f"{file.name} are no .npy, .npz or text file: {error}", where=file.where) from error
    if file.array and not zipfile.is_zipfile(path):
        raise PipelineError(f"`array` is for .npz files, and {file.name} are none", where=file.where, hint="remove it")
    if isinstance(found, np.ndarray) and not found.ndim:
        raise PipelineError(f"{file.name} are one number, without an axis of samples", where=file.where)
    if not len(found):
        raise PipelineError(f"{file.name} are none: the file is empty", where=file.where)
    return found


def _misfit(given: Sequence[Array], inputs: Sequence[Input]) -> str:
    """Why arrays are not what the function takes; empty where they are."""
    sizes: dict[str, int] = {}
    for array, spec in zip(given, inputs, strict=True):
        wanted = ", ".join(str(size) for size in spec.shape)
        what = f"{spec.name!r} takes {spec.dtype}[{wanted}], not {array.dtype}{list(array.shape)}"
        if str(array.dtype) != spec.dtype or array.ndim != len(spec.shape):
            return what
        for size, want in zip(array.shape, spec.shape, strict=True):
            if not isinstance(want, Dimension):
                if size != want:
                    return what
            elif size not in range(want.min, want.max + 1, want.multiple):
                return what
            elif sizes.setdefault(want.name, size) != size:
                return f"{want.name} is {size} in {spec.name!r}, and {sizes[want.name]} in another input"
    return ""


def _batch(inputs: Sequence[Input]) -> set[int]:
    """How many samples the inputs hold, each along its first axis."""

    def size(first: int | Dimension) -> int:
        if not isinstance(first, Dimension):
            return first
        return max(min(first.max, _BATCH) // first.multiple * first.multiple, first.min)

    return {size(spec.shape[0]) for spec in inputs}


class DataSet:
    """The samples and labels of an evaluation, as its files at `paths` have them; the file `spec` names them.

    Raises PipelineError for files that are none, and for other types, axes and numbers of samples than belong together.
    """

    def __init__(self, evaluation: Evaluation, inputs: Sequence[Input], paths: Mapping[DataFile, Path], spec: str) -> None:
        self._spec = spec
        try:
            self._read(evaluation, inputs, paths)
        except PipelineError as error:
            raise PipelineError(error.what, where=f"{spec}: {error.where}", hint=error.hint) from error

    def _read(self, evaluation: Evaluation, inputs: Sequence[Input], paths: Mapping[DataFile, Path]) -> None:
        self._inputs, self._files = tuple(inputs), evaluation.inputs
        self._arrays = [self._samples(file, paths[file]) for file in evaluation.inputs]
        labels = _read(evaluation.labels, paths[evaluation.labels])
        self.labels: Sequence[Label] = labels if isinstance(labels, list) else [np.asarray(label) for label in labels]
        self.where = f"{self._spec}: {evaluation.labels.where}"
        self.vocabulary = self._words(evaluation.vocabulary, paths)
        self._check(evaluation)
        self.count = min(evaluation.samples or len(self.labels), len(self.labels))

    @staticmethod
    def _samples(file: DataFile, path: Path) -> Array | list[Array]:
        found = _read(file, path)
        if isinstance(found, np.ndarray):
            return found
        arrays = [array for array in found if isinstance(array, np.ndarray)]
        if len(arrays) != len(found):
            raise PipelineError(f"{file.name} are text", where=file.where, hint="give an .npy or .npz file")
        return arrays

    @staticmethod
    def _words(file: DataFile | None, paths: Mapping[DataFile, Path]) -> tuple[str, ...]:
        found = _read(file, paths[file]) if file else []
        if file and not (isinstance(found, list) and all(isinstance(line, str) for line in found)):
            raise PipelineError("the vocabulary is no text", where=file.where, hint="give a .txt file with a token a line")
        return tuple(str(line) for line in found)

    def _check(self, evaluation: Evaluation) -> None:
        for file, array in zip(self._files, self._arrays, strict=True):
            if len(array) != len(self.labels):
                what = f"{file.name} are {len(array)}, the labels {len(self.labels)}: there must be a label for each sample"
                raise PipelineError(what, where=evaluation.labels.where)
        if evaluation.samples > len(self.labels):
            what = f"samples: {evaluation.samples} are asked for, the data set has {len(self.labels)}"
            raise PipelineError(what, where=evaluation.labels.where)
        for file, array, spec in zip(self._files, self._arrays, self._inputs, strict=True):
            one = array[0]
            axes = f"{array.dtype}[samples, …] with {array.ndim} axes" if isinstance(array, np.ndarray) else f"{one.dtype}"
            if str(one.dtype) != spec.dtype:
                what = f"{file.name} are {one.dtype}, the model takes {spec.dtype}"
                raise PipelineError(what, where=file.where, hint="save them as the model takes them")
            if one.ndim - len(spec.shape) not in ((0, -1) if isinstance(array, np.ndarray) else (0,)):
                takes = f"{spec.dtype}[{', '.join(map(str, spec.shape))}]"
                raise PipelineError(f"{file.name} are {axes}, the model takes {takes}", where=file.where)
        if len({self._is_batched(a, s) for a, s in zip(self._arrays, self._inputs, strict=True)}) > 1:
            what = "some inputs have samples along the batch, and some have one axis more"
            raise PipelineError(what, where=self._files[0].where, hint="give all in the same way")
        if self.batched and len(sizes := _batch(self._inputs)) > 1:
            what = f"the inputs' first axes are no batch: they have the sizes {', '.join(map(str, sorted(sizes)))}"
            hint = "give samples with one axis more: each is an input as it is then"
            raise PipelineError(what, where=self._files[0].where, hint=hint)

    @staticmethod
    def _is_batched(array: Array | list[Array], spec: Input) -> bool:
        return isinstance(array, np.ndarray) and array.ndim == len(spec.shape)

    @property
    def batched(self) -> bool:
        """Whether samples are slices of the inputs."""
        return self._is_batched(self._arrays[0], self._inputs[0])

    def fitting(self) -> list[int]:
        """The numbers of the samples that the function takes."""
        if all(isinstance(array, np.ndarray) for array in self._arrays):  # one shape for all
            return [] if self.misfit(0) else list(range(self.count))
        return [number for number in range(self.count) if not self.misfit(number)]

    def misfit(self, number: int) -> str:
        """Why the sample of this number is not for the function; empty where it is."""
        return _misfit(self._at(number, number + 1).inputs, self._inputs)

    def calls(self, numbers: Sequence[int]) -> Iterator[Call]:
        """The calls for the samples of these numbers, as `fitting` gives them, or the first of those."""
        if self.batched:
            (size,) = _batch(self._inputs)
            for first in range(0, len(numbers), size):
                yield self._at(first, len(numbers))
        else:
            for number in numbers:
                yield self._at(number, number + 1)

    def _at(self, first: int, end: int) -> Call:
        """The call of the sample `first`, and of those after it in its batch but before `end`: the last one fills it up."""
        if not self.batched:
            return Call(tuple(np.asarray(array[first]) for array in self._arrays), range(first, end), False)
        (size,) = _batch(self._inputs)
        samples = range(first, min(first + size, end))
        rows = [min(row, samples[-1]) for row in range(first, first + size)]
        return Call(tuple(array[rows] for array in self._arrays if isinstance(array, np.ndarray)), samples, True)
