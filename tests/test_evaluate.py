"""Models with a data set: a trained classifier, from its spec to the evidence of its variants."""

from __future__ import annotations

import copy
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import ManyProblemsError, PipelineError
from pipeline.spec.load import load
from pipeline.stages import import_, record, score, source
from pipeline.stages.origin import Origin
from pipeline.stages.scored import NAME, Scored, write_scores
from tests.project import Project

SAMPLES = 300


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def data() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Points around five centres that overlap, and the centre of each."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, SAMPLES)
    return (rng.normal(size=(5, 12))[labels] + 1.2 * rng.normal(size=(SAMPLES, 12))).astype(np.float32), labels


def classifier(batch: int | str) -> onnx.ModelProto:
    """A linear classifier by least squares, trained on the first half of the data."""
    x, labels = (array[: SAMPLES // 2] for array in data())
    weights, *_ = np.linalg.lstsq(np.c_[x, np.ones(len(x))], np.eye(5)[labels], rcond=None)
    initializers = [numpy_helper.from_array(a.astype(np.float32), n) for a, n in ((weights[:-1], "w"), (weights[-1], "b"))]
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"])]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [batch, size]) for n, size in (("x", 12), ("y", 5))]
    graph = helper.make_graph(nodes, "classifier", values[:1], values[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class Models:
    """The folder of models of a project, with the classifier `m` and its data set in it."""

    def __init__(self, project: Project) -> None:
        self.project, self.folder = project, project.targets / "models"
        onnx.save(classifier(1), self.folder / "m.onnx")
        x, labels = data()
        np.savez(self.folder / "data.npz", x=x, y=labels)

    def file(self, name: str, **more: str) -> dict[str, str]:
        return {"kind": "path", "path": name, "sha256": digest(self.folder / name), **more}

    def evaluate(self, **changes: Any) -> dict[str, Any]:
        said = {
            "inputs": {"x": self.file("data.npz", array="x")},
            "labels": self.file("data.npz", array="y"),
            "metric": "top-1",
            "limit": 0.01,
            **changes,
        }
        return {key: value for key, value in said.items() if value is not None}

    def write(self, shape: list[Any] | None = None, **changes: Any) -> Path:
        spec = {
            "about": "a classifier",
            "licence": "Apache-2.0",
            "format": "onnx",
            "source": self.file("m.onnx"),
            "inputs": [{"name": "x", "shape": shape or [1, 12], "dtype": "float32"}],
            "bundles": ["desktop"],
            "evaluate": self.evaluate(**changes),
        }
        path = self.folder / "m.yaml"
        path.write_text(yaml.safe_dump(spec))
        return path

    def origin(self) -> Origin:
        return Origin.of(load(self.project.targets).models["m"], self.project.layout)

    def score(self) -> list[dict[str, Any]]:
        """Fetch, import and score."""
        layout, origin = self.project.layout, self.origin()
        source.run(origin)
        import_.run(origin, layout.imported("m"))
        score.run(origin, layout.imported("m"), layout.scored("m"))
        found: list[dict[str, Any]] = json.loads((layout.scored("m") / NAME).read_text())
        return found


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(Project(tmp_path_factory.mktemp("evaluate"), bundle={"targets": ["x86-64"]}))


def expected(first: int = SAMPLES) -> float:
    x, labels = (array[:first] for array in data())
    weights = {t.name: numpy_helper.to_array(t) for t in classifier(1).graph.initializer}
    return float(((x @ weights["w"] + weights["b"]).argmax(1) == labels).mean())


def rewrite(models: Models, **changes: Any) -> None:
    """Give the reference other scores than it has."""
    folder = models.project.layout.scored("m")
    (said,) = json.loads((folder / NAME).read_text())
    write_scores(folder, [Scored(**said | {"numbers": tuple(said["numbers"])} | changes)])
    record.write_record(folder, json.loads((folder / record.NAME).read_text())["key"], [NAME])


def evidence(models: Models) -> dict[str, dict[str, Any]]:
    path = models.project.layout.verified("m", "desktop") / "evidence.json"
    return {e["variant"]: e for e in json.loads(path.read_text())}


def test_variants_are_scored_against_the_reference_and_one_that_is_worse_stops_the_build(models: Models) -> None:
    models.write()
    result = models.project.doit("verify")
    assert result.returncode == 0, result.stdout + result.stderr
    (found,) = evidence(models)["x86-64"]["accuracy"]
    assert (found["samples"], found["limit"], found["evaluator"]) == (SAMPLES, 0.01, "onnxruntime")
    assert found["score"] == found["reference"] == pytest.approx(expected())
    assert len(found["sha256"]) == 64
    line = f"top-1 {expected():.1%} (ONNX Runtime {expected():.1%})"
    assert line in result.stdout
    result = models.project.doit("publish")
    assert result.returncode == 0, result.stdout + result.stderr
    inspected = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "inspect", "m", "--store", str(models.project.layout.store)],
        env=models.project.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert line in inspected.stdout

    rewrite(models, score=expected() + 0.011)
    result = models.project.doit("verify")
    assert result.returncode != 0
    assert f"top-1 of main is {expected():.1%} on 300 samples, that of ONNX Runtime {expected() + 0.011:.1%}" in result.stdout
    assert "it may be 1.0% worse" in result.stdout
    assert "`limit` in `evaluate` says how much worse a variant may be" in result.stdout


@pytest.mark.thorough
def test_software_gpus_are_scored_on_a_part_and_dropped_where_that_is_worse(tmp_path: Path) -> None:
    models = Models(Project(tmp_path, bundle={"targets": ["vulkan-any", "x86-64"], "on_failure": "drop"}))
    models.write()
    result = models.project.doit("verify")
    assert result.returncode == 0, result.stdout + result.stderr
    (found,) = evidence(models)["vulkan-any"]["accuracy"]
    assert (found["samples"], found["limit"]) == (16, 0.01 + 1 / 16)
    assert found["score"] == found["reference"] == pytest.approx(expected(16))

    rewrite(models, part=expected(16) + 0.1)
    result = models.project.doit("verify")
    assert result.returncode == 0, result.stdout + result.stderr
    assert list(evidence(models)) == ["x86-64"]
    (dropped,) = json.loads((models.project.layout.verified("m", "desktop") / "compiled.json").read_text())["dropped"]
    assert dropped["name"] == "vulkan-any"
    assert f"top-1 of main is {expected(16):.1%} on 16 samples, that of ONNX Runtime" in dropped["reason"]


def test_scoring_is_done_once_whatever_the_limit(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    models.write(samples=40)
    (before,) = models.score()
    assert (before["numbers"], before["score"]) == (list(range(40)), pytest.approx(expected(40)))
    monkeypatch.setattr(score, "_asked", None)
    models.write(samples=40, limit=0.5)
    assert models.score() == [before]


def test_a_function_of_the_projects_own_scores_with_all_outputs_by_their_names(models: Models) -> None:
    program = "def recall(outputs, labels):\n    hits = [o['y'].argmax() for o, l in zip(outputs, labels) if l == 0]\n"
    (models.folder / "metrics.py").write_text(program + "    return hits.count(0) / len(hits)\n")
    models.write(metric=None, function="metrics.py:recall")
    (found,) = models.score()
    x, labels = data()
    weights = {t.name: numpy_helper.to_array(t) for t in classifier(1).graph.initializer}
    right = (x @ weights["w"] + weights["b"]).argmax(1) == labels
    assert found["score"] == pytest.approx(right[labels == 0].mean())


def test_each_bucket_scores_the_samples_that_fit_it(models: Models, tmp_path: Path) -> None:
    """Sums over an open axis, so that samples of any size have an answer."""
    nodes = [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)]
    values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "T", 3]), helper.make_tensor_value_info("y", 1, [1, 3])]
    axes = [numpy_helper.from_array(np.array([1], np.int64), "axes")]
    graph = helper.make_graph(nodes, "sums", values[:1], values[1:], axes)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), models.folder / "sums.onnx")
    classes = [0, 1, 2, 2, 1, 0]
    x = [np.eye(3, dtype=np.float32)[[c] * (4 if n % 3 else 8)][None] for n, c in enumerate(classes)]
    with (models.folder / "sizes.npz").open("wb") as file:
        np.savez(file, **{str(n): array for n, array in enumerate(x)})
    np.save(models.folder / "classes.npy", [0, 1, 2, 2, 1, 1])
    files = {"inputs": {"x": models.file("sizes.npz")}, "labels": models.file("classes.npy")}

    def write(*sizes: int) -> None:
        path = models.write(shape=[1, {"name": "T", "buckets": list(sizes)}, 3], **files)
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"source": models.file("sums.onnx")}))

    write(4, 8)
    small, large = models.score()
    assert (small["function"], small["numbers"], small["score"]) == ("main_4", [1, 2, 4, 5], 0.75)
    assert (large["function"], large["numbers"], large["score"]) == ("main_8", [0, 3], 1.0)
    write(2, 8)
    with pytest.raises(
        PipelineError, match=r"sample 1 is none that main takes: 'x' takes float32\[1, T: 8, 3\], not float32\[1, 4, 3\]"
    ):
        models.score()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"metric": "top1"}, "evaluate.metric: 'top1' is unknown: did you mean 'top-1'?"),
        ({"metric": None}, "evaluate.metric: is missing"),
        ({"limit": None}, "evaluate.limit: is missing: give a number"),
        ({"limit": -1}, "evaluate.limit: must not be negative"),
        ({"samples": 0}, "evaluate.samples: must be 1 or more"),
        ({"function": "metrics.py:f"}, "evaluate.metric: stands beside `function`: remove one"),
        ({"metric": None, "function": "metrics"}, "evaluate.function: must be like metrics.py:name, not 'metrics'"),
        ({"metric": None, "function": "missing.py:f"}, "evaluate.function: there is no file"),
        ({"better": "lower"}, "evaluate.better: is not a key here"),
        ({"blank": 0}, "evaluate.blank: is for word-error-rate: remove it"),
        ({"labels": None}, "evaluate.labels: is missing: give a mapping"),
        ({"inputs": {}}, "evaluate.inputs.x: is missing: give a mapping"),
        ({"inputs": {"z": {"kind": "path", "path": "m.onnx"}}}, "evaluate.inputs.z: is not a key here: known: x"),
        ({"labels": {"kind": "path", "path": "m.onnx"}}, "evaluate.labels.sha256: is missing"),
    ],
)
def test_a_mistake_in_the_spec_is_named(models: Models, changes: dict[str, Any], complaint: str) -> None:
    models.write(**changes)
    with pytest.raises(ManyProblemsError) as caught:
        load(models.project.targets)
    assert complaint in str(caught.value)


def test_each_entry_point_may_have_a_data_set(models: Models) -> None:
    path = models.write(limit=-1)
    spec = yaml.safe_load(path.read_text())
    entry = {key: spec.pop(key) for key in ("source", "inputs", "evaluate")}
    plain = copy.deepcopy({key: value for key, value in entry.items() if key != "evaluate"})  # or YAML has aliases
    path.write_text(yaml.safe_dump({**spec, "entries": {"a": entry, "b": plain}}))
    with pytest.raises(ManyProblemsError, match=r"entries\.a\.evaluate\.limit: must not be negative"):
        load(models.project.targets)
    entry["evaluate"] |= {"limit": 0.5, "ignore": -100}
    path.write_text(yaml.safe_dump({**spec, "entries": {"a": entry, "b": plain}}))
    a, b = models.origin().model.entries
    assert (a.evaluate and (a.evaluate.limit, a.evaluate.ignore), b.evaluate) == ((0.5, -100), None)
    assert {file.where for file in models.origin().data} == {"entries.a.evaluate.inputs.x", "entries.a.evaluate.labels"}


def test_a_reference_that_nobody_computes_has_no_score(models: Models) -> None:
    path = models.write()
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"reference": "baseline"}))
    with pytest.raises(
        ManyProblemsError, match="evaluate: needs a reference that can be scored too: `reference` must be one of onnx"
    ):
        load(models.project.targets)


def test_what_is_wrong_with_data_and_metrics_is_told_before_anything_is_compiled(models: Models) -> None:
    def complaint(**changes: Any) -> str:
        models.write(**changes)
        with pytest.raises(PipelineError) as caught:
            models.score()
        assert not (models.project.layout.scored("m") / NAME).exists()
        return str(caught.value)

    np.save(models.folder / "few.npy", np.zeros(7, np.int64))
    (models.folder / "wrong.py").write_text("def score(outputs, labels):\n    return outputs[0]['z']\n")
    spec = models.folder / "m.yaml"
    said = complaint(labels=models.file("few.npy"))
    assert said.startswith(f"{spec}: evaluate.labels: the samples of 'x' are 300, the labels 7: there must be a label")
    said = complaint(metric=None, function="wrong.py:score")
    assert said.startswith(f"{models.folder / 'wrong.py'}:2: score raised KeyError: 'z' at `return outputs[0]['z']`")
    said = complaint(metric=None, function="wrong.py:scores")
    assert "wrong.py: has no function 'scores': did you mean 'score'?" in said
    assert "output: the model has no output 'z': known: y" in complaint(output="z")
    assert "top-1 of ONNX Runtime is nan" in complaint(ignore=0, samples=1) if data()[1][0] == 0 else True
    said = complaint(labels=models.file("few.npy") | {"sha256": "0" * 64})
    assert "the SHA-256 is" in said
    assert "(evaluate.labels.sha256)" in said
