"""The whole way by doit's command line, in a project of its own: what it prints, what it makes, what it refuses."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from pipeline.consume import load
from pipeline.plan import Target, steps
from pipeline.spec.load import load as load_spec
from pipeline.stages import record
from tests.project import ROOT, Project, evidence, leftovers, manifest, store_is_whole


def test_every_variant_is_verified_or_says_why_not(built: Project) -> None:
    found = evidence(built)
    assert found.keys() == {v.name for v in manifest(built).artifacts[0].variants}
    assert found["x86-64"].kind == "device"
    assert (found["x86-64"].latency_s or 0) > 0
    assert found["x86-64"].rounds > 2
    assert all(proof.matrix_kernels is not None for proof in found.values())
    assert found["vulkan-any"].kind == "device"
    assert "llvmpipe" in found["vulkan-any"].driver or found["vulkan-any"].device
    assert found["amd-rdna3"].kind in ("twin", "device")
    for name in ("vulkan-any", "amd-rdna3", "nvidia-ampere"):
        assert found[name].subgroup_sizes == (4, 8, 16) or "llvmpipe" not in found[name].driver, name
    measured = [f for proof in found.values() for f in proof.functions]
    assert all(0 <= f.of_tolerance <= 1 and f.draws > 1 for f in measured)
    assert all(e.functions or e.reason for e in found.values())


def test_the_store_holds_the_release_and_the_channel(built: Project) -> None:
    made = manifest(built)
    assert (built.layout.store / f"releases/small/{made.version}/manifest.json").exists()
    channel = json.loads((built.layout.store / "channels/small/latest.json").read_text())
    assert channel["version"] == made.version
    assert store_is_whole(built)


def test_nothing_to_do_does_nothing(built: Project) -> None:
    result = built.doit()
    assert (result.returncode, result.stdout.split(" in ")[0]) == (0, "7 up to date")


def test_deleting_the_store_publishes_again(again: Project) -> None:
    shutil.rmtree(again.layout.store)
    assert "✓ publish:small" in again.doit().stdout
    assert store_is_whole(again)


def test_a_changed_flag_compiles_again(again: Project) -> None:
    bundle = again.targets / "bundles/desktop.yaml"
    bundle.write_text(bundle.read_text() + "flags: [--iree-opt-level=O1]\n")
    assert "✓ compile:small:desktop" in again.doit("compile").stdout


def test_a_version_can_be_given_and_never_changes(again: Project) -> None:
    assert "published small@1.2.0 to" in again.doit("publish", "version=1.2.0").stdout
    assert (again.layout.store / "releases/small/1.2.0/manifest.json").exists()
    assert "unchanged: small@1.2.0 has it, in out/store, channel latest" in again.doit().stdout
    spec = again.targets / "models/small.yaml"
    spec.write_text(spec.read_text().replace("the test model", "another description of"))
    result = again.doit("publish", "version=1.2.0")
    assert result.returncode in (1, 2)
    assert "small@1.2.0 is published already, with other content" in result.stdout
    assert "Traceback" not in result.stdout


def test_a_selection_that_selects_nothing_fails(built: Project) -> None:
    assert built.doit("nosuch:*").returncode != 0
    for word, hint in (("publihs", "'publish'"), ("small", "'publish:small'"), ("verify:smal:desktop", "'verify:small:desktop'")):
        for words in ((word,), ("explain", word)):
            done = built.doit(*words)
            assert done.returncode == 3
            assert f"there is no step, file or command {word!r}: did you mean {hint}?" in done.stderr
    assert "`doit list --all` shows all steps" in built.doit("qqq").stderr


def test_where_no_project_is_that_is_said(built: Project, tmp_path: Path) -> None:
    below = built.root / "below"
    below.mkdir(exist_ok=True)
    for folder in (below, tmp_path):
        shutil.copy(ROOT / "pyproject.toml", folder)  # the plugins of doit, whatever package is installed
    for folder, hint in ((tmp_path, "`vmfb init models` begins one"), (below, f"the project is in {built.root}")):
        for words in ((), ("list",), ("explain", "publish:small")):
            done = subprocess.run(built.command(*words), cwd=folder, env=built.environment(), capture_output=True, text=True)
            assert done.returncode == 3
            assert f"{folder}: there is no dodo.py, so no project is here" in done.stderr
            assert hint in done.stderr


@pytest.mark.parametrize("words", [("publish:small",), ("list", "--all"), ("explain", "publish:small"), ("check",)])
def test_who_reads_no_more_is_no_error(again: Project, words: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    (again.layout.published("small")).unlink()  # there is something to do
    done = subprocess.run(
        again.command(*words), cwd=again.root, env=again.environment(), stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
    assert again.layout.published("small").exists() == (words[0] == "publish:small")  # the run went on


def test_the_list_of_tasks_reads_well(built: Project) -> None:
    text = built.doit("list", "--all").stdout
    assert "verify:small:desktop" in text
    assert "build:small:desktop" in text


def test_specs_with_mistakes_report_them_all_and_exit(again: Project) -> None:
    spec = again.targets / "models/small.yaml"
    spec.write_text(
        spec.read_text().replace("licence:", "license:").replace("[desktop]", "[desk]").replace("- desktop", "- desktpo")
    )
    result = again.doit()
    assert result.returncode == 3
    assert "did you mean 'licence'?" in result.stderr
    assert "there is no bundle 'desktpo': did you mean 'desktop'?" in result.stderr
    assert "Traceback" not in result.stderr


BROKEN = "func.func @small(%a: tensor<2xf32>) -> tensor<2xf32> { return %b : tensor<2xf32> }"
DYNAMIC = """func.func @small(%a: tensor<?x8xf32>, %b: tensor<8x?xf32>) -> tensor<?x?xf32> {
  %c = "nosuch.operation"(%a, %b) : (tensor<?x8xf32>, tensor<8x?xf32>) -> tensor<?x?xf32>
  return %c : tensor<?x?xf32> }"""


@pytest.mark.parametrize(
    ("text", "inputs", "complaint"),
    [
        (BROKEN, [{"name": "a", "shape": [2], "dtype": "float32"}], "not valid MLIR"),
        (BROKEN.replace("%b", "%a").replace("@small", "private @small"), [{"name": "a", "shape": [2], "dtype": "float32"}], ""),
        (BROKEN.replace("%b", "%a"), [{"name": "a", "shape": [3], "dtype": "float32"}], "input 'a' is tensor<2xf32> in the file"),
        (BROKEN.replace("%b", "%a"), [{"name": "a", "shape": [2], "dtype": "float32"}], "nothing in it computes"),
        ("", [{"name": "a", "shape": [2], "dtype": "float32"}], "there are 0 public functions"),
    ],
)
def test_models_that_cannot_be_built_say_why(tmp_path: Path, text: str, inputs: list[dict[str, object]], complaint: str) -> None:
    project = Project(tmp_path, "small")
    path = project.targets / "models/small.mlir"
    path.write_text(text)
    source = {"kind": "path", "path": "small.mlir", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    spec = project.targets / "models/small.yaml"
    text_before = path.read_bytes()
    project.add("small", source=source, inputs=inputs)
    path.write_bytes(text_before)
    assert spec.exists()
    result = project.doit()
    assert result.returncode in (1, 2)
    assert complaint in result.stdout
    assert "Traceback" not in result.stdout
    assert not list(project.layout.store.glob("releases/*"))
    assert not leftovers(project)


def test_a_digest_that_does_not_match_stops_before_anything_is_built(tmp_path: Path) -> None:
    project = Project(tmp_path, "small")
    source = project.targets / "models/small.mlir"
    source.write_text(source.read_text() + "// changed\n")
    result = project.doit()
    assert result.returncode in (1, 2)
    assert "✗ fetch:small" in result.stdout
    assert "was expected" in result.stdout
    assert "models/small.yaml (source.sha256)" in result.stdout
    assert not project.layout.source("small", 0, "mlir").exists()


def test_a_variant_that_fails_verification_fails_the_release_or_is_dropped_loudly(tmp_path: Path) -> None:
    project = Project(tmp_path, "int8", bundle={"targets": ["plain", "x86-64"], "on_failure": "fail"})
    # The profile without dot products takes one operand of an 8-bit product for unsigned.
    plain = {"about": "miscompiles int8", "backend": "vulkan-spirv", "device": "vp_android_baseline_2022"}
    (project.targets / "executables/plain.yaml").write_text(json.dumps(plain))
    result = project.doit()
    assert result.returncode in (1, 2)
    assert "plain (on llvmpipe" in result.stdout
    assert "values are off, the worst is" in result.stdout
    assert not project.layout.store.exists()
    bundle = project.targets / "bundles/desktop.yaml"
    bundle.write_text(bundle.read_text().replace("on_failure: fail", "on_failure: drop"))
    result = project.doit()
    assert result.returncode == 0, result.stdout
    assert "DROPPED" in result.stdout
    made = json.loads((project.layout.package("int8") / "manifest.json").read_text())["artifacts"][0]
    assert [v["name"] for v in made["variants"]] == ["x86-64"]
    assert "failed verification (on llvmpipe" in made["dropped"][0]["reason"]


def test_a_target_that_does_not_compile_is_named_or_dropped_loudly(tmp_path: Path) -> None:
    project = Project(tmp_path, "half", bundle={"targets": ["plain", "x86-64"], "on_failure": "fail"})
    plain = {"about": "cannot hold f16", "backend": "vulkan-spirv", "device": "vp_android_baseline_2022"}
    (project.targets / "executables/plain.yaml").write_text(json.dumps(plain))
    result = project.doit()
    assert result.returncode in (1, 2)
    assert "the compiler refuses it" in result.stdout
    assert "plain: half_dispatch_0" in result.stdout  # the kernel by name
    assert "Traceback" not in result.stdout
    bundle = project.targets / "bundles/desktop.yaml"
    bundle.write_text(bundle.read_text().replace("on_failure: fail", "on_failure: drop"))
    result = project.doit()
    assert result.returncode == 0, result.stdout
    assert "DROPPED" in result.stdout


def test_without_a_vulkan_device_the_job_succeeds_and_says_what_is_untested(built: Project, again: Project) -> None:
    """The release is the same, whoever looked at it: beside it there are two documents of evidence now."""
    result = again.doit(VK_DRIVER_FILES="/nonexistent.json", VK_ICD_FILENAMES="/nonexistent.json")
    assert result.returncode == 0, result.stdout
    found = evidence(again)
    assert found["x86-64"].kind == "device"
    assert found["amd-rdna3"].kind == "untested"
    assert "apt-get install mesa-vulkan-drivers" in found["vulkan-any"].reason
    assert manifest(again) == manifest(built)
    documents = again.layout.store / "evidence" / "small" / manifest(again).version
    assert len(list(documents.glob(f"{'?' * 64}.json"))) == 2
    listed = json.loads((documents / "index.json").read_text())["documents"]
    assert listed == sorted(path.stem for path in documents.glob(f"{'?' * 64}.json"))


def test_a_changed_reference_verifies_again(again: Project) -> None:
    np.save(again.targets / "models/y.npy", np.arange(64, dtype=np.float32))
    spec = again.targets / "models/small.yaml"
    spec.write_text(spec.read_text() + "reference: [y.npy]\n")
    result = again.doit()
    assert result.returncode in (1, 2)
    assert "all variants give the same numbers, and not the reference's" in result.stdout


def test_a_misspelt_variable_is_refused(built: Project) -> None:
    result = built.doit("publish", "verison=1.2.0")
    assert result.returncode == 3
    assert "did you mean 'version'?" in result.stderr
    assert "cannot be a version" in built.doit("publish", "version=../up").stderr


@pytest.mark.thorough
def test_the_output_is_the_same_whoever_builds_it(built: Project, tmp_path: Path) -> None:
    other = Project(tmp_path / "a-longer-name" / "deeper", "small")
    assert other.doit("-n", "2").returncode == 0
    assert manifest(other) == manifest(built)  # version, files and test data


@pytest.mark.slow
@pytest.mark.parametrize(
    "models", [("attacut",), pytest.param(("wake-alexa", "attacut", "attention-f16"), marks=pytest.mark.thorough)]
)
def test_the_projects_own_models_become_verified_releases(tmp_path: Path, models: tuple[str, ...]) -> None:
    """The README's first command, on a copy of the repository, and Arm code for the same models on CPUs that are played."""
    for name in ("dodo.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "targets", tmp_path / "targets")
    for name in ("desktop", "portable") if len(models) > 1 else ():
        bundle = tmp_path / f"targets/bundles/{name}.yaml"
        bundle.write_text(bundle.read_text().replace("x86-64]", "x86-64, aarch64]"))
    project = Project.at(tmp_path)
    result = project.doit(*(f"publish:{model}" for model in models))
    assert result.returncode == 0, result.stdout
    for model in models:
        kinds = {name: proof.kind for name, proof in evidence(project, model).items()}
        assert kinds["vulkan-any"] == "device", model
        assert kinds["x86-64"] == "device", model
        assert "untested" not in (kinds.get("amd-rdna3"), kinds.get("nvidia-ampere")), model
        assert kinds.get("aarch64") == ("emulator" if len(models) > 1 else None), model


def test_what_a_device_can_run_and_does_not_choose_is_run_on_it_all_the_same(tmp_path: Path) -> None:
    project = Project(tmp_path, "small", bundle={"targets": ["early", "vulkan-any", "x86-64"]})
    early = (project.targets / "executables" / "vulkan-any.yaml").read_text()
    gates = "gates: ['vulkan.device::max_compute_workgroup_invocations >= 129']\n"
    (project.targets / "executables" / "early.yaml").write_text(early + gates)
    result = project.doit()
    assert result.returncode == 0, result.stdout
    assert {name: proof.kind for name, proof in evidence(project).items()} == {
        "early": "device",
        "vulkan-any": "device",
        "x86-64": "device",
    }


def test_a_file_without_a_cpu_baseline_is_released_and_runs(tmp_path: Path) -> None:
    project = Project(tmp_path, "small", bundle={"targets": ["vulkan-any", "x86-64-v3"]})
    result = project.doit()
    assert result.returncode == 0, result.stdout
    model = load("small", store=str(project.layout.store), device="local", cache=tmp_path / "cache")  # fetches its part only
    a, b = np.ones((64, 128), np.float32), np.ones((128, 64), np.float32)
    assert model.variant == "x86-64-v3"
    np.testing.assert_allclose(model(a, b)[0], (a @ b).sum(axis=1))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("constant: [outptu0]\n", "constant: the model has no output 'outptu0': did you mean 'output0'?"),
        ("reference: [y.npy, y.npy]\n", "stands twice"),
        ("reference: [y.npy, z.npy]\n", "reference: 2 files are given, the model has 1 outputs: output0"),
    ],
)
def test_what_a_spec_says_of_outputs_must_fit_them(again: Project, change: str, complaint: str) -> None:
    for name in ("y", "z"):
        np.save(again.targets / f"models/{name}.npy", np.arange(64, dtype=np.float32))
    spec = again.targets / "models/small.yaml"
    spec.write_text(spec.read_text() + change)
    result = again.doit()
    assert result.returncode
    assert complaint in result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr


@pytest.mark.parametrize("stage", ["import", "reference", "compile", "verify", "package"])
def test_a_stage_that_works_in_another_way_makes_its_outputs_again(
    again: Project, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def options() -> list[dict[str, object]]:
        made = steps(load_spec(again.targets), again.layout, Target("store"))
        return [dict(step.options) for step in made if step.name.startswith(f"{stage}:")]

    before = options()
    monkeypatch.setitem(record.REVISIONS, stage, record.REVISIONS[stage] + 1)
    assert options() != before
