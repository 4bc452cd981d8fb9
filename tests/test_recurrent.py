"""Recurrent layers, and windows that leave values over: as ONNX Runtime computes them, and refused or wrong without rewrites."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from pipeline.importers import onnx as importer
from pipeline.importers import rewrites
from pipeline.importers.child import FASTER
from pipeline.importers.onnxruntime import session
from pipeline.importers.rewrites import microsoft, recurrent, remainders
from pipeline.importers.rewrites.graph import inferred
from pipeline.importers.rewrites.proof import without_names
from pipeline.iree import compiler
from pipeline.iree.codegen import front
from pipeline.iree.device import Device
from pipeline.iree.targets import resolve
from tests.test_compile import executables, present  # noqa: F401  # a fixture
from tests.test_rewrites import Cases, wrong

Array = np.ndarray
Feeds = dict[str, Array]
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
FUNCTIONS = {"LSTM": 3, "GRU": 2, "RNN": 1}
NAMES = "Sigmoid Tanh Relu HardSigmoid Affine LeakyRelu ThresholdedRelu ScaledTanh Elu Softsign Softplus".split()
STEPS, SEQUENCES, VALUES, UNITS = 5, 2, 4, 3


def array(generator: np.random.Generator, *shape: int, dtype: str = "float32") -> Array:
    return (generator.standard_normal(shape) / 2).astype(dtype)


def layer(
    kind: str,
    *,
    dtype: str = "float32",
    steps: int = STEPS,
    sequences: int = SEQUENCES,
    left_out: str = "",
    results: tuple[str, ...] = ("y", "h", "c"),
    are_inputs: str = "",
    lengths: list[int] | None = None,
    opset: int = 17,
    **attributes: object,
) -> tuple[onnx.ModelProto, Feeds]:
    """A model of one layer; `left_out` and `are_inputs` are letters: w, r, b, l for the lengths, h and c for the states, p."""
    generator, directions = np.random.default_rng(3), 2 if attributes.get("direction") == "bidirectional" else 1
    rows, turned = GATES[kind] * UNITS, attributes.get("layout") == 1
    state = (sequences, directions, UNITS) if turned else (directions, sequences, UNITS)
    given = {
        "x": array(generator, *((sequences, steps) if turned else (steps, sequences)), VALUES, dtype=dtype),
        "w": array(generator, directions, rows, VALUES, dtype=dtype),
        "r": array(generator, directions, rows, UNITS, dtype=dtype),
        "b": array(generator, directions, 2 * rows, dtype=dtype),
        "l": np.array(lengths or [steps] * sequences, np.int32),
        "h": array(generator, *state, dtype=dtype),
        "c": array(generator, *state, dtype=dtype),
        "p": array(generator, directions, 3 * UNITS, dtype=dtype),
    }
    for letter in left_out + ("" if kind == "LSTM" else "cp") + ("" if lengths else "l"):
        given.pop(letter, None)
    inputs = [name if name in given else "" for name in ("x", "w", "r", "b", "l", "h", "c", "p")]
    while not inputs[-1]:
        inputs.pop()
    outputs = [f"{name}_result" if name else "" for name in results[: 3 if kind == "LSTM" else 2]]
    node = helper.make_node(kind, inputs, outputs, kind, hidden_size=UNITS, **attributes)
    feeds = {name: value for name, value in given.items() if name in "x" + are_inputs}
    constants = [numpy_helper.from_array(value, name) for name, value in given.items() if name not in feeds]
    values = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for n, v in feeds.items()]
    type_ = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    ends = [helper.make_tensor_value_info(name, type_, None) for name in outputs if name]
    graph = helper.make_graph([node], "g", values, ends, constants)
    return inferred(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)), feeds


def run(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    return [np.asarray(output) for output in session(without_names(model)).run(None, dict(feeds))]


def assert_same(found: onnx.ModelProto | None, model: onnx.ModelProto, feeds: Feeds, tolerance: float = 1e-5) -> None:
    assert found is not None
    for one, other in zip(run(found, feeds), run(model, feeds), strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


FORMS: dict[str, dict[str, object]] = {
    "reverse": {"direction": "reverse"},
    "bidirectional": {"direction": "bidirectional", "lengths": [5, 3]},
    "lengths": {"lengths": [2, 4], "are_inputs": "l", "left_out": "b"},
    "clip": {"clip": 0.3, "results": ("", "h", "c")},
    "all_inputs": {"direction": "reverse", "are_inputs": "wrbhcp"},
    "one_step": {"direction": "reverse", "steps": 1, "lengths": [1, 1], "are_inputs": "l"},
    "one_sequence": {"direction": "bidirectional", "sequences": 1, "left_out": "hcp", "clip": 1.0},
    "halves": {"direction": "reverse", "dtype": "float16"},
    "first_result": {"direction": "reverse", "results": ("y",), "left_out": "bhcp"},
    "opset_21": {"direction": "reverse", "opset": 21},
}


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("form", FORMS)
def test_a_loop_over_its_steps_gives_what_onnxruntime_gives(kind: str, form: str) -> None:
    model, feeds = layer(kind, **FORMS[form])  # type: ignore[arg-type]
    assert_same(recurrent.rewrite(model), model, feeds, 2e-3 if form == "halves" else 1e-5)


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("name", NAMES)
def test_functions_are_onnxruntimes_with_their_parameters(kind: str, name: str) -> None:
    count = FUNCTIONS[kind] * 2
    names = [NAMES[(NAMES.index(name) + i) % len(NAMES)] for i in range(count)]
    given = {"activation_alpha": [0.3, 0.6], "activation_beta": [0.4]}
    for attributes in ({}, given):
        model, feeds = layer(kind, steps=2, direction="bidirectional", activations=names, **attributes)  # type: ignore[arg-type]
        assert_same(recurrent.rewrite(model), model, feeds)


@pytest.mark.parametrize("after", [0, 1])
def test_reset_gates_lie_where_the_node_says(after: int) -> None:
    model, feeds = layer("GRU", direction="bidirectional", linear_before_reset=after)
    assert_same(recurrent.rewrite(model), model, feeds)


def test_forget_gates_may_be_what_input_gates_are_not() -> None:
    model, feeds = layer("LSTM", input_forget=1)
    assert_same(recurrent.rewrite(model), model, feeds)


def test_sequences_of_no_length_have_no_state() -> None:
    for kind in ("LSTM", "GRU"):  # ONNX Runtime's RNN reads what lies before its result
        model, feeds = layer(kind, lengths=[0, 5])
        assert_same(recurrent.rewrite(model), model, feeds)


@pytest.mark.parametrize("kind", GATES)
def test_the_other_layout_is_the_same_with_axes_exchanged(kind: str) -> None:
    """ONNX Runtime does not have it."""
    turned, plain = (layer(kind, layout=layout, sequences=1) for layout in (1, 0))
    rewritten = recurrent.rewrite(turned[0])
    assert rewritten is not None
    for index, (found, expected) in enumerate(zip(run(rewritten, turned[1]), run(*plain), strict=True)):
        order = (1, 0, 2) if index else (2, 0, 1, 3)
        np.testing.assert_allclose(found, expected.transpose(order), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", [{}, {"lengths": [5, 5]}, {"activations": ["Sigmoid", "Tanh", "Tanh"]}])
def test_what_iree_computes_right_is_left(form: dict[str, object]) -> None:
    model, _ = layer("LSTM", left_out="p", **form)  # type: ignore[arg-type]
    assert recurrent.rewrite(model) is None


def compiled() -> Cases:
    """Forms that IREE refuses or gets wrong, small enough for all to be one module."""
    generator, cases = np.random.default_rng(5), Cases()

    def add(name: str, kind: str, lengths: list[int], **attributes: object) -> None:
        directions = 2 if attributes.get("direction") == "bidirectional" else 1
        rows = GATES[kind] * UNITS
        states = [array(generator, directions, SEQUENCES, UNITS)] * (2 if kind == "LSTM" else 1)
        peepholes = [array(generator, directions, 3 * UNITS)] if kind == "LSTM" else []
        shapes = [(directions, rows, VALUES), (directions, rows, UNITS), (directions, 2 * rows)]
        weights = [array(generator, *shape) for shape in shapes]
        constants = [*weights, np.array(lengths, np.int32), *states, *peepholes]
        cases.add(name, kind, array(generator, STEPS, SEQUENCES, VALUES), constants=constants, hidden_size=UNITS, **attributes)

    add("peepholes", "LSTM", [5, 5])
    add("both_ways", "LSTM", [5, 2], direction="bidirectional", clip=0.4)
    add("reset", "GRU", [5, 5], direction="bidirectional", linear_before_reset=1)
    add("functions", "GRU", [5, 3], activations=["HardSigmoid", "Softsign"])
    add("backwards", "RNN", [5, 5], direction="reverse", activations=["Elu"])
    return cases


def short_windows() -> Cases:
    generator, cases = np.random.default_rng(6), Cases()
    for rank, group in ((1, 1), (2, 2), (2, 4), (3, 2)):
        x, w = array(generator, 1, 4, *[7] * rank), array(generator, 4, 4 // group, *[3] * rank)
        cases.add(f"conv_{rank}_{group}", "Conv", x, constants=[w], strides=[5] * rank, group=group)
    x, w = array(generator, 1, 4, 4), array(generator, 4, 4, 3)
    cases.add("padded", "Conv", x[:, :, :2], constants=[w], strides=[2], pads=[1, 1])
    cases.add("valid", "Conv", array(generator, 1, 4, 8), constants=[w], strides=[6], auto_pad="VALID")
    integers = generator.integers(0, 255, (1, 4, 7, 7), dtype=np.uint8)
    cases.add("integers", "ConvInteger", integers, constants=[integers[:, :, :3, :3]], strides=[5, 5])
    for kind in ("MaxPool", "AveragePool"):
        cases.add(kind, kind, array(generator, 1, 2, 7, 9), kernel_shape=[3, 3], strides=[7, 3], pads=[1, 0, 1, 0])
    return cases


COMPILED = {"recurrent": compiled(), "remainders": short_windows()}


@pytest.mark.thorough
@pytest.mark.parametrize("kind", COMPILED)
def test_iree_computes_them_right(kind: str, tmp_path: Path, present: list[Device]) -> None:  # noqa: F811
    assert not wrong(COMPILED[kind], tmp_path, present, ("vulkan-any", "x86-64"))


def is_lowered(node: onnx.NodeProto, cases: Cases, folder: Path) -> bool:
    """Whether the compiler takes a node as it is."""
    alone = Cases([node], {n: a for n, a in cases.inputs.items() if n in node.input}, cases.constants)
    importer.convert(folder / "cases.onnx", folder, alone.save(folder))
    (target,) = executables("x86-64")
    try:
        compiler.compile_module(folder / "model.mlirbc", folder, [resolve(target)], {"x86-64": ()})
    except front.FrontHalfError:
        return False
    return True


@pytest.mark.parametrize(
    ("kind", "name"),
    [("recurrent", "reset"), ("recurrent", "backwards"), *(("remainders", node.output[0]) for node in short_windows().nodes)],
)
def test_they_would_be_refused_without(kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name_ in (kind, *FASTER):  # what is for speed happens to help, too
        monkeypatch.delitem(rewrites.REWRITES, name_)  # type: ignore[arg-type]
    (node,) = [node for node in COMPILED[kind].nodes if node.output[0] == name]
    assert not is_lowered(node, COMPILED[kind], tmp_path)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["peepholes", "functions"])
def test_they_would_be_wrong_without(
    name: str,
    tmp_path: Path,
    present: list[Device],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(rewrites.REWRITES, "recurrent")  # type: ignore[arg-type]
    (node,) = [node for node in COMPILED["recurrent"].nodes if node.output[0] == name]
    cases = COMPILED["recurrent"]
    alone = Cases([node], {n: a for n, a in cases.inputs.items() if n in node.input}, cases.constants)
    assert wrong(alone, tmp_path, present, ["x86-64"]) == {("x86-64", name)}


def windows() -> list[tuple[onnx.ModelProto, Feeds]]:
    """Convolutions and pools of all kinds, drawn by chance."""
    generator, found = np.random.default_rng(7), []
    for number in range(120):
        rank, kind = 1 + number % 3, ("Conv", "MaxPool", "AveragePool", "Conv")[number % 4]
        kernel, sizes = generator.integers(1, 5, rank), generator.integers(7, 11, rank)
        chosen: dict[str, object] = {"strides": generator.integers(2, 9, rank), "dilations": generator.integers(1, 3, rank)}
        if number % 5 == 0:
            chosen["pads"] = generator.integers(0, np.tile(kernel, 2))
        elif number % 5 == 1:
            chosen["auto_pad"] = "VALID"
        elif number % 5 == 2:
            # With strides beyond the kernel ONNX Runtime's pools leave out the first values: see `pools`.
            chosen |= {"auto_pad": "SAME_LOWER", "dilations": [1] * rank, "strides": np.minimum(chosen["strides"], kernel)}
        cases, constants = Cases(), []
        if kind == "Conv":
            group = int(generator.choice([1, 2, 4]))
            chosen["group"] = group
            constants = [array(generator, 4, 4 // group, *kernel)]
        else:
            chosen["kernel_shape"] = kernel
        if kind == "AveragePool":
            del chosen["dilations"]
        cases.add("windows", kind, array(generator, 1, 4, *sizes), constants=constants, **chosen)
        found.append((inferred(cases.model()), cases.inputs))
    return found


def test_windows_reach_what_they_did() -> None:
    used = 0
    for model, feeds in windows():
        if (rewritten := remainders.rewrite(model)) is not None:
            used += 1
            assert_same(rewritten, model, feeds)
    assert used > 10


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("form", ["reverse", "bidirectional"])
@pytest.mark.parametrize("sequences", [1, 5])
def test_quantized_weights_are_multiplied_as_onnxruntime_does(
    sequences: int, per_channel: bool, form: str, tmp_path: Path
) -> None:
    model, feeds = layer("LSTM", direction=form, sequences=sequences)
    onnx.save(model, tmp_path / "model.onnx")
    quantize_dynamic(tmp_path / "model.onnx", tmp_path / "quantized.onnx", per_channel=per_channel, weight_type=QuantType.QInt8)
    quantized = onnx.load(tmp_path / "quantized.onnx")
    assert [node.op_type for node in quantized.graph.node] == ["DynamicQuantizeLSTM"]
    rewritten = microsoft.rewrite(inferred(quantized))
    assert_same(rewritten, quantized, feeds)
    assert rewritten is not None
    assert any(value.type.tensor_type.elem_type == TensorProto.UINT8 for value in rewritten.graph.value_info)
