"""Wrong and slow lowerings of the pinned compiler that `corrections` works around: right with the work-around, wrong without.

When one of these fails because the code is right without its work-around, the compiler was mended: remove both.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from iree.compiler import ir
from onnx import TensorProto, helper, numpy_helper, save

from pipeline.cache import LocalCache
from pipeline.iree import devices, mlir
from pipeline.iree.backends.cpu import corrections as cpu
from pipeline.iree.backends.vulkan import barriers
from pipeline.iree.backends.vulkan import corrections as vulkan
from pipeline.iree.codegen import convolutions, reading
from pipeline.iree.device import Device
from pipeline.iree.file import choice
from pipeline.iree.gates import decide
from pipeline.iree.targets import resolve
from pipeline.spec.types import Input
from tests.test_compile import compiler, executables, on, outputs, present  # noqa: F401  # a fixture
from tests.test_rewrites import Cases, wrong

SHAPE = (1, 8, 6, 96)
# The block as convolutions: made of matrix products it happens to have no store at an unaligned offset.
CONVOLUTIONS = (f"{convolutions.FLAG}=false",)
NARROW = (1, 16, 512, 1)


def mobile_block(path: Path) -> None:
    """What mobile networks are made of: a pointwise convolution, then a padded depthwise one, each with an activation."""
    generator = np.random.default_rng(5)

    def weight(name: str, *shape: int) -> object:
        return numpy_helper.from_array((generator.standard_normal(shape) / 4).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], kernel_shape=[1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], group=32),
        helper.make_node("Relu", ["c2"], ["y"]),
    ]
    weights = [weight("w1", 32, 8, 1, 1), weight("b1", 32), weight("w2", 32, 1, 3, 3), weight("b2", 32)]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 32, 6, 96])
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def error(folder: Path, present: list[Device], twin: bool, target: str, flags: tuple[str, ...] = ()) -> float:  # noqa: F811
    """The largest error of the block on the Vulkan device."""
    from pipeline.importers import onnx as importer

    mobile_block(folder / "block.onnx")
    importer.convert(folder / "block.onnx", folder, [Input("x", SHAPE, "float32", 0, 0.0, 1.0, None)])
    resolved = resolve(*executables(target), lanes=8 if twin else 0)
    compiler.compile_module(folder / "model.mlirbc", folder, [resolved], {target: ()}, flags)
    x = np.random.default_rng(6).random(SHAPE, dtype=np.float32)
    np.savez(folder / "inputs.npz", **{"0": x})
    run = devices.run(folder / "module.vmfb", on(present, "vulkan"), "main", [folder / "inputs.npz"], folder, "run")
    assert not run.error
    session = onnxruntime.InferenceSession(folder / "block.onnx", providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": x})
    return float(np.abs(outputs(folder, "run") - expected).max())


@pytest.mark.parametrize("flags", [(), CONVOLUTIONS])
@pytest.mark.parametrize(
    ("target", "twin"),
    [
        ("vulkan-any", False),
        pytest.param("amd-rdna3", True, marks=pytest.mark.thorough),
        pytest.param("nvidia-ampere", True, marks=pytest.mark.thorough),
    ],
)
def test_padded_depthwise_convolutions_are_right(
    tmp_path: Path,
    present: list[Device],  # noqa: F811
    target: str,
    twin: bool,
    flags: tuple[str, ...],
) -> None:
    assert error(tmp_path, present, twin, target, flags) < 1e-4


def nothing(_module: object) -> None:
    """Leave the module as it is."""


def aligned(_function: object) -> bool:
    """Claim that a kernel's accesses are aligned."""
    return False


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "replacement"), [("align_loops", nothing), ("_stores_unaligned", aligned)])
def test_they_would_be_wrong_without_the_workaround(
    tmp_path: Path,
    present: list[Device],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    replacement: Callable[..., object],
) -> None:
    monkeypatch.setattr(vulkan, name, replacement)
    monkeypatch.setattr(barriers, "synchronize", nothing)  # which would mend the order of loops too
    monkeypatch.setenv("PIPELINE_CACHE_DIR", str(tmp_path / "cache"))  # the wrong code must not stay anywhere
    assert not error(tmp_path, present, False, "vulkan-any", CONVOLUTIONS) < 1e-2


def narrow_network(path: Path) -> None:
    """A convolution along one of two dimensions and a product with one row, both of a width that no vector divides."""
    generator = np.random.default_rng(7)

    def weight(name: str, *shape: int) -> object:
        return numpy_helper.from_array((generator.standard_normal(shape) / 8).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c"], kernel_shape=[5, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("ReduceMax", ["r"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["m", "w2"], ["p"]),
        helper.make_node("Add", ["p", "b"], ["y"]),
    ]
    weights = [weight("w1", 64, 16, 5, 1), weight("w2", 64, 214), weight("b", 214)]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, NARROW)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 214])
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def narrow_products(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[compiler.Compiled, list[tuple[object, object]]]:
    """The network for every CPU level; the tiles of its matrix products as the compiler chose them and as corrected."""
    from pipeline.importers import onnx as importer

    tiles: list[tuple[object, object]] = []
    widen = cpu.widen_product

    def observed(function: ir.Operation) -> None:
        products = mlir.operations(function, "linalg.matmul")
        before = [cpu._tiles(p).get("vector_common_parallel") for p in products]
        widen(function)
        after = [cpu._tiles(p).get("vector_common_parallel") for p in products]
        tiles.extend(zip(before, after, strict=True))

    monkeypatch.setattr(cpu, "widen_product", observed)
    monkeypatch.setenv("PIPELINE_CACHE_DIR", str(folder / "cache"))  # cached code would not be generated
    narrow_network(folder / "narrow.onnx")
    importer.convert(folder / "narrow.onnx", folder, [Input("x", NARROW, "float32", 0, 0.0, 1.0, None)])
    levels = executables("x86-64-v4", "x86-64-v3", "x86-64")
    targets = [resolve(level) for level in levels]
    made = compiler.compile_module(folder / "model.mlirbc", folder, targets, {level.name: () for level in levels})
    return made, tiles


@pytest.mark.thorough
def test_products_of_odd_width_are_computed_in_whole_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the compiler's own tiles are wide, `widen_product` is no longer needed."""
    _, tiles = narrow_products(tmp_path, monkeypatch)
    assert sorted(tiles) == [([1, 2, 0], [1, 32, 0]), ([8, 32, 0], [8, 32, 0])]


LEVELS: dict[str, dict[tuple[int, ...], object]] = {
    "x86-64-v3": {
        (64, 288): [6, 16, 0],
        (27, 288): [6, 16, 0],
        (12, 32): [6, 16, 0],
        (1, 128): [1, 64, 0],
        (2, 64): [2, 32, 0],
    },
    "x86-64-v4": {
        (64, 284): [8, 32, 0],
        (27, 288): [9, 16, 0],
        (12, 32): [12, 16, 0],
        (16, 196): [8, 14, 0],
        (37, 100): [8, 32, 0],
        (1, 128): [1, 128, 0],
        (2, 64): [2, 64, 0],
    },
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("type_", ["float32", pytest.param("float16", marks=pytest.mark.thorough)])
def test_products_fill_the_registers(
    tmp_path: Path,
    present: list[Device],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    type_: str,
    level: str,
) -> None:
    """If the compiler's own tiles were others, it would have to be measured again whether `fill_registers` is needed."""
    tiles: dict[tuple[int, ...], object] = {}
    fill = cpu.fill_registers

    def observed(function: ir.Operation, lanes: int, choose: cpu.Choose, element: type[ir.Type] = ir.F32Type) -> None:
        products = mlir.operations(function, "linalg.matmul")
        before = [cpu._tiles(p).get("vector_common_parallel") for p in products]
        fill(function, lanes, choose, element)
        for product, old in zip(products, before, strict=True):
            if (new := cpu._tiles(product).get("vector_common_parallel")) != old:
                tiles[tuple(ir.RankedTensorType(product.results[0].type).shape)] = new

    monkeypatch.setattr(cpu, "fill_registers", observed)
    monkeypatch.setenv("PIPELINE_CACHE_DIR", str(tmp_path / "cache"))  # cached code would not be generated
    generator, cases = np.random.default_rng(9), Cases()
    shapes = {"whole": (64, 96, 288), "odd_columns": (64, 96, 284), "odd_rows": (27, 96, 288), "odd_sum": (12, 91, 32)}
    shapes |= {"parts": (16, 64, 196), "odd": (37, 40, 100)}
    for name, (rows, inner, columns) in (shapes | {"one_row": (1, 96, 128), "two_rows": (2, 96, 64)}).items():
        x, w = (generator.uniform(-1, 1, shape).astype(type_) for shape in ((rows, inner), (inner, columns)))
        cases.add(name, "MatMul", x, constants=[w])
    assert not wrong(cases, tmp_path, present, (level,))
    assert tiles == LEVELS[level]


@pytest.mark.thorough
def test_products_of_odd_width_are_right_at_every_cpu_level(
    tmp_path: Path,
    present: list[Device],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, _ = narrow_products(tmp_path, monkeypatch)
    x = np.random.default_rng(8).standard_normal(NARROW).astype(np.float32)
    np.savez(tmp_path / "inputs.npz", **{"0": x})
    session = onnxruntime.InferenceSession(tmp_path / "narrow.onnx", providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": x})
    device = on(present, "local-task")
    for index, decision in enumerate(decide(made.variants, device.facts)):
        if decision.accepted:
            forced = tmp_path / f"{decision.variant}.vmfb"
            choice.force(tmp_path / "module.vmfb", index, forced)
            run = devices.run(forced, device, "main", [tmp_path / "inputs.npz"], tmp_path, decision.variant)
            assert not run.error
            np.testing.assert_allclose(outputs(tmp_path, decision.variant), expected, atol=1e-5)


def convolution(kind: str, x: str, filter_: str, y: str) -> str:
    dimensions = 1 if "1d" in kind else 2
    strides = f"{{dilations = dense<1> : vector<{dimensions}xi64>, strides = dense<1> : vector<{dimensions}xi64>}}"
    return f"""!x = tensor<{x}xf32>
    !k = tensor<{filter_}xf32>
    !y = tensor<{y}xf32>
    func.func @f(%x: !x, %k: !k, %o: !y) -> !y {{
      %r = linalg.{kind} {strides} ins(%x, %k : !x, !k) outs(%o : !y) -> !y
      return %r : !y
    }}"""


ADDITION = (
    """func.func @f(%x: tensor<4xf32>) -> tensor<4xf32> { %y = arith.addf %x, %x : tensor<4xf32> return %y : tensor<4xf32> }"""
)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (ADDITION, False),
        # 64 channels, a window of 3x3, 56x56 outputs: 6.9 MiB; of 64x64 outputs: 9 MiB.
        (convolution("conv_2d_nchw_fchw", "1x64x58x58", "64x64x3x3", "1x64x56x56"), True),
        (convolution("conv_2d_nchw_fchw", "1x64x66x66", "64x64x3x3", "1x64x64x64"), False),
        (convolution("conv_2d_nhwc_hwcf", "1x58x58x64", "3x3x64x32", "1x56x56x32"), True),
        (convolution("conv_2d_nhwc_hwcf", "1x66x66x64", "3x3x64x32", "1x64x64x32"), False),
        (convolution("conv_2d_nchw_fchw", "1x64x256x256", "64x64x1x1", "1x64x256x256"), True),
        (convolution("conv_2d_nchw_fchw", "1x64x40008x1", "64x64x9x1", "1x64x40000x1"), True),
        (convolution("conv_1d_ncw_fcw", "1x64x40008", "64x64x9", "1x64x40000"), True),
        (convolution("conv_2d_nchw_fchw", "1x64x?x?", "64x64x3x3", "1x64x?x?"), False),
    ],
)
def test_convolutions_become_matrix_products_where_that_is_faster(text: str, wanted: bool, tmp_path: Path) -> None:
    cache = LocalCache(tmp_path / "cache", 1 << 20)
    (tmp_path / "f.mlir").write_text(text)
    found = [reading.read(tmp_path / "f.mlir", tmp_path, cache) for _ in range(2)]  # then from the cache
    assert [f.flags(()) for f in found] == [(convolutions.FLAG,) if wanted else ()] * 2
    assert found[0].flags(CONVOLUTIONS) == ()
