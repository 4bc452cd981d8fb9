"""What doit survives: kills, interrupts, full disks, damaged files, another doit. Nothing half-made is ever believed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from pipeline.errors import PipelineError
from pipeline.files import locked
from tests import servers
from tests.project import ROOT, Project, leftovers, manifest, store_is_whole
from tests.waiting import FOREVER, wait_for


def test_a_store_that_cannot_be_written_leaves_the_build_whole(again: Project) -> None:
    blocked = again.root / "file"
    blocked.write_text("")
    result = again.doit(PIPELINE_STORE=str(blocked / "store"))
    assert result.returncode in (1, 2)
    assert "✗ publish:small" in result.stdout
    assert "Traceback" not in result.stdout
    assert again.doit().returncode == 0


@pytest.mark.thorough
def test_no_space_left_is_one_message_and_the_next_run_goes_on(tmp_path: Path) -> None:
    apart = ["unshare", "--user", "--map-root-user", "--mount"]  # whoever one is, mounts are allowed there
    if subprocess.run([*apart, "mount", "-t", "tmpfs", "tmpfs", tmp_path], capture_output=True, check=False).returncode:
        servers.missing("needs user namespaces, to mount a small file system")
    done = subprocess.run(
        [*apart, sys.executable, "-c", FULL, tmp_path],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


FULL = """
import subprocess, sys
from pathlib import Path
from tests.project import Project, store_is_whole

subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", sys.argv[1]], check=True)
ballast = Path(sys.argv[1]) / "ballast"
ballast.write_bytes(bytes((40 << 20) - (600 << 10)))
project = Project(Path(sys.argv[1]) / "project", "small")
result = project.doit()
assert result.returncode != 0
assert "Traceback" not in result.stdout + result.stderr
assert not list(project.layout.store.glob("releases/*"))
ballast.unlink()
result = project.doit()
assert result.returncode == 0, result.stdout + result.stderr
assert store_is_whole(project)
"""


HELD = """
import shutil, sys, time
from pathlib import Path

folder = Path(__file__).parent
(folder / "at-work").touch()
while not (folder / "go").exists():
    time.sleep(0.01)
shutil.copy(folder / "small.mlir", sys.argv[1])
"""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[Project, subprocess.Popen[str]]]:
    """A doit that has compiled something, and ends only if `let_go`: a script that fetches a second model waits for that."""
    project = Project(tmp_path, "small")
    folder = project.targets / "models"
    (folder / "held.py").write_text(HELD)
    held = yaml.safe_load((folder / "small.yaml").read_text())
    held["source"] = {"kind": "script", "script": "held.py", "sha256": held["source"]["sha256"]}
    (folder / "held.yaml").write_text(yaml.safe_dump(held))
    process = subprocess.Popen(
        project.command("-n", "2"),
        cwd=tmp_path,
        env=project.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    at_work = (folder / "at-work", project.layout.compiled("small", "desktop"))
    wait_for(lambda: process.poll() is not None or all(path.exists() for path in at_work))
    yield project, process
    let_go(project)
    process.kill()
    process.wait()


def let_go(project: Project) -> None:
    """Let the script of the second model end."""
    (project.targets / "models/go").touch()


def processes(at: Path) -> list[Path]:
    """Those at work in the folder `at`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cwd").readlink() == at:
                found.append(process)
    return found


@pytest.mark.thorough
def test_two_doits_at_once_both_end_well(running: tuple[Project, subprocess.Popen[str]]) -> None:
    project, first = running
    threading.Timer(0.5, let_go, [project]).start()
    second = project.doit()
    output, _ = first.communicate()
    assert first.returncode == 0, output
    assert second.returncode == 0 or "another doit is at work" in second.stdout  # if the first took too long for its patience
    assert store_is_whole(project)
    assert "up to date" in project.doit().stdout


def test_a_doit_that_finds_another_at_work_says_so(again: Project) -> None:
    spec = again.targets / "models/small.yaml"
    spec.write_text(spec.read_text().replace("the test model", "another description of"))
    with locked(again.layout.lock, ""):
        result = again.doit()
    assert result.returncode in (1, 2)
    assert "another doit is at work in this folder, or a tool of one that was killed" in result.stdout


NEVER = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(10**6)'], start_new_session=True)"


def test_the_tools_of_a_killed_doit_end_and_let_go_of_its_lock(tmp_path: Path) -> None:
    """And those that they started, in whatever session."""
    code = f"""if True:
        import sys
        from pathlib import Path
        from pipeline import process
        from pipeline.files import locked
        with locked(Path("lock"), "") as descriptor:
            process.share(descriptor)
            process.execute([sys.executable, "-c", {NEVER!r}], Path("log"))"""
    holder = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    wait_for(lambda: len(processes(tmp_path)) == 3)
    with pytest.raises(PipelineError, match="busy"), locked(tmp_path / "lock", "busy"):
        pass
    holder.kill()
    holder.wait()
    with locked(tmp_path / "lock", "busy", FOREVER):
        assert not processes(tmp_path)


def test_a_program_that_ends_well_leaves_what_it_started_to_itself(tmp_path: Path) -> None:
    shell = "setsid -f sh -c 'touch up; exec sleep 1000'; while ! test -e up; do sleep 0.01; done"
    code = f"""if True:
        from pathlib import Path
        from pipeline import process, watchdog
        process.execute(["sh", "-c", {shell!r}], Path("log"))
        ((_, watching),) = watchdog._watching.values()
        print(watching.pid)"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    (left,) = processes(tmp_path)
    os.kill(int(left.name), signal.SIGKILL)
    assert not Path("/proc", done.stdout.strip()).exists()


@pytest.mark.thorough
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
    source = again.layout.source("small", 0, "mlir")
    source.write_bytes(source.read_bytes() + b"\n")
    assert "but the spec names" in again.doit("import").stdout


def test_a_damaged_database_is_begun_anew(again: Project) -> None:
    (again.layout.root / ".doit.db").write_bytes(b"not a database, and long enough to be looked at" * 100)
    result = again.doit()
    assert result.returncode == 0, result.stderr
    assert "begun anew" in result.stderr


@pytest.mark.parametrize(
    "number", [signal.SIGINT, *(pytest.param(n, marks=pytest.mark.thorough) for n in (signal.SIGTERM, signal.SIGHUP))]
)
def test_an_interrupt_ends_every_tool_at_once_and_the_next_run_goes_on(
    running: tuple[Project, subprocess.Popen[str]], number: signal.Signals
) -> None:
    project, process = running
    process.send_signal(number)
    output, _ = process.communicate()  # though the script would never end
    assert "interrupted: every tool was ended" in output
    assert "Traceback" not in output
    assert process.returncode == -signal.SIGINT  # which a shell calls 130
    wait_for(lambda: not processes(project.root))
    let_go(project)
    assert project.doit().returncode == 0
    assert store_is_whole(project)
    assert not leftovers(project)


@pytest.mark.parametrize("growth", [1.7, pytest.param(1.2, marks=pytest.mark.thorough)])
def test_kill_9_at_any_moment_is_survived(tmp_path: Path, growth: float) -> None:
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
            delay *= growth
            with locked(project.layout.lock, "", FOREVER):  # its tools, in sessions of their own, end their step
                pass
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
        ("reference/0/given.inputs.npz", "verify"),
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
