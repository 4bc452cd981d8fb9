"""Numbers of 16 bits on x86-64 are right in every bit: with `halves`, and not without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from pipeline.iree import compiler, devices
from pipeline.iree.backends.cpu import halves
from pipeline.iree.device import Device
from pipeline.iree.file import choice
from pipeline.iree.gates import decide
from pipeline.iree.targets import resolve
from pipeline.iree.toolchain import CompilerRefusedError
from pipeline.spec.types import Input
from tests.test_compile import executables, on, present  # noqa: F401  # a fixture

LEVELS = ("x86-64-v4", "x86-64-v3", "x86-64")
KEEP_DOUBLES = ("--iree-input-demote-f64-to-f32=false",)
HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
COUNT = 1 << 18
SMALLEST_NORMAL = 2.0**-14


@dataclass(frozen=True)
class Operation:
    """An operation of MLIR from inputs to an output, element by element, and what it should give."""

    name: str
    text: str
    inputs: tuple[np.ndarray, ...]
    expected: np.ndarray


def element(array: np.ndarray) -> str:
    return {"b": "i1"}.get(array.dtype.kind, f"{'f' if array.dtype.kind == 'f' else 'i'}{array.itemsize * 8}")


def tensor(array: np.ndarray, of: str = "") -> str:
    return f"tensor<{array.size}x{of or element(array)}>"


def function(operations: Sequence[Operation]) -> tuple[str, list[np.ndarray]]:
    """A function `halves` of all operations, each with a result, and its inputs."""
    inputs = [array for operation in operations for array in operation.inputs]
    names = iter(range(len(inputs)))
    lines = []
    for index, operation in enumerate(operations):
        text = (
            operation.text.replace("%r", f"%r{index}").replace("%w", f"%w{index}").replace("{result}", tensor(operation.expected))
        )
        for letter, array in zip("abc", operation.inputs, strict=False):
            text = text.replace(f"%{letter}", f"%x{next(names)}").replace(f"{{{letter}}}", tensor(array))
        lines.append(text)
    arguments = ", ".join(f"%x{index}: {tensor(array)}" for index, array in enumerate(inputs))
    types = ", ".join(tensor(operation.expected) for operation in operations)
    results = ", ".join(f"%r{index}" for index in range(len(operations)))
    whole = [f"func.func @halves({arguments}) -> ({types}) {{", *lines, f"return {results} : {types}", "}"]
    return "\n".join(whole), inputs


def rounded(sums: Sequence[Fraction]) -> np.ndarray:
    """Float16 of exact numbers: they are made odd where float64 loses some of them, so that only the last rounding counts."""
    doubles = np.array([float(s) for s in sums])
    for index, (double, exact) in enumerate(zip(doubles, sums, strict=True)):
        if Fraction(double) != exact and not doubles[index].view(np.int64) & 1:
            doubles[index] = np.nextafter(double, np.inf if exact > Fraction(double) else -np.inf)
    return doubles.astype(np.float16)


def floats(generator: np.random.Generator) -> np.ndarray:
    """All kinds of float32 numbers; half of them lie where float16 does."""
    bits = generator.integers(0, 1 << 32, COUNT, dtype=np.uint32)
    near = generator.integers((127 - 26) << 23, (127 + 17) << 23, COUNT // 2, dtype=np.uint32)
    bits[::2] = near | (bits[::2] & 0x80000000)
    bits[::4] &= 0xFFFFF000  # ties
    return bits.view(np.float32)


def doubles() -> np.ndarray:
    """Float64 numbers that float32 takes for ties between two of float16, all of them and their neighbours."""
    with np.errstate(all="ignore"):
        between = (HALVES[:-1].astype(np.float64) + HALVES[1:].astype(np.float64)) / 2
    return np.concatenate([between, between * (1 + 2.0**-45), between * (1 - 2.0**-45)])


def operations() -> list[Operation]:
    generator = np.random.default_rng(0)
    f, d = floats(generator), doubles()
    h, g, k = HALVES, *(generator.permutation(HALVES) for _ in range(2))
    i = generator.integers(-(1 << 15), 1 << 15, COUNT, dtype=np.int64).astype(np.int32)
    finite = tuple(np.where(np.isfinite(a), a, np.float16(1)) for a in (h, g, k))
    exact = [Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c)) for a, b, c in zip(*finite, strict=True)]
    rough = i.astype(np.float32).view(np.uint32)
    with np.errstate(all="ignore"):
        return [
            Operation("widen", "%r = arith.extf %a : {a} to {result}", (h,), h.astype(np.float32)),
            Operation("widen_far", "%r = arith.extf %a : {a} to {result}", (h,), h.astype(np.float64)),
            Operation("narrow", "%r = arith.truncf %a : {a} to {result}", (f,), f.astype(np.float16)),
            Operation("narrow_far", "%r = arith.truncf %a : {a} to {result}", (d,), d.astype(np.float16)),
            Operation("from_integer", "%r = arith.sitofp %a : {a} to {result}", (i,), i.astype(np.float16)),
            Operation("negate", "%r = arith.negf %a : {result}", (h,), -h),
            Operation("absolute", "%r = math.absf %a : {result}", (h,), np.abs(h)),
            Operation("root", "%r = math.sqrt %a : {result}", (h,), np.sqrt(h)),
            Operation("add", "%r = arith.addf %a, %b : {result}", (h, g), h + g),
            Operation("multiply", "%r = arith.mulf %a, %b : {result}", (h, g), h * g),
            Operation("divide", "%r = arith.divf %a, %b : {result}", (h, g), h / g),
            Operation("largest", "%r = arith.maximumf %a, %b : {result}", (h, g), np.maximum(h, g)),
            Operation("less", "%r = arith.cmpf olt, %a, %b : {a}", (h, g), h < g),
            Operation("fma", "%r = math.fma %a, %b, %c : {result}", finite, rounded(exact)),
            Operation(
                "bfloat16",
                "%w = arith.sitofp %a : {a} to BF\n%r = arith.bitcast %w : BF to {result}".replace("BF", tensor(i, "bf16")),
                (i,),
                ((rough + 0x7FFF + ((rough >> 16) & 1)) >> 16).astype(np.uint16).view(np.int16),
            ),
        ]


def different(got: np.ndarray, expected: np.ndarray) -> int:
    """How many elements differ in any bit; one NaN is as good as another."""
    if got.dtype.kind != "f":
        return int((got != expected).sum())
    same = got.view(f"u{got.itemsize}") == expected.view(f"u{got.itemsize}")
    return int((~same & ~(np.isnan(got) & np.isnan(expected))).sum())


def run_on(level: str, index: int, device: Device, folder: Path, entry: str, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    choice.force(folder / "module.vmfb", index, folder / f"{level}.vmfb")
    np.savez(folder / "inputs.npz", **{str(position): array for position, array in enumerate(inputs)})
    run = devices.run(folder / f"{level}.vmfb", device, entry, [folder / "inputs.npz"], folder, level)
    assert not run.error
    with np.load(devices.outputs(folder, level)) as arrays:
        return [arrays[str(position)] for position in range(len(arrays))]


def wrong(folder: Path, device: Device, tried: Sequence[Operation]) -> dict[tuple[str, str], int]:
    """How many numbers each operation gets wrong on each level that this machine can run."""
    text, inputs = function(tried)
    (folder / "halves.mlir").write_text(text)
    found = executables(*LEVELS)
    made = compiler.compile_module(
        folder / "halves.mlir", folder, [resolve(e) for e in found], {e.name: () for e in found}, KEEP_DOUBLES
    )
    counts = {}
    for index, decision in enumerate(decide(made.variants, device.facts)):
        if decision.accepted:
            results = run_on(decision.variant, index, device, folder, "halves", inputs)
            for operation, result in zip(tried, results, strict=True):
                counts[decision.variant, operation.name] = different(result, operation.expected)
    return counts


def without(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(halves, "make_exact", lambda _variant, _converts: None)
    monkeypatch.setenv("PIPELINE_CACHE_DIR", str(folder / "cache"))  # the wrong code must not stay anywhere


@pytest.mark.thorough
def test_every_operation_is_right_in_every_bit(tmp_path: Path, present: list[Device]) -> None:  # noqa: F811
    found = wrong(tmp_path, on(present, "local-task"), operations())
    assert ("x86-64", "narrow") in found
    assert not {where: count for where, count in found.items() if count}


def test_they_would_be_wrong_without(
    tmp_path: Path,
    present: list[Device],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If one of these is right, the compiler was mended."""
    without(monkeypatch, tmp_path)
    tried = [o for o in operations() if o.name in ("narrow", "narrow_far", "multiply", "fma")]
    found = wrong(tmp_path, on(present, "local-task"), tried)
    assert all(found["x86-64", o.name] for o in tried)
    assert all(count for (_, name), count in found.items() if name in ("narrow_far", "fma"))


def test_integers_would_not_become_bfloat16_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, tmp_path)
    (tmp_path / "halves.mlir").write_text(function([o for o in operations() if o.name == "bfloat16"])[0])
    (level,) = executables("x86-64")
    with pytest.raises(CompilerRefusedError, match="__truncsfbf2"):
        compiler.compile_module(tmp_path / "halves.mlir", tmp_path, [resolve(level)], {level.name: ()})


def small_network(path: Path) -> None:
    """A network in float16 of what is more than element by element; its product is of numbers that add up to subnormal ones."""
    generator = np.random.default_rng(3)

    def weight(name: str, *shape: int) -> object:
        return numpy_helper.from_array((generator.standard_normal(shape) / 256).astype(np.float16), name)

    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["tiny"]),
        helper.make_node("ReduceSum", ["tiny"], ["sum"], keepdims=0),
        helper.make_node("Softmax", ["x"], ["soft"], axis=-1),
        helper.make_node("LayerNormalization", ["x", "scale", "bias"], ["normal"], axis=-1),
        helper.make_node("Reshape", ["x", "image"], ["i"]),
        helper.make_node("Conv", ["i", "k"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    ]
    weights = [weight("w", 48, 33), weight("scale", 48), weight("bias", 48), weight("k", 4, 3, 3, 3)]
    weights.append(numpy_helper.from_array(np.array([1, 3, 8, 32]), "image"))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT16, [16, 48])
    shapes = {"tiny": [16, 33], "sum": [], "soft": [16, 48], "normal": [16, 48], "c": [1, 4, 8, 32]}
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(nodes, "g", [x], results, weights)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_a_network_of_subnormal_halves_is_right(tmp_path: Path, present: list[Device]) -> None:  # noqa: F811
    from pipeline.importers import onnx as importer

    small_network(tmp_path / "small.onnx")
    importer.convert(tmp_path / "small.onnx", tmp_path, [Input("x", (16, 48), "float16", 0, 0.0, 1.0, None)])
    (level,) = executables("x86-64")
    compiler.compile_module(tmp_path / "model.mlirbc", tmp_path, [resolve(level)], {level.name: ()})
    x = (np.random.default_rng(4).standard_normal((16, 48)) / 2048).astype(np.float16)
    got = run_on("x86-64", 0, on(present, "local-task"), tmp_path, "main", [x])
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx", providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": x})
    assert np.median(np.abs(expected[0])) < SMALLEST_NORMAL
    for result, wanted in zip(got, expected, strict=True):
        np.testing.assert_allclose(result, wanted, rtol=2e-3, atol=2.0**-20)
