"""Sources and importers: what comes in, from wheels and ONNX files whole and broken."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, ValueInfoProto, checker, helper, numpy_helper, save

from pipeline import arrays
from pipeline.cache import LocalCache
from pipeline.errors import PipelineError
from pipeline.importers import boundary
from pipeline.importers.draws import draw, draws
from pipeline.importers.onnxruntime import session
from pipeline.importers.rewrites.graph import inferred
from pipeline.importers.signature import read_all
from pipeline.iree.codegen.front import FrontHalfError, front_flags
from pipeline.layout import Layout
from pipeline.plan import Target, steps
from pipeline.sources.fetch import fetch
from pipeline.spec.types import Dimension, Input, PathSource, ScriptSource, Spec, WheelSource
from pipeline.stages import import_, reference
from pipeline.stages import source as source_stage
from pipeline.stages.origin import Origin
from pipeline.stages.testdata import TestData
from tests.project import Project, model_of


def tensor(name: str, *shape: int, dtype: str = "float32") -> Input:
    return Input(name, shape, dtype, 0, 0.0, 1.0, None)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _described(name: str, type_: int, *shape: int) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, type_, shape)


@pytest.fixture
def linear(tmp_path: Path) -> Path:
    """y = x · w with a free batch dimension, in an old operator set."""
    weight = numpy_helper.from_array(np.eye(4, 3, dtype=np.float32), "w")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "a name. with dots", [x], [y], [weight])
    path = tmp_path / "linear.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7), path)
    return path


def test_the_signature_has_names_dtypes_and_fixed_shapes(linear: Path, tmp_path: Path) -> None:
    spec = model_of(PathSource(linear, digest(linear)), tensor("x", 2, 4))
    import_.run(Origin(spec, (linear,)), tmp_path / "import")
    (signature,) = read_all(tmp_path / "import/signature.json")
    assert signature.declaration == "sync func @main(%x: tensor<2x4xf32>) -> (%y: tensor<2x3xf32>)"


def test_the_import_does_not_depend_on_where_it_is_done(linear: Path, tmp_path: Path) -> None:
    spec = model_of(PathSource(linear, digest(linear)), tensor("x", 2, 4))
    other = tmp_path / "other" / "renamed.onnx"
    other.parent.mkdir()
    other.write_bytes(linear.read_bytes())
    import_.run(Origin(spec, (linear,)), tmp_path / "a")
    import_.run(Origin(spec, (other,)), tmp_path / "b")
    assert (tmp_path / "a/model.mlirbc").read_bytes() == (tmp_path / "b/model.mlirbc").read_bytes()


def test_an_input_with_a_value_is_a_constant_of_the_model(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3, "n"]) for name in "kx"]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, "n"])
    graph = helper.make_graph([helper.make_node("Mul", ["x", "k"], ["y"], "product")], "g", values, [y])
    path = tmp_path / "scaled.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=3), path)
    baked = dataclasses.replace(tensor("k", 3, 2), value=[[1], [2.5], [0]])
    spec = model_of(PathSource(path, digest(path)), baked, tensor("x", 3, 2))
    import_.run(Origin(spec, (path,)), tmp_path / "import")
    (signature,) = read_all(tmp_path / "import/signature.json")
    assert signature.declaration == "sync func @main(%x: tensor<3x2xf32>) -> (%y: tensor<3x2xf32>)"
    reference.run(Origin(spec, (path,)), tmp_path / "import", tmp_path / "reference")
    (given,) = arrays.read(tmp_path / "reference/0/given.inputs.npz")
    (found,) = arrays.read(tmp_path / "reference/0/given.outputs.npz")
    np.testing.assert_array_equal(found, given * np.array([[1], [2.5], [0]], np.float32))
    other = model_of(spec.entries[0].source, dataclasses.replace(baked, value=2), tensor("x", 3, 2))
    before = (tmp_path / "import/model.mlirbc").read_bytes()
    import_.run(Origin(other, (path,)), tmp_path / "import")
    assert (tmp_path / "import/model.mlirbc").read_bytes() != before


@pytest.mark.parametrize(
    ("inputs", "complaint"),
    [
        ([tensor("z", 2, 4)], "the graph has no input 'z'"),
        ([tensor("x", 2, 5)], r"input 'x' has shape \['batch', 4\], not \[2, 5\]"),
        ([tensor("x", 2)], "input 'x' has shape"),
        ([tensor("x", Dimension("N", 1, 8), 5)], "input 'x' has shape"),  # the open one fits
        ([tensor("x", 2, Dimension("N", 1, 8))], "export the model with that dimension open"),
        ([tensor("x", 2, 4, dtype="int32")], "input 'x' is float32, not int32"),
        ([tensor("x", 2, 4), tensor("q", 1)], "the graph has no input 'q'"),
        ([], "the spec does not give the input 'x'"),
    ],
)
def test_inputs_that_do_not_fit_the_graph_are_named(linear: Path, tmp_path: Path, inputs: list[Input], complaint: str) -> None:
    spec = model_of(PathSource(linear, digest(linear)), *inputs)
    with pytest.raises(PipelineError, match=complaint) as caught:
        import_.run(Origin(spec, (linear,)), tmp_path / "import")
    assert ("import.log" in caught.value.hint) == ("with that dimension open" not in complaint)
    assert not (tmp_path / "import/model.mlirbc").exists()


@pytest.mark.parametrize("damage", [lambda d: d[: len(d) // 2], lambda d: b"", lambda d: b"\x00" * 100, lambda d: b"{}"])
def test_a_file_that_is_no_onnx_is_refused_without_a_traceback(
    linear: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    linear.write_bytes(damage(linear.read_bytes()))
    with pytest.raises(PipelineError, match="is no valid ONNX file") as caught:
        import_.run(Origin(model_of(PathSource(linear, digest(linear)), tensor("x", 2, 4)), (linear,)), tmp_path / "import")
    assert "Traceback" not in str(caught.value)


def test_an_operator_that_iree_cannot_lower_is_shown_and_the_log_is_kept(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    x, y = _described("x", TensorProto.FLOAT, 1, 3, 8, 8), _described("y", TensorProto.FLOAT, 1, 3, 2, 2)
    regions = numpy_helper.from_array(np.array([[0, 0, 6, 5]], np.float32), "r")
    images = numpy_helper.from_array(np.array([0]), "i")
    node = helper.make_node("RoiAlign", ["x", "r", "i"], ["y"], "regions", mode="max", output_height=2, output_width=2)
    graph = helper.make_graph([node], "g", [x], [y], [regions, images])
    path = project.targets / "models/roi.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    (project.targets / "models/roi.yaml").write_text(
        f"about: x\nlicence: MIT\nformat: onnx\nsource: {{kind: path, path: roi.onnx, sha256: {digest(path)}}}\n"
        "inputs: [{name: x, shape: [1, 3, 8, 8], dtype: float32}]\nbundles: [desktop]\n"
    )
    result = project.doit()
    assert result.returncode in (1, 2)
    (line,) = [line for line in result.stdout.splitlines() if "onnx.RoiAlign" in line]
    assert "onnx.RoiAlign (node 'regions'): has a form that IREE does not lower: compute it outside the model" in line
    assert len(line) < 500
    assert "Traceback" not in result.stdout
    log = result.stdout.split("the whole output of iree-compile is in ")[1].split()[0]
    assert "torch.vtensor.literal" in (project.root / log).read_text()


def test_a_lowering_that_holds_for_some_data_only_is_refused_by_operator_and_node(tmp_path: Path) -> None:
    inputs = {"boxes": (1, 6, 4), "scores": (1, 1, 6)}
    constants = {"most": np.array([3]), "overlap": np.array([0.5], np.float32), "least": np.array([0.2], np.float32)}
    node = helper.make_node("NonMaxSuppression", [*inputs, *constants], ["chosen"])
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    chosen = helper.make_tensor_value_info("chosen", TensorProto.INT64, ["n", 3])
    graph = helper.make_graph([node], "g", values, [chosen], weights)
    path = tmp_path / "nms.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    spec = model_of(PathSource(path, digest(path)), *(tensor(name, *shape) for name, shape in inputs.items()))
    import_.run(Origin(spec, (path,)), tmp_path / "import")
    with pytest.raises(FrontHalfError, match=r"onnx\.NonMaxSuppression \(node 'chosen'\).*score_threshold"):
        front_flags(tmp_path / "import/model.mlirbc", tmp_path, (), LocalCache(tmp_path / "cache", 1 << 20))


def wheel(folder: Path, content: bytes) -> Path:
    """A wheel of the package `tiny` 1.0 that holds tiny/model.onnx."""
    path = folder / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny/model.onnx", content)
        archive.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny-1.0.dist-info/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index of one folder, by pip's own configuration."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_a_file_inside_a_wheel_is_found_by_pips_configuration(index: Path, tmp_path: Path) -> None:
    wheel(index, b"bytes")
    source = WheelSource("tiny", "1.0", "tiny/model.onnx", hashlib.sha256(b"bytes").hexdigest())
    output = tmp_path / "out/model.onnx"
    source_stage.run(Origin(model_of(source), (output,)))
    assert output.read_bytes() == b"bytes"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"version": "2.0"}, "No matching distribution found for tiny==2.0"),
        ({"member": "tiny/modle.onnx"}, "no such file in the wheel: did you mean 'tiny/model.onnx'?"),
        ({"sha256": "0" * 64}, "but 0000"),
    ],
)
def test_a_wheel_that_is_not_as_the_spec_says_is_refused(
    index: Path, tmp_path: Path, change: dict[str, str], complaint: str
) -> None:
    wheel(index, b"bytes")
    good = {"package": "tiny", "version": "1.0", "member": "tiny/model.onnx", "sha256": hashlib.sha256(b"bytes").hexdigest()}
    output = tmp_path / "out/model.onnx"
    with pytest.raises(PipelineError) as caught:
        source_stage.run(Origin(model_of(WheelSource(**{**good, **change})), (output,)))
    assert complaint in str(caught.value)
    assert not output.exists()
    assert not list(output.parent.glob("*.part"))


def test_a_truncated_wheel_is_one_message(index: Path, tmp_path: Path) -> None:
    path = wheel(index, b"bytes" * 1000)
    path.write_bytes(path.read_bytes()[:400])
    output = tmp_path / "out/model.onnx"
    with pytest.raises(PipelineError):
        source_stage.run(Origin(model_of(WheelSource("tiny", "1.0", "tiny/model.onnx", "0" * 64)), (output,)))
    assert not output.exists()


def test_a_script_that_fails_or_writes_nothing_is_named(tmp_path: Path) -> None:
    output = tmp_path / "out/model.onnx"
    output.parent.mkdir()
    for text, complaint in (("raise SystemExit(3)", "exit code 3"), ("", "did not write model.onnx")):
        script = tmp_path / "make.py"
        script.write_text(text)
        with pytest.raises(PipelineError, match=complaint):
            fetch(ScriptSource(script, "0" * 64), output, Path("m.yaml"))


def test_generated_inputs_are_the_documented_draw() -> None:
    drawn = draw(tensor("x", 1, 3, 48, 192), "")
    np.testing.assert_array_equal(drawn, np.random.default_rng(0).random((1, 3, 48, 192), dtype=np.float32))


def test_an_input_file_must_have_the_shape_of_the_spec(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 3), np.float32))
    spec = Input("x", (2, 4), "float32", 0, 0.0, 1.0, tmp_path / "x.npy")
    with pytest.raises(PipelineError, match=r"float32\[2, 4\] in the spec, float32\[2, 3\] in the file"):
        draw(spec, "m.yaml")


def test_types_that_numpy_lacks_are_wider_at_the_boundary(tmp_path: Path) -> None:
    """bfloat16 in and out, taken and given inside a graph too, and int4 out: inside, numbers are as the model says."""
    bf16, i4 = TensorProto.BFLOAT16, TensorProto.INT4
    inner = helper.make_graph([helper.make_node("Identity", ["r"], ["b"])], "g", [], [_described("b", bf16, 4)])
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["c"])], "g", [], [_described("c", bf16, 4)])
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Relu", ["wide"], ["positive"]),
        helper.make_node("Cast", ["positive"], ["r"], to=bf16),
        helper.make_node("If", ["which"], ["z"], then_branch=inner, else_branch=other),
        helper.make_node("Cast", ["wide"], ["narrow"], to=i4),
    ]
    inputs = [_described("x", bf16, 4), _described("which", TensorProto.BOOL)]
    weight = helper.make_tensor("w", bf16, [2], [1.5, -2])
    outputs = [_described("r", bf16, 4), _described("z", bf16, 4), _described("narrow", i4, 4), _described("w", bf16, 2)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    assert boundary.widen(model)
    checker.check_model(inferred(model), full_check=True)
    running = session(model)
    x = np.array([1 + 2**-12, -3.7, 0.3, 7], np.float32)
    rounded = np.array([1, -3.703125, 0.30078125, 7], np.float32)
    for which, z in ((True, np.maximum(rounded, 0)), (False, rounded)):
        found = running.run(None, {"x": x, "which": np.array(which)})
        for got, wanted in zip(
            found, [np.maximum(rounded, 0), z, np.array([1, -4, 0, 7], np.int8), np.array([1.5, -2])], strict=True
        ):
            np.testing.assert_array_equal(got, wanted)
        assert [f.dtype.name for f in found] == ["float32", "float32", "int8", "float32"]
    assert not boundary.widen(model)


@pytest.mark.parametrize("kind", ["onnxruntime", "baseline", "files"])
def test_decisions_that_test_data_leaves_open_are_refused_or_noted(kind: str, tmp_path: Path) -> None:
    branches = [
        helper.make_graph([helper.make_node(name, ["x"], [name])], name, [], [_described(name, TensorProto.FLOAT, 3)])
        for name in ("Neg", "Exp")
    ]
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "limit"], ["large"]),
        helper.make_node("If", ["large"], ["y"], "choose", then_branch=branches[0], else_branch=branches[1]),
    ]
    ends = [_described(name, TensorProto.FLOAT, 3) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(np.array(9, np.float32), "limit")])
    path = tmp_path / "model.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    np.save(tmp_path / "y.npy", np.exp(draw(x := Input("x", (3,), "float32", 0, -1.0, 1.0, None), "")))
    given: str | tuple[Path, ...] = (tmp_path / "y.npy",) if kind == "files" else kind
    spec = model_of(PathSource(path, digest(path)), x)
    spec = dataclasses.replace(spec, entries=(dataclasses.replace(spec.entries[0], reference=given),))
    import_.run(Origin(spec, (path,)), tmp_path / "import")
    if kind == "onnxruntime":
        with pytest.raises(PipelineError, match=r"onnx\.If \(node 'choose'\) takes the same branch"):
            reference.run(Origin(spec, (path,)), tmp_path / "import", tmp_path / "reference")
    else:
        reference.run(Origin(spec, (path,)), tmp_path / "import", tmp_path / "reference")
        assert "onnx.If (node 'choose') takes the same branch" in TestData.read(tmp_path / "reference/0").note


def test_which_file_an_entry_point_comes_from_matters(linear: Path, tmp_path: Path) -> None:
    """Three entry points of two files: the second goes from one to the other, and both are needed before and after."""
    other = tmp_path / "other.onnx"
    weights = numpy_helper.from_array(np.full((4, 3), 2, np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [_described("x", TensorProto.FLOAT, 2, 4)],
        [_described("y", TensorProto.FLOAT, 2, 3)],
        [weights],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7), other)
    sources = {path: PathSource(path, digest(path)) for path in (linear, other)}
    made, planned = [], []
    for paths in ((linear, other, other), (linear, linear, other)):
        one = model_of(sources[linear], tensor("x", 2, 4))
        entries = [
            dataclasses.replace(one.entries[0], name=n, function=n, source=sources[p]) for n, p in zip("abc", paths, strict=True)
        ]
        model = dataclasses.replace(one, entries=tuple(entries))
        import_.run(Origin(model, paths), tmp_path / "import")
        reference.run(Origin(model, paths), tmp_path / "import", tmp_path / "reference")
        made.append([(tmp_path / "import/model.mlirbc").read_bytes(), arrays.read(tmp_path / "reference/1/given.outputs.npz")[0]])
        steps_ = steps(Spec({}, {}, {"m": model}), Layout(tmp_path / "out"), Target("nowhere"))
        planned.append({step.name.split(":")[0]: step.options for step in steps_})
    assert made[0][0] != made[1][0]
    assert not np.allclose(made[0][1], made[1][1])
    assert planned[0]["import"] != planned[1]["import"]
    assert planned[0]["reference"] != planned[1]["reference"]


@pytest.mark.parametrize("shape", [(2**31 - 1, 2**20), (2**31 - 1, 2**31 - 1, 2**20)])
def test_test_data_that_fits_into_no_memory_is_one_message(shape: tuple[int, ...]) -> None:
    with pytest.raises(PipelineError, match="there is not enough memory for the test data") as caught:
        draws([tensor("x", *shape)], "m.yaml")
    assert "smaller `max`" in caught.value.hint
