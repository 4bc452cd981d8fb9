"""Staged writes, locks, records and processes: nothing partial has a final name, nothing started is left behind."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import platforms, process
from pipeline.errors import PipelineError
from pipeline.files import copy, locked, sha256_bytes, staged, write
from pipeline.stages import record
from tests.waiting import wait_for


def test_a_failed_write_keeps_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write(path, b"old")
    with pytest.raises(RuntimeError), staged(path) as temporary:
        temporary.write_bytes(b"half of the n")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_copy_of_the_wrong_bytes_never_appears(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"what: the SHA-256 is .* was expected"):
        copy(io.BytesIO(b"data"), tmp_path / "file", sha256_bytes(b"other"), "what")
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PipelineError):
        write(tmp_path / "file" / "below", b"")


def test_a_lock_is_exclusive_and_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = f"""if True:
        import time
        from pathlib import Path
        from pipeline.files import locked
        with locked(Path({str(path)!r}), ''):
            print(1, flush=True)
            time.sleep(10**6)"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert holder.stdout
    holder.stdout.readline()
    with pytest.raises(PipelineError, match="busy"), locked(path, "busy"):
        pass
    holder.kill()
    holder.wait()
    with locked(path, "busy"):
        pass


def test_a_record_holds_only_for_the_same_inputs_and_whole_outputs(tmp_path: Path) -> None:
    source, folder = tmp_path / "in", tmp_path / "out"
    source.write_bytes(b"1")
    write(folder / "made", b"output")
    key = record.key([source], flag=1)
    assert not record.is_current(folder, key)
    record.write_record(folder, key, ["made"])
    assert record.is_current(folder, key)
    assert not record.is_current(folder, record.key([source], flag=2))
    (folder / "made").write_bytes(b"outpu")
    assert not record.is_current(folder, key)
    (folder / record.NAME).write_text("{")
    assert not record.is_current(folder, key)


def test_a_failing_tool_is_reported_with_its_ending_and_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(PipelineError) as caught:
        process.run([sys.executable, "-c", "print('first'); raise SystemExit(7)"], tmp_path / "log")
    assert "exit code 7" in str(caught.value)
    assert "first" in str(caught.value)
    assert str(tmp_path / "log") in caught.value.hint


def test_a_crash_is_named_by_its_signal(tmp_path: Path) -> None:
    result = process.execute([sys.executable, "-c", "import os; os.kill(os.getpid(), 4)"], tmp_path / "log")
    assert result.ending == "killed by SIGILL"


def test_a_tool_that_does_not_end_is_stopped_with_its_children(tmp_path: Path) -> None:
    child = f"[sys.executable, '-c', 'import time; time.sleep(10**6)', {str(tmp_path)!r}]"
    code = f"import subprocess, sys, time; subprocess.Popen({child}); time.sleep(10**6)"
    with pytest.raises(PipelineError, match="did not end within 1 s"):
        process.execute([sys.executable, "-c", code], tmp_path / "log", timeout=1)
    wait_for(lambda: str(tmp_path) not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout)


FORKS = """
import os, sys, time
from pipeline import process
def act(arguments):
    print(arguments, os.environ["WORD"], os.getcwd())
    if arguments[0] == "crash":
        os.kill(os.getpid(), 11)
    if arguments[0] == "sleep":
        time.sleep(10**6)
    return int(arguments[0])
sys.exit(process.serve(act))
"""


@pytest.mark.parametrize("forks_here", [True, False])
def test_forks_have_a_log_an_environment_and_an_ending_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forks_here: bool
) -> None:
    monkeypatch.setattr(platforms, "FORKS", forks_here)
    forks = process.Forks([sys.executable, "-c", FORKS])
    endings = {"0": "exit code 0", "3": "exit code 3", "crash": "killed by SIGSEGV"}
    for word, ending in endings.items():
        log = tmp_path / word
        assert forks.execute([word], log, timeout=60, env={"WORD": f"word-{word}"}).ending == ending
        if word != "crash":  # what it printed is lost with its buffer
            assert f"['{word}'] word-{word} {Path.cwd()}" in log.read_text()


@pytest.mark.parametrize("forks_here", [True, False])
def test_a_fork_that_does_not_end_is_stopped_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forks_here: bool
) -> None:
    monkeypatch.setattr(platforms, "FORKS", forks_here)
    forks = process.Forks([sys.executable, "-c", FORKS])
    with pytest.raises(process.TimedOutError, match="did not end within 1 s"):
        forks.execute(["sleep"], tmp_path / "log", timeout=1, env={"WORD": ""})
    assert forks.execute(["0"], tmp_path / "log", timeout=60, env={"WORD": ""}).returncode == 0


def test_what_forks_is_started_again_when_it_was_killed(tmp_path: Path) -> None:
    forks = process.Forks([sys.executable, "-c", FORKS])
    assert forks.execute(["0"], tmp_path / "log", timeout=60, env={"WORD": ""}).returncode == 0
    process.end_all()
    assert forks.execute(["0"], tmp_path / "log", timeout=60, env={"WORD": ""}).returncode == 0


def test_what_cannot_be_started_says_so_in_the_log(tmp_path: Path) -> None:
    forks = process.Forks([sys.executable, "-c", "import no_such_module"])
    assert forks.execute(["0"], tmp_path / "log", timeout=60, env={}).ending == "exit code 1"
    assert "no_such_module" in (tmp_path / "log").read_text()


def test_a_tool_that_does_not_exist_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="cannot start no-such-tool"):
        process.execute(["no-such-tool"], tmp_path / "log")
