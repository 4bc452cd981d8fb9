"""`doit add`: the spec of a model begins with what its ONNX file says of itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.add import Add, add
from pipeline.errors import PipelineError
from pipeline.spec.load import load
from tests.project import Project


def _model(path: Path, weights: str = "") -> Path:
    table = numpy_helper.from_array(np.arange(32, dtype=np.float32).reshape(4, 8), "table")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "tokens"], ["rows"]), helper.make_node("Mul", ["rows", "scale"], ["y"])],
        "lookup",
        [
            helper.make_tensor_value_info("tokens", TensorProto.INT64, ["N"]),
            helper.make_tensor_value_info("scale", TensorProto.FLOAT, [1, 8]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8])],
        [table],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path, save_as_external_data=bool(weights), location=weights or None, size_threshold=0)
    return path


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    made = Project(tmp_path / "project")
    monkeypatch.chdir(made.root)
    return made


def test_a_model_that_was_added_is_built_up_to_its_test_data(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Add().execute({}, [str(_model(tmp_path / "My Lookup.onnx"))]) == 0
    assert "note: N is open in the file, and 1 in the spec until you say" in capsys.readouterr().err
    text = (project.targets / "models" / "my-lookup.yaml").read_text()
    assert "# N is open in the file" in text
    done = project.doit("reference:my-lookup")
    assert done.returncode == 0, done.stdout + done.stderr
    model = load(project.targets).models["my-lookup"]
    assert [(i.name, i.shape, i.dtype, i.low, i.high) for i in model.entries[0].inputs] == [
        ("tokens", (1,), "int64", 0, 2),
        ("scale", (1, 8), "float32", -1, 1),
    ]
    assert model.bundles == ("desktop",)


def test_weights_beside_the_file_come_along(project: Project, tmp_path: Path) -> None:
    written = add(_model(tmp_path / "m.onnx", "m.weights"), "other")
    assert [path.name for path in written] == ["m.onnx", "m.weights", "other.yaml"]
    assert [*load(project.targets).models["other"].sources[0].data] == ["m.weights"]


@pytest.mark.parametrize("data", [b"", b"no model", b"\x08"])
def test_what_is_no_model_is_refused(project: Project, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.onnx").write_bytes(data)
    with pytest.raises(PipelineError, match="is no ONNX model"):
        add(tmp_path / "x.onnx")
    assert list((project.targets / "models").iterdir()) == []


def test_weights_that_are_away_leave_nothing_half_done(project: Project, tmp_path: Path) -> None:
    path = _model(tmp_path / "m.onnx", "m.weights")
    (tmp_path / "m.weights").rename(tmp_path / "away")
    with pytest.raises(PipelineError, match="No such file"):
        add(path)
    assert list((project.targets / "models").iterdir()) == []
    (tmp_path / "away").rename(tmp_path / "m.weights")
    assert len(add(path)) == 3


@pytest.mark.parametrize(
    "value",
    [
        helper.make_tensor_value_info("x", TensorProto.STRING, [2]),
        helper.make_tensor_value_info("x", 99, [2]),
        helper.make_tensor_value_info("x", TensorProto.COMPLEX64, [2]),
        helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None),
    ],
)
def test_an_input_that_no_spec_can_give_is_refused(project: Project, tmp_path: Path, value: onnx.ValueInfoProto) -> None:
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "odd", [value], [output])
    (tmp_path / "odd.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(PipelineError, match="its input 'x' is of a type that no spec can give"):
        add(tmp_path / "odd.onnx")
    assert list((project.targets / "models").iterdir()) == []


def test_nothing_is_written_over(project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _model(tmp_path / "m.onnx")
    add(path)
    with pytest.raises(PipelineError, match=r"m\.yaml, .*m\.onnx: is there already\n.*rename your file"):
        add(path)
    with pytest.raises(PipelineError, match=r"models/m\.onnx: is there already\n.*rename your file"):
        add(path, "other")  # its file goes by its own name
    (project.targets / "models" / "m.onnx").unlink()
    with pytest.raises(PipelineError, match=r"m\.yaml: is there already\n.*doit add .*m\.onnx NAME, with another name"):
        add(path)
    with pytest.raises(PipelineError, match="cannot name a model"):
        add(path, "No name")
    with pytest.raises(PipelineError, match="there is no such file"):
        add(tmp_path / "nowhere.onnx")
    project.targets.rename(tmp_path / "elsewhere")
    assert Add().execute({}, [str(path)]) == 1
    assert "`vmfb init` begins one" in capsys.readouterr().err
    assert Add().execute({}, []) == 1
