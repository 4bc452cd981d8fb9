"""`doit explain`: which input, option or output makes a step run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline import activity
from pipeline.why import differences
from tests.project import Project


def explained(project: Project, step: str = "publish:small", **variables: str) -> dict[str, list[str]]:
    """Step → the reasons why it would run, none if it is up to date."""
    run = project.doit("explain", step, **variables)
    assert run.returncode == 0, run.stdout + run.stderr
    found: dict[str, list[str]] = {}
    name = ""
    for line in run.stdout.splitlines():
        if line.startswith("  - "):
            found[name].append(line[4:])
        else:
            name, _, said = line.rpartition(": ")
            assert said in ("up to date", "would run")
            found[name] = []
    return found


@pytest.fixture
def current(again: Project) -> Project:
    assert again.doit().returncode == 0
    return again


def edit(path: Path, **changes: object) -> None:
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


def test_nothing_changed(current: Project) -> None:
    steps = ["fetch:small", "import:small", "reference:small", "compile:small:desktop", "verify:small:desktop"]
    assert explained(current) == {step: [] for step in [*steps, "package:small", "publish:small"]}


def test_a_changed_target_is_named_by_its_place(current: Project) -> None:
    edit(current.targets / "executables" / "vulkan-any.yaml", flags=["--iree-vulkan-target-features=spirv:v1.5,cap:Shader"])
    found = explained(current)
    assert found["fetch:small"] == found["import:small"] == []
    assert any("targets[2].flags[0] was" in reason and "v1.5" in reason for reason in found["compile:small:desktop"])
    assert "compile:small:desktop would run before it" in found["verify:small:desktop"]
    assert found["publish:small"] == ["package:small would run before it"]


def test_a_changed_file_and_a_lost_output_are_named(current: Project) -> None:
    source = current.targets / "models" / "small.mlir"
    source.write_text(source.read_text() + "\n")
    (current.layout.package("small") / "manifest.json").unlink()
    found = explained(current)
    assert f"{source.relative_to(current.root)} changed" in found["fetch:small"]
    assert any("manifest.json, or that was removed" in reason for reason in found["package:small"])


def test_another_store_and_another_channel_are_named(current: Project) -> None:
    assert any("store was" in r for r in explained(current, PIPELINE_STORE="/nowhere")["publish:small"])
    run = current.doit("explain", "publish:small", "channel=beta")
    assert 'channel was "latest", is "beta"' in run.stdout


def test_what_never_ran_says_so(current: Project) -> None:
    current.add("half")
    assert explained(current, "fetch:half")["fetch:half"][-1].startswith("it never ran to its end here")


@pytest.mark.parametrize(
    ("words", "said"), [(["compile:smal:desktop"], "did you mean"), (["x"], "doit list --all"), ([], "say which step")]
)
def test_a_wrong_name_is_told(current: Project, words: list[str], said: str) -> None:
    run = current.doit("explain", *words)
    assert run.returncode != 0
    assert said in run.stderr
    assert "Traceback" not in run.stderr


def test_differences_name_the_path() -> None:
    assert list(differences({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]})) == ["a[1].b was 2, is 3"]
    assert list(differences({"a": 1}, {"a": 1})) == []
    assert list(differences({"a": [1]}, {"a": [1, 2]})) == ["a was [1], is [1, 2]"]
    assert next(differences({}, {"new": "x" * 500})).endswith("…")


def test_a_step_says_what_it_is_doing_until_it_ends() -> None:
    activity.say("nothing, outside of a step")
    with activity.step("compile:x"):
        activity.say("3 of 4 pieces")
        assert activity.text("compile:x") == "3 of 4 pieces"
    assert activity.text("compile:x") == ""


@pytest.mark.thorough
def test_the_end_says_where_the_code_came_from(again: Project, tmp_path: Path) -> None:
    edit(again.targets / "executables" / "x86-64-v3.yaml", about="changed", flags=["--iree-llvmcpu-loop-interleaving"])
    run = again.doit("compile", PIPELINE_CACHE_DIR=str(tmp_path / "pieces"))
    assert run.returncode == 0, run.stdout
    assert "12 pieces of code: 12 generated" in run.stdout
    edit(again.targets / "executables" / "x86-64-v3.yaml", flags=["--iree-llvmcpu-loop-vectorization"])
    run = again.doit("compile", PIPELINE_CACHE_DIR=str(tmp_path / "pieces"))
    assert "12 pieces of code: 2 generated, 10 from this machine's cache" in run.stdout
