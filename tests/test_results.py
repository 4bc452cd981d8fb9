"""How commands end: exit codes, and the result that `doit --reporter json` gives programs."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli, exits, jobsummary, progress
from pipeline.commands import devices
from pipeline.result import asked_for
from tests.project import Project, manifest


def _result(project: Project, *words: str, code: int = 0) -> dict[str, Any]:
    """What a run gives programs, which is all of its standard output."""
    done = project.doit("--reporter", "json", *words)
    assert done.returncode == code, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_run_tells_programs_what_it_published(built: Project) -> None:
    found, made = _result(built), manifest(built)
    assert (found["schema"], found["outcome"], found["errors"]) == (1, "done", [])
    assert {step["name"]: step["outcome"] for step in found["steps"]}["publish:small"] == "up to date"
    (release,) = found["releases"]
    assert (release["model"], release["version"], release["channel"]) == ("small", made.version, "latest")
    assert (built.root / release["store"] / release["manifest"]["key"]).is_file()
    assert _result(built)["steps"] == found["steps"]  # no memory of a run with nothing to do makes it say less


def test_a_failed_run_tells_programs_which_step_and_why(tmp_path: Path) -> None:
    project = Project(tmp_path, "small")
    (project.targets / "models" / "small.mlir").write_text("another")
    found = _result(project, code=exits.BLOCKED)
    steps = {step["name"]: step for step in found["steps"]}
    assert (found["outcome"], found["releases"]) == ("failed", [])
    assert steps["fetch:small"]["outcome"] == "failed"
    assert "the SHA-256 is" in steps["fetch:small"]["error"]
    assert steps["publish:small"]["outcome"] == "blocked"
    said = project.doit("-r", "json", "nosuch:*")
    assert (said.returncode, said.stdout) == (exits.NOTHING_RUN, "")
    assert "nothing matches" in said.stderr


@pytest.mark.parametrize(
    ("words", "is_asked"),
    [
        (["-r", "json"], True),
        (["--reporter=json", "verify"], True),
        (["-rjson"], True),
        (["run", "--reporter", "json"], True),
        (["-r", "console", "json"], False),
        ([], False),
    ],
)
def test_a_command_line_that_asks_for_a_result(words: list[str], is_asked: bool) -> None:
    assert asked_for(words) == is_asked


def test_vmfb_ends_with_what_came_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VMFB_CACHE", str(tmp_path / "cache"))
    assert cli.main(["cache", "list"]) == exits.DONE
    assert cli.main(["fetch", "nosuch", "--store", str(tmp_path)]) == exits.NOT_DONE
    assert cli.main(["list", "http://127.0.0.1:9"]) == exits.AWAY
    with pytest.raises(SystemExit) as usage:
        cli.main(["fetch"])
    assert usage.value.code == exits.USAGE

    def broken(_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(devices, "run", broken)
    capsys.readouterr()
    assert cli.main(["devices"]) == exits.BUG
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert "ZeroDivisionError: a bug" in said


def test_every_code_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    told = {int(re.findall(r"\d+", code)[0]) for command, code, _ in exits.EXITS if command == "`vmfb`"}
    assert told == {exits.DONE, exits.NOT_DONE, exits.USAGE, exits.WRONG, exits.BUG, exits.AWAY, exits.SIGNAL}
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert exits.told() in " ".join(capsys.readouterr().out.split())
    assert int(signal.SIGINT) == 2


def test_a_ci_job_shows_what_a_run_did(again: Project, tmp_path: Path) -> None:
    page = tmp_path / "summary.md"
    page.write_text("of another step\n")
    (again.layout.root / "store" / "releases").rename(tmp_path / "lost")
    project = again.add("half", source={"kind": "path", "path": "half.mlir", "sha256": "0" * 64})
    assert project.is_file()
    again.doit("publish:small", "fetch:half", GITHUB_STEP_SUMMARY=str(page))
    said = page.read_text()
    assert said.startswith("of another step\n### doit: 1 done")
    assert re.search(r"\npublished small@c\w+ to out/store, channel latest\n", said)
    assert "**fetch:half** failed:\n\n```\n" in said


def test_markdown_shows_text_as_it_is() -> None:
    assert jobsummary.cell("a|b <i> `x`\x1b[1m_") == r"a\|b \<i\> \`x\`" + "\\\\x1b" + r"\[1m\_"
    found = jobsummary.lines("1 failed", [("variant",)], [], {"fetch:x": "```\nnot the end"})
    assert found[4:8] == ["````", "```", "not the end", "````"]
    found = jobsummary.lines("1 failed", [("variant",)], [], {"fetch:x": "long " * (1 << 20)})
    assert sum(map(len, found)) < 1000  # GitHub leaves out a page of more than 1 MiB
    rows = [("variant",), *((str(n),) for n in range(1000))]
    assert jobsummary.table(rows)[-1] == "… and 500 rows more"


def test_what_is_not_for_a_terminal_is_not_cut() -> None:
    row = ("model", "x86-64", "untested", "", "9 kB", "", "because " * 100 + "of that")
    assert progress.render([row], 0).endswith("of that")
    assert progress.render([row], 120).endswith("…")
