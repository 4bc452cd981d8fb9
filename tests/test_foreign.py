"""Operators of ONNX Runtime's own domain, functions of models, and what is said of operators that nobody knows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import PipelineError
from pipeline.importers import foreign, functions, onnxruntime
from pipeline.importers import onnx as importer
from pipeline.importers.rewrites import bodies, microsoft
from pipeline.importers.rewrites.graph import inferred
from pipeline.importers.signature import Signature
from pipeline.iree import compiler, devices
from pipeline.iree.device import Device
from pipeline.iree.targets import resolve
from pipeline.spec.types import Input
from tests.test_compile import executables, on, present  # noqa: F401  # a fixture

Array = np.ndarray
GENERATOR = np.random.default_rng(7)


def f(*shape: int, dtype: str = "float32") -> Array:
    return GENERATOR.standard_normal(shape).astype(dtype)


def integers(low: int, high: int, *shape: int, dtype: str = "int32") -> Array:
    return GENERATOR.integers(low, high, shape).astype(dtype)


def scale(value: float) -> Array:
    return np.float32(value * (1 + GENERATOR.random() / 50))  # type: ignore[return-value]


@dataclass(frozen=True)
class Case:
    """A node: what it takes by position (arrays of `inputs` are inputs of the model, None is left out), and its attributes."""

    operator: str
    operands: Sequence[Array | None]
    inputs: int = 1
    outputs: Sequence[bool] = (True,)
    domain: str = microsoft.DOMAIN
    attributes: Mapping[str, object] = field(default_factory=dict)

    def node(self, name: str) -> onnx.NodeProto:
        operands = [f"{name}_{i}" if array is not None else "" for i, array in enumerate(self.operands)]
        results = [f"{name}_out{i}" if wanted else "" for i, wanted in enumerate(self.outputs)]
        return helper.make_node(self.operator, operands, results, f"the {name}", domain=self.domain, **self.attributes)

    def feeds(self, name: str) -> dict[str, Array]:
        return {f"{name}_{i}": np.asarray(a) for i, a in enumerate(self.operands[: self.inputs]) if a is not None}

    def constants(self, name: str) -> list[onnx.TensorProto]:
        rest = enumerate(self.operands[self.inputs :], self.inputs)
        return [numpy_helper.from_array(np.asarray(a), f"{name}_{i}") for i, a in rest if a is not None]


def case(
    operator: str, *operands: Array | None, inputs: int = 1, outputs: Sequence[bool] = (True,), **attributes: object
) -> Case:
    domain = "" if operator == "SimplifiedLayerNormalization" else microsoft.DOMAIN
    return Case(operator, operands, inputs, outputs, domain, attributes)


def groups_after_a_past(length: int, past: int, ends: Sequence[int], total: int, **attributes: object) -> Case:
    """Sequences, the places of whose newest keys are `ends`, an input."""
    batch = len(ends)
    query, key, value = f(batch, length, 96), f(batch, length, 32), f(batch, length, 32)
    held, rotary = (f(batch, 2, past, 16), f(batch, 2, past, 16)), [f(16, 8), f(16, 8)] if attributes.get("do_rotary") else []
    data = (query, key, value, *held, np.array(ends, np.int32), np.array(total, np.int32), *rotary)
    return case("GroupQueryAttention", *data, inputs=6, outputs=(True,) * 3, num_heads=6, kv_num_heads=2, **attributes)


PASTS: dict[str, tuple[tuple[int, int, Sequence[int], int], dict[str, object]]] = {
    "next": ((1, 4, [4, 2], 5), {}),
    "next_turned": ((1, 4, [4, 3], 5), {"do_rotary": 1}),
    "next_near": ((1, 6, [6, 5], 7), {"local_window_size": 3}),
    "next_in_place": ((1, 9, [5, 3], 6), {"do_rotary": 1, "rotary_interleaved": 1}),
    "several": ((3, 4, [6], 7), {"do_rotary": 1, "scale": 0.3}),
    "prompt": ((5, 8, [4, 4], 5), {"do_rotary": 1}),
}


def quantized(dtype: str) -> dict[str, Case]:
    limits = np.iinfo(dtype)

    def q(*shape: int) -> Array:
        return integers(limits.min, limits.max + 1, *shape, dtype=dtype)

    def unit(value: float) -> tuple[Array, Array]:
        return scale(value), q()

    pool = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    bias, bytes_, scales = integers(-999, 999, 5), integers(0, 256, 2, 5, 10, dtype="uint8"), (scale(0.02), scale(0.005))
    cases = {
        "add": case("QLinearAdd", q(4, 33), *unit(0.02), q(33), *unit(0.03), *unit(0.05)),
        "multiply": case("QLinearMul", q(4, 33), *unit(0.02), q(4, 33), *unit(0.03), *unit(0.05)),
        "sigmoid": case("QLinearSigmoid", q(3, 50), *unit(0.05), scale(0.004), np.array(limits.min, dtype)),
        "softmax": case("QLinearSoftmax", q(3, 50), *unit(0.05), scale(0.004), np.array(0, dtype), opset=13),
        "softmax_old": case("QLinearSoftmax", q(3, 5, 4), *unit(0.05), scale(0.004), np.array(0, dtype), opset=11, axis=1),
        "leaky": case("QLinearLeakyRelu", q(3, 50), *unit(0.05), *unit(0.04), alpha=0.2),
        "global": case("QLinearGlobalAveragePool", q(1, 4, 9, 9), *unit(0.05), *unit(0.02)),
        "global_last": case("QLinearGlobalAveragePool", q(1, 9, 9, 4), *unit(0.05), *unit(0.02), channels_last=1),
        "average": case("QLinearAveragePool", q(1, 4, 9, 9), *unit(0.05), *unit(0.03), **pool),
        "average_last": case("QLinearAveragePool", q(1, 9, 9, 4), *unit(0.05), *unit(0.03), channels_last=1, **pool),
        "where": case("QLinearWhere", f(3, 40) > 0, q(3, 40), *unit(0.05), q(3, 40), *unit(0.04), *unit(0.03), inputs=2),
        "concat": case("QLinearConcat", *unit(0.04), q(2, 3), *unit(0.05), q(2, 5), *unit(0.04), inputs=3, axis=1),
        "gemm": case("QGemm", q(3, 8), *unit(0.05), q(5, 8), *unit(0.04), bias, *unit(0.7), transB=1),
        "gemm_to_float": case("QGemm", q(3, 8), *unit(0.05), q(8, 5), *unit(0.04), bias),
        "quantize": case("QuantizeLinear", 3 * f(3, 40), *unit(0.05)),
        "dynamic": case("DynamicQuantizeMatMul", f(2, 3, 8), q(8, 5), np.abs(f(5)), q(5), f(5)),
        "dynamic_plain": case("DynamicQuantizeMatMul", f(3, 8), q(8, 5), scale(0.02)),
        "to_float": case(
            "MatMulIntegerToFloat", integers(0, 256, 3, 8, dtype="uint8"), q(8, 5), scale(0.1), scale(0.2), np.uint8(9), q(), f(5)
        ),
        "attention": case("QAttention", bytes_, q(10, 36), f(36), *scales, None, np.uint8(99), np.array(7, dtype), num_heads=3),
    }  # fmt: skip
    return {f"{dtype}_{name}": found for name, found in cases.items()}


def blocks(bits: int, columns: int, block: int) -> dict[str, Case]:
    count = -(-columns // block)
    weights = integers(0, 256, 6, count, block * bits // 8, dtype="uint8")
    zeros = integers(0, 256, 6 * -(-count * bits // 8), dtype="uint8")
    sizes = {"bits": bits, "block_size": block, "N": 6, "K": columns}
    name, units = f"blocks_{bits}_{columns}", np.abs(f(6 * count)) / 8
    return {
        name: case("MatMulNBits", f(2, 3, columns), weights, units, accuracy_level=4, **sizes),
        f"{name}_zeros": case("MatMulNBits", f(3, columns), weights, units, zeros, None, f(6), **sizes),
    }


MASK = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)
PROJECTION = (f(10, 36) / 3, f(36) / 3)
X, Q, K, V = f(2, 5, 10), f(2, 5, 12), f(2, 5, 12), f(2, 5, 12)
CACHES, PLACES = (f(7, 4), f(7, 4)), integers(0, 7, 2, 5, dtype="int64")
IDS, SEGMENTS, TABLES, NORM = integers(0, 9, 2, 5), integers(0, 2, 2, 5), (f(9, 8), f(12, 8)), (f(8), f(8))
LENGTHS = (np.array([4, 4], np.int32), np.array(5, np.int32))
QUERIES = (f(2, 5, 48), f(2, 5, 16), f(2, 5, 16), None, None)
CONVOLUTION = (f(1, 3, 8, 8), f(4, 3, 3, 3))

CASES = {
    "gelu": case("Gelu", f(2, 5)),
    "bias_gelu": case("BiasGelu", f(2, 3, 5), f(5)),
    "fast_gelu": case("FastGelu", f(2, 3, 5), f(5)),
    "quick_gelu": case("QuickGelu", f(7), alpha=1.5),
    "product": case("FusedMatMul", f(3, 4), f(4, 5), alpha=0.25),
    "product_a": case("FusedMatMul", f(2, 3, 4, 6), f(2, 3, 5, 4), inputs=2, transA=1, transB=1),
    "product_batch": case("FusedMatMul", f(4, 2, 3, 6), f(5, 2, 3, 6), inputs=2, transBatchA=1, transBatchB=1, transB=1),
    "product_double": case("FusedMatMul", f(4, 3, dtype="float64"), f(4, 5, dtype="float64"), transA=1),
    "gemm": case("FusedGemm", f(3, 4), f(5, 4), f(5), transB=1, alpha=0.5, activation="LeakyRelu", activation_alpha=0.2),
    "convolution": case("FusedConv", *CONVOLUTION, f(4), pads=[1] * 4, activation="HardSigmoid", activation_params=[0.3, 0.4]),
    "convolution_clip": case("FusedConv", *CONVOLUTION, strides=[2, 2], activation="Clip", activation_params=[-0.3, 0.4]),
    "convolution_sum": case("FusedConv", *CONVOLUTION, None, f(1, 4, 6, 6), activation="Relu"),
    "skip": case("SkipLayerNormalization", f(2, 3, 16), f(2, 3, 16), f(16), f(16), f(16), outputs=(True, False, False, True)),
    "skip_broadcast": case("SkipLayerNormalization", f(2, 3, 16), f(3, 16), f(16)),
    "skip_simple": case("SkipSimplifiedLayerNormalization", f(2, 3, 16), f(2, 3, 16), f(16), f(16), inputs=2),
    "simple": case("SimplifiedLayerNormalization", f(2, 3, 16), f(16), axis=-1, epsilon=1e-5),
    "simple_axes": case("SimplifiedLayerNormalization", f(2, 3, 16), f(3, 16), axis=1, epsilon=0.1, outputs=(True, True)),
    "simple_half": case("SimplifiedLayerNormalization", f(2, 50, dtype="float16"), f(50, dtype="float16"), stash_type=1),
    "embedding": case("EmbedLayerNormalization", IDS, SEGMENTS, *TABLES, f(2, 8), *NORM, MASK, inputs=2, outputs=(True,) * 3),
    "embedding_plain": case("EmbedLayerNormalization", IDS, None, *TABLES, None, *NORM, outputs=(True, True)),
    "rotary": case("RotaryEmbedding", f(2, 5, 24), PLACES, *CACHES, inputs=2),
    "rotary_pairs": case("RotaryEmbedding", f(2, 3, 5, 8), PLACES, *CACHES, inputs=2, interleaved=1),
    "rotary_part": case("RotaryEmbedding", f(2, 5, 36), PLACES, *CACHES, inputs=2, num_heads=3, rotary_embedding_dim=8),
    "rotary_offset": case("RotaryEmbedding", f(2, 5, 24), np.array([2]), *CACHES),
    **blocks(4, 64, 32),
    **blocks(4, 40, 16),
    **blocks(8, 48, 32),
    **quantized("uint8"),
    **quantized("int8"),
    "sixteen": case("DequantizeLinear", integers(-9999, 9999, 3, 40, dtype="int16"), scale(0.05), np.int16(99)),
    "attention": case("Attention", X, *PROJECTION, num_heads=3),
    "attention_mask": case("Attention", X, *PROJECTION, MASK, None, f(1, 1, 5, 5), num_heads=3, scale=0.2),
    "attention_lengths": case("Attention", X, *PROJECTION, np.array([3, 5], np.int32), num_heads=3),
    "attention_ends": case("Attention", X, *PROJECTION, np.array([5, 4, 1, 0], np.int32), num_heads=3),
    "attention_pairs": case("Attention", X, *PROJECTION, integers(0, 2, 2, 5, 5), num_heads=3, unidirectional=1),
    "attention_past": case(
        "Attention", X, *PROJECTION, None, f(2, 2, 3, 4, 4), num_heads=3, unidirectional=1, outputs=(True, True)
    ),
    "attention_sizes": case("Attention", X, f(10, 33), f(33), num_heads=3, qkv_hidden_sizes=[12, 12, 9]),
    "heads": case("MultiHeadAttention", Q, f(2, 6, 12), f(2, 6, 9), f(33), inputs=3, num_heads=3),
    "heads_mask": case("MultiHeadAttention", Q, K, V, None, MASK, f(1, 3, 5, 5), inputs=3, num_heads=3, unidirectional=1),
    "heads_apart": case("MultiHeadAttention", Q, f(2, 3, 6, 4), f(2, 3, 6, 4), inputs=3, num_heads=3),
    "heads_past": case(
        "MultiHeadAttention", f(2, 1, 12), f(2, 1, 12), f(2, 1, 12), None, None, None, f(2, 3, 7, 4), f(2, 3, 7, 4), inputs=3,
        num_heads=3, outputs=(True,) * 3,
    ),
    "groups": case("GroupQueryAttention", *QUERIES, *LENGTHS, inputs=3, num_heads=6, kv_num_heads=2, outputs=(True,) * 3),
    "groups_near": case("GroupQueryAttention", *QUERIES, *LENGTHS, inputs=3, num_heads=6, kv_num_heads=2, local_window_size=2),
    "groups_turned": case(
        "GroupQueryAttention", f(2, 5, 160), *[None] * 4, *LENGTHS, f(9, 8), f(9, 8), num_heads=6, kv_num_heads=2, do_rotary=1
    ),
    **{f"groups_{name}": groups_after_a_past(*lengths, **attributes) for name, (lengths, attributes) in PASTS.items()},
}  # fmt: skip


def model(cases: Mapping[str, Case], opset: int = 17, ir: int = 8) -> onnx.ModelProto:
    """The cases' nodes, which have nothing to do with each other, with what ONNX Runtime gives declared as outputs."""
    nodes = [case.node(name) for name, case in cases.items()]
    inputs = {key: array for name, case in cases.items() for key, array in case.feeds(name).items()}
    constants = [constant for name, case in cases.items() for constant in case.constants(name)]
    outputs = [onnx.ValueInfoProto(name=name) for node in nodes for name in node.output if name]
    values = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in inputs.items()]
    domains = [helper.make_opsetid("", opset), helper.make_opsetid(microsoft.DOMAIN, 1)]
    made = helper.make_model(helper.make_graph(nodes, "g", values, outputs, constants), opset_imports=domains, ir_version=ir)
    for output in onnxruntime.session(made).get_outputs():
        type_ = {"float": "float32", "double": "float64"}.get(kind := output.type[7:-1], kind)
        value = next(v for v in made.graph.output if v.name == output.name)
        value.CopyFrom(helper.make_tensor_value_info(output.name, helper.np_dtype_to_tensor_dtype(np.dtype(type_)), None))
    return made


def run(made: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    copy = onnx.ModelProto()
    copy.CopyFrom(made)
    foreign.be_exact(copy)
    for node in copy.graph.node:
        node.ClearField("name")
    return list(onnxruntime.session(copy).run(None, dict(feeds)))


def far(found: Array, expected: Array, units: int = 0) -> float:
    """The largest error in units of the largest value, or the number of integers that differ by more than `units`."""
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    if expected.dtype.kind in "iu":
        return float((np.abs(found.astype(int) - expected.astype(int)) > units).sum())
    return float(np.abs(found.astype(float) - expected.astype(float)).max() / np.abs(expected.astype(float)).max())


LIMITS = {"float16": 2e-3, "float32": 3e-6, "float64": 1e-12}


@pytest.mark.parametrize("name", CASES)
def test_the_standard_operators_give_what_onnxruntime_gives(name: str) -> None:
    made = model({name: CASES[name]})
    rewritten = microsoft.rewrite(inferred(made))
    assert rewritten is not None
    assert {node.domain for node in rewritten.graph.node if node.op_type != "SimplifiedLayerNormalization"} == {""}
    feeds = CASES[name].feeds(name)
    for found, expected in zip(run(rewritten, feeds), run(made, feeds), strict=True):
        assert far(found, expected) <= LIMITS.get(str(expected.dtype), 0)


COMPILED = "bias_gelu skip rotary_pairs blocks_4_40_zeros uint8_add int8_average uint8_dynamic groups_next_turned".split()


@pytest.mark.thorough
def test_iree_compiles_them(tmp_path: Path, present: list[Device]) -> None:  # noqa: F811
    cases = {name: CASES[name] for name in COMPILED}
    made = model(cases)
    onnx.save(made, tmp_path / "model.onnx")
    feeds = {key: array for name, case in cases.items() for key, array in case.feeds(name).items()}
    inputs = []
    for name, array in feeds.items():
        np.save(tmp_path / f"{name}.npy", array)
        inputs.append(Input(name, array.shape, str(array.dtype), 0, 0.0, 1.0, tmp_path / f"{name}.npy"))
    importer.convert(tmp_path / "model.onnx", tmp_path, inputs)
    (target,) = executables("x86-64")
    compiler.compile_module(tmp_path / "model.mlirbc", tmp_path, [resolve(target)], {"x86-64": ()})
    np.savez(tmp_path / "inputs.npz", **{str(i): array for i, array in enumerate(feeds.values())})
    ran = devices.run(tmp_path / "module.vmfb", on(present, "local-task"), "main", [tmp_path / "inputs.npz"], tmp_path, "run")
    assert not ran.error
    with np.load(devices.outputs(tmp_path, "run")) as arrays:
        names = [t.name for t in Signature.read(tmp_path / "signature.json").outputs]
        for index, (name, expected) in enumerate(zip(names, run(made, feeds), strict=True)):
            found = arrays[str(index)].view(expected.dtype) if expected.dtype.kind in "iu" else arrays[str(index)]
            assert far(found, expected, 1) <= LIMITS.get(str(expected.dtype), 0) * 3, name


def converted(made: onnx.ModelProto, folder: Path, *shape: int) -> list[str]:
    onnx.save(made, folder / "model.onnx")
    importer.convert(folder / "model.onnx", folder, [Input("x", shape, "float32", 0, -1.0, 1.0, None)])
    return [t.name for t in Signature.read(folder / "signature.json").outputs]


def chain(
    *nodes: onnx.NodeProto, opset: int = 17, domains: Sequence[str] = (), functions: Sequence[onnx.FunctionProto] = ()
) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 8]) for name in "xy")
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    weights = [numpy_helper.from_array(np.ones(8, np.float32), "s")]
    return helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], weights), opset_imports=imports, ir_version=8, functions=functions
    )


@pytest.mark.parametrize("opset", [11, 13, 17])
def test_layer_normalizations_are_read_that_the_operator_set_does_not_have(opset: int, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("LayerNormalization", ["x", "s", "s"], ["t"]),
        helper.make_node("SimplifiedLayerNormalization", ["t", "s"], ["y"]),
    ]
    assert converted(chain(*nodes, opset=opset), tmp_path, 2, 8) == ["y"]


@pytest.mark.parametrize(
    ("node", "domain", "said"),
    [
        (helper.make_node("Sampling", ["x"], ["y"], "n", domain="com.microsoft"), "com.microsoft", "there is no rule for it"),
        (
            helper.make_node("SkipLayerNormalization", ["x", "x", "s"], ["y", "m"], "n", domain="com.microsoft"),
            "com.microsoft",
            "its output mean is asked for",
        ),
        (
            helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], "n", domain="ai.onnx.ml", n_targets=1),
            "ai.onnx.ml",
            "IREE has operators of ONNX's own domain only",
        ),
        (
            helper.make_node("Mine", ["x"], ["y"], "n", domain="org.mine"),
            "org.mine",
            "IREE has operators of ONNX's own domain only",
        ),
    ],
)
def test_what_stays_is_refused_by_name_and_reason(node: onnx.NodeProto, domain: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(PipelineError) as caught:
        converted(chain(node, domains=[domain]), tmp_path, 2, 8)
    assert f"{domain}.{node.op_type} (node 'n'): " in str(caught.value)
    assert said in str(caught.value)
    assert caught.value.hint


def square(version: int) -> onnx.FunctionProto:
    return helper.make_function(
        "pkg.inner", "Square", ["a"], ["b"], [helper.make_node("Mul", ["a", "a"], ["b"])], [helper.make_opsetid("", version)]
    )


@pytest.mark.parametrize(("opset", "version"), [(17, 17), (17, 14), (14, 14), (21, 17)])
def test_functions_of_a_model_are_inlined_nested_ones_too(opset: int, version: int, tmp_path: Path) -> None:
    inside = helper.make_node("LeakyRelu", ["c"], ["d"])
    inside.attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT))
    body = [helper.make_node("Square", ["a"], ["q"], domain="pkg.inner"), helper.make_node("Sub", ["a", "q"], ["c"]), inside]
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("pkg.inner", 1)]
    outer = helper.make_function("pkg.mine", "Outer", ["a"], ["d"], body, imports, attributes=["slope"])
    call = helper.make_node("Outer", ["x"], ["y"], domain="pkg.mine", slope=-0.3)
    made = chain(call, opset=opset, domains=["pkg.mine"], functions=[outer, square(version)])
    plain = functions.inlined(made)
    assert not plain.functions
    assert [node.op_type for node in plain.graph.node] == ["Mul", "Sub", "LeakyRelu"]
    feeds = {"x": f(2, 8)}
    value = feeds["x"] - feeds["x"] ** 2
    np.testing.assert_allclose(run(plain, feeds)[0], np.where(value < 0, -0.3 * value, value), rtol=1e-6)


STANDARD = {
    "attention": (
        23,
        Case("Attention", (f(2, 6, 4, 8), f(2, 2, 4, 8), f(2, 2, 4, 8)), 3, domain="", attributes={"is_causal": 1}),
    ),
    "attention_past": (
        24,
        Case("Attention", (f(2, 2, 4, 8), f(2, 2, 4, 8), f(2, 2, 4, 8), None, f(2, 2, 5, 8), f(2, 2, 5, 8)), 6, (True,) * 3, ""),
    ),
    "rms": (23, Case("RMSNormalization", (f(2, 3, 4, 5), f(4, 5)), domain="", attributes={"axis": 2, "epsilon": 0.1})),
    "rotary": (23, Case("RotaryEmbedding", (f(2, 3, 5, 8), f(7, 4), f(7, 4), PLACES), 1, domain="")),
    "groups": (21, Case("GroupNormalization", (f(2, 6, 5), f(6), f(6)), domain="", attributes={"num_groups": 3})),
    "gelu_tanh": (20, Case("Gelu", (f(3, 5),), domain="", attributes={"approximate": "tanh"})),
    "swish": (24, Case("Swish", (f(3, 5),), domain="", attributes={"alpha": 0.5})),
    "softsign": (17, Case("Softsign", (f(3, 5),), domain="")),
    "grid": (20, Case("AffineGrid", (f(2, 2, 3), np.array([2, 3, 4, 5])), domain="")),
    "loss": (17, Case("SoftmaxCrossEntropyLoss", (f(3, 5, 2), integers(0, 5, 3, 2, dtype="int64"), np.abs(f(5))), domain="")),
    "mean": (17, Case("MeanVarianceNormalization", (f(2, 3, 4, 5),), domain="")),
}


@pytest.mark.parametrize("name", STANDARD)
def test_definitions_of_standard_operators_leave_nothing_to_decide_when_they_run(name: str) -> None:
    opset, standard = STANDARD[name]
    made = model({name: standard}, opset, 8 if opset < 21 else 10)
    functions.complete(made)
    found = bodies.rewrite(inferred(made))
    assert found is not None
    kinds = {node.op_type for node in found.graph.node}
    assert not kinds & {standard.operator, "If", "Shape", "Size", "Range"}
    feeds = standard.feeds(name)
    for got, expected in zip(run(found, feeds), run(made, feeds), strict=True):
        assert far(got, expected) < 1e-5
    assert math.isfinite(float(np.abs(expected).max()))
