"""ONNX's backend tests through the pipeline: what it publishes is right by the outputs that ONNX itself gives.

All of them take more than an hour (`python -m tests.bench.conformance`); here it is a sample that never changes.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.consume.facts import to_json
from pipeline.iree import devices
from tests.bench.conformance import case, outcomes, suite
from tests.bench.conformance.case import Outcome, difference
from tests.bench.conformance.suite import Array, Case, Suite

SAMPLE, PART, SEED = 24, 3, 20
TARGETS = ("vulkan-any", "x86-64-v3", "x86-64")  # what runs here itself

F32, F16 = np.float32, np.float16


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return suite.download(tmp_path_factory.mktemp("onnx"))


@pytest.mark.parametrize(
    ("part", "right"), [pytest.param(0, 2, marks=pytest.mark.slow), pytest.param(1, 18, marks=pytest.mark.thorough)]
)
def test_nothing_published_is_wrong(part: int, right: int, wheel: Path, tmp_path: Path) -> None:
    every, _ = suite.select(Suite(wheel), sample=SAMPLE, seed=SEED)
    cases = [every[:PART], every[PART:]][part]
    found = outcomes.run(wheel, cases, tmp_path, jobs=2, tell=lambda _: None, targets=TARGETS)
    text = "\n".join(outcomes.summary(found, {}))
    assert len(found) == len(cases)
    assert not outcomes.bad(found), text
    assert sum(outcome.outcome == "right" for outcome in found) >= right, text
    assert (
        outcomes.run(wheel, cases, tmp_path, jobs=2, tell=pytest.fail, targets=TARGETS) == found
    )  # all are in the file: nothing is done


@pytest.mark.slow
def test_a_wrong_variant_is_noticed(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With other outputs than the test's, everything that ran is wrong, and so is ONNX Runtime."""
    arrays = Suite.arrays

    def altered(self: Suite, name: str, kind: str) -> list[Array]:
        return [array + F32(kind == "output") for array in arrays(self, name, kind)]

    monkeypatch.setattr(Suite, "arrays", altered)
    here = devices.find(tmp_path)
    outcome = case.attempt(Suite(wheel), "node/test_abs", here, tmp_path)
    assert outcome.outcome == "wrong"
    assert "x86-64" in outcome.wrong
    assert ("vulkan-any" in outcome.wrong) == any(device.driver == "vulkan" for device in here)
    assert not outcome.right
    assert "output 0: 60 of 60 values differ; at [0, 0, 0] " in outcome.reference


@pytest.mark.slow
def test_what_is_left_out_has_a_reason(wheel: Path) -> None:
    cases, unfit = suite.select(Suite(wheel))
    assert len(cases) + len(unfit) == 1428
    assert unfit["node/test_bernoulli"] == "random numbers: Bernoulli"
    assert unfit["node/test_training_dropout_mask"] == "random numbers: Dropout that may train"
    assert unfit["node/test_string_concat"] == "takes or returns STRING"
    assert Case("node/test_dropout_default", ("Dropout",)) in cases


@pytest.mark.parametrize(
    ("found", "wanted", "problem"),
    [
        ([1.0, np.nan, np.inf], [1.0005, np.nan, np.inf], ""),
        ([1.0, 2.0], [1.0, 2.1], "output 0: 1 of 2 values differ; at [1] 2.0, not 2.1"),
        ([np.nan], [1.0], "output 0: 1 of 1 values differ; at [0] nan, not 1.0"),
        ([-np.inf], [np.inf], "output 0: 1 of 1 values differ; at [0] -inf, not inf"),
        ([1e-3, 1000.0], [0.0, 1000.0], ""),  # small against the largest
        ([1e-3], [0.0], "output 0: 1 of 1 values differ; at [0] 0.001, not 0.0"),
        ([[1.0]], [1.0], "output 0: float32[1, 1], not float32[1]"),
    ],
)
def test_floats_differ_beyond_a_tolerance(found: list[float], wanted: list[float], problem: str) -> None:
    assert difference([np.array(found, F32)], [np.array(wanted, F32)]) == problem


def test_differences_depend_on_the_type() -> None:
    assert difference([np.array([1.005], F16)], [np.array([1.0], F16)]) == ""
    assert difference([np.array([1.005], F32)], [np.array([1.0], F32)]) != ""
    assert difference([np.array([1000000], np.int64)], [np.array([1000001], np.int64)]) != ""
    assert difference([np.array([-1], np.int8)], [np.array([255], np.uint8)]) == ""  # the same bits
    assert difference([np.array([1], np.int8)], [np.array([True])]) == "output 0: int8[1], not bool[1]"
    assert difference([np.array(7)], [np.array(7), np.array(8)]) == "1 outputs, not 2"


def test_a_process_that_dies_or_takes_too_long_is_an_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = tmp_path / "devices.json"
    facts.write_text(json.dumps(to_json([])))
    died = outcomes.attempt(tmp_path / "no.whl", Case("node/test_abs", ("Abs",)), facts, tmp_path / "died")
    assert (died.outcome, died.operators) == ("crashed", ("Abs",))
    assert "FileNotFoundError" in died.message
    monkeypatch.setattr(outcomes, "LIMIT", 0.0)
    slow = outcomes.attempt(tmp_path / "no.whl", Case("node/test_abs", ("Abs",)), facts, tmp_path / "slow")
    assert slow.outcome == "slow"
    assert outcomes.bad([died, slow]) == [died]


def test_half_a_line_of_results_is_done_again(tmp_path: Path) -> None:
    whole = Outcome("node/test_abs", "wrong", ("Abs",), wrong={"x86-64": "output 0"})
    path = tmp_path / "results.jsonl"
    path.write_bytes(whole.encode() + Outcome("node/test_add", "right").encode()[:30])
    assert outcomes.Results(path).found == {"node/test_abs": whole}
