"""ONNX operators that IREE computes wrong are right by `importers.rewrites`, and wrong or refused without.

If one is right without, the compiler was mended: remove its rewrite.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from pipeline.importers import onnx as importer
from pipeline.importers import rewrites
from pipeline.importers.decisions import nodes as nodes_of
from pipeline.importers.onnxruntime import session
from pipeline.importers.rewrites import copies, flow
from pipeline.importers.rewrites.graph import Scope, inferred, replaced, without_unused
from pipeline.importers.rewrites.proof import without_names
from pipeline.importers.signature import Signature
from pipeline.iree import compiler, devices
from pipeline.iree.codegen import front
from pipeline.iree.device import Device
from pipeline.iree.file import choice
from pipeline.iree.targets import resolve
from pipeline.iree.toolchain import CompilerRefusedError
from pipeline.spec.types import Input
from tests.test_compile import executables, on, present  # noqa: F401  # a fixture

Array = np.ndarray
GENERATOR = np.random.default_rng(11)
EMPTY = np.array([], np.float32)


@dataclass
class Cases:
    """A model of independent nodes: each takes inputs and constants, and its first result is an output of its name."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: dict[str, Array] = field(default_factory=dict)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def add(self, name: str, kind: str, *inputs: Array, constants: Sequence[Array] = (), **attributes: object) -> None:
        operands = [f"{name}_in{i}" for i in range(len(inputs))] + [f"{name}_c{i}" for i in range(len(constants))]
        self.inputs |= dict(zip(operands, inputs, strict=False))
        self.constants += [numpy_helper.from_array(c, n) for n, c in zip(operands[len(inputs) :], constants, strict=True)]
        self.nodes.append(helper.make_node(kind, operands, [name], f"the {name}", **attributes))

    def model(self) -> onnx.ModelProto:
        def described(name: str, array: Array) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)

        graph = helper.make_graph(
            self.nodes, "g", [described(n, a) for n, a in self.inputs.items()], [], [*self.constants], value_info=[]
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        values = {v.name: v for v in onnx.shape_inference.infer_shapes(model, data_prop=True).graph.value_info}
        graph.output.extend(values[node.output[0]] for node in self.nodes)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)

    def expected(self) -> dict[str, Array]:
        """By ONNX Runtime, node by node, or by ONNX's reference where it has no kernel for a type."""
        results = {}
        for node in self.nodes:
            alone = Cases([node], {n: a for n, a in self.inputs.items() if n in node.input}, self.constants).model()
            try:
                running = onnxruntime.InferenceSession(alone.SerializeToString(), providers=["CPUExecutionProvider"])
            except Exception:
                running = ReferenceEvaluator(alone)
            results[node.output[0]] = np.asarray(running.run(None, {i.name: self.inputs[i.name] for i in alone.graph.input})[0])
        return results

    def save(self, folder: Path) -> list[Input]:
        onnx.save(self.model(), folder / "cases.onnx")
        found = []
        for name, array in self.inputs.items():
            np.save(folder / f"{name}.npy", array)
            found.append(Input(name, array.shape, str(array.dtype), 0, 0.0, 1.0, folder / f"{name}.npy"))
        return found


def whole_range(dtype: type, *shape: int) -> Array:
    limits = np.iinfo(dtype)
    return GENERATOR.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


def unsigned(dtype: type) -> Cases:
    cases, most = Cases(), np.iinfo(dtype).max
    a, b = whole_range(dtype, 3, 37), np.maximum(whole_range(dtype, 3, 37), 1)
    for name, kind, attributes in (("div", "Div", {}), ("mod", "Mod", {}), ("fmod", "Mod", {"fmod": 1})):
        cases.add(name, kind, a, b, **attributes)
    for name, kind in (("div_by_one", "Div"), ("mod_by_one", "Mod")):
        cases.add(name, kind, a, constants=[np.array(100, dtype)])
    cases.add("abs", "Abs", a)
    cases.add("clip", "Clip", a, constants=[np.array(most // 4, dtype), np.array(most // 4 * 3, dtype)])
    cases.add("topk", "TopK", a, constants=[np.array([3])])
    cases.nodes[-1].output.append("places")
    cases.add("scattered", "ScatterND", np.arange(8, dtype=dtype), constants=[np.array([[1], [6]]), np.array([2, most], dtype)])
    cases.nodes[-1].attribute.append(helper.make_attribute("reduction", "max"))
    if dtype is np.uint8:
        cases.add("pool", "MaxPool", whole_range(dtype, 1, 2, 7, 9), kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1])
    return cases


def accumulation() -> Cases:
    cases, axes = Cases(), [np.array([1])]
    large, small = (75 + GENERATOR.random((2, 3000))).astype(np.float16), GENERATOR.random((2, 3000)).astype(np.float16)
    for kind in ("ReduceMean", "ReduceL2"):
        cases.add(f"large_{kind}", kind, large if kind == "ReduceMean" else large / np.float16(2), constants=axes)
    for kind in ("ReduceSum", "ReduceL1", "ReduceSumSquare"):
        cases.add(kind, kind, small, constants=axes)
    cases.add("ReduceProd", "ReduceProd", 1 + (small - np.float16(0.5)) / 16, constants=axes)
    cases.add("CumSum", "CumSum", small, constants=[np.array(1)])
    cases.add("LogSoftmax", "LogSoftmax", small[:, :1500], axis=1)  # of more, vulkan-any has not the memory
    cases.add("LpNormalization", "LpNormalization", small[:, :1500] * np.float16(16), axis=1)
    image = (75 + GENERATOR.random((1, 2, 40, 41))).astype(np.float16)
    cases.add("GlobalAveragePool", "GlobalAveragePool", image)
    cases.add("AveragePool", "AveragePool", image, kernel_shape=[31, 33])
    return cases


def powers() -> Cases:
    cases = Cases()
    base, exponent = np.linspace(-2.5, 2.5, 40, dtype=np.float32), (np.arange(40) % 7 - 2).astype(np.float32)
    cases.add("signed", "Pow", base, exponent)
    cases.add("constants", "Pow", base, constants=[exponent])
    cases.add("zero", "Pow", np.zeros(4, np.float32), np.arange(4, dtype=np.float32))
    cases.add("asinh", "Asinh", np.array([-9077.0, -1000, -4, -0.1, 0, 3, 9000], np.float32))
    return cases


def quantized() -> Cases:
    cases = Cases()
    cases.add("product", "MatMulInteger", whole_range(np.uint8, 5, 32), constants=[whole_range(np.uint8, 32, 7)])
    zero = np.array(3, np.int8)
    scales, bias = np.array([0.01, 0.02, 0.03, 0.015], np.float32), np.array([1000, -1000, 5000, 0], np.int32)
    weights = [whole_range(np.int8, 4, 3, 3, 3), scales, np.zeros(4, np.int8)]
    constants = [np.array(0.02, np.float32), zero, *weights, np.array(0.05, np.float32), zero, bias]
    cases.add("convolution", "QLinearConv", whole_range(np.int8, 1, 3, 8, 9), constants=constants, pads=[1, 1, 1, 1])
    return cases


def forms() -> Cases:
    """Forms of operators that IREE compiles to something else."""
    cases = Cases()
    image, volume = GENERATOR.random((2, 3, 8, 9), np.float32), GENERATOR.random((1, 2, 8, 9, 7), np.float32)
    cases.add("mean", "AveragePool", image, kernel_shape=[3, 2], strides=[2, 2], ceil_mode=1, count_include_pad=1)
    cases.add("volume", "AveragePool", volume, kernel_shape=[2, 3, 2], strides=[2, 2, 2], ceil_mode=1, count_include_pad=1)
    cases.add("columns", "DepthToSpace", GENERATOR.random((1, 12, 3, 4), np.float32), blocksize=2, mode="CRD")
    grid = (GENERATOR.random((2, 4, 3, 2)) * 6 - 3).astype(np.float32)
    cases.add("far", "GridSample", image, grid, mode="bilinear")
    cases.add("far_nearest", "GridSample", image, grid, mode="nearest", align_corners=1)
    return cases


def refused_forms() -> Cases:
    """Forms of operators that IREE does not compile."""
    cases = Cases()
    image, volume = GENERATOR.random((1, 4, 7, 9), np.float32), GENERATOR.random((1, 4, 5, 4, 6), np.float32)
    small = GENERATOR.random((3, 4, 5), np.float32)
    cases.add("most", "MaxPool", image, kernel_shape=[2, 2], strides=[3, 3], pads=[1, 1, 1, 1], ceil_mode=1)
    cases.add("norm", "LpPool", image, kernel_shape=[3, 2], auto_pad="SAME_UPPER", strides=[2, 2])
    cases.add("norm_apart", "LpPool", image, kernel_shape=[2, 2], dilations=[2, 3], p=3)
    weights = GENERATOR.random((4, 1, 3, 3), np.float32)
    cases.add("alone", "ConvTranspose", image, constants=[weights], group=4, strides=[2, 2], output_padding=[1, 1])
    cases.add("uneven", "ConvTranspose", image, constants=[weights], strides=[2, 2], pads=[0, 1, 2, 1])
    cases.add("sized", "ConvTranspose", volume, constants=[weights[..., None]], strides=[2, 2, 1], output_shape=[10, 9, 6])
    cases.add("space", "Conv", volume, constants=[weights[..., None]], group=4, auto_pad="SAME_LOWER", strides=[2, 1, 2])
    for mode, axes in (("wrap", [1]), ("reflect", [0, 2])):
        pads = np.array([2] * len(axes) + [1] * len(axes))
        cases.add(mode, "Pad", small, constants=[pads, np.array(0, np.float32), np.array(axes)], mode=mode)
    cases.add("cropped", "Pad", image, constants=[np.array([0, 0, -1, 2, 0, 0, 3, -2]), np.array(7, np.float32)])
    nearest = {"mode": "nearest", "coordinate_transformation_mode": "align_corners"}
    cases.add("corners", "Resize", image, constants=[EMPTY, EMPTY, np.array([1, 4, 5, 20])], **nearest)
    cases.add("line", "Resize", small, constants=[EMPTY, np.array([1, 1, 1.7], np.float32)], mode="linear")
    cases.add("cubic", "Resize", image, constants=[EMPTY, EMPTY, np.array([1, 4, 5, 20])], mode="cubic", cubic_coeff_a=-0.5)
    grid = (GENERATOR.random((1, 4, 3, 2)) * 6 - 3).astype(np.float32)
    for padding in ("border", "reflection"):
        cases.add(padding, "GridSample", image, grid, mode="bilinear", padding_mode=padding)
    cases.add("vector", "MatMul", small, constants=[small[0, 0]])
    cases.add("chosen", "Compress", small, constants=[np.array([True, False, True])], axis=1)
    cases.add(
        "scattered", "ScatterElements", small[0], constants=[np.array([[1, -1, 1]]), small[1, :1, :3]], reduction="max", axis=1
    )
    cases.add("nothing", "ReduceL2", small, constants=[np.array([], np.int64)], noop_with_empty_axes=1)
    cases.add("mean", "ReduceMean", whole_range(np.int32, 3, 4) // 8, constants=[np.array([1])])
    one_window = {"pads": [1, 1, 1, 1], "strides": [2, 2]}
    cases.add("left_over", "Conv", image[:, :, :2], constants=[weights], group=4, **one_window)
    cases.add("left_over_line", "Conv", small[..., :4], constants=[weights[:2, 0, 0, None].repeat(4, 1)], strides=[3])
    pixels = whole_range(np.uint8, 1, 2, 2, 2)
    points = [whole_range(np.uint8, 3, 2, 3, 3), np.array(7, np.uint8), np.array(130, np.uint8)]
    cases.add("left_over_integers", "ConvInteger", pixels, constants=points, **one_window)
    cases.add("left_over_most", "MaxPool", image[..., :3], kernel_shape=[2, 2], strides=[2, 2])
    cases.add("left_over_mean", "AveragePool", image[:, :, :2], kernel_shape=[3, 3], count_include_pad=1, **one_window)
    signal, window = GENERATOR.random((2, 12, 1), np.float32), np.hanning(8).astype(np.float32)
    cases.add("spectrum", "DFT", signal, onesided=1)
    cases.add("spectrogram", "STFT", signal, constants=[np.array(2), window])
    cases.add("image", "Col2Im", small, constants=[np.array([3, 6]), np.array([2, 2])], dilations=[2, 1])
    regions = [np.array([[-1, 0.5, 7, 4], [2, 2, 3, 9]], np.float32), np.array([0, 0])]
    cases.add("regions", "RoiAlign", image, constants=regions, sampling_ratio=2, output_height=3, output_width=2)
    cases.add("swung", "GridSample", image, grid, mode="bicubic")
    zero = np.array(3, np.int8)
    factors = [np.array(0.02, np.float32), zero, whole_range(np.int8, 16, 5), np.array(0.01, np.float32), zero]
    cases.add("stack", "QLinearMatMul", whole_range(np.int8, 2, 3, 16), constants=[*factors, np.array(0.5, np.float32), zero])
    return cases


def refused() -> Cases:
    """What IREE does not compile at all without."""
    cases = Cases()
    cases.add("integers", "Pow", np.arange(-50, 50, dtype=np.int32), constants=[np.array(3, np.int32)])
    cases.add("large", "Pow", np.array([46001, -40001, 0]), constants=[np.array([2.0], np.float32)])
    floats = np.linspace(-0.9, 30000.5, 50, dtype=np.float32)
    for name, dtype in (("u16", np.uint16), ("u32", np.uint32), ("i16", np.int16), ("u64", np.uint64)):
        to = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        cases.add(f"floats_{name}", "Cast", floats, to=to)
        cases.add(f"integers_{name}", "Cast", whole_range(np.int32, 40), to=to)
        cases.add(f"bytes_{name}", "Cast", whole_range(np.uint8, 40), to=to)
    cases.add("sign", "Sign", whole_range(np.uint16, 40))
    return cases


def doubles() -> Cases:
    cases = Cases()
    cases.add("tanh", "Tanh", np.concatenate([np.linspace(-3, 3, 101), [1e-9, -0.0079, 0.0081, 30, -800, np.inf]]))
    cases.add("norm", "ReduceL2", GENERATOR.random((4, 33)), constants=[np.array([1])])
    return cases


CASES: Mapping[str, Cases] = {
    "uint8": unsigned(np.uint8),
    "uint16": unsigned(np.uint16),
    "uint32": unsigned(np.uint32),
    "accumulation": accumulation(),
    "powers": powers(),
    "quantized": quantized(),
    "forms": forms(),
    "refused": refused(),
    "refused_forms": refused_forms(),
    "doubles": doubles(),
}
TOLERANCES = {"float16": 2e-3, "float32": 1e-5, "float64": 1e-12}


def far(found: Array, expected: Array) -> bool:
    if expected.dtype.kind in "iub":
        return bool((found.view(expected.dtype) != expected).any())
    tolerance = TOLERANCES[str(expected.dtype)]
    return not np.allclose(found.astype(float), expected.astype(float), tolerance, tolerance, equal_nan=True)


def wrong(cases: Cases, folder: Path, present: Sequence[Device], targets: Sequence[str]) -> set[tuple[str, str]]:  # noqa: F811
    """The variants and outputs that are not as they should be."""
    importer.convert(folder / "cases.onnx", folder, cases.save(folder))
    found = executables(*targets)
    compiler.compile_module(folder / "model.mlirbc", folder, [resolve(e) for e in found], {e.name: () for e in found})
    np.savez(folder / "inputs.npz", **{str(i): array for i, array in enumerate(cases.inputs.values())})
    names = [t.name for t in Signature.read(folder / "signature.json").outputs]
    bad = set()
    for index, target in enumerate(targets):
        choice.force(folder / "module.vmfb", index, folder / f"{target}.vmfb")
        device = on(list(present), "local-task" if target.startswith("x86") else "vulkan")
        run = devices.run(folder / f"{target}.vmfb", device, "main", [folder / "inputs.npz"], folder, target)
        assert not run.error
        expected = cases.expected()
        with np.load(devices.outputs(folder, target)) as arrays:
            bad |= {(target, name) for i, name in enumerate(names) if far(arrays[str(i)], expected[name])}
    return bad


QUICK = ("uint8", "forms", "quantized")  # the others take as long each


@pytest.mark.parametrize("kind", [k if k in QUICK else pytest.param(k, marks=pytest.mark.thorough) for k in CASES])
def test_they_are_right(kind: str, tmp_path: Path, present: list[Device]) -> None:  # noqa: F811
    # That target has no float64, and no quotients of 64-bit integers, which uint32 is computed in.
    targets = ("x86-64",) if kind in ("doubles", "uint32") else ("vulkan-any", "x86-64")
    assert not wrong(CASES[kind], tmp_path, present, targets)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", [kind for kind in CASES if kind not in ("refused", "refused_forms", "doubles")])
def test_they_would_be_wrong_without(
    kind: str,
    tmp_path: Path,
    present: list[Device],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rewrites, "REWRITES", {})
    target = "x86-64-v3"  # sums of float16 on less are made one by one, and sometimes in float32
    assert wrong(CASES[kind], tmp_path, present, [target]) == {(target, node.output[0]) for node in CASES[kind].nodes}


@pytest.mark.parametrize(
    ("kind", "node"),
    [
        (kind, node) for kind in ("refused", "refused_forms") for node in CASES[kind].nodes if node.output[0] != "wrap"
    ],  # takes minutes
    ids=lambda value: value if isinstance(value, str) else value.output[0],
)
def test_they_would_be_refused_without(kind: str, node: onnx.NodeProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = CASES[kind]
    alone = Cases([node], {n: a for n, a in cases.inputs.items() if n in node.input}, cases.constants)
    monkeypatch.setattr(rewrites, "REWRITES", {})
    monkeypatch.setattr(importer.narrow, "lower_casts", lambda _module: None)
    importer.convert(tmp_path / "cases.onnx", tmp_path, alone.save(tmp_path))
    (target,) = executables("x86-64")
    with pytest.raises((front.FrontHalfError, CompilerRefusedError)):
        compiler.compile_module(tmp_path / "model.mlirbc", tmp_path, [resolve(target)], {"x86-64": ()})


@pytest.mark.parametrize("used", [True, False])
def test_a_sorted_input_is_not_written_over(
    used: bool,
    tmp_path: Path,
    present: list[Device],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If it is not without the rewrite either, the compiler was mended."""
    cases = Cases()
    cases.add("most", "TopK", GENERATOR.random((3, 17), np.float32), constants=[np.array([4])])
    cases.nodes[0].output.append("places")
    if not used:
        monkeypatch.delitem(rewrites.REWRITES, "sorts")
    importer.convert(tmp_path / "cases.onnx", tmp_path, cases.save(tmp_path))
    (target,) = executables("x86-64")
    compiler.compile_module(tmp_path / "model.mlirbc", tmp_path, [resolve(target)], {"x86-64": ()})
    np.savez(tmp_path / "inputs.npz", **{"0": next(iter(cases.inputs.values()))})
    run = devices.run(tmp_path / "module.vmfb", on(present, "local-task"), "main", [tmp_path / "inputs.npz"], tmp_path, "run")
    assert not run.error
    assert run.spoiled == (not used)


def pools() -> Iterator[Cases]:
    """Pools of all kinds, drawn by chance."""
    generator = np.random.default_rng(3)
    for number in range(60):
        rank, kind = 1 + number % 3, ("MaxPool", "AveragePool", "LpPool")[number // 3 % 3]
        kernel = generator.integers(1, 4, rank)
        chosen: dict[str, object] = {"kernel_shape": kernel, "strides": generator.integers(1, 4, rank), "ceil_mode": 1}
        if number % 2:
            chosen["pads"] = generator.integers(0, np.tile(kernel, 2))
        elif number % 5:
            # With larger strides ONNX Runtime pads by less than nothing: it leaves out the first values.
            chosen["strides"] = np.minimum(generator.integers(1, 4, rank), kernel)
            chosen["auto_pad"] = ("SAME_UPPER", "SAME_LOWER")[number % 4 // 2]
        elif kind != "AveragePool":  # which has them from operator set 19 on
            chosen["dilations"] = generator.integers(1, 3, rank)
        if kind == "AveragePool":
            chosen["count_include_pad"] = number % 4 // 2
        cases = Cases()
        cases.add("pool", kind, generator.standard_normal((2, 3, *generator.integers(6, 10, rank))).astype(np.float32), **chosen)
        if kind == "MaxPool":
            cases.nodes[0].output.append("places")
        yield cases


def test_a_pool_is_laid_out_as_onnx_runtime_does() -> None:
    """Whether the compiler is right then is tried above: this is about where windows lie, and what counts."""
    used = 0
    for cases in pools():
        model = inferred(cases.model())
        if (made := rewrites.pools.rewrite(model)) is None:
            continue
        used += 1
        found, expected = (
            session(without_names(m)).run(None, {i.name: cases.inputs[i.name] for i in m.graph.input}) for m in (made, model)
        )
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, 1e-5, 1e-5, err_msg=str(cases.nodes[0]))
    assert used == 60


def test_weights_of_four_bits_in_blocks_become_such_of_eight() -> None:
    for type_, low, high in ((TensorProto.INT4, -8, 8), (TensorProto.UINT4, 0, 16)):
        weights = helper.make_tensor("w", type_, [6, 32], GENERATOR.integers(low, high, 192).tolist())
        zeros = helper.make_tensor("z", type_, [6, 2], GENERATOR.integers(0, 8, 12).tolist())
        scales = numpy_helper.from_array(GENERATOR.random((6, 2), np.float32), "s")
        node = helper.make_node("DequantizeLinear", ["w", "s", "z"], ["f"], axis=1, block_size=16)
        x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [6, 32]) for name in "xy")
        graph = helper.make_graph([node, helper.make_node("Mul", ["x", "f"], ["y"])], "g", [x], [y], [weights, scales, zeros])
        model = inferred(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))
        made = rewrites.blocks.rewrite(model)
        assert made is not None
        made = without_unused(made)
        assert not {TensorProto.INT4, TensorProto.UINT4} & {w.data_type for w in made.graph.initializer}
        feeds = {"x": GENERATOR.random((6, 32), np.float32)}
        found, expected = (session(without_names(m)).run(None, feeds)[0] for m in (made, model))
        np.testing.assert_array_equal(found, expected)


def test_a_rewrite_that_does_not_hold_for_all_nodes_is_used_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes Abs for nothing is right where numbers are not negative, also inside a graph, and not where they are."""

    def floats(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, (8,))

    inner = helper.make_graph([helper.make_node("Abs", ["square"], ["b"], "in")], "g", [], [floats("b")])
    other = helper.make_graph([helper.make_node("Abs", ["x"], ["c"], "in, signed")], "g", [], [floats("c")])
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["square"]),
        helper.make_node("Abs", ["square"], ["a"], "one"),
        helper.make_node("Abs", ["x"], ["signed"], "signed"),
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Less", ["most", "half"], ["small"]),  # as one of the draws is
        helper.make_node("If", ["small"], ["either"], then_branch=inner, else_branch=other),
        helper.make_node("Sum", ["a", "signed", "either"], ["y"]),
    ]
    half = numpy_helper.from_array(np.array(0.5, np.float32), "half")
    graph = helper.make_graph(nodes, "g", [floats("x")], [floats("y")], [half])
    model = inferred(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))

    def change(node: onnx.NodeProto, scope: Scope) -> list[onnx.NodeProto] | None:
        return [helper.make_node("Identity", node.input, node.output, node.name)] if node.op_type == "Abs" else None

    monkeypatch.setattr(rewrites, "REWRITES", {"abs": lambda model: replaced(model, change)})
    found, (tried,) = rewrites.apply(model, [Input("x", (8,), "float32", 0, -1.0, 1.0, None)], "")
    assert tried.used
    assert "values are off" in tried.problem
    assert {n.name for n in nodes_of(found.graph) if n.op_type == "Abs"} == {"signed", "in, signed"}
    assert not any(n.metadata_props for n in nodes_of(found.graph))


def test_the_shape_of_a_recurrent_layers_first_state_is_known() -> None:
    """As Paddle writes it, where onnx infers none: Expand to what is computed of the batch's size."""
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[5, 3, 4] x, float[1, 6, 4] w, float[1, 6, 2] r) => (float[5, 1, 3, 2] y)
        <int64[1] start = {1}, int64[1] stop = {2}, int64[0] none = {}, int64[1] first = {0}, int64[1] layers = {1},
         int64[1] width = {2}, float[1] zero = {0}> {
            sizes = Shape(x)
            batch = Slice(sizes, start, stop)
            number = Reshape(batch, none)
            again = Unsqueeze(number, first)
            shape = Concat <axis = 0> (layers, again, width)
            state = Expand(zero, shape)
            y = GRU <hidden_size = 2> (x, w, r, , , state)
        }""")
    found = flow.settled(inferred(model))
    assert found is not None
    (layer,) = (node for node in found.graph.node if node.op_type == "GRU")
    assert Scope(found.graph).shape(layer.input[5]) == (1, 3, 2)


def test_a_rewrite_is_proved_on_the_data_that_the_model_takes() -> None:
    """The draw of large numbers reaches behind the end of a list."""
    table = numpy_helper.from_array(np.arange(12, dtype=np.float32), "table")
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "i"], ["g"]),
        helper.make_node("Gelu", ["g"], ["y"], approximate="tanh"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (4,)) for name in "xy"]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [table])
    model = inferred(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9))
    _, tried = rewrites.apply(model, [Input("x", (4,), "float32", 0, 0.0, 1.0, None, is_open=True)], "")
    assert {"bodies"} <= {rewrite.name for rewrite in tried}
    assert not [rewrite for rewrite in tried if rewrite.problem]


@pytest.mark.parametrize("type_", ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16"])
@pytest.mark.parametrize("shape", [(), (1, 1), (3, 480)])
def test_what_makes_a_kernel_of_a_model_that_only_moves_values_is_small(shape: tuple[int, ...], type_: str) -> None:
    nodes = [helper.make_node("Reshape", ["x", "flat"], ["r"]), helper.make_node("Reshape", ["r", "shape"], ["y"])]
    element = helper.np_dtype_to_tensor_dtype(np.dtype(type_))
    values = [helper.make_tensor_value_info(name, element, shape) for name in "xy"]
    weights = [numpy_helper.from_array(np.array(a, np.int64), n) for n, a in (("flat", [-1]), ("shape", shape))]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], weights)
    model = inferred(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    found = copies.rewrite(model)
    assert found is not None
    assert found.ByteSize() < 1200
    whole = np.dtype(type_).kind in "iu"
    x = GENERATOR.integers(0, 2**63, shape).astype(type_) if whole else np.asarray(GENERATOR.random(shape) * 9 - 4).astype(type_)
    np.testing.assert_array_equal(session(without_names(found)).run(None, {"x": np.asarray(x)})[0], x)
