"""Metrics: outputs and labels → a score. Each sample is counted as it comes; functions of the project's own get all at once."""

from __future__ import annotations

import importlib.util
import itertools
import math
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pipeline.accuracy.dataset import Label
from pipeline.arrays import Array
from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes
from pipeline.names import did_you_mean
from pipeline.spec.types import Evaluation


class Metric(Protocol):
    """What counts samples. Both raise PipelineError for outputs and labels that do not belong together."""

    def add(self, outputs: Sequence[Array], label: Label) -> None:
        """Count a sample: all outputs of the model for it, in order."""

    def score(self) -> float:
        """The score of what was added."""


def _classes(label: Label, ignore: int | None) -> tuple[Array, Array]:
    """The label's classes, and which of them count. Raises ValueError where it is none."""
    if isinstance(label, str) or label.dtype.kind not in "iu":
        raise ValueError(
            f"labels must be whole numbers, the class of each, not {'text' if isinstance(label, str) else label.dtype}"
        )
    wanted = label.astype(np.int64)
    return wanted, np.ones(wanted.shape, bool) if ignore is None else wanted != ignore


def _require_classes(wanted: Array, count: int) -> None:
    if wanted.size and not (wanted.min() >= 0 and wanted.max() < count):
        worst = int(wanted.min()) if wanted.min() < 0 else int(wanted.max())
        raise ValueError(f"the label {worst} is no class: the model tells {count} (`ignore: {worst}` leaves such out)")


class _Top:
    """The part of labels that are among the `most` classes with the highest scores."""

    def __init__(self, most: int, ignore: int | None) -> None:
        self._most, self._ignore, self._right, self._all = most, ignore, 0, 0

    def add(self, output: Array, label: Label) -> None:
        wanted, counts = _classes(label, self._ignore)
        classes = output.size if wanted.size == 1 else output.shape[-1]
        if output.size != classes * wanted.size or classes < 2:
            raise ValueError(f"labels of shape {list(wanted.shape)} are none of scores of shape {list(output.shape)}")
        scores, wanted = output.reshape(-1, classes)[counts.ravel()], wanted[counts].reshape(-1, 1)
        _require_classes(wanted, classes)
        own = np.take_along_axis(scores, wanted, 1)
        before = (scores > own) | ((scores == own) & (np.arange(classes) < wanted))  # of equal ones the first, as argmax does
        self._right += int(((before.sum(1) < self._most) & (own == own).ravel()).sum())
        self._all += len(scores)

    def score(self) -> float:
        return self._right / self._all if self._all else math.nan


class _MeanIou:
    """Intersection over union, the mean of the classes that occur."""

    def __init__(self, ignore: int | None) -> None:
        self._ignore = ignore
        self._both, self._either = np.zeros(0, np.int64), np.zeros(0, np.int64)

    def add(self, output: Array, label: Label) -> None:
        wanted, counts = (array.squeeze() for array in _classes(label, self._ignore))
        found, classes = output.squeeze(), 0
        if found.shape != wanted.shape:
            axes = [a for a in range(found.ndim) if found.shape[:a] + found.shape[a + 1 :] == wanted.shape]
            if not axes:
                raise ValueError(f"labels of shape {list(wanted.shape)} are none of an output of shape {list(output.shape)}")
            classes, found = found.shape[axes[0]], np.asarray(found.argmax(axes[0]))
        elif found.dtype.kind not in "iu":
            raise ValueError(f"an output of the labels' shape must be whole numbers, the class of each, not {output.dtype}")
        wanted, found = wanted[counts], found[counts].astype(np.int64)
        if classes:
            _require_classes(wanted, classes)
        if wanted.size and min(wanted.min(), found.min()) < 0:
            raise ValueError("classes must not be negative (`ignore` leaves a label out)")
        most = int(max(wanted.max(initial=0), found.max(initial=0), len(self._both) - 1)) + 1
        both, *each = (np.bincount(array, minlength=most) for array in (wanted[wanted == found], wanted, found))
        self._both, self._either = (np.pad(a, (0, most - len(a))) for a in (self._both, self._either))
        self._both, self._either = self._both + both, self._either + sum(each) - both

    def score(self) -> float:
        occur = self._either > 0
        return float((self._both[occur] / self._either[occur]).mean()) if occur.any() else math.nan


class _Cosine:
    """The mean cosine similarity."""

    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0

    def add(self, output: Array, label: Label) -> None:
        if isinstance(label, str) or label.size != output.size:
            shape = "text" if isinstance(label, str) else f"of shape {list(label.shape)}"
            raise ValueError(f"labels {shape} are no vectors to compare outputs of shape {list(output.shape)} with")
        a, b = output.ravel().astype(np.float64), label.ravel().astype(np.float64)
        norms = math.sqrt(float(a @ a) * float(b @ b))
        self._sum, self._count = self._sum + (float(a @ b) / norms if norms else 0.0), self._count + 1

    def score(self) -> float:
        return self._sum / self._count if self._count else math.nan


class _WordErrorRate:
    """Words that were inserted, removed or replaced, for each word of the labels."""

    def __init__(self, vocabulary: Sequence[str], blank: int | None) -> None:
        self._vocabulary, self._blank, self._errors, self._words = vocabulary, blank, 0, 0

    def _said(self, output: Array) -> list[Any]:
        """The words of an output: numbers of tokens, or scores of them."""
        squeezed = output.squeeze()
        tokens = np.atleast_1d(squeezed if output.dtype.kind in "iu" else squeezed.argmax(-1)).tolist()
        if np.ndim(tokens) != 1:
            raise ValueError(f"an output of shape {list(output.shape)} is no list of tokens, nor of their scores")
        if self._blank is not None:
            tokens = [token for token, _ in itertools.groupby(tokens) if token != self._blank]
        if not self._vocabulary:
            return list(tokens)
        if tokens and not (min(tokens) >= 0 and max(tokens) < len(self._vocabulary)):
            raise ValueError(f"the model gives the token {max(tokens)}, the vocabulary has {len(self._vocabulary)}")
        return "".join(self._vocabulary[token] for token in tokens).translate({ord("▁"): " ", ord("|"): " "}).split()

    def add(self, output: Array, label: Label) -> None:
        if isinstance(label, str) != bool(self._vocabulary):
            raise ValueError("labels are lines of words where there is a `vocabulary`, and numbers of tokens where there is none")
        wanted = label.split() if isinstance(label, str) else np.ravel(label).tolist()
        self._errors, self._words = self._errors + edits(self._said(output), wanted), self._words + len(wanted)

    def score(self) -> float:
        return self._errors / self._words if self._words else math.nan


_Counter = _Top | _MeanIou | _Cosine | _WordErrorRate
_TOP = {"top-1": 1, "top-5": 5}


def edits(found: Sequence[Any], wanted: Sequence[Any]) -> int:
    """How many items must be inserted, removed or replaced to make one of the other."""
    row = list(range(len(wanted) + 1))
    for count, item in enumerate(found, 1):
        last, row[0] = row[0], count
        for place, other in enumerate(wanted, 1):
            last, row[place] = row[place], min(last + (item != other), row[place] + 1, row[place - 1] + 1)
    return row[-1]


class _OfOneOutput:
    """A metric of one output."""

    def __init__(self, counted: _Counter, number: int, where: str) -> None:
        self._counted, self._number, self._where = counted, number, where

    def add(self, outputs: Sequence[Array], label: Label) -> None:
        try:
            self._counted.add(outputs[self._number], label)
        except ValueError as error:
            raise PipelineError(str(error), where=self._where) from error

    def score(self) -> float:
        return self._counted.score()


class _Own:
    """A function of the project's own, which gets all samples at once."""

    def __init__(self, program: Path, name: str, outputs: Sequence[str]) -> None:
        self._program, self._name, self._called = program, name, outputs
        self._function = _function(program, name)
        self._outputs: list[dict[str, Array]] = []
        self._labels: list[Label] = []

    def add(self, outputs: Sequence[Array], label: Label) -> None:
        self._outputs.append(dict(zip(self._called, outputs, strict=True)))
        self._labels.append(label)

    def score(self) -> float:
        try:
            found = self._function(self._outputs, self._labels)
        except (Exception, SystemExit) as error:
            raise _raised(error, self._program, self._name) from error
        if isinstance(found, bool) or not isinstance(found, int | float | np.number):
            what = f"the function {self._name!r} must return a number, not {found!r:.100}"
            raise PipelineError(what, where=str(self._program))
        return float(found)


def _raised(error: BaseException, program: Path, name: str) -> PipelineError:
    """What a function of the project's own raised, and where in its file."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename) == program.absolute()]
    said = f"{type(error).__name__}: {error}".rstrip(": ")
    if isinstance(error, SyntaxError):
        return PipelineError(said, where=str(program))
    place = f"{program}:{own[-1].lineno}" if own else str(program)
    line = f" at `{own[-1].line}`" if own and own[-1].line else ""
    return PipelineError(f"{name} raised {said}{line}", where=place, hint="correct the metric, run the same command again")


def _function(program: Path, name: str) -> Callable[[list[dict[str, Array]], list[Label]], Any]:
    """The function of this name in a Python file, which is run for it, and may import what lies beside it."""
    called = f"_metric_{sha256_bytes(str(program.absolute()).encode())[:16]}"
    made = importlib.util.spec_from_file_location(called, program.absolute())
    if made is None or made.loader is None:
        raise PipelineError("is no Python file", where=str(program))
    sys.modules[called] = module = importlib.util.module_from_spec(made)
    if (folder := str(program.parent.absolute())) not in sys.path:
        sys.path.append(folder)  # the last: what lies there takes the place of nothing else
    try:
        made.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise _raised(error, program, "importing it") from error
    found = getattr(module, name, None)
    if not callable(found):
        known = [key for key, value in vars(module).items() if callable(value)]
        raise PipelineError(f"has no function {name!r}: {did_you_mean(name, known)}", where=str(program))
    function: Callable[[list[dict[str, Array]], list[Label]], Any] = found
    return function


def _counter(evaluation: Evaluation, vocabulary: Sequence[str]) -> _Counter:
    if evaluation.metric in _TOP:
        return _Top(_TOP[evaluation.metric], evaluation.ignore)
    if evaluation.metric == "mean-iou":
        return _MeanIou(evaluation.ignore)
    return _Cosine() if evaluation.metric == "cosine" else _WordErrorRate(vocabulary, evaluation.blank)


def metric(evaluation: Evaluation, outputs: Sequence[str], vocabulary: Sequence[str], spec: str) -> Metric:
    """What counts for `evaluation`, in the file `spec`, of a model with these outputs; it may name no other (PipelineError)."""
    where = f"{spec}: {evaluation.labels.where.removesuffix('.labels')}"
    if evaluation.output and evaluation.output not in outputs:
        what = f"output: the model has no output {evaluation.output!r}: {did_you_mean(evaluation.output, outputs)}"
        raise PipelineError(what, where=where)
    if evaluation.program:
        return _Own(evaluation.program, evaluation.metric, outputs)
    if not evaluation.output and len(outputs) > 1:
        what = f"output: is missing: say which of {', '.join(outputs)} {evaluation.metric} is of"
        raise PipelineError(what, where=where)
    number = outputs.index(evaluation.output) if evaluation.output else 0
    return _OfOneOutput(_counter(evaluation, vocabulary), number, where)
