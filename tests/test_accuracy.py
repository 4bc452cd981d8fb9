"""Data sets and metrics: what fits together, what does not, and what scores are."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.accuracy import text
from pipeline.accuracy.dataset import DataSet
from pipeline.accuracy.metrics import edits, metric
from pipeline.arrays import Array
from pipeline.errors import PipelineError
from pipeline.manifest.codec import decode
from pipeline.manifest.evidence import (
    EVIDENCE_SCHEMA,
    AccuracyProof,
    EvidenceDocument,
    FileProof,
    FunctionProof,
    VariantProof,
    Witness,
)
from pipeline.spec.types import DataFile, Dimension, Evaluation, Input, PathSource

SPEC = "targets/models/m.yaml"
X = DataFile("the samples of 'x'", PathSource(Path(), ""), "evaluate.inputs.x")
LABELS = DataFile("the labels", PathSource(Path(), ""), "evaluate.labels")
WORDS = DataFile("the vocabulary", PathSource(Path(), ""), "evaluate.vocabulary")
TOP = Evaluation((X,), LABELS, "top-1", 0.01)


def given(*shape: int | Dimension, dtype: str = "float32", name: str = "x") -> Input:
    return Input(name, shape, dtype, 0, 0.0, 1.0, None)


def scored(evaluation: Evaluation, outputs: Sequence[Any], labels: Sequence[Any], vocabulary: Sequence[str] = ()) -> float:
    counted = metric(evaluation, ["y"], vocabulary, SPEC)
    for output, label in zip(outputs, labels, strict=True):
        counted.add([np.asarray(output)], label if isinstance(label, str) else np.asarray(label))
    return counted.score()


# --- Metrics ---


def test_top_k_is_what_sorting_says() -> None:
    rng = np.random.default_rng(0)
    outputs, labels = rng.normal(size=(300, 10)).astype(np.float32), rng.integers(0, 10, 300)
    order = np.argsort(-outputs, 1)
    assert scored(TOP, outputs, labels) == (order[:, 0] == labels).mean()
    assert scored(replace(TOP, metric="top-5"), outputs, labels) == (order[:, :5] == labels[:, None]).any(1).mean()


def test_top_1_takes_classes_of_each_place_and_scores_with_axes_of_one() -> None:
    assert scored(TOP, [np.eye(4)[None, :3]], [[[0, 1, 3]]]) == pytest.approx(2 / 3)
    assert scored(replace(TOP, ignore=-1), [np.eye(4)[None, :3]], [[[0, -1, 3]]]) == 0.5
    assert scored(TOP, [np.eye(4)[2].reshape(1, 4, 1, 1)], [2]) == 1
    assert scored(TOP, [[7, 7, 1]], [1]) == 0  # of equal scores the first counts, as with argmax
    assert scored(TOP, [[np.nan, np.nan, np.nan]], [0]) == 0
    assert scored(TOP, [np.array([200, 3], np.uint8)], [0]) == 1


def test_mean_iou_is_of_the_classes_that_occur() -> None:
    iou = replace(TOP, metric="mean-iou", ignore=255)
    label = np.array([[0, 0, 1], [1, 1, 255]], np.uint8)
    found = np.array([[0, 1, 1], [1, 1, 7]], np.int64)
    assert scored(iou, [found], [label]) == pytest.approx((1 / 2 + 3 / 4) / 2)
    classes_first = np.stack([found == c for c in range(9)]).astype(np.float32)
    assert scored(iou, [classes_first[None]], [label]) == pytest.approx((1 / 2 + 3 / 4) / 2)
    assert scored(iou, [found, found * 0], [label, label]) == pytest.approx(((1 + 2) / (2 + 5) + 3 / (4 + 3)) / 2)


def test_cosine_is_the_mean_of_the_samples() -> None:
    cosine = replace(TOP, metric="cosine")
    assert scored(cosine, [[[1.0, 0.0]], [[0.0, 2.0]]], [[3.0, 0.0], [1.0, 1.0]]) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert scored(cosine, [[0.0, 0.0]], [[3.0, 0.0]]) == 0


@pytest.mark.parametrize(
    ("found", "wanted", "errors"),
    [
        ("", "a b", 2),
        ("a b c", "a b c", 0),
        ("a x c", "a b c", 1),
        ("a c", "a b c", 1),
        ("a b b c", "a b c", 1),
        ("c a", "a c", 2),
    ],
)
def test_edits(found: str, wanted: str, errors: int) -> None:
    assert edits(found.split(), wanted.split()) == errors


def test_word_error_rate_of_tokens_and_of_words() -> None:
    rate = replace(TOP, metric="word-error-rate")
    assert scored(rate, [[[1, 2, 3]]], [[1, 2, 4]]) == pytest.approx(1 / 3)
    tokens = ["", "▁he", "llo", "▁", "w", "o"]
    scores = np.eye(6, dtype=np.float32)[[1, 1, 0, 2, 2, 3, 0, 4, 5]]  # CTC: he, llo, wo
    assert scored(replace(rate, vocabulary=WORDS, blank=0), [scores[None]], ["hello wo"], tokens) == 0
    assert scored(replace(rate, vocabulary=WORDS, blank=0), [scores[None]], ["hello you wo"], tokens) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("evaluation", "output", "label", "complaint"),
    [
        (TOP, [0.1, 0.9], 2, "the label 2 is no class: the model tells 2 (`ignore: 2` leaves such out)"),
        (TOP, [0.1, 0.9], 0.5, "labels must be whole numbers, the class of each, not float64"),
        (TOP, [0.1, 0.9], "cat", "labels must be whole numbers, the class of each, not text"),
        (TOP, np.zeros((3, 4)), [0, 1], "labels of shape [2] are none of scores of shape [3, 4]"),
        (
            replace(TOP, metric="mean-iou"),
            np.zeros((3, 4)),
            [[0], [1]],
            "labels of shape [2] are none of an output of shape [3, 4]",
        ),
        (replace(TOP, metric="mean-iou"), [0.5, 0.5], [0, 1], "must be whole numbers, the class of each, not float64"),
        (replace(TOP, metric="cosine"), [0.5, 0.5], [0.5], "labels of shape [1] are no vectors to compare outputs of shape [2]"),
        (replace(TOP, metric="word-error-rate"), [1], "a word", "labels are lines of words where there is a `vocabulary`"),
        (replace(TOP, output="z"), [1], 1, "output: the model has no output 'z': known: y"),
    ],
)
def test_outputs_and_labels_that_do_not_belong_together(evaluation: Evaluation, output: Any, label: Any, complaint: str) -> None:
    with pytest.raises(PipelineError) as caught:
        scored(evaluation, [output], [label])
    assert complaint in str(caught.value)
    assert str(caught.value).startswith(f"{SPEC}: evaluate: ")


def test_a_metric_of_one_output_says_which() -> None:
    with pytest.raises(PipelineError, match="output: is missing: say which of y, z top-1 is of"):
        metric(TOP, ["y", "z"], (), SPEC)


def own(tmp_path: Path, program: str, name: str = "score") -> Evaluation:
    (tmp_path / "metrics.py").write_text(program)
    return replace(TOP, metric=name, program=tmp_path / "metrics.py")


def test_a_function_of_the_projects_own_gets_all_samples_and_may_import_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "beside_metrics.py").write_text("HALF = 0.5\n")
    body = "return sum(o['y'][0] == label for o, label in zip(outputs, labels)) * HALF"
    program = f"def score(outputs, labels):\n    from beside_metrics import HALF\n    {body}\n"
    assert scored(own(tmp_path, program), [[1], [2], [3]], [1, 2, 4]) == 1


@pytest.mark.parametrize(
    ("program", "complaint"),
    [
        (
            "def score(outputs, labels):\n    a = 0\n    return 1 / a\n",
            ":3: score raised ZeroDivisionError: division by zero at `return 1 / a`",
        ),
        ("import nothing_like_this\n", ":1: importing it raised ModuleNotFoundError: No module named 'nothing_like_this'"),
        ("def score(:\n", ": SyntaxError: invalid syntax"),
        ("def scores(outputs, labels):\n    return 1\n", ": has no function 'score': did you mean 'scores'?"),
        ("def score(outputs, labels):\n    return 'good'\n", ": the function 'score' must return a number, not 'good'"),
        ("import sys\ndef score(outputs, labels):\n    sys.exit(3)\n", ":3: score raised SystemExit: 3 at `sys.exit(3)`"),
    ],
)
def test_a_function_that_fails_is_named_with_its_line(tmp_path: Path, program: str, complaint: str) -> None:
    evaluation = own(tmp_path, program)
    with pytest.raises(PipelineError) as caught:
        scored(evaluation, [[1]], [1])
    assert str(caught.value).startswith(str(evaluation.program) + complaint)


def test_scores_are_told_in_short() -> None:
    assert text.line("top-1", 0.9124, 0.913, "onnxruntime") == "top-1 91.2% (ONNX Runtime 91.3%)"
    assert text.line("f1", 0.91237, 2, "torch") == "f1 0.9124 (PyTorch 2)"


@pytest.mark.parametrize(
    ("better", "score", "is_within"),
    [
        ("higher", 0.903, True),
        ("higher", 0.9029, False),
        ("higher", 1.0, True),
        ("higher", math.nan, False),
        ("lower", 0.923, True),
        ("lower", 0.9231, False),
        ("lower", 0.1, True),
        ("lower", -math.inf, False),
    ],
)
def test_a_score_may_be_so_much_worse_and_evidence_that_says_otherwise_does_not_count(
    better: str, score: float, is_within: bool
) -> None:
    accuracy = AccuracyProof("main", "f", better, score, 0.913, "onnxruntime", 100, 0.01, "0" * 64)
    assert accuracy.is_within == is_within
    seen = ("device", "", "", "a CPU", "", (), (FunctionProof("main", 3, 0.0, 0.0, 0.0),), None, None, None, 0, None, None)
    files = (FileProof("cpus", "1" * 64, (VariantProof("x86-64", "2" * 64, *seen, accuracy=(accuracy,)),)),)
    document = EvidenceDocument(EVIDENCE_SCHEMA, "m", "3" * 64, (), "2026-01-31T12:00:00Z", Witness("", "", "", ""), files)
    data = json.dumps(asdict(document)).encode()
    if is_within:
        assert decode(EvidenceDocument, data, "it") == document
    else:
        with pytest.raises(PipelineError, match=r"accuracy.*(is called right, and is beyond its limit|is no number here)"):
            decode(EvidenceDocument, data, "it")


# --- Data sets ---


class Files:
    """The files of a data set in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.save(X, np.zeros((6, 3), np.float32))
        self.save(LABELS, np.arange(6))

    def path(self, file: DataFile) -> Path:
        return self.folder / file.where

    def save(self, file: DataFile, array: Array) -> None:
        with self.path(file).open("wb") as opened:
            np.save(opened, array)

    def save_each(self, file: DataFile, arrays: dict[str, Any]) -> None:
        with self.path(file).open("wb") as opened:
            np.savez(opened, **arrays)

    def read(self, *inputs: Input, evaluation: Evaluation = TOP) -> DataSet:
        return DataSet(evaluation, inputs or (given(1, 3),), {file: self.path(file) for file in evaluation.files}, SPEC)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def shapes(data: DataSet) -> list[tuple[tuple[int, ...], list[int]]]:
    return [(call.inputs[0].shape, list(call.samples)) for call in data.calls(data.fitting())]


def test_samples_fill_the_batch_of_the_model(files: Files) -> None:
    files.save(X, np.arange(18, dtype=np.float32).reshape(6, 3))
    data = files.read(given(4, 3))
    first, second = data.calls(data.fitting())
    assert [list(c.samples) for c in (first, second)] == [[0, 1, 2, 3], [4, 5]]
    assert second.inputs[0][:, 0].tolist() == [12, 15, 15, 15]
    outputs = [np.arange(4) * 10]
    assert [(n, of[0].item()) for n, of in second.each(outputs, "")] == [(4, 0), (5, 10)]
    with pytest.raises(PipelineError, match="no first axis of the 4 samples of a batch"):
        list(second.each([np.zeros(3)], ""))


def test_an_open_batch_is_as_large_as_it_may_be(files: Files) -> None:
    assert shapes(files.read(given(Dimension("N", 1, 4), 3))) == [((4, 3), [0, 1, 2, 3]), ((4, 3), [4, 5])]
    assert shapes(files.read(given(Dimension("N", 2, 1000, 2), 3)))[0] == ((64, 3), [0, 1, 2, 3, 4, 5])


def test_samples_with_one_axis_more_are_inputs_as_they_are(files: Files) -> None:
    files.save(X, np.zeros((6, 1, 3), np.float32))
    assert shapes(files.read(given(1, 3)))[5] == ((1, 3), [5])


def test_samples_of_different_sizes_are_arrays_of_their_own(files: Files) -> None:
    files.save_each(X, {str(n): np.full((1, n + 1), n, np.float32) for n in range(11)})
    files.save(LABELS, np.arange(11))
    data = files.read(given(1, Dimension("T", 2, 10, 2)))
    assert shapes(data) == [((1, 2), [1]), ((1, 4), [3]), ((1, 6), [5]), ((1, 8), [7]), ((1, 10), [9])]
    assert data.misfit(10) == "'x' takes float32[1, T: 2 to 10, a multiple of 2], not float32[1, 11]"


def test_samples_and_labels_may_be_in_one_file_and_some_be_enough(files: Files) -> None:
    x, labels = (replace(file, array=name) for file, name in ((X, "x_test"), (LABELS, "y_test")))
    for file in (x, labels):
        files.save_each(file, {"x_test": np.zeros((6, 3), np.float32), "y_test": np.arange(6)})
    data = files.read(evaluation=replace(TOP, inputs=(x,), labels=labels, samples=4))
    assert data.count == 4
    assert len(shapes(data)) == 4


def test_labels_and_vocabulary_may_be_text(files: Files) -> None:
    files.path(LABELS).write_text("a b\nc\n\nd\ne\nf\n")
    files.path(WORDS).write_text("<blank>\n▁a\n")
    data = files.read(evaluation=replace(TOP, vocabulary=WORDS))
    assert (list(data.labels), data.vocabulary) == (["a b", "c", "", "d", "e", "f"], ("<blank>", "▁a"))


@pytest.mark.parametrize(
    ("shape", "dtype", "labels", "complaint"),
    [
        ((6, 3), "float32", 5, "evaluate.labels: the samples of 'x' are 6, the labels 5: there must be a label for each sample"),
        ((6, 3), "uint8", 6, "evaluate.inputs.x: the samples of 'x' are uint8, the model takes float32"),
        (
            (6,),
            "float32",
            6,
            "evaluate.inputs.x: the samples of 'x' are float32[samples, …] with 1 axes, the model takes float32[1, 3]",
        ),
        ((0, 3), "float32", 0, "evaluate.inputs.x: the samples of 'x' are none: the file is empty"),
        ((), "float32", 0, "evaluate.inputs.x: the samples of 'x' are one number, without an axis of samples"),
    ],
)
def test_samples_that_are_not_the_models(files: Files, shape: tuple[int, ...], dtype: str, labels: int, complaint: str) -> None:
    files.save(X, np.zeros(shape, dtype))
    files.save(LABELS, np.arange(labels))
    with pytest.raises(PipelineError) as caught:
        files.read()
    assert f"{SPEC}: {complaint}" in str(caught.value)


def test_files_that_hold_no_arrays_are_named(files: Files) -> None:
    for content, complaint in (
        (b"\x93NUMPY\x01", "are no .npy"),
        (b"PK\x03\x04", "are no .npy"),
        (b"\xff\xfe\x00", "are no .npy"),
    ):
        files.path(X).write_bytes(content)
        with pytest.raises(PipelineError, match=f"evaluate.inputs.x: the samples of 'x' {complaint}"):
            files.read()
    files.path(X).write_text("1\n2\n3\n4\n5\n6\n")
    with pytest.raises(PipelineError, match="the samples of 'x' are text"):
        files.read()
    files.save_each(X, {"x_test": np.zeros((6, 3), np.float32)})
    with pytest.raises(PipelineError, match="has no array 'x_tset': did you mean 'x_test'"):
        files.read(evaluation=replace(TOP, inputs=(replace(X, array="x_tset"),)))


def test_too_few_samples_and_axes_that_are_no_batch(files: Files) -> None:
    with pytest.raises(PipelineError, match="samples: 7 are asked for, the data set has 6"):
        files.read(evaluation=replace(TOP, samples=7))
    other = replace(X, where="evaluate.inputs.m")
    files.save(other, np.zeros((6, 3), np.float32))
    two = replace(TOP, inputs=(X, other))
    with pytest.raises(PipelineError, match="the inputs' first axes are no batch: they have the sizes 1, 2"):
        files.read(given(1, 3), given(2, 3, name="m"), evaluation=two)
    with pytest.raises(PipelineError, match="some inputs have samples along the batch, and some have one axis more"):
        files.read(given(1, 3), given(3, name="m"), evaluation=two)
