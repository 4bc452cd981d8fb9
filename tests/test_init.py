"""A project of one's own: `vmfb init` begins it, the package's targets and bundles are there, `extends` changes them a little."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import vmfb
import yaml

from pipeline import cli
from pipeline.errors import ManyProblemsError
from pipeline.spec import defaults
from pipeline.spec.load import load
from tests.project import ROOT, Project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new project, with a bundle of its own for one CPU target."""
    monkeypatch.setenv("VMFB_CACHE", str(tmp_path / "cache"))
    assert cli.main(["init", str(tmp_path / "mine")]) == 0
    return tmp_path / "mine"


def test_a_new_project_works_at_once(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = project / "targets" / "bundles" / "release.yaml"
    said = yaml.safe_load(bundle.read_text())
    bundle.write_text(yaml.safe_dump({**said, "targets": ["x86-64-v3", "x86-64"]}))
    made = Project.at(project)
    done = made.doit()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "published example@" in done.stdout
    again = made.doit()
    assert "up to date in" in again.stdout
    monkeypatch.chdir(project)
    model = vmfb.load("example")
    assert model.variant in ("x86-64-v3", "x86-64")
    assert f"<td>{model.variant} on " in model._repr_html_()
    assert vmfb.explain("example", device="haswell")[0].variant == "x86-64-v3"
    assert vmfb.fetch("example", device="nehalem").stat().st_size == model.path.stat().st_size
    with pytest.raises(vmfb.Error, match="no device may run"):
        vmfb.fetch("example", device="raspberry-pi-4")


def test_the_example_is_what_its_spec_says(tmp_path: Path) -> None:
    script = ROOT / "pipeline" / "project" / "example.py"
    subprocess.run([sys.executable, script, tmp_path / "x.onnx"], check=True)
    assert hashlib.sha256((tmp_path / "x.onnx").read_bytes()).hexdigest() in script.with_name("example.yaml").read_text()


def test_every_project_has_the_same_dodo() -> None:
    assert (ROOT / "dodo.py").read_bytes() == (ROOT / "pipeline" / "project" / "dodo.py").read_bytes()


def test_what_is_there_stays(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "targets" / "models" / "example.yaml").write_text("mine")
    (project / "dodo.py").unlink()
    assert cli.main(["init", str(project)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert (project / "targets" / "models" / "example.yaml").read_text() == "mine"
    assert not (project / "dodo.py").exists()


def test_after_a_kill_it_is_written_to_its_end(project: Path) -> None:
    (project / "dodo.py").unlink()
    (project / ".github" / "workflows" / "release.yaml").unlink()
    assert cli.main(["init", str(project)]) == 0
    assert (project / "dodo.py").is_file()


def test_an_installed_package_brings_its_targets(tmp_path: Path) -> None:
    """Without this checkout: what pip makes of it."""
    subprocess.run(["git", "clone", "--quiet", ROOT, tmp_path / "source"], check=True)
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        tmp_path / "site",
    ]
    subprocess.run([*install, tmp_path / "source"], check=True)
    code = """
import vmfb, pipeline
from pathlib import Path
from pipeline.spec.load import load
from pipeline import cli
assert Path(pipeline.__file__).is_relative_to(Path("site").absolute()), pipeline.__file__
assert Path(vmfb.__file__).is_relative_to(Path("site").absolute()), vmfb.__file__
assert cli.main(["init", "mine"]) == 0
spec = load(Path("mine/targets"))
assert "everything" in spec.bundles and spec.bundles["release"].targets == spec.bundles["desktop"].targets
print(*sorted(spec.executables))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == sorted(path.stem for path in (ROOT / "targets" / "executables").glob("*.yaml"))


def _targets(folder: Path, **files: object) -> Path:
    (folder / "models").mkdir(parents=True)
    for name, said in files.items():
        path = folder / f"{name.replace('__', '/').replace('_', '-')}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(said))
    return folder


def test_a_file_of_the_same_name_comes_before_the_packages(tmp_path: Path) -> None:
    own = _targets(
        tmp_path,
        executables__x86_64_v3={"extends": "x86-64-v3", "flags": ["--iree-llvmcpu-loop-unrolling"]},
        executables__amd_mine={"extends": "amd-rdna3", "attribute": {"max_workgroup_counts": [65535, 65535, 65535]}},
        bundles__desktop={"about": "Mine", "targets": ["x86-64-v3"]},
        bundles__own={"extends": "desktop", "on_failure": "drop"},
    )
    spec, packaged = load(own), load(defaults.folder())
    v3, before = spec.executables["x86-64-v3"], packaged.executables["x86-64-v3"]
    assert v3.flags == ("--iree-llvmcpu-loop-unrolling",)
    assert (v3.device, v3.about, v3.gates) == (before.device, before.about, before.gates)
    mine, rdna3 = spec.executables["amd-mine"], packaged.executables["amd-rdna3"]
    assert mine.attribute == {**rdna3.attribute, "max_workgroup_counts": (65535, 65535, 65535)}
    assert spec.bundles["desktop"].targets == ("x86-64-v3",)
    assert spec.bundles["own"].targets == ("x86-64-v3",)  # the project's own desktop
    assert spec.bundles["own"].on_failure == "drop"
    assert spec.bundles["server"] == packaged.bundles["server"]
    assert spec.executables["cuda-sm86"] == packaged.executables["cuda-sm86"]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"bundles__a": {"extends": "b"}, "bundles__b": {"extends": "a"}}, "extends: comes back to"),
        ({"bundles__mine": {"extends": "mine"}}, "there is no 'mine' to extend: which the package has none of"),
        ({"bundles__mine": {"extends": "dekstop"}}, "there is no 'dekstop' to extend: did you mean"),
        ({"bundles__mine": {"extends": 5}}, "there is no 5 to extend"),
        ({"bundles__mine": {"extends": "desktop", "target": ["x86-64"]}}, "target: is not a key here"),
        ({"bundles__mine": {"extends": "desktop", "targets": "x86-64"}}, "targets: must be a list"),
        ({"models__mine": {"extends": "other"}}, "extends: is not a key here"),
    ],
)
def test_what_cannot_be_extended(tmp_path: Path, files: dict[str, object], says: str) -> None:
    with pytest.raises(ManyProblemsError) as error:
        load(_targets(tmp_path, **files))
    assert says in str(error.value)
    assert "mine.yaml" in str(error.value) or "a.yaml" in str(error.value)
