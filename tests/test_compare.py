"""The yardstick of verification, the draws of test data, and what is said of data that tests nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.arrays import Array
from pipeline.compare import Comparison, compare, noise, sizes, tolerance_for, tolerances_for
from pipeline.errors import PipelineError
from pipeline.importers.draws import draws, moved
from pipeline.importers.signature import Signature, Tensor, write_all
from pipeline.spec.types import Input, PathSource
from pipeline.stages import reference
from pipeline.stages.origin import Origin
from pipeline.stages.testdata import TestData
from tests.project import model_of


def judged(got: Array, right: Array, *moved_: Array, precision: str = "") -> Comparison:
    tolerances = tolerances_for([right], [precision], [[m] for m in moved_])
    return compare([got], [right], tolerances)


def normal(*shape: int, dtype: str = "float32", seed: int = 5) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def test_probabilities_of_many_classes_are_not_nothing() -> None:
    right = np.exp(normal(2, 20_000))
    right /= right.sum(axis=1, keepdims=True)
    assert right.max() < 0.01
    assert judged(np.zeros_like(right), right).of_tolerance > 1000
    assert judged(np.roll(right, 1, axis=1), right).problem
    assert not judged(right * np.float32(1 + 1e-6), right).problem


def test_pixels_and_probabilities_are_measured_by_their_own_size() -> None:
    random = np.random.default_rng(5)
    right = np.concatenate([random.random((64, 4)) * 640, random.random((64, 8)) * 0.02 + 0.01], axis=1).astype(np.float32)
    assert sizes(right)[0, 0] > 100
    assert 0.1 < sizes(right)[0, -1] < 0.5  # no less than a thousandth of the whole's
    wrong = right.copy()
    wrong[:, 4:] = 0
    assert judged(wrong, right).problem
    close = right.copy()
    close[:, :4] += 1e-3
    assert not judged(close, right).problem


@pytest.mark.parametrize(
    ("got", "right", "fine"),
    [
        (np.nan, np.nan, True),
        (np.inf, np.inf, True),
        (np.nan, 1.0, False),
        (1.0, np.nan, False),
        (np.inf, 3e38, False),
        (np.inf, -np.inf, False),
        (np.nan, np.inf, False),
    ],
)
def test_what_is_not_finite_must_be_the_same(got: float, right: float, fine: bool) -> None:
    a, b = (np.array([1, 2, value, 4], np.float32) for value in (got, right))
    assert (not judged(a, b).problem) == fine


def test_integers_are_exact() -> None:
    right = np.random.default_rng(5).integers(-1000, 1000, (4, 8)).astype(np.int32)
    assert not judged(right, right).problem
    wrong = right.copy()
    wrong[3, 7] += 1
    assert judged(wrong, right).problem
    large = np.array([2**53, 2**60], np.int64)
    assert judged(large + 1, large).problem


def test_integers_of_the_same_bits_are_the_same() -> None:
    right = np.array([255, 3], np.uint8)
    assert not judged(right.view(np.int8), right).problem


@pytest.mark.parametrize("got", [np.zeros((2, 2), np.float32), np.zeros(4, np.float16)])
def test_another_shape_or_type_is_a_problem(got: Array) -> None:
    assert judged(got, np.zeros(4, np.float32)).problem


def test_another_number_of_outputs_is_a_problem() -> None:
    right = [np.ones(3, np.float32)]
    assert compare([], right, tolerances_for(right)).problem


def test_noise_widens_the_tolerance() -> None:
    right = normal(8, 32)
    shaken = right + normal(8, 32, seed=6) * np.float32(1e-2)
    assert judged(shaken, right).problem
    assert not judged(shaken, right, right + (shaken - right)[::-1]).problem
    each, together = noise(right, [shaken])
    assert 0 < together < each
    assert tolerance_for(right, "", [shaken]).scaled == pytest.approx(1e-4 + 4 * each)


def test_noise_of_integers_lets_them_differ() -> None:
    right = np.arange(32, dtype=np.uint8).reshape(2, 16)
    other = right.copy()
    other[0, 0] += 1
    assert judged(other, right).problem
    assert not judged(other, right, other).problem


def test_precision_decides_how_far_off_is_right() -> None:
    right = normal(16, 32)
    halves = right.astype(np.float16).astype(np.float32)
    assert judged(halves, right).problem
    assert not judged(halves, right, precision="float16").problem
    assert judged(right.astype(np.float64).astype(np.float32) * np.float32(1.02), right, precision="float16").problem
    doubles = normal(16, 32, dtype="float64")
    assert judged(doubles.astype(np.float32).astype(np.float64), doubles).problem


def test_a_small_error_everywhere_is_too_far_where_one_is_not() -> None:
    right = normal(16, 64)
    one = right.copy()
    one[3, 3] += 6e-5
    assert not judged(one, right).problem
    assert "the whole" in judged(right + np.float32(6e-5), right).problem


def drawn(dtype: str = "float32", low: float = 0.0, high: float = 1.0, file: Path | None = None, open_: bool = False) -> Input:
    return Input("x", (16, 16), dtype, 0, low, high, file, open_)


@pytest.mark.parametrize(
    "spec", [drawn(), drawn(open_=True), drawn("float16", -1, 1), drawn("int32", -5, 9), drawn("uint64", 1, 9)]
)
def test_draws_are_the_same_every_time_and_in_range(spec: Input) -> None:
    first, second = draws([spec], "test"), draws([spec], "test")
    assert list(first) == list(second)
    for name, (array,) in first.items():
        assert array.tobytes() == second[name][0].tobytes()
        assert (str(array.dtype), array.shape) == (spec.dtype, spec.shape)
        if name not in ("signs", "large"):
            assert (array >= spec.low).all()
            assert (array < spec.high).all() or spec.dtype == "float16"
            assert (array <= spec.high).all()


def test_draws_hold_the_ends() -> None:
    (ends,) = draws([drawn(low=-2, high=3)], "test")["ends"]
    assert {-2.0, 0.0, float(np.nextafter(np.float32(3), np.float32(0)))} <= set(ends.ravel().tolist())
    (ends,) = draws([drawn("int8", -4, 7)], "test")["ends"]
    assert {-4, 0, 6} <= set(ends.ravel().tolist())


def test_draws_hold_small_values() -> None:
    (small,) = draws([drawn(low=-1, high=1)], "test")["small"]
    assert 0 < np.abs(small).max() <= 1e-6


def test_only_open_floats_get_signs_and_large_values() -> None:
    found = draws([drawn(open_=True)], "test")
    assert found["signs"][0].min() < -0.9
    assert found["large"][0].max() > 200
    assert not {"signs", "large"} & draws([drawn()], "test").keys()


def test_floats_of_a_file_stay_its_own_and_its_integers_in_place(tmp_path: Path) -> None:
    floats, integers = normal(16, 16), np.arange(256, dtype=np.int32).reshape(16, 16)
    np.save(tmp_path / "f.npy", floats)
    np.save(tmp_path / "i.npy", integers)
    found = draws([drawn(file=tmp_path / "f.npy"), drawn("int32", file=tmp_path / "i.npy")], "test")
    assert len(found) > 1
    assert len({f.tobytes() for f, _ in found.values()}) == len(found)
    for f, i in found.values():
        assert np.isin(f, floats).all()
        assert np.array_equal(i, integers)
    assert np.array_equal(np.sort(found["again"][0].ravel()), np.sort(floats.ravel()))
    assert found["ends"][0].min() > floats.min()
    assert found["small"][0].max() < floats.max()


def test_a_file_of_one_value_stays_as_it_is(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", np.full((16, 16), np.float32(3)))
    assert list(draws([drawn(file=tmp_path / "f.npy")], "test")) == ["given"]


def test_a_file_that_misfits_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", np.zeros((2, 2), np.float32))
    with pytest.raises(PipelineError, match="in the spec"):
        draws([drawn(file=tmp_path / "f.npy")], "test")


def test_moved_is_one_unit_in_the_last_place() -> None:
    array = np.array([0.0, np.inf, -np.inf, 1.0, -3.0, 1e30], np.float32)
    (other,) = moved([array], 0)
    assert np.array_equal(other[:3], array[:3])
    assert (other[3:] != array[3:]).all()
    assert np.allclose(other, array, rtol=2e-7, atol=0)
    assert moved([np.arange(3)], 0)[0].tolist() == [0, 1, 2]


def settled(
    folder: Path,
    nodes: Sequence[onnx.NodeProto],
    constant: tuple[str, ...] = (),
    dtype: str = "float32",
    file: Path | None = None,
) -> TestData:
    """The test data that the reference stage makes for a model of these nodes: from `x` to `y`, with constants to use."""
    constants = {"zero": 0.0, "big": 1e9, "weight": np.linspace(-1, 1, 16).reshape(4, 4)}
    tensors = [numpy_helper.from_array(np.asarray(v, np.float32), name) for name, v in constants.items()]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        tensors,
    )
    source = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), source)
    tensor = Tensor("x", "float32", (4, 4))
    (folder / "import").mkdir()
    write_all(folder / "import" / "signature.json", [Signature("main", (tensor,), (Tensor("y", "float32", (4, 4)),))])
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    inputs = (Input("x", (4, 4), dtype, 0, -1.0, 1.0, file),)
    spec = folder / "tiny.yaml"
    model = model_of(PathSource(source, digest), *inputs, path=spec)
    model = replace(model, entries=(replace(model.entries[0], constant=constant),))
    reference.run(Origin(model, (source,)), folder / "import", folder / "reference")
    return TestData.read(folder / "reference" / "0")


def node(operator: str, inputs: str, output: str = "y", **attributes: object) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(), [output], **attributes)


ZERO = [node("Mul", "x zero")]
ONE = [node("Mul", "x zero", "none"), node("Exp", "none")]
# The same in every draw, and not the same everywhere.
SAME = [node("Mul", "x zero", "none"), node("Add", "none weight")]
UNSTABLE = [node("Mul", "x big", "many"), node("Sin", "many")]


def test_data_that_tests_something_is_kept(tmp_path: Path) -> None:
    data = settled(tmp_path, [node("MatMul", "x weight")])
    assert [d.name for d in data.draws] == ["given", "again", "ends", "small"]
    assert not data.left_out


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (ZERO, "is -?0.0 everywhere"),
        (ONE, "is 1.0 everywhere"),
        (SAME, "is the same for 4 different inputs"),
        (UNSTABLE, "moves by more than a tenth of its size"),
    ],
    ids=["zero", "constant", "same", "unstable"],
)
def test_data_that_tests_nothing_is_refused(tmp_path: Path, nodes: Sequence[onnx.NodeProto], message: str) -> None:
    with pytest.raises(PipelineError, match=f"the test data tests nothing: output 'y' {message}"):
        settled(tmp_path, nodes)


def test_data_in_a_file_may_be_on_the_verge_and_is_held_to_it(tmp_path: Path) -> None:
    np.save(tmp_path / "halves.npy", np.arange(16, dtype=np.float32).reshape(4, 4) - 7.5)
    data = settled(tmp_path, [node("Round", "x")], file=tmp_path / "halves.npy")
    (tolerance,) = data.draws[0].tolerances
    assert data.draws[0].name == "given"
    assert tolerance.scaled <= 1e-4


def test_what_is_made_of_all_values_varies_with_a_file_too(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(3).random((4, 4), np.float32))
    nodes = [node("ReduceMax", "x", "most"), node("ReduceMin", "x", "least"), node("Sub", "most least")]
    assert len(settled(tmp_path, nodes, file=tmp_path / "x.npy").draws) > 1


@pytest.mark.parametrize("nodes", [ONE, SAME], ids=["constant", "same"])
def test_outputs_may_be_meant_to_be_constant(tmp_path: Path, nodes: Sequence[onnx.NodeProto]) -> None:
    assert settled(tmp_path, nodes, constant=("y",)).has_outputs


def test_what_does_not_depend_on_inputs_may_be_constant(tmp_path: Path) -> None:
    data = settled(tmp_path, [node("Shape", "x", "shape"), node("Cast", "shape", to=TensorProto.FLOAT)])
    assert data.depends == (False,)


def test_a_draw_spares_the_outputs_of_which_it_tells_nothing() -> None:
    right = [np.float32([1, 2]), np.float32([3, 4])]
    wrong = [np.float32([9, 9]), np.float32([3, 4])]
    assert compare(wrong, right, tolerances_for(right)).problem
    assert not compare(wrong, right, tolerances_for(right), spared=[0]).problem
    assert compare(wrong[::-1], right, tolerances_for(right), spared=[0]).problem
