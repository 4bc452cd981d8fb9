"""The samples of `tests/samples` become verified releases, and do what they are samples of."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.consume import load
from pipeline.iree.file import vmfb
from pipeline.manifest.codec import decode
from pipeline.manifest.types import Manifest
from tests.project import Project, evidence
from tests.samples.made import decoder

SAMPLES = Path(__file__).parent / "samples"
TARGETS = {"targets": ["vulkan-any", "x86-64-v3", "x86-64"]}

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("samples"), bundle=TARGETS)
    shutil.copytree(SAMPLES / "made", project.targets / "models" / "made")
    for name in ("decoder", "words", "int8"):
        shutil.copy(SAMPLES / f"{name}.yaml", project.targets / "models")
    result = project.doit()
    assert result.returncode == 0, result.stdout + result.stderr
    return project


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("VMFB_CACHE", str(tmp_path / "cache"))
    yield


def manifest(project: Project, model: str) -> Manifest:
    path = project.layout.package(model) / "manifest.json"
    return decode(Manifest, path.read_bytes(), str(path))


def test_every_function_has_evidence_of_its_own(built: Project) -> None:
    for model, functions in {
        "decoder": ["prefill", "step"],
        "words": ["main_16", "main_64", "main_128"],
        "int8": ["main"],
    }.items():
        for proof in evidence(built, model).values():
            assert ([f.function for f in proof.functions], proof.kind) == (functions, "device")
            assert all(f.draws > 2 for f in proof.functions)


def test_weights_that_functions_share_are_in_the_file_once(built: Project) -> None:
    largest = {"decoder": decoder.HEADS * decoder.CHARACTERS**2 * 4, "words": 500 * 32 * 4}
    for model, size in largest.items():
        blob = manifest(built, model).artifacts[0].blob
        held = [s.length for s in vmfb.read(built.layout.package(model) / "blobs" / blob.sha256).segments]
        assert sum(held) < 2 * size + 600_000, model  # the rest is code
        assert sum(length >= size for length in held) == 1, model


def test_a_decoder_says_its_text_by_heart(built: Project) -> None:
    model = load("decoder", store=str(built.layout.store))
    said = decoder.TEXT[:9]
    logits, keys, values = model["prefill"](np.array([[*said.encode()]]))
    while len(said) < len(decoder.TEXT):
        code = np.asarray(logits).argmax(-1)
        said += chr(int(code[0]))
        logits, keys, values = model["step"](code[:, None], keys, values)
    assert said == decoder.TEXT


def test_a_bucket_is_what_the_arrays_fit(built: Project) -> None:
    model = load("words", store=str(built.layout.store))
    ids = np.arange(64 * 2, dtype=np.int64).reshape(2, 64)
    (found,) = model(ids)
    assert np.asarray(found).shape == (2, 5)
    np.testing.assert_allclose(np.asarray(found).sum(-1), 1, rtol=1e-5)
    assert model.bucket(T=65) == 128
