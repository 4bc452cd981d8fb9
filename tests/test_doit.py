"""The whole way by doit's command line, in a project of its own: what it prints, what it keeps, what it survives."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import PipelineError
from pipeline.files import locked
from pipeline.manifest.codec import decode
from pipeline.manifest.types import Manifest
from tests.project import ROOT, Project


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("built"), "small")
    result = project.doit()
    assert result.returncode == 0, result.stdout + result.stderr
    assert "published small@" in result.stdout
    return project


@pytest.fixture
def again(built: Project, tmp_path: Path) -> Project:
    """A copy of the built project, to break."""
    return Project.at(Path(shutil.copytree(built.root, tmp_path / "again")))


def manifest(project: Project) -> Manifest:
    path = project.layout.package("small") / "manifest.json"
    return decode(Manifest, path.read_bytes(), str(path))


def leftovers(project: Project) -> list[Path]:
    return list(project.root.rglob("*.part"))


def store_is_whole(project: Project) -> bool:
    """Whether every release in the store has all its blobs, of the right size."""
    for path in project.layout.store.glob("releases/*/*/manifest.json"):
        for blob in decode(Manifest, path.read_bytes(), str(path)).blobs():
            if (project.layout.store / f"blobs/sha256/{blob.sha256[:2]}/{blob.sha256}").stat().st_size != blob.size:
                return False
    return True


def test_every_variant_is_verified_or_says_why_not(built: Project) -> None:
    evidence = {v.name: v.evidence for v in manifest(built).artifacts[0].variants}
    assert evidence["x86-64"].kind == "device"
    assert evidence["vulkan-any"].kind == "device"
    assert "llvmpipe" in evidence["vulkan-any"].driver or evidence["vulkan-any"].device
    assert evidence["amd-rdna3"].kind in ("twin", "device")
    assert all(e.kind != "untested" or e.reason for e in evidence.values())


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
    assert again.doit("publish", "version=1.2.0").returncode == 0
    assert (again.layout.store / "releases/small/1.2.0/manifest.json").exists()
    spec = again.targets / "models/small.yaml"
    spec.write_text(spec.read_text().replace("the test model", "another description of"))
    result = again.doit("publish", "version=1.2.0")
    assert result.returncode in (1, 2)
    assert "small 1.2.0 is published already, with other content" in result.stdout
    assert "Traceback" not in result.stdout


def test_a_selection_that_selects_nothing_fails(built: Project) -> None:
    assert built.doit("nosuch:*").returncode != 0
    assert built.doit("nosuch").returncode != 0


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
    assert not project.layout.source("small", "mlir").exists()


def test_a_variant_that_fails_verification_fails_the_release_or_is_dropped_loudly(tmp_path: Path) -> None:
    project = Project(tmp_path, "int8", bundle={"targets": ["plain", "x86-64"], "on_failure": "fail"})
    # The profile without dot products takes one operand of an 8-bit product for unsigned.
    plain = {"about": "miscompiles int8", "backend": "vulkan-spirv", "device": "vp_android_baseline_2022"}
    (project.targets / "executables/plain.yaml").write_text(json.dumps(plain))
    result = project.doit()
    assert result.returncode in (1, 2)
    assert "plain failed verification on device llvmpipe" in result.stdout
    assert "values are off, by up to" in result.stdout
    assert not project.layout.store.exists()
    bundle = project.targets / "bundles/desktop.yaml"
    bundle.write_text(bundle.read_text().replace("on_failure: fail", "on_failure: drop"))
    result = project.doit()
    assert result.returncode == 0, result.stdout
    assert "DROPPED" in result.stdout
    made = json.loads((project.layout.package("int8") / "manifest.json").read_text())["artifacts"][0]
    assert [v["name"] for v in made["variants"]] == ["x86-64"]
    assert "failed verification on device llvmpipe" in made["dropped"][0]["reason"]


def test_a_target_that_does_not_compile_is_named_or_dropped_loudly(tmp_path: Path) -> None:
    project = Project(tmp_path, "half", bundle={"targets": ["plain", "x86-64"], "on_failure": "fail"})
    plain = {"about": "cannot hold f16", "backend": "vulkan-spirv", "device": "vp_android_baseline_2022"}
    (project.targets / "executables/plain.yaml").write_text(json.dumps(plain))
    result = project.doit()
    assert result.returncode in (1, 2)
    assert "plain does not compile: " in result.stdout
    assert "Traceback" not in result.stdout
    bundle = project.targets / "bundles/desktop.yaml"
    bundle.write_text(bundle.read_text().replace("on_failure: fail", "on_failure: drop"))
    result = project.doit()
    assert result.returncode == 0, result.stdout
    assert "DROPPED" in result.stdout


def test_without_a_vulkan_device_the_job_succeeds_and_says_what_is_untested(again: Project) -> None:
    result = again.doit(VK_DRIVER_FILES="/nonexistent.json", VK_ICD_FILENAMES="/nonexistent.json")
    assert result.returncode == 0, result.stdout
    evidence = {v.name: v.evidence for v in manifest(again).artifacts[0].variants}
    assert evidence["x86-64"].kind == "device"
    assert evidence["amd-rdna3"].kind == "untested"
    assert "apt-get install mesa-vulkan-drivers" in evidence["vulkan-any"].reason


def test_a_store_that_cannot_be_written_leaves_the_build_whole(again: Project) -> None:
    blocked = again.root / "file"
    blocked.write_text("")
    result = again.doit(PIPELINE_STORE=str(blocked / "store"))
    assert result.returncode in (1, 2)
    assert "✗ publish:small" in result.stdout
    assert "Traceback" not in result.stdout
    assert again.doit().returncode == 0


def test_no_space_left_is_one_message_and_the_next_run_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "full"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", folder], capture_output=True, check=False).returncode:
        assert not os.environ.get("CI"), "mounting a small file system needs root"
        pytest.skip("mounting a small file system needs root")
    try:
        project = Project(folder / "project", "small")
        result = project.doit()
        assert result.returncode != 0
        assert "Traceback" not in result.stdout + result.stderr
        assert not list(project.layout.store.glob("releases/*"))
        subprocess.run(["mount", "-o", "remount,size=40m", folder], check=True)
        result = project.doit()
        assert result.returncode == 0, result.stdout + result.stderr
        assert store_is_whole(project)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[Project, subprocess.Popen[str]]]:
    """A doit that is compiling."""
    project = Project(tmp_path, "small")
    process = subprocess.Popen(
        project.command("-n", "2"),
        cwd=tmp_path,
        env=project.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while process.poll() is None and not project.layout.compiled("small", "desktop").exists():
        time.sleep(0.01)
    yield project, process
    process.kill()
    process.wait()


def tools(project: Project) -> list[str]:
    """Processes of the compiler and the runner at work for this project."""
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in listed if str(project.root) in line or "iree-compile - -o out/models/small" in line]


def test_two_doits_at_once_both_end_well(running: tuple[Project, subprocess.Popen[str]]) -> None:
    project, first = running
    second = project.doit()
    output, _ = first.communicate(timeout=120)
    assert (first.returncode, second.returncode) == (0, 0), output + second.stdout
    assert store_is_whole(project)


def test_a_doit_that_finds_another_at_work_says_so(again: Project) -> None:
    spec = again.targets / "models/small.yaml"
    spec.write_text(spec.read_text().replace("the test model", "another description of"))
    with locked(again.layout.lock, ""):
        result = again.doit()
    assert result.returncode in (1, 2)
    assert "another doit is at work in this folder, or a tool of one that was killed" in result.stdout


def test_the_tools_of_a_killed_doit_hold_its_lock_until_they_end(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    code = f"""if True:
        from pathlib import Path
        from pipeline import process
        from pipeline.files import locked
        with locked(Path({str(lock)!r}), "") as descriptor:
            process.share(descriptor)
            print(1, flush=True)
            process.execute(["sleep", "2"], Path({str(tmp_path / "log")!r}))"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert holder.stdout
    holder.stdout.readline()
    time.sleep(0.5)
    holder.kill()
    holder.wait()
    with pytest.raises(PipelineError, match="busy"), locked(lock, "busy"):
        pass
    with locked(lock, "busy", patience=10):
        pass


def test_a_reverted_spec_is_not_taken_for_the_build_that_a_kill_left(again: Project) -> None:
    """doit saves what it knows only at its end: after a kill its database speaks of an earlier build than the files."""
    database = again.layout.root / ".doit.db"
    before = database.read_bytes()
    bundle = again.targets / "bundles/desktop.yaml"
    text = bundle.read_text()
    bundle.write_text(text + "flags: [--iree-opt-level=O1]\n")
    assert again.doit("compile").returncode == 0
    database.write_bytes(before)  # as after kill -9
    bundle.write_text(text)
    assert again.doit().returncode == 0
    assert "--iree-opt-level=O1" not in manifest(again).artifacts[0].flags


def test_what_was_changed_after_it_was_made_is_not_published(again: Project) -> None:
    module = again.layout.verified("small", "desktop") / "module.vmfb"
    data = bytearray(module.read_bytes())
    data[-100] ^= 1
    module.write_bytes(data)
    result = again.doit()
    assert result.returncode in (1, 2)
    assert "was changed after it was made" in result.stdout
    source = again.layout.source("small", "mlir")
    source.write_bytes(source.read_bytes() + b"\n")
    assert "but the spec names" in again.doit("import").stdout


def test_a_changed_reference_verifies_again(again: Project) -> None:
    np.save(again.targets / "models/y.npy", np.zeros(64, np.float32))
    spec = again.targets / "models/small.yaml"
    spec.write_text(spec.read_text() + "reference: [y.npy]\n")
    result = again.doit()
    assert result.returncode in (1, 2)
    assert "failed verification" in result.stdout


def test_a_damaged_database_is_begun_anew(again: Project) -> None:
    (again.layout.root / ".doit.db").write_bytes(b"not a database, and long enough to be looked at" * 100)
    result = again.doit()
    assert result.returncode == 0, result.stderr
    assert "begun anew" in result.stderr


def test_a_misspelt_variable_is_refused(built: Project) -> None:
    result = built.doit("publish", "verison=1.2.0")
    assert result.returncode == 3
    assert "did you mean 'version'?" in result.stderr
    assert "cannot be a version" in built.doit("publish", "version=../up").stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_every_tool_at_once_and_the_next_run_goes_on(
    running: tuple[Project, subprocess.Popen[str]], number: signal.Signals
) -> None:
    project, process = running
    process.send_signal(number)
    started = time.monotonic()
    output, _ = process.communicate(timeout=30)
    assert time.monotonic() - started < 5
    assert "interrupted: every tool was ended" in output
    assert "Traceback" not in output
    assert process.returncode != 0
    assert not tools(project)
    assert project.doit().returncode == 0
    assert store_is_whole(project)
    assert not leftovers(project)


def test_kill_9_at_any_moment_is_survived(tmp_path: Path) -> None:
    """Kill the whole session at growing delays, so that every stage is hit; then one run must finish and be right."""
    project = Project(tmp_path, "small")
    delay, kills = 0.15, 0
    while True:
        process = subprocess.Popen(
            project.command(), cwd=tmp_path, env=project.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(delay)
            break
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            delay *= 1.2
            assert store_is_whole(project)
    assert process.returncode == 0
    assert kills >= 5
    assert store_is_whole(project)
    assert "up to date" in project.doit().stdout


def test_the_output_is_the_same_whoever_builds_it(built: Project, tmp_path: Path) -> None:
    other = Project(tmp_path / "a-longer-name" / "deeper", "small")
    assert other.doit("-n", "2").returncode == 0
    assert manifest(other).artifacts[0].blob == manifest(built).artifacts[0].blob


@pytest.mark.slow
def test_the_projects_own_models_become_verified_releases(tmp_path: Path) -> None:
    """The README's first command, on a copy of the repository."""
    for name in ("dodo.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "targets", tmp_path / "targets")
    project = Project.at(tmp_path)
    result = project.doit(timeout=900)
    assert result.returncode == 0, result.stdout
    for model in ("magika", "pp-ocr-angle", "attention-f16"):
        document = json.loads((tmp_path / f"out/models/{model}/package/manifest.json").read_text())
        kinds = {v["name"]: v["evidence"]["kind"] for v in document["artifacts"][0]["variants"]}
        assert kinds["vulkan-any"] == "device", model
        assert kinds["x86-64"] == "device", model
        assert "untested" not in (kinds["amd-rdna3"], kinds["nvidia-ampere"]), model
