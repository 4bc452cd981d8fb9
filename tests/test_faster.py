"""What is said by other operators for speed computes the same, and is taken back where it makes a model wrong or refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from pipeline.errors import PipelineError
from pipeline.files import sha256_file
from pipeline.importers.child import FASTER
from pipeline.importers.onnxruntime import session
from pipeline.importers.rewrites import REWRITES
from pipeline.importers.rewrites.faster import planes
from pipeline.importers.rewrites.graph import inferred
from pipeline.importers.rewrites.proof import without_names
from pipeline.iree import compiler
from pipeline.iree.device import Device
from pipeline.iree.toolchain import CompilerRefusedError
from pipeline.spec.types import Bundle, Executable, Input, PathSource
from pipeline.stages import compile as compile_stage
from pipeline.stages import import_, record, reference, verify
from pipeline.stages.compiled import Compiled
from pipeline.stages.origin import Origin
from tests import test_recurrent as recurrent
from tests.project import model_of
from tests.test_compile import executables, present  # noqa: F401  # a fixture
from tests.test_rewrites import Cases, wrong

Array = np.ndarray[Any, Any]
RANDOM = np.random.default_rng(7)


def array(*shape: int, type_: str = "float32") -> Array:
    return RANDOM.uniform(-1, 1, shape).astype(type_)


def model(
    kind: str, x: Array, *constants: Array, shape: Sequence[int | str] | None = None, **attributes: object
) -> onnx.ModelProto:
    """A model of one node, which takes `x` and constants; `shape` is that of the input, if some of its sizes are open."""
    names = [f"c{i}" for i in range(len(constants))]
    type_ = helper.np_dtype_to_tensor_dtype(x.dtype)
    graph = helper.make_graph(
        [helper.make_node(kind, ["x", *names], ["y"], **attributes)],
        "g",
        [helper.make_tensor_value_info("x", type_, shape or x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.INT32 if kind.endswith("Integer") else type_, None)],
        [numpy_helper.from_array(c, n) for n, c in zip(names, constants, strict=True)],
    )
    return inferred(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9))


def faster(made: onnx.ModelProto) -> list[str]:
    """The operators of the model as it is changed for speed, in place; none if nothing is."""
    changed = False
    for name in FASTER:
        if (other := REWRITES[name](made)) is not None:
            made.CopyFrom(other)
            changed = True
    return [node.op_type for node in made.graph.node] if changed else []


def ran(made: onnx.ModelProto, x: Array) -> Array:
    (found,) = session(without_names(made)).run(None, {"x": x})
    return np.asarray(found)


def require_same(made: onnx.ModelProto, *given: Array) -> list[str]:
    """Raise AssertionError where the changed model computes something else; its operators."""
    before = [ran(made, x) for x in given]
    kinds = faster(made)
    for x, wanted in zip(given, before, strict=True):
        found = ran(made, x)
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, 1e-4, 1e-5)
    return kinds


@pytest.mark.parametrize("seed", range(40))
def test_transposed_convolutions(seed: int) -> None:
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 3))
    strides = [int(n) for n in random.integers(1, 5, count)]
    kernel = [int(n) for n in random.integers(1, 8, count)]
    pads = [int(random.integers(0, (k + 1) // 2)) for k in kernel * 2]
    more = [int(random.integers(0, s)) for s in strides]
    inputs, outputs, batch = (int(n) for n in random.integers(1, 5, 3))
    x, w, b = (
        array(batch, inputs, *(int(n) for n in random.integers(4, 9, count))),
        array(inputs, outputs, *kernel),
        array(outputs),
    )
    constants = (w, b) if seed % 2 else (w,)
    kinds = require_same(model("ConvTranspose", x, *constants, strides=strides, pads=pads, output_padding=more), x)
    assert "ConvTranspose" not in kinds


def test_a_transposed_convolution_of_a_vocoder_is_a_product() -> None:
    x, w, b = array(1, 32, 50), array(32, 16, 16), array(16)
    assert "MatMul" in require_same(model("ConvTranspose", x, w, b, strides=[8], pads=[4, 4]), x)


@pytest.mark.parametrize("seed", range(40))
def test_lines_and_single_channels(seed: int) -> None:
    random = np.random.default_rng(seed)
    alone = bool(seed % 2)
    count = int(random.integers(1, 3)) if alone else 1
    strides, dilations = ([int(n) for n in random.integers(1, 4, count)] for _ in range(2))
    kernel = [int(n) for n in random.integers(1, 6, count)]
    pads = [int(n) for n in random.integers(0, 4, 2 * count)]
    inputs, outputs, batch = (int(n) for n in random.integers(2, 6, 3))
    x = array(batch, inputs, *(int(n) for n in random.integers(14, 40, count)))
    w, b = array(inputs, 1, *kernel) if alone else array(outputs, inputs, *kernel), array(inputs if alone else outputs)
    given = {"strides": strides, "dilations": dilations, "group": inputs if alone else 1}
    if seed % 5 == 4:
        given = {"strides": strides, "group": given["group"], "auto_pad": "SAME_UPPER" if seed % 4 else "SAME_LOWER"}
    else:
        given["pads"] = pads
    kinds = require_same(model("Conv", x, *((w, b) if seed % 3 else (w,)), **given), x)
    assert kinds
    assert "Conv" not in kinds
    assert ("MatMul" in kinds) != alone


def test_single_channels_stay_where_lines_are_read_in_order() -> None:
    x, w = array(1, 8, 20, 40), array(8, 1, 3, 3)
    assert "Transpose" not in require_same(model("Conv", x, w, strides=[2, 1], group=8), x)
    assert "Transpose" in require_same(model("Conv", x, w, strides=[1, 2], group=8), x)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads"), [(400, 64, 16, [0, 0]), (407, 48, 24, [5, 9]), (96, 32, 32, [8, 8])]
)
def test_long_windows_of_one_channel_are_blocks(size: int, kernel: int, stride: int, pads: list[int]) -> None:
    x, w, b = array(1, 1, size), array(10, 1, kernel), array(10)
    kinds = require_same(model("Conv", x, w, b, strides=[stride], pads=pads), x)
    assert kinds.count("MatMul") == 1
    assert kinds.count("Transpose") == 1


@pytest.mark.parametrize("length", [17, 129, 512])
def test_the_rows_of_a_line_are_whole_vectors_and_no_pages(length: int) -> None:
    x, w = array(1, 64, length), array(8, 64, 3)
    made = model("Conv", x, w, pads=[1, 1])
    assert require_same(made, x)
    (product,) = (node for node in made.graph.node if node.op_type == "MatMul")
    (shape,) = (v.type.tensor_type.shape for v in made.graph.value_info if v.name == product.output[0])
    assert shape.dim[1].dim_value == {17: 17, 129: 144, 512: 528}[length]


@pytest.mark.parametrize("seed", range(30))
def test_planes(seed: int) -> None:
    random = np.random.default_rng(seed)
    kernel, dilations = ([int(n) for n in random.integers(1, most, 2)] for most in (5, 3))
    pads = [int(n) for n in random.integers(0, 3, 4)]
    inputs, outputs = (int(n) for n in random.integers(1, 6, 2))
    x, w, b = array(1, inputs, *(int(n) for n in random.integers(16, 40, 2))), array(outputs, inputs, *kernel), array(outputs)
    if seed % 5 == 4:
        given: dict[str, Any] = {"auto_pad": "SAME_UPPER" if seed % 4 else "SAME_LOWER"}
    else:
        given = {"pads": pads, "dilations": dilations}
    kinds = require_same(model("Conv", x, *((w, b) if seed % 3 else (w,)), **given), x)
    assert kinds == [] if kernel == [1, 1] else "MatMul" in kinds


@pytest.mark.parametrize(("size", "type_"), [((1, 1), "float32"), ((3, 2), "float32"), ((5,), "float16")])
def test_one_window_is_a_row(size: tuple[int, ...], type_: str) -> None:
    x, w, b = (array(*shape, type_=type_) for shape in ((2, 6, *size), (24, 6, *size), (24,)))
    made = model("Conv", x, w, b)
    if type_ == "float32":
        require_same(made, x)
    else:
        faster(made)
    assert [node.op_type for node in made.graph.node] == ["Reshape", "MatMul", "Add", "Reshape"]


@pytest.mark.parametrize("strip", [1 << 20, 20_000])
@pytest.mark.parametrize("seed", range(15))
def test_planes_whose_windows_lie_apart(monkeypatch: pytest.MonkeyPatch, seed: int, strip: int) -> None:
    """In strips, too, each with a matrix of its own."""
    monkeypatch.setattr(planes, "_STRIP", strip)
    random = np.random.default_rng(seed)
    kernel, strides, dilations = ([int(n) for n in random.integers(1, most, 2)] for most in (6, 4, 3))
    x, w = array(1, 6, *(int(n) for n in random.integers(80, 130, 2))), array(int(random.integers(1, 40)), 6, *kernel)
    given = {"pads": [int(n) for n in random.integers(0, 3, 4)], "dilations": dilations}
    made = model("Conv", x, w, strides=strides, **given)
    kinds = require_same(made, x)
    assert "MatMul" in kinds or max(kernel + strides) == 1


@pytest.mark.parametrize(("strip", "products"), [(1 << 20, 1), (200_000, 2)])
def test_a_large_matrix_is_made_of_strips(monkeypatch: pytest.MonkeyPatch, strip: int, products: int) -> None:
    monkeypatch.setattr(planes, "_STRIP", strip)
    x, w = array(1, 8, 60, 60), array(32, 8, 3, 3)
    assert require_same(model("Conv", x, w, pads=[1] * 4, strides=[2, 2]), x).count("MatMul") == products


@pytest.mark.parametrize(("outputs", "type_", "products"), [(16, "float32", 3), (17, "float32", 1), (16, "float16", 1)])
def test_few_results_of_a_plane_are_summed_up_by_lines(outputs: int, type_: str, products: int) -> None:
    made = model("Conv", array(1, 8, 30, 30, type_=type_), array(outputs, 8, 3, 3, type_=type_), pads=[1] * 4)
    assert faster(made).count("MatMul") == products


def test_windows_of_one_line_take_longer_rows_too() -> None:
    """32 lines of 30 make rows of 960, and 976 lie better: what is more is cut off."""
    x, w = array(1, 32, 32, 30), array(8, 32, 1, 2)
    assert "MatMul" in require_same(model("Conv", x, w), x)


def test_the_rows_of_a_plane_are_whole_vectors_and_no_pages() -> None:
    for width, size in ((64, 64 * 67), (62, 64 * 65), (30, 65 * 32), (13, 64 * 15)):  # 64 lines of 64 would be pages
        made = model("Conv", array(1, 2, 64, width), array(4, 2, 3, 3), pads=[1] * 4)
        faster(made)
        products = {node.output[0] for node in made.graph.node if node.op_type == "MatMul"}
        found = {v.type.tensor_type.shape.dim[1].dim_value for v in made.graph.value_info if v.name in products}
        assert found == {size}
        assert require_same(model("Conv", x := array(1, 2, 64, width), array(4, 2, 3, 3), pads=[1] * 4), x)


def whole(seed: int, *shape: int, type_: str = "uint8") -> Array:
    """Numbers of 8 bits, whose ends are among them."""
    random, ends = np.random.default_rng(seed), np.iinfo(type_)
    found = random.integers(ends.min, ends.max, shape, endpoint=True).astype(type_)
    found.flat[:2] = ends.min, ends.max
    return found


@pytest.mark.parametrize("seed", range(24))
def test_sums_of_integers_are_exact_ones_of_float32(seed: int) -> None:
    random = np.random.default_rng(seed)
    of_x, of_w = [("uint8", "int8"), ("uint8", "uint8"), ("int8", "int8"), ("int8", "uint8")][seed % 4]
    outputs, depth, count = int(random.integers(2, 9)), int(random.integers(3, 40)), seed % 3  # of zero points
    x_zero, w_zero = whole(seed + 1, 3, type_=of_x)[2], whole(seed, outputs, type_=of_w)
    if convolves := seed % 8 < 4:
        x, w = whole(seed, 1, depth * 9, 6, 7, type_=of_x), whole(seed, outputs, depth * 9, 3, 2, type_=of_w)
        given: dict[str, object] = {"pads": [1, 0, 2, 1], "strides": [1, 2]}
        if seed >= 16:  # each channel by itself
            x, w = x[:, :outputs], w[:, :1]
            given["group"] = outputs
    else:
        x, w, given = whole(seed, 2, 5, depth * 20, type_=of_x), whole(seed, depth * 20, outputs, type_=of_w), {}
    made = model("ConvInteger" if convolves else "MatMulInteger", x, w, *(np.asarray(x_zero), w_zero)[:count], **given)
    values = w.astype(np.float64) - (w_zero.reshape(-1, 1, 1, 1) if convolves else w_zero) * float(count > 1)
    shifted = x.astype(np.float64) - float(x_zero) * float(count > 0)
    same = model("Conv" if convolves else "MatMul", shifted, values, **given)
    changed = REWRITES["integers"](made)
    assert changed is not None
    (wanted,) = ReferenceEvaluator(same).run(None, {"x": shifted})  # in float64, which ONNX Runtime has no Conv of
    assert np.abs(wanted).max() > 1 << 14
    np.testing.assert_array_equal(ran(changed, x), wanted.astype(np.int32))
    assert {node.op_type for node in changed.graph.node} & {"Conv", "MatMul"}


def test_sums_of_integers_that_float32_does_not_have_are_parted_or_stay() -> None:
    x, w = whole(1, 1, 600), np.full((600, 3), -128, np.int8)  # 600 × 255 × 128 is more than 2^24, and half of it is not
    changed = REWRITES["integers"](model("MatMulInteger", x, w))
    assert changed is not None
    assert [node.op_type for node in changed.graph.node].count("MatMul") == 2
    np.testing.assert_array_equal(ran(changed, x), x.astype(np.int32) @ w.astype(np.int32))
    assert REWRITES["integers"](model("MatMulInteger", whole(1, 1, 6000), np.full((6000, 3), -128, np.int8))) is None


@pytest.mark.parametrize("seed", range(12))
def test_several_short_lines_are_one_product(seed: int) -> None:
    random = np.random.default_rng(seed)
    stride, dilation, window = (int(n) for n in random.integers(1, 4, 3))
    size, before, after = int(random.integers(14, 50)), int(random.integers(0, 3)), int(random.integers(0, 3))
    plane = bool(seed % 2)  # of one line
    x, w = array(3, 70, *([1] * plane), size), array(33 + seed, 70, *([1] * plane), window)
    pads = [0, before, 0, after] if plane else [before, after]
    given = {"strides": [*([1] * plane), stride], "dilations": [*([1] * plane), dilation], "pads": pads}
    shape = ["B", *x.shape[1:]] if seed % 3 == 2 else None
    kinds = require_same(model("Conv", x, w, *((array(len(w)),) if seed % 4 else ()), shape=shape, **given), x)
    windows = (size + before + after - dilation * (window - 1) - 1) // stride + 1
    assert ("Transpose" in kinds) == (windows % 16 != 0)
    assert plane or "Conv" not in kinds


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_of_open_sizes(alone: bool, stride: int) -> None:
    w = array(8, 1, 5) if alone else array(6, 8, 5)
    made = model(
        "Conv", array(1, 8, 20), w, array(len(w)), shape=["B", 8, "T"], strides=[stride], pads=[3, 1], group=8 if alone else 1
    )
    kinds = require_same(made, *(array(batch, 8, length) for batch in (1, 3) for length in (5, 6, 7, 20, 41)))
    assert "Conv" not in kinds


@pytest.mark.parametrize("rows", [(6,), (16,), (2, 4), (2, 2, 3)])
def test_products_of_several_rows_are_with_turned_weights(rows: tuple[int, ...]) -> None:
    x, w = array(*rows, 128), array(128, 200)
    made = model("MatMul", x, w)
    assert "Gemm" in require_same(made, x)
    assert {attribute.name for node in made.graph.node if node.op_type == "Gemm" for attribute in node.attribute} == {"transB"}


def shapes(made: onnx.ModelProto) -> set[tuple[int, ...]]:
    """Those of the constant matrices."""
    return {tuple(w.dims) for w in made.graph.initializer if len(w.dims) == 2}


@pytest.mark.parametrize("rows", [(), (1,), (5,), (1, 3), (2, 1, 2)])
def test_products_of_few_rows_are_of_whole_vectors(rows: tuple[int, ...]) -> None:
    x, w = array(*rows, 128), array(128, 200)
    made = model("MatMul", x, w)
    assert require_same(made, x).count("MatMul") == 1
    assert (128, 208) in shapes(made)


@pytest.mark.parametrize("bias", [(200,), (1, 200), (1,), (5, 200), None])
@pytest.mark.parametrize("rows", [1, 5])
def test_a_gemm_of_few_rows_keeps_its_factors(rows: int, bias: tuple[int, ...] | None) -> None:
    x, w = array(rows, 128), array(200, 128)
    constants = [] if bias is None else [array(rows if bias[0] == 5 else bias[0], *bias[1:])]
    made = model("Gemm", x, w, *constants, alpha=0.5, beta=2.0, transB=1)
    assert "Gemm" in require_same(made, x)
    assert (128, 200 if bias == (1,) else 208) in shapes(made)


def test_a_gemm_of_several_rows_keeps_its_factors() -> None:
    x = array(8, 128)
    assert require_same(model("Gemm", x, array(128, 200), array(200), alpha=0.5, beta=2.0), x) == ["Gemm"]


@pytest.mark.parametrize(
    "made",
    [
        model("MatMul", array(17, 128), array(128, 200)),  # so many rows
        model("MatMul", array(1, 8), array(8, 9)),  # so few weights
        model("MatMul", array(1, 128), array(2, 128, 200)),
        model("MatMul", array(1, 128, type_="float16"), array(128, 200, type_="float16")),
        model("MatMul", array(1, 128), array(128, 256)),  # whole vectors
        model("Gemm", array(8, 128), array(200, 128), transB=1),
        model("Conv", array(1, 8, 9, 9), array(4, 8, 3, 3), strides=[2, 1]),  # more than half would be computed in vain
        model("Conv", array(2, 8, 9, 9), array(4, 8, 3, 3)),
        model("Conv", array(1, 8, 9, 9), array(4, 8, 1, 1)),
        model("Conv", array(1, 8, 9, 9, type_="float16"), array(4, 8, 3, 3, type_="float16")),  # so few results
        model("Conv", array(1, 8, 9, 4), array(4, 8, 3, 3), pads=[1] * 4),  # half as much again would be computed in vain
        model("Conv", array(1, 512, 400, 400), array(4, 512, 3, 3)),  # so large a matrix
        model("Conv", array(1, 8, 9), array(4, 4, 3), group=2),
        model("Conv", array(1, 8, 9, type_="float16"), array(4, 8, 3, type_="float16")),  # whose sums would be rounded
        model("Conv", array(1, 8, 9, 9), array(8, 1, 9, 9), group=8),  # so many places
        model("ConvTranspose", array(1, 8, 9), array(8, 4, 3)),  # no zeros between the values
        model("ConvTranspose", array(1, 8, 9), array(8, 4, 3), strides=[2], dilations=[2]),
        model("ConvTranspose", array(1, 8, 9), array(8, 2, 3), strides=[2], group=2),
    ],
    ids=range(18),
)
def test_others_stay(made: onnx.ModelProto) -> None:
    assert faster(made) == []


WRITTEN_OUT: dict[str, dict[str, Any]] = {
    "forward": {},
    "reverse": {"direction": "reverse", "left_out": "hcp"},
    "bidirectional": {"direction": "bidirectional", "left_out": "b", "are_inputs": "hcp"},
    "all_at_once": {"steps": 64},
    "rounds": {"steps": 80, "direction": "bidirectional"},
    "rounds_and_rest": {"steps": 67, "left_out": "p"},
    "rest_and_rounds": {"steps": 67, "direction": "reverse"},
    "lengths": {"steps": 67, "lengths": [37], "are_inputs": "l", "direction": "bidirectional"},
    "short": {"lengths": [3], "results": ("", "h", "c")},
    "clip": {"clip": 0.3, "are_inputs": "b"},
    "functions": {"activations": ["Relu", "Tanh", "Sigmoid"]},
    "batch_first": {"layout": 1, "steps": 67},
    "opset_21": {"opset": 21},
}


@pytest.mark.parametrize(("kind", "after"), [("LSTM", 0), ("GRU", 0), ("GRU", 1), ("RNN", 0)])
@pytest.mark.parametrize("form", WRITTEN_OUT)
def test_steps_that_are_written_out(kind: str, form: str, after: int) -> None:
    given = {"steps": 5} | WRITTEN_OUT[form]
    if "activations" in given:
        given["activations"] = given["activations"][: recurrent.FUNCTIONS[kind]]
    more = {"linear_before_reset": 1} if after else {}
    made, feeds = recurrent.layer(kind, sequences=1, **given, **more)
    if given.get("layout"):  # which ONNX Runtime has not: what the other order gives, turned
        other, turned = recurrent.layer(kind, sequences=1, **given | {"layout": 0}, **more)
        expected = recurrent.run(other, turned)[0].transpose(2, 0, 1, 3)
    else:
        expected = recurrent.run(made, feeds)[0]
    changed = REWRITES["steps"](made)
    assert changed is not None
    rounds = given["steps"] > 64
    kinds = [node.op_type for node in changed.graph.node]
    assert kind not in kinds
    assert kinds.count("Loop") == (rounds and (2 if given.get("direction") == "bidirectional" else 1))
    np.testing.assert_allclose(recurrent.run(changed, feeds)[0], expected, 1e-5, 1e-5)


@pytest.mark.parametrize("form", [{"sequences": 2}, {"are_inputs": "r"}, {"dtype": "float16"}], ids=str)
def test_other_layers_stay(form: dict[str, Any]) -> None:
    assert REWRITES["steps"](recurrent.layer("LSTM", **{"sequences": 1} | form)[0]) is None


def test_weights_that_are_not_known_stay() -> None:
    x, w = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", (1, 128)), ("w", (128, 200))))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 200))
    made = helper.make_model(helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x, w], [y]))
    assert faster(inferred(made)) == []


# With 66 steps a layer is a loop of 64 of them, all written out, and takes minutes to compile.
# Weights of products have more than 256 bytes: IREE puts less into the kernels, as an array for each place that reads it, and
# such a kernel takes lavapipe minutes to compile.
@pytest.mark.parametrize(
    ("steps", "targets"),
    [
        (6, ("vulkan-any", "x86-64-v3")),
        pytest.param(66, ("vulkan-any", "x86-64-v3", "x86-64"), marks=pytest.mark.thorough),
    ],
)
def test_they_are_right_where_they_run(
    steps: int,
    targets: tuple[str, ...],
    tmp_path: Path,
    present: list[Device],  # noqa: F811
) -> None:
    cases = Cases()
    cases.add("shuffle", "ConvTranspose", array(1, 8, 20), constants=[array(8, 6, 5), array(6)], strides=[3], pads=[1, 1])
    cases.add("plane", "ConvTranspose", array(1, 4, 6, 7), constants=[array(4, 3, 4, 4)], strides=[2, 2], pads=[1, 1, 1, 1])
    halves = [array(12, 4, 2, 2, type_="float16")]
    cases.add("convolution", "Conv", array(1, 4, 6, 30), constants=[array(12, 4, 2, 2), array(12)], pads=[1] * 4)
    cases.add("halves", "Conv", array(1, 4, 6, 30, type_="float16"), constants=halves, pads=[1] * 4)
    cases.add("line", "Conv", array(1, 8, 30), constants=[array(6, 8, 2), array(6)], pads=[2, 2])
    cases.add("lines", "Conv", array(2, 8, 30), constants=[array(6, 8, 2)], strides=[2], dilations=[2])
    cases.add("short lines", "Conv", array(3, 24, 1, 15), constants=[array(40, 24, 1, 3), array(40)], pads=[0, 1, 0, 1])
    cases.add("single", "Conv", array(1, 8, 20, 20), constants=[array(8, 1, 3, 3), array(8)], pads=[1] * 4, group=8)
    cases.add("short", "Conv", array(1, 8, 9, 9), constants=[array(8, 1, 3, 3)], strides=[2, 2], group=8)
    cases.add("row", "MatMul", array(1, 128), constants=[array(128, 200)])
    cases.add("blocks", "Conv", array(1, 1, 100), constants=[array(5, 1, 32)], strides=[16])
    cases.add("gemm", "Gemm", array(2, 128), constants=[array(200, 128), array(200)], transB=1)
    # An even number of units: all steps have the same kernels.
    weights = [array(1, 18, 4), array(1, 18, 6)]
    cases.add("steps", "GRU", array(steps, 1, 4), constants=weights, hidden_size=6, linear_before_reset=1)
    assert not wrong(cases, tmp_path, present, targets)


# Taken back


@pytest.fixture
def imported(tmp_path: Path) -> tuple[Origin, Path]:
    """A model of one convolution along a line, imported."""
    x, w = array(1, 8, 64), array(6, 8, 5)
    source = tmp_path / "m.onnx"
    source.write_bytes(model("Conv", x, w).SerializeToString())
    given = Input("x", x.shape, "float32", 0, -1, 1, None)
    made = model_of(PathSource(Path("m.onnx"), sha256_file(source)), given)
    origin = Origin(made, (source,))
    import_.run(origin, tmp_path / "import")
    return origin, tmp_path / "import"


def bundle_of(targets: Sequence[Executable]) -> Bundle:
    return Bundle("b", Path("b.yaml"), "", tuple(t.name for t in targets), (), "fail")


def refusal() -> compiler.RefusedError:
    return compiler.RefusedError({"x86-64": CompilerRefusedError("no")}, "here")


def test_a_model_that_is_refused_so_is_compiled_as_it_was(
    imported: tuple[Origin, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin, folder = imported
    assert json.loads((folder / "rewrites.json").read_text()) == {"main": ["sums"]}
    real, sources = compile_stage.compile_targets, []

    def refusing(source: Path, *rest: Any, **options: Any) -> Compiled:
        sources.append(source.parent.name)
        if source.parent == folder:
            raise refusal()
        return real(source, *rest, **options)

    monkeypatch.setattr(compile_stage, "compile_targets", refusing)
    targets = executables("x86-64")
    compile_stage.run(origin, folder, tmp_path / "compiled", bundle_of(targets), targets)
    made = Compiled.read(tmp_path / "compiled" / "compiled.json")
    assert made.notes == ("the model is not changed for speed: so changed, the compiler refused it",)
    assert sources[-1] == "slower"
    slower = compile_stage.imported_for(tmp_path / "compiled", folder)
    assert json.loads((slower / "rewrites.json").read_text()) == {"main": []}
    record.require_intact(tmp_path / "compiled")
    (slower / "model.mlirbc").write_bytes(b"")
    with pytest.raises(PipelineError):
        record.require_intact(tmp_path / "compiled")


def test_one_that_is_refused_either_way_is_refused(
    imported: tuple[Origin, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*_: Any, **__: Any) -> Compiled:
        raise refusal()

    monkeypatch.setattr(compile_stage, "compile_targets", refusing)
    targets = executables("x86-64")
    with pytest.raises(PipelineError, match="the compiler refuses it"):
        compile_stage.run(imported[0], imported[1], tmp_path / "compiled", bundle_of(targets), targets)
    assert not (tmp_path / "compiled" / "record.json").exists()


def test_one_that_is_wrong_so_is_verified_as_it_was(
    imported: tuple[Origin, Path],
    tmp_path: Path,
    present: list[Device],  # noqa: F811
) -> None:
    origin, folder = imported
    targets = executables("x86-64")
    bundle, compiled = bundle_of(targets), tmp_path / "compiled"
    compile_stage.run(origin, folder, compiled, bundle, targets)
    reference.run(origin, folder, tmp_path / "reference")
    (tmp_path / "verified").mkdir()
    check = verify._prepare(
        origin, bundle, targets, compiled, folder, tmp_path / "reference", tmp_path / "verified", present, searched=True
    )
    plain = verify._without_optimizations(check, ["x86-64"])
    assert plain is not None
    assert plain.imported != folder
    assert any("the model is not changed for speed: otherwise x86-64 failed verification" in n for n in plain.compiled.notes)
    results, failures = verify._tried(plain, ())
    assert results
    assert not failures
