"""The commands of the runbook, as they stand there, on a store with the troubles that it is about."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pipeline
from tests.project import Project
from tests.waiting import FOREVER

PAGE = Path(pipeline.__file__).parent / "runbook.md"
MODEL = "attacut"  # in the page; here it is a small one


def commands() -> dict[str, list[str]]:
    """The commands of each section, in order."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in PAGE.read_text("utf-8").splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif line.startswith("    ") and section in TROUBLES:
            found.setdefault(section, []).append(line.partition(" #")[0].strip().replace(MODEL, "small"))
    return found


def test_every_section_has_commands_and_is_tried_here() -> None:
    """But for keys, which are tried in `test_runbook_keys.py`."""
    headings = [line.removeprefix("## ") for line in PAGE.read_text("utf-8").splitlines() if line.startswith("## ")]
    assert headings == [*TROUBLES, "Keys"]
    assert list(commands()) == list(TROUBLES)


@pytest.fixture
def project(again: Project) -> Iterator[Project]:
    """Two releases in its store, 1.0 and 2.0, besides the one that was built."""
    for version in ("1.0", "2.0"):
        done = again.doit("publish", f"version={version}")
        assert done.returncode == 0, done.stdout + done.stderr
    yield again


def _file(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def _damage(store: Path) -> None:
    blob = _file(store / "blobs")
    blob.write_bytes(b"x" * blob.stat().st_size)
    _file(store / "releases" / "small" / "2.0").write_bytes(b"{")
    (store / "index.json").unlink()


def _make_old(store: Path) -> None:
    """All of it was published two days ago, but for what nobody needs."""
    blob = store / "blobs" / "sha256" / "00" / ("0" * 64)
    blob.parent.mkdir(exist_ok=True)
    blob.write_bytes(b"x")
    before = time.time() - 2 * 86400
    for path in store.rglob("*"):
        if path.is_file():
            os.utime(path, (before, before))


# What is wrong with the store, and of each command what it says and its exit code.
TROUBLES: dict[str, tuple[Callable[[Path], None], list[tuple[str, int]]]] = {
    "A bad release": (
        lambda _: None,
        [
            ("the channel latest points to it: `doit rollback model=small channel=latest`", 0),
            ("small@1.0 is latest in", 0),
            ("small@2.0 was yanked on", 0),
            ("small@2.0 may be used again", 0),
            ("small@2.0 is latest in", 0),
        ],
    ),
    "A damaged store": (
        _damage,
        [("3 problems", 2), ("put back from out/", 0), ("all is as it should be", 0)],
    ),
    "A store that is full": (
        _make_old,
        [("nothing was removed: `doit prune keep=1 dry=no` does it", 0), ("went: 1 blob, 1 B", 0)],
    ),
}


@pytest.mark.parametrize("section", TROUBLES)
def test_the_commands_do_what_the_page_says(project: Project, section: str) -> None:
    spoil, expected = TROUBLES[section]
    spoil(project.layout.store)
    told = commands()[section]
    assert len(told) == len(expected)
    for command, (says, code) in zip(told, expected, strict=True):
        program, *words = shlex.split(command)
        if program == "doit":
            done = project.doit(*words)
        else:
            argv = [sys.executable, "-m", "pipeline.cli", *words]
            done = subprocess.run(argv, capture_output=True, text=True, cwd=project.root, timeout=FOREVER)
        assert done.returncode == code, f"{command}\n{done.stdout}{done.stderr}"
        assert says in done.stdout + done.stderr, f"{command}\n{done.stdout}{done.stderr}"
    if section == "A store that is full":
        left = {path.parent.name for path in (project.layout.store / "releases").rglob("manifest.json")}
        assert len(left) == 2  # what the channel points to, and what it pointed to before
