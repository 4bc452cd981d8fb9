"""Large weights: left in files by the importer, constants or parameters of the module, one archive for all entries."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.arrays import Array
from pipeline.errors import PipelineError
from pipeline.importers import mlir, onnxruntime, parameters, weights
from pipeline.importers import onnx as importer
from pipeline.importers.child import Options
from pipeline.importers.draws import draw
from pipeline.importers.merge import ARCHIVE, merge
from pipeline.iree.toolchain import iree_compile
from pipeline.spec.types import Input

N = 32
X = Input("x", (4, N), "float32", 0, -1.0, 1.0, None)
SOME = np.random.default_rng(0)


def floats(*shape: int) -> Array:
    return SOME.standard_normal(shape).astype(np.float32)


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    held: Sequence[TensorProto],
    shape: Sequence[int] = (4, N),
    given: Sequence[int] = (4, N),
    functions: Sequence[onnx.FunctionProto] = (),
) -> Path:
    """A model from x to y, both float32."""
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", given), ("y", shape))]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], held)
    domains = [helper.make_opsetid("", 21), *(helper.make_opsetid(f.domain, 1) for f in functions)]
    path.parent.mkdir(exist_ok=True, parents=True)
    onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=10, functions=functions), path)
    return path


def layers(path: Path, *held: TensorProto) -> Path:
    """A stack of products with these weights."""
    names = ["x", *(f"h{i}" for i in range(1, len(held))), "y"]
    nodes = [helper.make_node("MatMul", [names[i], w.name], [names[i + 1]]) for i, w in enumerate(held)]
    return save(path, nodes, held)


def listed(array: Array, name: str) -> TensorProto:
    return helper.make_tensor(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape, array.ravel().tolist())


def apart(path: Path, **options: Any) -> Path:
    """The model with its data in a file beside it."""
    out = path.parent / "apart" / "model.onnx"
    out.parent.mkdir()
    onnx.save(onnx.load(path), out, save_as_external_data=True, location="data.bin", **options)
    return out


def expected(path: Path, *given: Array) -> Array:
    session = onnxruntime.session(str(path))
    return np.asarray(session.run(None, {i.name: a for i, a in zip(session.get_inputs(), given, strict=True)})[0])


def imported(path: Path, folder: Path, inputs: Sequence[Input] = (X,), limit: int = 0, **options: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    importer.convert(path, folder, inputs, Options(**options), limit)
    return folder


def compiled(folder: Path) -> Path:
    flags = ["--iree-hal-target-device=local", "--iree-hal-local-target-device-backends=llvm-cpu"]
    iree_compile(
        folder / "model.mlirbc",
        folder / "model.vmfb",
        [*flags, "--iree-llvmcpu-target-cpu=x86-64-v3", "--iree-input-demote-f64-to-f32=false"],
        folder / "log",
    )
    return folder / "model.vmfb"


def run(folder: Path, function: str, *given: Array) -> Array:
    """What IREE's own tool computes."""
    words = ["iree-run-module", f"--module={folder / 'model.vmfb'}", f"--function={function}", "--device=local-task"]
    for number, array in enumerate(given):
        np.save(folder / f"in{number}.npy", array)
        words.append(f"--input=@{folder / f'in{number}.npy'}")
    if (folder / ARCHIVE).exists():
        words.append(f"--parameters=model={folder / ARCHIVE}")
    ended = subprocess.run([*words, f"--output=@{folder / 'out.npy'}"], capture_output=True, text=True)
    assert not ended.returncode, ended.stderr
    return np.asarray(np.load(folder / "out.npy"))


def check(path: Path, folder: Path, inputs: Sequence[Input] = (X,), same: Path | None = None, **options: str) -> Path:
    """Import, merge, compile and run the model, which computes what `same` does; the folder of what was made."""
    imported(path, folder / "main", inputs, function="main", **options)
    merge(folder, [folder / "main"])
    compiled(folder)
    given = [draw(spec, "") for spec in inputs]
    np.testing.assert_allclose(run(folder, "main", *given), expected(same or path, *given), rtol=1e-4, atol=1e-4)
    return folder


def keys(folder: Path) -> list[str]:
    words = ["iree-dump-parameters", f"--parameters=model={folder / ARCHIVE}"]
    text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return [line.split("`")[1] for line in text.splitlines() if line.count("`") == 2 and "scope" not in line.lower()]


KINDS: dict[str, Callable[[str], TensorProto]] = {
    "float32": lambda name: numpy_helper.from_array(floats(N, N), name),
    "a list of floats": lambda name: listed(floats(N, N), name),
    "a list of doubles": lambda name: listed(floats(N, N).astype(np.float64), name),
    "a list of integers": lambda name: listed(SOME.integers(-9, 9, (N, N)).astype(np.int64), name),
    "a list of halves": lambda name: listed(floats(N, N).astype(np.float16), name),
    **{
        kind: lambda name, kind=kind: numpy_helper.from_array(SOME.integers(0, 9, (N, N)).astype(kind), name)
        for kind in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "float16", "float64")
    },
    "bool": lambda name: numpy_helper.from_array(SOME.random((N, N)) < 0.5, name),
    "bfloat16": lambda name: numpy_helper.from_array(floats(N, N).astype(ml_dtypes.bfloat16), name),
    "int4": lambda name: helper.make_tensor(name, TensorProto.INT4, (2 * N, N), SOME.integers(-8, 8, 2 * N * N)),
}


def of_type(path: Path, kind: str) -> Path:
    tensor = KINDS[kind]("w")
    nodes = [helper.make_node("Cast", ["w"], ["f"], to=TensorProto.FLOAT)]
    if tensor.dims[0] != N:
        nodes = [
            helper.make_node("DequantizeLinear", ["w", "one"], ["g"]),
            helper.make_node("Split", ["g"], ["f", "rest"], axis=0, num_outputs=2),
        ]
    one = numpy_helper.from_array(np.float32(1), "one")
    return save(path, [*nodes, helper.make_node("MatMul", ["x", "f"], ["y"])], [tensor, one])


@pytest.mark.parametrize("where", ["inline", "external"])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_every_type_and_form_are_right(kind: str, where: str, tmp_path: Path) -> None:
    check(of_type(tmp_path / "model.onnx", kind), tmp_path / "out", parameters=where)
    if kind != "int4":  # which IREE gets as bytes
        assert (tmp_path / "out" / ARCHIVE).exists() == (where == "external")
        assert (tmp_path / "out" / "main" / "weights.bin").exists() == (where == "external")


def inner(path: Path, kind: str) -> Path:
    """A model whose weights are in the branches of an If, or in a function that is called twice."""
    a, b = (numpy_helper.from_array(floats(N, N), name) for name in ("a", "b"))
    if kind == "function":
        nodes = [helper.make_node("Constant", [], ["w"], value=a), helper.make_node("MatMul", ["p", "w"], ["q"])]
        function = helper.make_function("own", "twice", ["p"], ["q"], nodes, [helper.make_opsetid("", 21)])
        calls = [helper.make_node("twice", [p], [q], domain="own") for p, q in (("x", "h"), ("h", "y"))]
        return save(path, calls, [], functions=[function])
    branches = {}
    for name, weight in (("then_branch", a), ("else_branch", b)):
        made = [helper.make_node("MatMul", ["x", weight.name], [f"{name}_y"])]
        if kind == "constants of branches":
            made = [helper.make_node("Constant", [], [weight.name], value=weight), *made]
        held = [] if kind == "constants of branches" else [weight]
        out = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, (4, N))
        branches[name] = helper.make_graph(made, name, [], [out], held)
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["c"]),
        helper.make_node("If", ["c"], ["y"], **branches),
    ]
    return save(path, nodes, [numpy_helper.from_array(np.float32(0), "zero")])


@pytest.mark.parametrize("is_apart", [False, True])
@pytest.mark.parametrize("kind", ["function", "branches", "constants of branches"])
def test_weights_inside_functions_and_branches_are_parameters(kind: str, is_apart: bool, tmp_path: Path) -> None:
    path = same = inner(tmp_path / "model.onnx", kind)
    if is_apart:
        path = apart(path, size_threshold=0, convert_attribute=True)
        (path.parent / "linked.bin").hardlink_to(path.parent / "data.bin")  # which ONNX Runtime refuses
    check(path, tmp_path / "out", same=same, parameters="external")
    assert len(keys(tmp_path / "out")) == (1 if kind == "function" else 2)


@pytest.mark.parametrize("where", ["inline", "external"])
def test_data_in_other_files_stays_there_and_what_lies_askew_is_copied(where: str, tmp_path: Path) -> None:
    path = layers(tmp_path / "model.onnx", *(numpy_helper.from_array(floats(N, N), f"w{i}") for i in range(3)))
    path = apart(path, size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    data = (path.parent / "data.bin").read_bytes()
    said = next(entry for entry in model.graph.initializer[1].external_data if entry.key == "offset")
    (path.parent / "data.bin").write_bytes(data + b"?" + data[int(said.value) : int(said.value) + 4 * N * N])
    said.value = str(len(data) + 1)
    onnx.save(model, path)
    folder = check(path, tmp_path / "out", parameters=where)
    if where == "external":
        files = [parameter.file for parameter in parameters.read(folder / "main" / parameters.FILE)]
        assert sorted(map(files.count, {*files})) == [1, 2]


def spoiled(path: Path, **changes: str) -> Path:
    model = onnx.load(path, load_external_data=False)
    held = model.graph.initializer[0].external_data
    for key, value in changes.items():
        next(entry for entry in held if entry.key == key).value = value
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("limit", [0, weights.LIMIT])
@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"location": "gone.bin"}, "which is not there"),
        ({"location": "../data.bin"}, "no file beside the model"),
        ({"location": "/etc/passwd"}, "no file beside the model"),
        ({"location": ""}, "no file beside the model"),
        ({"location": "."}, "which is not there"),
        ({"offset": "9000"}, "from 9000 on, and that has"),
        ({"offset": "-4"}, "from -4 on"),
        ({"offset": "four"}, "invalid literal"),
        ({"length": "4095"}, r"4095 bytes, which are no float\[32, 32\]"),
    ],
)
def test_data_that_is_not_what_the_model_says_is_one_message(
    changes: dict[str, str], complaint: str, limit: int, tmp_path: Path
) -> None:
    path = layers(tmp_path / "model.onnx", *(numpy_helper.from_array(floats(N, N), f"w{i}") for i in range(2)))
    with pytest.raises(PipelineError, match=complaint):
        imported(spoiled(apart(path, size_threshold=0), **changes), tmp_path / "out", limit=limit)
    assert not list((tmp_path / "out").iterdir())


def test_a_large_file_that_is_broken_is_one_message(tmp_path: Path) -> None:
    path = layers(tmp_path / "model.onnx", *(numpy_helper.from_array(floats(N, N), f"w{i}") for i in range(4)))
    whole = path.read_bytes()
    for broken in (whole[:-3000], whole[:9], b"\xff" * 5000, bytes(5000), whole.replace(b"\x80\x20", b"\x81\x20")):
        path.write_bytes(broken)
        with pytest.raises(PipelineError, match="is no valid ONNX file"):
            imported(path, tmp_path / "out")
        assert not list((tmp_path / "out").iterdir())


def test_a_skeleton_has_the_same_values_and_none_of_the_bytes(tmp_path: Path) -> None:
    held = [make(kind) for kind, make in KINDS.items()]
    path = save(tmp_path / "model.onnx", [helper.make_node("Identity", ["x"], ["y"])], held)
    with weights.beside(tmp_path / "weights.bin", 0) as store:
        model = weights.load(path)
        assert store.is_used
        assert model.ByteSize() < 10_000 < path.stat().st_size
        assert weights.size(model) > path.stat().st_size // 2
        for before, now in zip(held, model.graph.initializer, strict=True):
            array = numpy_helper.to_array(before)
            np.testing.assert_array_equal(weights.values(now), array)
            assert weights.values(now).dtype == array.dtype
        for before, now in zip(held, weights.inside(model).graph.initializer, strict=True):
            np.testing.assert_array_equal(numpy_helper.to_array(now), numpy_helper.to_array(before))


def test_small_models_are_converted_as_ever(tmp_path: Path) -> None:
    path = layers(tmp_path / "model.onnx", *(numpy_helper.from_array(floats(N, N), f"w{i}") for i in range(2)))
    imported(path, tmp_path / "one", limit=weights.LIMIT)
    imported(apart(path), tmp_path / "two", limit=weights.LIMIT)
    assert sorted(file.name for file in (tmp_path / "two").iterdir()) == ["model.mlirbc", "rewrites.json", "signature.json"]
    assert (tmp_path / "one" / "model.mlirbc").read_bytes() == (tmp_path / "two" / "model.mlirbc").read_bytes()


def test_weights_of_one_value_and_small_ones_are_constants(tmp_path: Path) -> None:
    held = [numpy_helper.from_array(array, f"w{i}") for i, array in enumerate((np.full((N, N), 0.5, np.float32), floats(N, 4)))]
    path = save(
        tmp_path / "model.onnx",
        [helper.make_node("MatMul", ["x", "w0"], ["h"]), helper.make_node("MatMul", ["h", "w1"], ["y"])],
        held,
        shape=(4, 4),
    )
    assert not (check(path, tmp_path / "out", parameters="external") / ARCHIVE).exists()


# What rewrites make of weights: of these each changes some.
def _transposed(path: Path) -> tuple[Path, Input]:
    held = [numpy_helper.from_array(floats(16, 8, 3, 3), "w")]
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], group=2, strides=[2, 2])
    return save(path, [node], held, (1, 16, 17, 17), (1, 16, 8, 8)), Input("x", (1, 16, 8, 8), "float32", 0, -1.0, 1.0, None)


def _quantized(path: Path) -> tuple[Path, Input]:
    held = [numpy_helper.from_array(SOME.integers(0, 255, (64, 64)).astype(np.uint8), "w")]
    held += [numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.uint8(120), "z")]
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "qs", "qz"]),
        helper.make_node("MatMulInteger", ["q", "w", "qz", "z"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "s"], ["g"]),
        helper.make_node("Mul", ["g", "qs"], ["y"]),
    ]
    return save(path, nodes, held, (4, 64), (4, 64)), Input("x", (4, 64), "float32", 0, -1.0, 1.0, None)


def _recurrent(path: Path) -> tuple[Path, Input]:
    held = [numpy_helper.from_array(floats(1, 4 * 16, 16), name) for name in ("w", "r")]
    nodes = [helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=16)]
    return save(path, nodes, held, (5, 1, 2, 16), (5, 2, 16)), Input("x", (5, 2, 16), "float32", 0, -1.0, 1.0, None)


def _by_channel(path: Path) -> tuple[Path, Input]:
    held = [numpy_helper.from_array(SOME.integers(-99, 99, (N, 512)).astype(np.int8), "w")]
    held += [numpy_helper.from_array(np.abs(floats(512)) / 99, "s"), numpy_helper.from_array(np.zeros(512, np.int8), "z")]
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["f"], axis=1),
        helper.make_node("MatMul", ["x", "f"], ["y"]),
    ]
    return save(path, nodes, held, (4, 512)), X


def _blocks(path: Path) -> tuple[Path, Input]:
    """Four bits in blocks, all made into floats at the beginning: a rewrite makes weights of eight bits."""
    nodes, held = [], []
    for number in range(3):
        values = SOME.integers(-8, 8, 64 * 64)
        held.append(helper.make_tensor(f"w{number}", TensorProto.INT4, (64, 64), values))
        held.append(numpy_helper.from_array(np.abs(floats(4, 64)) / 20, f"s{number}"))
        nodes.append(helper.make_node("DequantizeLinear", [f"w{number}", f"s{number}"], [f"f{number}"], axis=0, block_size=16))
    for number, (before, after) in enumerate(itertools.pairwise(["x", "h1", "h2", "y"])):
        nodes.append(helper.make_node("MatMul", [before, f"f{number}"], [after]))
    return save(path, nodes, held, (4, 64), (4, 64)), Input("x", (4, 64), "float32", 0, -1.0, 1.0, None)


def _old(path: Path) -> tuple[Path, Input]:
    """A file of operator set 9 and IR version 3, where weights are inputs too: ONNX's converter gets the skeleton."""
    held = [numpy_helper.from_array(floats(16, 8, 3, 3), "w")]
    held += [numpy_helper.from_array(np.abs(floats(16)) + 1, name) for name in ("scale", "bias", "mean", "var")]
    held.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "sizes"))
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "scale", "bias", "mean", "var"], ["n"]),
        helper.make_node("Upsample", ["n", "sizes"], ["y"], mode="nearest"),
    ]
    save(path, nodes, held, (1, 16, 12, 12), (1, 8, 8, 8))
    model = onnx.load(path)
    model.ir_version, model.opset_import[0].version = 3, 9
    described = (helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer)
    model.graph.input.extend(described)
    onnx.save(model, path)
    return path, Input("x", (1, 8, 8, 8), "float32", 0, -1.0, 1.0, None)


MODELS = [_transposed, _quantized, _recurrent, _by_channel, _blocks, _old]


@pytest.mark.parametrize("where", ["inline", "external"])
@pytest.mark.parametrize("make", MODELS)
def test_rewrites_of_models_with_weights_in_files(make: Callable[[Path], tuple[Path, Input]], where: str, tmp_path: Path) -> None:
    path, spec = make(tmp_path / "model.onnx")
    check(path, tmp_path / "out", [spec], parameters=where)
    imported(path, tmp_path / "usual", [spec], limit=weights.LIMIT, parameters="inline")
    used = json.loads((tmp_path / "out" / "rewrites.json").read_text())["main"]
    assert used == json.loads((tmp_path / "usual" / "rewrites.json").read_text())


@pytest.mark.parametrize("make", MODELS)
def test_the_reference_is_the_same_with_weights_in_files(make: Callable[[Path], tuple[Path, Input]], tmp_path: Path) -> None:
    from pipeline import arrays

    path, spec = make(tmp_path / "model.onnx")
    found = {}
    for source, limit in (
        (path, 0),
        (path, weights.LIMIT),
        (apart(path, size_threshold=0), 0),
        (path.parent / "apart" / "model.onnx", weights.LIMIT),
    ):
        folder = tmp_path / f"{source.parent.name} {limit}"
        folder.mkdir()
        arrays.write(folder / "given.inputs.npz", [draw(spec, "")])
        said = onnxruntime.run(str(source), folder, [spec], ["given"], limit)
        found[folder.name] = (said | {"tolerances": 0, "strict": 0}, arrays.read(folder / "given.outputs.npz")[0])
        assert sorted(file.name for file in folder.iterdir()) == ["given.inputs.npz", "given.outputs.npz"]
        found[folder.name][0]["noise"] = len(said["tolerances"]["given"])
    first, *others = found.values()
    for said, output in others:
        assert said == first[0]
        np.testing.assert_allclose(output, first[1], rtol=1e-5, atol=1e-5)


def pair(folder: Path, held: Sequence[TensorProto], **options: str) -> Path:
    """Two entries with the same weights, of other names, the square ones in other order."""
    again = [numpy_helper.from_array(numpy_helper.to_array(tensor), f"other{i}") for i, tensor in enumerate(held)]
    imported(layers(folder / "a.onnx", *held), folder / "first", function="first", **options)
    imported(layers(folder / "b.onnx", *again[2::-1], *again[3:]), folder / "second", function="second", **options)
    return folder


@pytest.mark.parametrize("where", ["inline", "external"])
def test_entries_share_their_weights(where: str, tmp_path: Path) -> None:
    held = [numpy_helper.from_array(floats(N, N), f"w{i}") for i in range(3)]
    big = [numpy_helper.from_array(floats(N, 4096), "wide"), numpy_helper.from_array(floats(4096, N), "back")]
    folder = pair(tmp_path / "out", [*held, *big], parameters=where)
    merge(folder, [folder / "first", folder / "second"])
    size = compiled(folder).stat().st_size
    assert size < 4 * (2 * N * 4096 + 3 * N * N) + 60_000 if where == "inline" else size < 60_000
    x = draw(X, "")
    for function, name in (("first", "a"), ("second", "b")):
        np.testing.assert_allclose(run(folder, function, x), expected(folder / f"{name}.onnx", x), rtol=1e-3, atol=1e-2)
    signatures = json.loads((folder / "signature.json").read_text())
    assert [signature["entry"] for signature in signatures] == ["first", "second"]
    if where == "external":
        assert len(keys(folder)) == 5


def test_the_same_weights_make_the_same_archive(tmp_path: Path) -> None:
    held = [numpy_helper.from_array(floats(N, N), f"w{i}") for i in range(4)]
    made = []
    for name, order in (("one", ["first", "second"]), ("two", ["second", "first"]), ("three", ["second"])):
        folder = pair(tmp_path / name, held, parameters="external")
        merge(folder, [folder / name for name in order])
        made.append((folder / ARCHIVE).read_bytes())
        before = (folder / "model.mlirbc").read_bytes()
        merge(folder, [folder / name for name in order])
        assert (folder / "model.mlirbc").read_bytes() == before
    assert made[0] == made[1] == made[2]
    assert keys(tmp_path / "one") == sorted(keys(tmp_path / "one"))


def test_an_archive_that_no_entry_needs_any_more_goes(tmp_path: Path) -> None:
    held = [numpy_helper.from_array(floats(N, N), f"w{i}") for i in range(2)]
    folder = pair(tmp_path / "out", held, parameters="external")
    merge(folder, [folder / "first"])
    assert (folder / ARCHIVE).exists()
    pair(folder, held, parameters="inline")
    merge(folder, [folder / "first"])
    assert not (folder / ARCHIVE).exists()
    assert not (folder / "first" / "weights.bin").exists()


def test_entries_may_be_called_as_what_others_hold(tmp_path: Path) -> None:
    """MeanVarianceNormalization is imported as a private function, whose name any entry of its kind has."""
    nodes = [helper.make_node("MeanVarianceNormalization", ["x"], ["h"], axes=[0, 1]), helper.make_node("Neg", ["h"], ["y"])]
    folder = tmp_path / "out"
    path = save(folder / "model.onnx", nodes, [])
    for function in ("a", "b"):
        imported(path, folder / function, function=function)
    merge(folder, [folder / "a", folder / "b"])
    compiled(folder)
    x = draw(X, "")
    for function in ("a", "b"):
        np.testing.assert_allclose(run(folder, function, x), expected(path, x), rtol=1e-4, atol=1e-4)


COUNTER = """
util.global private mutable @state = dense<0> : tensor<2xi32>
func.func private @help(%x: tensor<2xi32>) -> tensor<2xi32> {
  %s = util.global.load @state : tensor<2xi32>
  %r = arith.addi %s, %x : tensor<2xi32>
  util.global.store %r, @state : tensor<2xi32>
  return %r : tensor<2xi32>
}
func.func @add(%x: tensor<2xi32>) -> tensor<2xi32> {
  %r = func.call @help(%x) : (tensor<2xi32>) -> tensor<2xi32>
  return %r : tensor<2xi32>
}
func.func @twice(%x: tensor<2xi32>) -> tensor<2xi32> {
  %y = func.call @add(%x) : (tensor<2xi32>) -> tensor<2xi32>
  %r = func.call @add(%y) : (tensor<2xi32>) -> tensor<2xi32>
  return %r : tensor<2xi32>
}
"""


def test_entries_of_one_mlir_file_share_its_state_and_others_do_not(tmp_path: Path) -> None:
    from iree import runtime

    folder, given = tmp_path / "out", [Input("x", (2,), "int32", 0, 0, 9, None)]
    folder.mkdir()
    (folder / "counter.mlir").write_text(COUNTER)
    (folder / "other.mlir").write_text(COUNTER + "// another file\n")
    # The names are swapped, and one is that of what the file has for itself.
    entries = {"twice": ("counter", "add"), "add": ("counter", "twice"), "help": ("other", "add")}
    for function, (name, entry) in entries.items():
        (folder / function).mkdir()
        mlir.convert(folder / f"{name}.mlir", folder / function, given, Options(function, entry))
    merge(folder, [folder / name for name in entries])
    module = runtime.load_vm_flatbuffer_file(str(compiled(folder)), driver="local-sync")
    one = np.array([1, 2], np.int32)
    assert np.asarray(module["twice"](one)).tolist() == [1, 2]
    assert np.asarray(module["twice"](one)).tolist() == [2, 4]
    assert np.asarray(module["add"](one)).tolist() == [6, 12]
    assert np.asarray(module["help"](one)).tolist() == [1, 2]


def test_a_module_of_one_entry_is_the_imported_one(tmp_path: Path) -> None:
    folder = pair(tmp_path / "out", [numpy_helper.from_array(floats(N, N), f"w{i}") for i in range(2)])
    merge(folder, [folder / "first"])
    assert (folder / "model.mlirbc").read_bytes() == (folder / "first" / "model.mlirbc").read_bytes()
    shutil.rmtree(folder / "second")


@pytest.mark.parametrize(
    "is_inside", [pytest.param(False, marks=pytest.mark.thorough), pytest.param(True, marks=pytest.mark.thorough)]
)
def test_large_weights_are_not_in_memory(is_inside: bool, tmp_path: Path) -> None:
    from tests.bench.weights import memory, stack

    size = 194e6
    path = stack.write(tmp_path / "model", size, width=2048, inside=is_inside)
    external = memory.importing(path, tmp_path / "external")
    merged = memory.merging(tmp_path / "external")
    inline = memory.importing(path, tmp_path / "inline", '{"parameters": "inline"}')
    ran = memory.reference(path, tmp_path / "reference")
    assert (tmp_path / "external" / ARCHIVE).stat().st_size > 0.9 * size
    assert (tmp_path / "external" / "model.mlirbc").stat().st_size < 100_000
    for peak in (external, merged, inline):
        assert peak.resident < 2 * size + 100e6, peak
    for peak in (external, merged, inline, ran):
        assert peak.own < 250e6, peak
