"""`vmfb diff`: what differs between two releases, or files."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import cli
from pipeline.consume.diff import Latency
from pipeline.files import write
from pipeline.manifest import types as m
from pipeline.manifest.codec import content_version, encode
from pipeline.manifest.evidence import EvidenceDocument, FileProof, FunctionProof, VariantProof
from pipeline.manifest.rules import schema_of
from pipeline.stages.publish import publish
from pipeline.store.open import open_store
from tests import releases, talk


@pytest.fixture(autouse=True)
def _places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VMFB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIPELINE_STORE", str(tmp_path / "store"))


def _seen(manifest: m.Manifest, latency: float, error: float) -> EvidenceDocument:
    """A document of one witness, who ran the `cpu` variant."""
    artifact = manifest.artifacts[0]
    numbers = (FunctionProof("main", 3, error, error, 0.1),)
    sha256 = next(v.sha256 for v in artifact.variants if v.name == "cpu")
    one = VariantProof("cpu", sha256, "device", "", "", "a CPU", "", (), numbers, 0.1, latency, 0.0001, 9, None, None)
    return replace(releases.unseen(manifest), files=(FileProof(artifact.bundle, artifact.blob.sha256, (one,)),))


def _publish(folder: Path, name: str, latency: float, error: float, changed: bool = False) -> str:
    """A release of noise, published under a name of its own. `changed`: with other gates, variants and compiler."""
    manifest, _ = releases.make(folder / name, 1 << 16, 1 << 14)
    if changed:
        (artifact,) = manifest.artifacts
        gpu, cpu = artifact.variants
        cpu = replace(cpu, gates=("hal.cpu::avx2 == 1",), sha256="1" * 64, size=5, tuning=(m.TuningInfo(2, 3, "a" * 64),))
        new = replace(gpu, name="tpu")
        segments = tuple(replace(s, variants=tuple("tpu" if v == "gpu" else v for v in s.variants)) for s in artifact.segments)
        compiler = m.Compiler("iree-base-compiler", "4", "d")
        manifest = replace(manifest, artifacts=(replace(artifact, variants=(new, cpu), segments=segments),), compiler=compiler)
        manifest = replace(manifest, schema=schema_of(manifest.artifacts))
        manifest = replace(manifest, version=content_version(manifest))
        write(folder / name / "manifest.json", encode(manifest))
    releases.package_evidence(folder / name, _seen(manifest, latency, error))
    publish(folder / name, open_store(str(folder / "store")), version=name)
    return f"noise@{name}"


def _vmfb(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    capsys.readouterr()
    assert cli.main(list(words)) == code
    captured = capsys.readouterr()
    return captured.err if code else captured.out


def test_releases_with_the_same_code_differ_in_nothing_but_speed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = _publish(tmp_path, "a", 0.010, 1e-6), _publish(tmp_path, "b", 0.012, 1e-6)
    assert "latency" not in _vmfb(capsys, "diff", a, _publish(tmp_path, "c", 0.010, 1e-6))  # one measurement of both
    text = _vmfb(capsys, "diff", a, b)
    assert text.splitlines() == [
        f"{a} → {b}",
        "  the same code for every device, and nothing else differs",
        "  latency of cpu on a CPU: 10.000 ms ± 0.100 → 12.000 ms ± 0.100, 1.20 times: slower",
    ]


def test_what_differs_is_told_a_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = _publish(tmp_path, "a", 0.010, 1e-6), _publish(tmp_path, "b", 0.01005, 2e-6, changed=True)
    text = " ".join(_vmfb(capsys, "diff", a, b).split())
    for line in (
        "compiler iree-base-compiler 3.13.0 (c) → iree-base-compiler 4 (d)",
        "gpu variant there → nothing",
        "tpu variant nothing → there",
        "cpu gates none → hal.cpu::avx2 == 1",
        "cpu tuned none → 2 of 3 kernels (record aaaaaaaaaaaaaaaa…)",
        "cpu code 0 B → 5 B",
        "cpu max error 1.0e-06 → 2.0e-06",
        "1.00 times: within the spread",
    ):
        assert line in text
    found = json.loads(_vmfb(capsys, "diff", a, b, "--json"))
    assert (found["before"], found["after"]) == (a, b)
    assert {"what": "gates", "variant": "cpu", "before": "none", "after": "hal.cpu::avx2 == 1"} in found["changes"]
    assert found["latencies"][0]["after_s"] == 0.01005
    for command in (["inspect", b], ["explain", b, "--pretend", "skylake"]):
        assert "cpu: 2 of 3 kernels tuned" in _vmfb(capsys, *command)
    assert "tuned" not in _vmfb(capsys, "explain", a, "--pretend", "skylake")


def test_a_difference_beyond_the_spread_counts() -> None:
    assert Latency("x", "d", 1.0, 0.2, 1.1, 0.05).is_within_spread
    assert not Latency("x", "d", 1.0, 0.2, 1.3, 0.05).is_within_spread


def test_files_and_releases_are_compared_kernel_by_kernel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(talk.make(tmp_path / "talk"), tmp_path / "store")
    file = _vmfb(capsys, "fetch", "talk", "-q", "--full", "-o", str(tmp_path / "talk.vmfb")).strip()
    assert "the same code for every device" in _vmfb(capsys, "diff", file, file)
    assert "the same code for every device" in _vmfb(capsys, "diff", "talk", file)
    bundle = ["--bundle", "desktop"]
    text = _vmfb(capsys, "diff", file, "talk", *bundle)  # of `cpus`, which has no Vulkan code
    assert " ".join(text.split()).count("vulkan-any variant nothing → there") == 1
    other = Path(file).with_name("other.vmfb")
    data = bytearray(Path(file).read_bytes())
    found = json.loads(_vmfb(capsys, "inspect", file, "--json"))
    code = next(s for s in found["segments"] if s["variants"] == ["x86-64"])
    data[code["offset"] + code["length"] - 1] ^= 1
    other.write_bytes(data)
    kernels = json.loads(_vmfb(capsys, "diff", file, str(other), "--json"))["kernels"]
    (name,) = kernels["x86-64"]
    assert name in code["name"]
    assert list(kernels) == ["x86-64"]
    assert "1 kernel of x86-64 changed" in _vmfb(capsys, "diff", file, str(other))


def test_what_is_not_there_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = _publish(tmp_path, "a", 0.010, 1e-6)
    assert "noise has no version b" in _vmfb(capsys, "diff", a, "noise@b", code=1)
    assert "nowhere.vmfb" in _vmfb(capsys, "diff", a, "nowhere.vmfb", code=1)
