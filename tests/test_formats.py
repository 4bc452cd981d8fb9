"""Formats beside ONNX and MLIR: what JAX and PyTorch export, and TFLite. Each test skips where its package is not installed."""

from __future__ import annotations

import hashlib
import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.errors import PipelineError
from pipeline.importers import evaluation, score
from pipeline.importers.child import Options
from pipeline.iree import mlir
from pipeline.spec.types import DataFile, Dimension, Evaluation, Input, PathSource
from tests.project import Project
from tests.project import evidence as seen

pytestmark = pytest.mark.slow


def given(name: str, shape: Sequence[int | Dimension], dtype: str = "float32") -> Input:
    return Input(name, tuple(shape), dtype, 0, 0.0, 1.0, None)


def imported(format: str, source: Path, inputs: Sequence[Input], folder: Path) -> dict[str, Any]:
    """The signature of the model at `source` after its import by the format's importer."""
    module = __import__(f"pipeline.importers.{format}", fromlist=["convert"])
    folder.mkdir(exist_ok=True)
    module.convert(source, folder, inputs, Options())
    found: dict[str, Any] = json.loads((folder / "signature.json").read_text())
    return found


def built(
    root: Path,
    format: str,
    source: bytes,
    inputs: list[dict[str, object]],
    targets: Sequence[str] = ("vulkan-any", "x86-64"),
    **more: object,
) -> Project:
    """A project of one model, built and verified."""
    project = Project(root, bundle={"targets": list(targets)})
    models = project.targets / "models"
    (models / "it.bin").write_bytes(source)
    spec = {
        "about": "for a test",
        "licence": "Apache-2.0",
        "format": format,
        "source": {"kind": "path", "path": "it.bin", "sha256": hashlib.sha256(source).hexdigest()},
        "inputs": inputs,
        "bundles": ["desktop"],
        **more,
    }
    (models / "it.yaml").write_text(yaml.safe_dump(spec))
    result = project.doit()
    assert result.returncode == 0, result.stdout + result.stderr
    assert "published it@" in result.stdout
    return project


def evidence(project: Project) -> tuple[str, dict[str, str]]:
    """Who computed the reference, and how each variant was verified."""
    text = (project.layout.package("it") / "manifest.json").read_text()
    return json.dumps(json.loads(text)), {name: proof.kind for name, proof in seen(project, "it").items()}


def scored(
    evaluator: str,
    source: Path,
    inputs: Sequence[Input],
    samples: Sequence[np.ndarray[Any, Any]],
    outputs: Sequence[str],
    folder: Path,
) -> float:
    """How alike the evaluator's first output is to itself: on samples as inputs are, with what it gives as labels."""
    with importlib.import_module(f"pipeline.importers.{evaluator}").prepared(source, folder, inputs) as run:
        labels = np.stack([run([array[n] for array in samples])[0] for n in range(len(samples[0]))])
    files = {}
    for name, array in (*zip((spec.name for spec in inputs), samples, strict=True), ("labels", labels)):
        np.save(folder / f"{len(files)}.npy", array)
        files[DataFile(name, PathSource(Path(), ""), name)] = folder / f"{len(files)}.npy"
    *given_, last = files
    evaluation = Evaluation(tuple(given_), last, "cosine", 0.0, output=outputs[0])
    found = score.run(evaluator, source, folder, inputs, json.loads(score.job_as_text(evaluation, files, outputs, "m.yaml")))
    assert found["numbers"] == list(range(len(labels)))
    return float(found["score"])


# --- StableHLO ---


@pytest.fixture(scope="module")
def jax_exports() -> Any:
    pytest.importorskip("jax")
    from jax import export

    return export


def _jax_model(x: Any, ids: Any) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    weights = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)
    hidden = jnp.tanh(x @ weights)
    return {
        "probabilities": jax.nn.softmax(hidden, axis=-1),
        "narrow": hidden.astype(jnp.bfloat16),
        "counts": (ids * 3).astype(jnp.uint8),
        "positive": hidden > 0,
    }


@pytest.fixture(scope="module")
def fixed_program(jax_exports: Any) -> Any:
    import jax

    shapes = jax.ShapeDtypeStruct((4, 16), np.float32), jax.ShapeDtypeStruct((5,), np.uint32)
    return jax_exports.export(jax.jit(_jax_model), platforms=["cpu"])(*shapes)


@pytest.fixture(scope="module")
def open_program(jax_exports: Any) -> Any:
    import jax

    (batch,) = jax_exports.symbolic_shape("b")
    shapes = jax.ShapeDtypeStruct((batch, 16), np.float32), jax.ShapeDtypeStruct((5,), np.uint32)
    return jax_exports.export(jax.jit(_jax_model), platforms=["cpu", "cuda"])(*shapes)


FILES: dict[str, Callable[[Any], bytes]] = {
    "text": lambda program: str(program.mlir_module()).encode(),
    "portable": lambda program: bytes(program.mlir_module_serialized),
    "serialized": lambda program: bytes(program.serialize()),
}
JAX_INPUTS = [given("x", [4, 16]), given("ids", [5], "uint32")]


@pytest.mark.parametrize("kind", FILES)
def test_every_form_of_stablehlo_gives_the_same_signature(fixed_program: Any, tmp_path: Path, kind: str) -> None:
    source = tmp_path / "model.stablehlo"
    source.write_bytes(FILES[kind](fixed_program))
    found = imported("stablehlo", source, JAX_INPUTS, tmp_path / "out")
    outputs = {t["name"]: (t["dtype"], t["shape"]) for t in found["outputs"]}
    assert outputs == {
        "counts": ("uint8", [5]),
        "narrow": ("float32", [4, 8]),
        "positive": ("bool", [4, 8]),
        "probabilities": ("float32", [4, 8]),
    }


@pytest.mark.parametrize("kind", ["text", "serialized"])
def test_stablehlo_of_open_dimensions_is_fixed_by_the_spec(jax_exports: Any, tmp_path: Path, kind: str) -> None:
    import jax

    (batch,) = jax_exports.symbolic_shape("b")
    program = jax_exports.export(jax.jit(_jax_model))(
        jax.ShapeDtypeStruct((batch, 16), np.float32), jax.ShapeDtypeStruct((5,), np.uint32)
    )
    source = tmp_path / "model.stablehlo"
    source.write_bytes(FILES[kind](program))
    found = imported("stablehlo", source, JAX_INPUTS, tmp_path / "out")
    assert [t["shape"] for t in found["outputs"]] == [[5], [4, 8], [4, 8], [4, 8]]


def test_what_jax_serialized_is_verified_against_jax(fixed_program: Any, tmp_path: Path) -> None:
    inputs = [
        {"name": "x", "shape": [4, 16], "dtype": "float32", "low": -1, "high": 1},
        {"name": "ids", "shape": [5], "dtype": "uint32", "low": 0, "high": 80},
    ]
    text, kinds = evidence(built(tmp_path, "stablehlo", FILES["serialized"](fixed_program), inputs))
    assert '"jax"' in text
    assert kinds["x86-64"] == "device"


def test_dimensions_of_a_program_stay_open(open_program: Any, tmp_path: Path) -> None:
    inputs = [
        {"name": "x", "shape": [{"name": "b", "min": 1, "max": 9}, 16], "dtype": "float32", "low": -1, "high": 1},
        {"name": "ids", "shape": [5], "dtype": "uint32", "low": 0, "high": 80},
    ]
    _, kinds = evidence(built(tmp_path, "stablehlo", FILES["serialized"](open_program), inputs))
    assert kinds["x86-64"] == "device"


def test_jax_is_scored_on_a_data_set(fixed_program: Any, tmp_path: Path) -> None:
    (tmp_path / "it.jax").write_bytes(fixed_program.serialize())
    samples = [np.random.default_rng(0).random((3, 4, 16), np.float32), np.arange(15, dtype=np.uint32).reshape(3, 5)]
    outputs = ["counts", "narrow", "positive", "probabilities"]
    inputs = [given("x", [4, 16]), given("ids", [5], "uint32")]
    assert scored("jax", tmp_path / "it.jax", inputs, samples, outputs, tmp_path) == pytest.approx(1)


def test_stablehlo_that_is_none_is_refused(jax_exports: Any, fixed_program: Any, tmp_path: Path) -> None:
    source = tmp_path / "model.stablehlo"
    whole = FILES["serialized"](fixed_program)
    for broken in (b"\0" * 2000, whole[:500], FILES["portable"](fixed_program)[:300], b"module {"):
        source.write_bytes(broken)
        with pytest.raises(PipelineError, match=r"neither MLIR text|not StableHLO|not valid MLIR"):
            imported("stablehlo", source, JAX_INPUTS, tmp_path / "out")
    source.write_bytes(whole)
    with pytest.raises(PipelineError, match="takes 2 inputs, the spec gives 1"):
        imported("stablehlo", source, JAX_INPUTS[:1], tmp_path / "out")
    with pytest.raises(PipelineError, match="input 'x' is"):
        imported("stablehlo", source, [given("x", [5, 16]), JAX_INPUTS[1]], tmp_path / "out")


# --- PyTorch ---


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch")


def saved(torch: Any, program: Any, path: Path) -> Path:
    torch.export.save(program, path)
    return path


def _network(torch: Any) -> Any:
    nn = torch.nn

    class Network(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.norm, self.linear = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8, 5)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.register_buffer("offset", torch.arange(5.0))

        def forward(self, image: Any, more: Any) -> Any:
            hidden = torch.relu(self.norm(self.convolution(image)))
            tokens = hidden.flatten(2).transpose(1, 2)
            tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
            scores = self.linear(tokens.mean(1)) + self.offset
            return {
                "scores": scores,
                "scaled": (torch.softmax(scores, -1) * more["scale"], scores > 3),
                "best": scores.argmax(-1),
            }

    torch.manual_seed(0)
    return Network().eval()


def _exported(torch: Any, batch: Any = None) -> Any:
    example = (torch.randn(2, 3, 8, 8), {"scale": torch.tensor(2.0)})
    shapes = {"image": {0: batch}, "more": {"scale": None}} if batch is not None else None
    return torch.export.export(_network(torch), example, dynamic_shapes=shapes)


def test_a_program_of_pytorch_is_verified_against_it(torch: Any, tmp_path: Path) -> None:
    source = saved(torch, _exported(torch), tmp_path / "it.pt2").read_bytes()
    inputs = [
        {"name": "image", "shape": [2, 3, 8, 8], "dtype": "float32", "low": -1, "high": 1},
        {"name": "more_scale", "shape": [], "dtype": "float32", "low": 1, "high": 2},
    ]
    # A software GPU takes minutes to make its code of the convolution.
    project = built(tmp_path, "torch", source, inputs, ["x86-64"], constant=["scaled.1", "best"])
    text, kinds = evidence(project)
    assert '"torch"' in text
    assert kinds["x86-64"] == "device"


def test_pytorch_is_scored_on_a_data_set(torch: Any, tmp_path: Path) -> None:
    source = saved(torch, _exported(torch), tmp_path / "it.pt2")
    samples = [np.random.default_rng(0).random((3, 2, 3, 8, 8), np.float32), np.ones(3, np.float32)]
    inputs, outputs = [given("image", [2, 3, 8, 8]), given("more_scale", [])], ["scores", "scaled.0", "scaled.1", "best"]
    assert scored("pytorch", source, inputs, samples, outputs, tmp_path) == pytest.approx(1)


def test_dimensions_of_pytorch_stay_open_or_are_fixed(torch: Any, tmp_path: Path) -> None:
    program = _exported(torch, torch.export.Dim("batch", min=1, max=16))
    source = saved(torch, program, tmp_path / "it.pt2")
    scale = given("more_scale", [])
    fixed = imported("torch", source, [given("image", [3, 3, 8, 8]), scale], tmp_path / "fixed")
    assert [t["name"] for t in fixed["outputs"]] == ["scores", "scaled.0", "scaled.1", "best"]
    assert [t["shape"] for t in fixed["outputs"]] == [[3, 5], [3, 5], [3, 5], [3]]
    stays = imported("torch", source, [given("image", [Dimension("batch", 1, 16), 3, 8, 8]), scale], tmp_path / "open")
    assert [t["shape"][0] for t in stays["outputs"]] == [None] * 4
    with mlir.opened(tmp_path / "open" / "model.mlirbc") as module:
        assert "input 'image' has a size that is not in batch: 1 to 16" in str(mlir.operations(module, "cf.assert")[0])


def test_sizes_of_pytorch_that_depend_on_each_other_do_so_in_the_spec(torch: Any, tmp_path: Path) -> None:
    class Both(torch.nn.Module):  # type: ignore[misc,name-defined]
        def forward(self, x: Any, y: Any) -> Any:
            return x + y[: x.shape[0]]

    batch, other = torch.export.Dim("batch", min=1, max=16), Dimension("other", 1, 16)
    for times, theirs, said in ((1, other, "the same as `batch: 1 to 16`"), (1, 3, "is `3`"), (2, other, "a spec cannot say")):
        sizes, examples = ({0: batch}, {0: times * batch}), (torch.ones(5, 4), torch.ones(5 * times, 4))
        source = saved(torch, torch.export.export(Both(), examples, dynamic_shapes=sizes), tmp_path / "it.pt2")
        with pytest.raises(PipelineError, match=said):
            imported("torch", source, [given("x", [Dimension("batch", 1, 16), 4]), given("y", [theirs, 4])], tmp_path / "out")


def test_types_that_numpy_lacks_are_wider_at_the_boundary(torch: Any, tmp_path: Path) -> None:
    linear = torch.nn.Linear(16, 8).to(torch.bfloat16).eval()
    source = saved(torch, torch.export.export(linear, (torch.zeros(4, 16, dtype=torch.bfloat16),)), tmp_path / "it.pt2")
    found = imported("torch", source, [given("input", [4, 16])], tmp_path / "out")
    assert (found["inputs"][0]["dtype"], found["outputs"][0]["dtype"]) == ("float32", "float32")


def test_the_noise_of_a_program_of_pytorch_is_measured_in_doubles_too(torch: Any) -> None:
    from pipeline.importers import pytorch

    program = _exported(torch)
    arrays = [np.random.default_rng(0).random((2, 3, 8, 8), np.float32), np.float32(2)]
    single, double = pytorch.runner(program)(arrays), pytorch.runner(pytorch.widened(program))(arrays)
    assert [a.dtype for a in double] == ["float64", "float64", "bool", "int64"]
    np.testing.assert_allclose(single[0], double[0], rtol=1e-5)
    assert (single[0] != double[0]).any()


def test_programs_that_keep_a_state_are_refused(torch: Any, tmp_path: Path) -> None:
    program = torch.export.export(torch.nn.BatchNorm1d(4).train(), (torch.randn(3, 4),))
    source = saved(torch, program, tmp_path / "it.pt2")
    with pytest.raises(PipelineError, match="changes its own buffer"):
        imported("torch", source, [given("input", [3, 4])], tmp_path / "out")


def test_programs_of_pytorch_that_do_not_fit_are_refused(torch: Any, tmp_path: Path) -> None:
    source = saved(torch, _exported(torch), tmp_path / "it.pt2")
    scale = given("more_scale", [])
    for inputs, said in (
        ([given("imgae", [2, 3, 8, 8]), scale], "did you mean 'image'"),
        ([given("image", [2, 3, 8, 8], "float64"), scale], "is float32, not float64"),
        ([given("image", [3, 3, 8, 8]), scale], r"takes image \[2, 3, 8, 8\], not image \[3, 3, 8, 8\]"),
        ([given("image", [2, 3, 8, 8])], "does not give the input 'more_scale'"),
        ([scale, given("image", [2, 3, 8, 8])], "in the program's order"),
    ):
        with pytest.raises(PipelineError, match=said):
            imported("torch", source, inputs, tmp_path / "out")
    source.write_bytes(source.read_bytes()[:2000])
    with pytest.raises(PipelineError, match=r"is no program that torch\.export saved"):
        imported("torch", source, [scale], tmp_path / "out")


# --- TFLite ---

MAKE = """
import sys, numpy as np, tensorflow as tf
layers = tf.keras.layers
tf.keras.utils.set_random_seed(0)
model = tf.keras.Sequential([layers.Input((12, 12, 3), batch_size=1), layers.Conv2D(8, 3, padding="same", activation="relu"),
    layers.DepthwiseConv2D(3, strides=2, padding="same"), layers.GlobalAveragePooling2D(), layers.Dense(5)])
for path, is_quantized in zip(sys.argv[1:], (False, True)):
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if is_quantized:
        data = np.random.default_rng(0).random((20, 1, 12, 12, 3), np.float32)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([one] for one in data)
    open(path, "wb").write(converter.convert())
"""


@pytest.fixture(scope="module")
def tflite(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A model in floats, and the same quantized."""
    for name in ("tensorflow", "tf2onnx", "ai_edge_litert"):
        pytest.importorskip(name)
    folder = tmp_path_factory.mktemp("tflite")
    paths = [folder / "float.tflite", folder / "quantized.tflite"]
    subprocess.run([sys.executable, "-c", MAKE, *paths], check=True, capture_output=True)
    return paths


@pytest.mark.parametrize("which", [0, 1])
def test_tflite_is_verified_against_litert(tflite: list[Path], tmp_path: Path, which: int) -> None:
    inputs = [{"name": "serving_default_keras_tensor:0", "shape": [1, 12, 12, 3], "dtype": "float32", "low": 0, "high": 1}]
    text, kinds = evidence(built(tmp_path, "tflite", tflite[which].read_bytes(), inputs))
    assert '"litert"' in text
    assert kinds["x86-64"] == "device"


def test_litert_is_scored_on_a_data_set(tflite: list[Path], tmp_path: Path) -> None:
    inputs = [given("serving_default_keras_tensor:0", [1, 12, 12, 3])]
    samples = [np.random.default_rng(0).random((3, 1, 12, 12, 3), np.float32)]
    assert scored("litert", tflite[0], inputs, samples, ["output"], tmp_path) == pytest.approx(1)


def test_tflite_that_is_none_is_refused(tflite: list[Path], tmp_path: Path) -> None:
    source, whole = tmp_path / "it.tflite", tflite[0].read_bytes()
    for broken, said in ((b"hello, world", "is no TFLite file"), (whole[:700], "tf2onnx does not convert it")):
        source.write_bytes(broken)
        with pytest.raises(PipelineError, match=said):
            imported("tflite", source, [given("x", [1])], tmp_path / "out")


# --- All of them ---


@pytest.mark.parametrize(
    ("format", "package", "extra"),
    [("stablehlo", "jax", "stablehlo"), ("torch", "torch", "torch"), ("tflite", "tf2onnx", "tflite")],
)
def test_a_package_that_is_missing_is_one_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, format: str, package: str, extra: str
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    source = tmp_path / "model"
    source.write_bytes(b"\x1c\0\0\0TFL3" + b"\0" * 100)
    with pytest.raises(PipelineError) as found:
        imported(format, source, [given("x", [1])], tmp_path / "out")
    assert f"pip install 'vmfb-pipeline[{extra}]'" in found.value.hint


def test_what_fails_in_one_draw_leaves_that_out(tmp_path: Path) -> None:
    from pipeline import arrays

    for name, value in (("given", 1.0), ("large", 2.0)):
        arrays.write(tmp_path / f"{name}.inputs.npz", [np.float32(value)])

    def run(taken: Sequence[Any]) -> list[Any]:
        if taken[0] > 1:
            raise ValueError
        return [taken[0] * 2]

    found = evaluation.evaluate(tmp_path, ["given", "large"], ["y"], ["float32"], run, lambda taken: [[taken[0] * 2]])
    assert found["failed"] == {"large": "ValueError"}
    assert list(found["tolerances"]) == ["given"]
