"""Open dimensions: what is right with fixed sizes is right at all sizes of a range, and a file refuses other sizes itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import PipelineError
from pipeline.files import sha256_file
from pipeline.importers import mlir as mlir_importer
from pipeline.importers import onnx as importer
from pipeline.importers import rewrites, stablehlo
from pipeline.importers.child import Options
from pipeline.importers.draws import draws
from pipeline.importers.merge import merge
from pipeline.importers.onnxruntime import session
from pipeline.importers.signature import Signature, read_all
from pipeline.iree import compiler, devices, entry, mlir
from pipeline.iree.codegen.front import FrontHalfError
from pipeline.iree.device import Device
from pipeline.iree.file import choice
from pipeline.iree.targets import resolve
from pipeline.plan import Target, steps
from pipeline.spec.load import load
from pipeline.spec.types import Dimension, Input
from pipeline.stages.compiled import Compiled
from tests.project import Project
from tests.test_compile import executables, on, present  # noqa: F401  # a fixture

Array = np.ndarray
GENERATOR = np.random.default_rng(7)
BATCH, LENGTH = Dimension("N", 1, 3), Dimension("T", 2, 9)
HEIGHT, WIDTH = Dimension("H", 5, 11), Dimension("W", 6, 12, 3)


def floats(*shape: int) -> Array:
    return GENERATOR.random(shape, np.float32) - np.float32(0.5)


@dataclass
class Opened:
    """A model of nodes that take the same open inputs; the first result of each is an output."""

    inputs: Mapping[str, tuple[str, Sequence[int | Dimension], float, float]]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    inner: list[onnx.NodeProto] = field(default_factory=list)

    def constant(self, array: Array) -> str:
        self.constants.append(numpy_helper.from_array(array, f"c{len(self.constants)}"))
        return self.constants[-1].name

    def add(self, name: str, kind: str, *inputs: str | Array, outputs: Sequence[str] = (), **attributes: object) -> None:
        operands = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        self.nodes.append(helper.make_node(kind, operands, [name, *outputs], f"the {name}", **attributes))

    def save(self, folder: Path) -> list[Input]:
        def described(name: str, dtype: str, shape: Sequence[int | Dimension]) -> onnx.ValueInfoProto:
            sizes = [size.name if isinstance(size, Dimension) else size for size in shape]
            return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), sizes)

        values = [described(name, dtype, shape) for name, (dtype, shape, _, _) in self.inputs.items()]
        results = [helper.make_empty_tensor_value_info(name) for n in self.nodes if n not in self.inner for name in n.output[:1]]
        graph = helper.make_graph(self.nodes, "g", values, results, self.constants)
        sets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=sets, ir_version=8)
        model = onnx.shape_inference.infer_shapes(model)
        for output in model.graph.output:  # ONNX infers nothing of another domain's operators
            output.type.tensor_type.elem_type = output.type.tensor_type.elem_type or TensorProto.FLOAT
        onnx.save(model, folder / "model.onnx")
        return [Input(n, tuple(s), d, 0, low, high, None) for n, (d, s, low, high) in self.inputs.items()]


def images() -> Opened:
    model = Opened({"x": ("float32", [BATCH, 4, HEIGHT, WIDTH], -1, 1), "i": ("int32", [BATCH, 3, WIDTH], -50, 50)})
    pads = {f"pad_{mode}": np.array([0, 0, 2, 1, 0, 0, 1, 3]) for mode in ("reflect", "edge", "wrap")}
    for name, amounts in pads.items():
        model.add(name, "Pad", "x", amounts, mode=name[4:])
    model.add("instance", "InstanceNormalization", "x", floats(4), floats(4))
    model.add("lrn", "LRN", "x", size=3, alpha=0.2, bias=0.7)
    model.add("max_ceil", "MaxPool", "x", kernel_shape=[3, 2], strides=[2, 2], ceil_mode=1, pads=[1, 0, 1, 0])
    for counted in (0, 1):
        name = f"mean_ceil_{counted}"
        pool = {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "pads": [1, 1, 1, 1], "count_include_pad": counted}
        model.add(name, "AveragePool", "x", **pool)
    model.add("columns", "DepthToSpace", "x", blocksize=2, mode="CRD")
    model.add("transposed", "ConvTranspose", "x", floats(4, 3, 3, 3), strides=[2, 2], pads=[1, 0, 0, 1], output_padding=[1, 0])
    model.add("alone", "ConvTranspose", "x", floats(4, 1, 2, 2), strides=[2, 2], group=4)
    model.add("conv", "Conv", "x", floats(5, 4, 3, 3), strides=[2, 1], auto_pad="SAME_UPPER")
    model.add("whole_mean", "ReduceMean", "i", np.array([2]), keepdims=0)
    model.add("twice", "Resize", "x", "", np.array([1, 1, 2, 2], np.float32), mode="linear")
    return model


def lists() -> Opened:
    model = Opened(
        {
            "x": ("float32", [BATCH, LENGTH, 8], -1, 1),
            "w": ("float32", [BATCH, LENGTH], 0, 1),
            "lengths": ("int64", [BATCH], 1, 3),
            "mask": ("int32", [BATCH, LENGTH], 1, 2),
            "steps": ("float32", [LENGTH, 2, 3], -1, 1),
        }
    )
    for name, shape in (("rows", [-1, 8]), ("column", [-1, 1]), ("heads", [0, 0, 2, 4])):
        model.add(name, "Reshape", "x", np.array(shape))
    model.add("line", "Reshape", "w", np.array([1, -1]))
    model.add("narrow", "Reshape", "x", np.array([-1, 4]))
    model.add("last", "ArgMax", "mask", axis=1, select_last_index=1)
    model.add("backwards", "Slice", "x", np.array([99]), np.array([-(2**62)]), np.array([1]), np.array([-1]))
    model.add("reversed", "ReverseSequence", "x", "lengths", batch_axis=0, time_axis=1)
    model.add("vector", "MatMul", "x", floats(8))
    model.add("most", "TopK", "x", np.array([3]), axis=2, outputs=["places"])
    model.add("sums", "CumSum", "x", np.array(1))
    model.add("normal", "LayerNormalization", "x", floats(8), floats(8))
    for kind, gates in (("GRU", 3), ("RNN", 1)):
        weights = floats(1, gates * 4, 3), floats(1, gates * 4, 4), floats(1, 2 * gates * 4)
        model.add(kind.lower(), kind, "steps", *weights, outputs=[f"{kind} at last"], hidden_size=4, direction="reverse")
    model.add("pairs", "MatMulInteger", "bytes", GENERATOR.integers(0, 255, (8, 5), np.uint8))
    model.nodes.insert(0, helper.make_node("Cast", ["scaled"], ["bytes"], to=TensorProto.UINT8))
    model.nodes.insert(0, helper.make_node("Mul", ["x", model.constant(np.float32(100))], ["hundred"]))
    model.nodes.insert(1, helper.make_node("Abs", ["hundred"], ["scaled"]))
    model.inner = model.nodes[:3]
    attention = {"domain": "com.microsoft", "num_heads": 2, "unidirectional": 1}
    model.add("attended", "Attention", "x", floats(8, 24), floats(24), "mask", **attention)
    return model


def convolved() -> Opened:
    image, line, volume = [BATCH, 4, HEIGHT, WIDTH], [BATCH, 3, WIDTH], [1, 2, 3, HEIGHT, WIDTH]
    shapes: Mapping[str, Sequence[int | Dimension]] = {
        "image": image,
        "line": line,
        "volume": volume,
        "open_batch": [BATCH, 2, 9],
    }
    model = Opened({name: ("float32", shape, -1, 1) for name, shape in shapes.items()})
    uneven = {"strides": [2, 1], "dilations": [1, 2], "pads": [1, 0, 0, 3]}
    model.add("uneven", "Conv", "image", floats(5, 4, 3, 2), floats(5), **uneven)
    model.add("stacked", "Conv", "uneven", floats(3, 5, 2, 3), pads=[1, 1, 1, 1])
    model.add("upper", "Conv", "image", floats(5, 4, 2, 4), auto_pad="SAME_UPPER")
    model.add("single", "Conv", "image", floats(5, 4, 1, 1), floats(5), strides=[2, 3])
    model.add("dilated", "Conv", "line", floats(2, 3, 3), floats(2), dilations=[2], pads=[2, 2])
    model.add("lower", "Conv", "line", floats(2, 3, 4), auto_pad="SAME_LOWER")
    model.add("space", "Conv", "volume", floats(3, 2, 2, 3, 2), pads=[0, 1, 0, 1, 1, 0], strides=[1, 2, 1])
    model.add("of_any_batch", "Conv", "open_batch", floats(3, 2, 3), strides=[2])
    return model


def wrong(model: Opened, folder: Path, here: list[Device], targets: Sequence[str]) -> set[tuple[str, str, str]]:
    """What is not as ONNX Runtime has it: the target, the output, the sizes."""
    inputs = model.save(folder)
    importer.convert(folder / "model.onnx", folder, inputs)
    found = executables(*targets)
    compiler.compile_module(folder / "model.mlirbc", folder, [resolve(e) for e in found], {e.name: () for e in found})
    names = [t.name for t in Signature.read(folder / "signature.json").outputs]
    running, data = session(onnx.load(folder / "model.onnx")), draws(inputs, "test")
    for draw, arrays in data.items():
        np.savez(folder / f"{draw}.npz", **{str(i): array for i, array in enumerate(arrays)})
    assert {"smallest", "largest"} <= data.keys()
    bad = set()
    for index, target in enumerate(targets):
        choice.force(folder / "module.vmfb", index, folder / f"{target}.vmfb")
        device = on(here, "local-task" if target.startswith("x86") else "vulkan")
        files = [folder / f"{draw}.npz" for draw in data]
        run = devices.run(folder / f"{target}.vmfb", device, ["main"] * len(data), files, folder, target)
        assert not run.error
        for number, (draw, arrays) in enumerate(data.items()):
            expected = running.run(None, dict(zip([i.name for i in inputs], arrays, strict=True)))
            with np.load(devices.outputs(folder, target, number)) as made:
                for i, (name, value) in enumerate(zip(names, expected, strict=True)):
                    got = made[str(i)]
                    if got.shape != value.shape or not np.allclose(got, value, 1e-4, 1e-5, equal_nan=True):
                        bad.add((target, name, draw))
    return bad


@pytest.mark.parametrize(
    "kind", [images, pytest.param(lists, marks=pytest.mark.thorough), pytest.param(convolved, marks=pytest.mark.thorough)]
)
def test_all_sizes_are_right(kind: object, tmp_path: Path, present: list[Device]) -> None:  # noqa: F811
    assert callable(kind)
    assert not wrong(kind(), tmp_path, present, ("vulkan-any", "x86-64"))


def test_convolutions_over_open_sizes_are_products(tmp_path: Path) -> None:
    inputs = convolved().save(tmp_path)
    model, tried = importer.prepared(tmp_path / "model.onnx", inputs)
    assert [(t.used, t.problem) for t in tried if t.name == "windows"] == [(True, "")]
    assert not [node for node in model.graph.node if node.op_type == "Conv"]


def test_convolutions_of_planes_of_fixed_sizes_stay(tmp_path: Path) -> None:
    fixed = [i.at({"N": 1, "H": 5, "W": 6}) for i in convolved().save(tmp_path)]
    model, tried = importer.prepared(tmp_path / "model.onnx", fixed)
    assert not [t for t in tried if t.name == "windows"]
    assert [node for node in model.graph.node if node.op_type == "Conv"]


def reshaped() -> Opened:
    model = Opened({"x": ("float32", [BATCH, LENGTH, 8], -1, 1)})
    model.add("narrow", "Reshape", "x", np.array([-1, 4]))
    model.add("double", "Add", "narrow", "narrow")
    return model


def backwards() -> Opened:
    model = Opened({"x": ("float32", [BATCH, LENGTH], -1, 1)})
    model.add("y", "Slice", "x", np.array([99]), np.array([-(2**62)]), np.array([1]), np.array([-1]))
    model.add("z", "Mul", "y", "y")
    return model


def normalized() -> Opened:
    model = Opened({"x": ("float32", [BATCH, 4, HEIGHT, WIDTH], -1, 1)})
    model.add("y", "InstanceNormalization", "x", floats(4), floats(4))
    return model


WITHOUT = {"reshapes": reshaped, "ends": backwards, "norms": normalized}


@pytest.mark.parametrize("name", WITHOUT)
def test_they_would_be_wrong_without(
    name: str,
    tmp_path: Path,
    present: list[Device],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or refused. If one is right without, the compiler was mended: remove its rewrite."""
    monkeypatch.delitem(rewrites.REWRITES, name)
    try:
        assert wrong(WITHOUT[name](), tmp_path, present, ("x86-64",))
    except FrontHalfError as error:
        assert "'the narrow'" in error.what


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ((2, 6, 6), ""),
        ((2, 6, 5), "T of input 'x' and of input 'y' differ"),
        ((2, 7, 7), "input 'x' has a size that is not in T: 2 to 8, a multiple of 2"),
        ((2, 10, 10), "input 'x' has a size that is not in T: 2 to 8, a multiple of 2"),
        ((4, 6, 6), "input 'x' has a size that is not in N: 1 to 3"),
    ],
)
def test_the_file_itself_refuses_other_sizes(
    sizes: tuple[int, int, int],
    said: str,
    tmp_path: Path,
    present: list[Device],  # noqa: F811
) -> None:
    length = Dimension("T", 2, 8, 2)
    model = Opened({"x": ("float32", [BATCH, length], -1, 1), "y": ("float32", [length], -1, 1)})
    model.add("z", "Add", "x", "y")
    importer.convert(tmp_path / "model.onnx", tmp_path, model.save(tmp_path))
    (target,) = executables("x86-64")
    compiler.compile_module(tmp_path / "model.mlirbc", tmp_path, [resolve(target)], {"x86-64": ()})
    n, t, other = sizes
    np.savez(tmp_path / "inputs.npz", **{"0": floats(n, t), "1": floats(other)})
    run = devices.run(tmp_path / "module.vmfb", on(present, "local-task"), "main", [tmp_path / "inputs.npz"], tmp_path, "run")
    assert said in run.error
    assert bool(said) == bool(run.error)


def test_what_is_imported_with_fixed_sizes_alone_says_so(tmp_path: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "row"], ["t"]), helper.make_node("Identity", ["t"], ["out"])],
        "body",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4]) for n in ("s", "row")],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4]) for n in ("t", "out")],
    )
    model = Opened({"s0": ("float32", [4], -1, 1), "x": ("float32", [LENGTH, 4], -1, 1)})
    model.add("end", "Scan", "s0", "x", outputs=["all"], body=body, num_scan_inputs=1)
    with pytest.raises(PipelineError) as raised:
        importer.convert(tmp_path / "model.onnx", tmp_path, model.save(tmp_path))
    assert "onnx.Scan (node 'the end')" in raised.value.what
    assert raised.value.what.endswith("; with fixed sizes it is imported, not with T open")
    assert "buckets" in raised.value.hint


def test_what_is_compiled_with_fixed_sizes_alone_says_so(tmp_path: Path) -> None:
    project = Project(tmp_path, bundle={"targets": ["x86-64"], "on_failure": "fail"})
    model = Opened({"x": ("float32", [1, 2, HEIGHT, WIDTH], -1, 1)})
    model.add("y", "Resize", "x", "", np.array([1, 1, 0.5, 0.5], np.float32), mode="cubic", antialias=1)
    folder = project.targets / "models"
    model.save(folder)
    spec = {
        "about": "a test",
        "licence": "MIT",
        "format": "onnx",
        "source": {"kind": "path", "path": "model.onnx", "sha256": sha256_file(folder / "model.onnx")},
        "inputs": [
            {
                "name": "x",
                "shape": [1, 2, {"name": "H", "min": 5, "max": 11}, {"name": "W", "min": 6, "max": 12}],
                "dtype": "float32",
                "low": -1,
                "high": 1,
            }
        ],
        "bundles": ["desktop"],
    }
    (folder / "m.yaml").write_text(yaml.safe_dump(spec))
    planned = {step.name.split(":")[0]: step for step in steps(load(project.targets), project.layout, Target("nowhere"))}
    for stage in ("fetch", "import"):
        planned[stage].action()
    with pytest.raises(PipelineError) as raised:
        planned["compile"].action()
    assert "onnx.Resize" in raised.value.what
    assert raised.value.what.endswith("with fixed sizes it is compiled for x86-64, not with H, W open")
    assert "buckets" in raised.value.hint


@pytest.mark.slow
def test_a_target_that_has_no_code_for_a_range_is_dropped_by_name(tmp_path: Path) -> None:
    """And the others keep the range."""
    project = Project(tmp_path, bundle={"targets": ["vulkan-any", "x86-64"], "on_failure": "drop"})
    model, folder = Opened({"x": ("float64", [LENGTH, 8], -1, 1)}), project.targets / "models"
    model.add("y", "Mul", "x", "x")
    model.save(folder)
    spec = {
        "about": "a test",
        "licence": "MIT",
        "format": "onnx",
        "source": {"kind": "path", "path": "model.onnx", "sha256": sha256_file(folder / "model.onnx")},
        "inputs": [{"name": "x", "shape": [{"name": "T", "min": 2, "max": 9}, 8], "dtype": "float64", "low": -1, "high": 1}],
        "bundles": ["desktop"],
    }
    (folder / "m.yaml").write_text(yaml.safe_dump(spec))
    planned = {step.name.split(":")[0]: step for step in steps(load(project.targets), project.layout, Target("nowhere"))}
    for stage in ("fetch", "import", "compile"):
        planned[stage].action()
    compiled = Compiled.read(project.layout.compiled("m", "desktop") / "compiled.json")
    assert [d.name for d in compiled.dropped] == ["vulkan-any"]
    assert "does not compile: onnx.Mul (node 'the y')" in compiled.dropped[0].reason
    assert [v.gated.name for v in compiled.variants] == ["x86-64"]
    assert read_all(project.layout.imported("m") / "signature.json")[0].dimensions == (LENGTH,)


TWO_OF_ONE_FILE = """
func.func public @sum(%a: tensor<?xf32>, %b: tensor<?xf32>) -> tensor<?xf32> {
  %0 = stablehlo.add %a, %b : tensor<?xf32>
  return %0 : tensor<?xf32>
}
func.func public @product(%a: tensor<?xui32>, %b: tensor<?xui32>) -> tensor<?xui32> {
  %0 = stablehlo.multiply %a, %b : tensor<?xui32>
  return %0 : tensor<?xui32>
}
"""


@pytest.mark.parametrize("format", [mlir_importer, stablehlo])
@pytest.mark.parametrize("names", [("sum",), ("sum", "product")])
def test_a_file_exports_its_entry_points_alone(format: ModuleType, names: Sequence[str], tmp_path: Path) -> None:
    third = "func.func public @third(%a: tensor<2xf32>) -> tensor<2xf32> {\n  return %a : tensor<2xf32>\n}\n"
    (tmp_path / "model.mlir").write_text(TWO_OF_ONE_FILE + third)
    for name in names:
        (tmp_path / name).mkdir()
        dtype = {"sum": "float32", "product": "uint32"}[name]
        inputs = [Input(i, (Dimension("T", 2, 8),), dtype, 0, 0.0, 1.0, None) for i in "ab"]
        format.convert(tmp_path / "model.mlir", tmp_path / name, inputs, Options(name, name))
    merge(tmp_path, [tmp_path / name for name in names])
    with mlir.opened(tmp_path / "model.mlirbc") as module:
        assert sorted(entry.functions(module)) == sorted(names)


@pytest.mark.parametrize("format", [mlir_importer, stablehlo])
def test_every_function_of_a_file_refuses_other_sizes(format: ModuleType, tmp_path: Path, present: list[Device]) -> None:  # noqa: F811
    (tmp_path / "model.mlir").write_text(TWO_OF_ONE_FILE)
    length = Dimension("T", 2, 8, 2)
    functions = {"sum": "float32", "product": "uint32"}
    for name, dtype in functions.items():
        (tmp_path / name).mkdir()
        inputs = [Input(i, (length,), dtype, 0, 0.0, 1.0, None) for i in "ab"]
        format.convert(tmp_path / "model.mlir", tmp_path / name, inputs, Options(name, name))
    merge(tmp_path, [tmp_path / name for name in functions])
    (target,) = executables("x86-64")
    compiler.compile_module(tmp_path / "model.mlirbc", tmp_path, [resolve(target)], {"x86-64": ()})
    for function, dtype in functions.items():
        for sizes, said in (((6, 6), ""), ((6, 4), "T of input 'a' and of input 'b' differ"), ((10, 10), "is not in T: 2")):
            np.savez(tmp_path / "inputs.npz", **{str(n): floats(size).astype(dtype) for n, size in enumerate(sizes)})
            device, arrays = on(present, "local-task"), [tmp_path / "inputs.npz"]
            run = devices.run(tmp_path / "module.vmfb", device, function, arrays, tmp_path, "run")
            assert said in run.error
            assert bool(said) == bool(run.error)


def test_a_size_that_is_open_in_the_file_alone_is_checked(tmp_path: Path, present: list[Device]) -> None:  # noqa: F811
    (tmp_path / "model.mlir").write_text(TWO_OF_ONE_FILE)
    inputs = [Input(i, (4,), "uint32", 0, 0.0, 1.0, None) for i in "ab"]
    mlir_importer.convert(tmp_path / "model.mlir", tmp_path, inputs, Options("product", "product"))
    (target,) = executables("x86-64")
    compiler.compile_module(tmp_path / "model.mlirbc", tmp_path, [resolve(target)], {"x86-64": ()})
    for sizes, said in (((4, 4), ""), ((6, 6), "expected shape `4`"), ((4, 3), "expected shape `4`")):
        np.savez(tmp_path / "inputs.npz", **{str(n): np.ones(size, np.uint32) for n, size in enumerate(sizes)})
        run = devices.run(
            tmp_path / "module.vmfb", on(present, "local-task"), "product", [tmp_path / "inputs.npz"], tmp_path, "run"
        )
        assert said in run.error
        assert bool(said) == bool(run.error)


# As JAX writes it of inputs of b and 2 * b rows.
RELATED = """
func.func public @main(%a: tensor<?xi32>, %b: tensor<?xi32>) -> tensor<?xi32> {
  %two = stablehlo.constant dense<2> : tensor<i32>
  %rows = stablehlo.get_dimension_size %a, dim = 0 : (tensor<?xi32>) -> tensor<i32>
  %twice = stablehlo.multiply %rows, %two : tensor<i32>
  %others = stablehlo.get_dimension_size %b, dim = 0 : (tensor<?xi32>) -> tensor<i32>
  %fits = stablehlo.compare EQ, %others, %twice, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
  stablehlo.custom_call @shape_assertion(%fits, %others, %twice) {api_version = 2 : i32, has_side_effect = true,
    error_message = "Found inconsistency between size b (= {0}) and '2*b' (= {1}). Using the following specifications: …"
  } : (tensor<i1>, tensor<i32>, tensor<i32>) -> ()
  %r = stablehlo.add %a, %a : tensor<?xi32>
  return %r : tensor<?xi32>
}
"""


def test_what_jax_asserts_of_sizes_is_checked_without_waiting_for_a_device(tmp_path: Path, present: list[Device]) -> None:  # noqa: F811
    (tmp_path / "model.mlir").write_text(RELATED)
    inputs = [Input(name, (Dimension(name, 1, most),), "int32", 0, 0.0, 9.0, None) for name, most in (("a", 8), ("b", 16))]
    stablehlo.convert(tmp_path / "model.mlir", tmp_path, inputs)
    assert b"tensor.extract" not in (tmp_path / "model.mlirbc").read_bytes()
    (target,) = executables("x86-64")
    compiler.compile_module(tmp_path / "model.mlirbc", tmp_path, [resolve(target)], {"x86-64": ()})
    for sizes, said in (((3, 6), ""), ((3, 5), "Found inconsistency between size b and '2*b'.")):
        np.savez(tmp_path / "inputs.npz", **{str(n): np.ones(size, np.int32) for n, size in enumerate(sizes)})
        run = devices.run(tmp_path / "module.vmfb", on(present, "local-task"), "main", [tmp_path / "inputs.npz"], tmp_path, "run")
        assert said in run.error
        assert bool(said) == bool(run.error)
