"""A project of one's own: `vmfb init` begins it, the package's targets and bundles are there, `extends` changes them a little."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import vmfb
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema

from pipeline import cli
from pipeline.errors import ManyProblemsError
from pipeline.spec import defaults
from pipeline.spec.load import load
from tests.project import ROOT, Project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new project."""
    monkeypatch.setenv("VMFB_CACHE", str(tmp_path / "cache"))
    assert cli.main(["init", str(tmp_path / "mine")]) == 0
    return tmp_path / "mine"


def _document(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def _lines(steps: list[dict[str, Any]]) -> list[str]:
    """What the steps of a workflow run in a shell, but for what installs things."""
    found = [step["run"] for step in steps if "run" in step]
    return [line for line in found if "apt-get" not in line and "pip install" not in line]


def _shell(line: str, project: Project, **variables: str) -> str:
    """Run a line as CI does. Gives all that it printed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    words = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", line]
    environment = project.environment(PATH=path, **variables)
    done = subprocess.run(words, cwd=project.root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Path]:
    """A new project with a bundle for two CPU targets, that its workflow released as 1.2.0; and the summary of the job."""
    folder, page = tmp_path_factory.mktemp("released") / "mine", tmp_path_factory.mktemp("job") / "summary.md"
    assert cli.main(["init", str(folder)]) == 0
    shutil.copy(ROOT / "pyproject.toml", folder)  # the plugins of doit, whatever package is installed
    bundle = folder / "targets" / "bundles" / "release.yaml"
    bundle.write_text(yaml.safe_dump({**_document(bundle), "targets": ["x86-64-v3", "x86-64"]}))
    project = Project.at(folder)
    verify, publish = _lines(_document(folder / ".github" / "workflows" / "release.yaml")["jobs"]["release"]["steps"])
    given = {"GITHUB_STEP_SUMMARY": str(page), "GITHUB_REF_NAME": "v1.2.0"}
    assert "✓ verify:example:release" in _shell(verify, project, **given)
    assert "published example@1.2.0" in _shell(publish, project, PIPELINE_STORE=str(folder / "out" / "store"), **given)
    return project, page


def test_a_job_shows_what_its_workflow_released(released: tuple[Project, Path]) -> None:
    said = released[1].read_text()
    assert said.count("### doit: ") == 2
    assert "| example / release | x86-64-v3 | device |" in said
    assert "\npublished example@1.2.0 to " in said


def test_the_action_and_the_workflow_for_others_do_the_same(released: tuple[Project, Path], tmp_path: Path) -> None:
    action = _document(ROOT / ".github" / "actions" / "release" / "action.yml")["runs"]["steps"]
    workflow = _document(ROOT / ".github" / "workflows" / "release.yml")["jobs"]["release"]["steps"]
    (line,) = _lines(action)
    assert [step["run"] for step in workflow if "run" in step] == [step["run"] for step in action if "run" in step]
    output = tmp_path / "output"
    given = {"PUBLISH": "true", "STORE": "", "VERSION": "1.3.0", "CHANNEL": "beta", "NAME": "mine"}
    _shell(line, released[0], RUNNER_TEMP=str(tmp_path), GITHUB_OUTPUT=str(output), **given)
    said = dict(line.split("=", 1) for line in output.read_text().splitlines())
    (release,) = json.loads(said["releases"])
    assert (release["version"], release["channel"], release["outcome"]) == ("1.3.0", "beta", "done")
    assert json.loads(Path(said["result"]).read_text())["outcome"] == "done"
    assert Path(said["result"]).name == "mine.json"
    for steps in (action, workflow):  # what a run keeps has the name of the call, or another call would be in its way
        kept = [step["with"] for step in steps if step.get("uses", "").startswith(("actions/cache/", "actions/upload-artifact"))]
        assert all("${{ inputs.name }}" in one.get("key", one.get("name", "")) for one in kept)


def test_the_workflow_for_gitlab_publishes(released: tuple[Project, Path], tmp_path: Path) -> None:
    assert cli.main(["init", str(tmp_path / "other"), "--ci", "gitlab"]) == 0
    assert not (tmp_path / "other" / ".github").exists()
    said = _document(tmp_path / "other" / ".gitlab-ci.yml")
    store = str(tmp_path / "store")
    given = {"AWS_TOKEN": "a token", "CI_COMMIT_TAG": "v2", "PIPELINE_STORE": store}
    _shell("\n".join(said["publish"]["script"]), released[0], **given)
    (release,) = json.loads((released[0].root / "result.json").read_text())["releases"]
    assert (release["version"], release["store"]) == ("2", store)
    _shell("\n".join(said["verify"]["script"]), released[0], **given)
    assert json.loads((released[0].root / "result.json").read_text())["releases"] == []


WORKFLOWS = {
    "vendor.github-workflows": [
        ".github/workflows/attest.yaml",
        ".github/workflows/release.yml",
        "pipeline/project/workflow.yaml",
    ],
    "vendor.github-actions": [".github/actions/release/action.yml"],
    "vendor.gitlab-ci": ["pipeline/project/gitlab.yaml"],
}


@pytest.mark.parametrize("schema", WORKFLOWS)
def test_workflows_are_what_their_services_take(schema: str) -> None:
    says = get_builtin_schema(schema)
    validator = jsonschema.validators.validator_for(says)(says)
    for path in WORKFLOWS[schema]:
        text = (ROOT / path).read_text().replace("\non:", "\n'on':")  # which YAML 1.1 takes for a truth
        assert [f"{path}: {error.json_path}: {error.message}" for error in validator.iter_errors(yaml.safe_load(text))] == []
        broken = yaml.safe_load(text.replace("run:", "runs:").replace("script:", "scripts:"))
        assert list(validator.iter_errors(broken)), path


def test_a_new_project_works_at_once(released: tuple[Project, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = released[0]
    done = made.doit()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "unchanged: example@1.2.0 has it" in done.stdout
    again = made.doit()
    assert "up to date in" in again.stdout
    monkeypatch.setenv("VMFB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(made.root)
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


def test_a_folder_may_have_files_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".gitignore").write_text("mine\n")
    (tmp_path / "README.md").write_text("mine")
    for number in range(2):
        assert cli.main(["init", str(tmp_path), "--ci", "none"]) == 0
        said = capsys.readouterr()
        assert ".gitignore is there already, and stays: see to it that it has /out/, " in said.err
        assert bool(said.out) == (number == 0)  # what is there was not written again
    assert (tmp_path / ".gitignore").read_text() == "mine\n"
    assert (tmp_path / "dodo.py").is_file()


@pytest.mark.parametrize("place", ["/proc/mine", "file/mine"])
def test_where_nothing_can_be_written_it_says_so(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert cli.main(["init", place]) == 1
    said = capsys.readouterr()
    assert (said.out, said.err.count("error: "), "Traceback" in said.err) == ("", 1, False)


def test_after_a_kill_it_is_written_to_its_end(project: Path) -> None:
    (project / "dodo.py").unlink()
    (project / ".github" / "workflows" / "release.yaml").unlink()
    assert cli.main(["init", str(project)]) == 0
    assert (project / "dodo.py").is_file()


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
    assert "is missing" not in str(error.value) or "models__mine" in files  # what the other one would have said
