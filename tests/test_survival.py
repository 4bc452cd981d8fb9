"""What doit survives: kills, interrupts, full disks, damaged files, another doit. Nothing half-made is ever believed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.files import locked
from tests.project import Project, leftovers, manifest, store_is_whole


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


def test_a_damaged_database_is_begun_anew(again: Project) -> None:
    (again.layout.root / ".doit.db").write_bytes(b"not a database, and long enough to be looked at" * 100)
    result = again.doit()
    assert result.returncode == 0, result.stderr
    assert "begun anew" in result.stderr


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


def test_a_store_that_lost_a_blob_gets_it_again(again: Project) -> None:
    (lost,) = (p for p in again.layout.store.rglob("*") if p.name == manifest(again).artifacts[0].blob.sha256)
    lost.unlink()
    assert "✓ publish:small" in again.doit().stdout
    assert store_is_whole(again)


@pytest.mark.parametrize(
    ("damaged", "task"),
    [
        ("import/model.mlirbc", "compile"),
        ("bundles/desktop/compile/module.vmfb", "verify"),
        ("reference/given.inputs.npz", "verify"),
        ("package/manifest.json", "publish"),
    ],
)
def test_a_damaged_file_is_named_with_its_remedy(again: Project, damaged: str, task: str) -> None:
    path = again.layout.root / "models/small" / damaged
    path.write_bytes(b"x")
    (again.layout.root / ".doit.db").unlink()
    result = again.doit(task)
    assert "Traceback" not in result.stdout
    # Either its stage runs again and mends it, or the next one says which folder to remove.
    assert result.returncode == 0 or "remove that folder, then run doit again" in result.stdout
