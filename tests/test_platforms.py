"""Other systems than Linux, as far as this one can play them: a consumer needs nothing that Windows lacks."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import cli, platforms
from pipeline.consume.cache import Cache
from pipeline.errors import PipelineError
from pipeline.files import write
from pipeline.process import Result
from pipeline.store.open import open_store
from tests import releases
from tests.project import ROOT, Project

AS_WINDOWS = [sys.executable, "-X", "warn_default_encoding", "-m", "tests.elsewhere"]


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """What open files mean there."""
    monkeypatch.setattr(platforms, "OPEN_FILES_CAN_GO", False)
    monkeypatch.setattr(platforms, "_PATIENCE", 0.1)


def test_a_consumer_needs_nothing_that_windows_lacks(built: Project, tmp_path: Path) -> None:
    environment = {**os.environ, "VMFB_CACHE": str(tmp_path / "cache"), "PIPELINE_STORE": str(built.layout.store)}

    def vmfb(*words: str) -> str:
        done = subprocess.run(
            [*AS_WINDOWS, *words], cwd=ROOT, env=environment, capture_output=True, encoding="utf-8", check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert vmfb("list").startswith("small  latest → ")
    file = vmfb("fetch", "small", "--device", "local").strip()
    assert "✓ loaded here, the module itself says: " in vmfb("explain", "small", "--device", "local")
    assert "not fetched: a hole in this file" in vmfb("inspect", file)
    assert vmfb("fetch", "small", "--full", "-o", f"{tmp_path}/whole/").strip() == f"{tmp_path}/whole/small-desktop.vmfb"
    assert "right, max error" in vmfb("run", "small", "--device", "local", "--check")
    assert "local-task" in vmfb("devices")
    assert "small-desktop.vmfb" in vmfb("cache", "verify")
    assert "removed " in vmfb("cache", "prune", "--max-size", "0")
    assert not [path for path in (tmp_path / "cache" / "blobs").rglob("*") if path.is_file()]


LOCKS = """if True:
    import sys, threading, time
    from tests import elsewhere
    elsewhere.become_windows()
    from pathlib import Path
    from pipeline.files import locked
    from pipeline.store.directory import DirectoryStore
    folder = Path(sys.argv[1])
    inside, most = [], []
    def take():
        for _ in range(20):
            with locked(folder / "lock", "busy", 60):
                inside.append(1)
                time.sleep(0.001)
                most.append(len(inside))
                inside.pop()
    threads = [threading.Thread(target=take) for _ in range(3)]
    [t.start() for t in threads], [t.join() for t in threads]
    assert set(most) == {1} and len(most) == 60
    store = DirectoryStore(folder / "store")
    assert store.create("a/b", b"1") and store.replace("a/b", b"2", store.get("a/b").tag)
    assert not store.replace("a/b", b"3", "another tag")
    assert store.get("a/b").data == b"2"
"""


def test_locks_and_stores_need_nothing_that_windows_lacks(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", LOCKS, str(tmp_path)], cwd=ROOT, check=True)


def test_what_is_played_does_lack_it() -> None:
    """Else the tests above could not fail."""
    code = "from tests import elsewhere; elsewhere.become_windows(); import os; "
    for use in ("import fcntl", "os.fork", "import pipeline.iree.toolchain", "os.pread", "import signal; signal.SIGKILL"):
        done = subprocess.run([sys.executable, "-c", code + use], cwd=ROOT, capture_output=True, check=False)
        assert done.returncode == 1, use


@pytest.mark.usefixtures("elsewhere")
def test_a_file_that_is_open_for_a_moment_is_replaced_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = iter([PermissionError(13, "Access denied")] * 3)
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        if error := next(refusals, None):
            raise error
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    write(tmp_path / "file", b"data")
    assert (tmp_path / "file").read_bytes() == b"data"


@pytest.mark.usefixtures("elsewhere")
def test_a_file_that_stays_open_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(*_: Path) -> None:
        raise PermissionError(13, "Access denied")

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(PipelineError, match="Access denied"):
        write(tmp_path / "file", b"data")
    assert not list(tmp_path.iterdir())


def test_where_open_files_can_be_replaced_a_refusal_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    begun = time.monotonic()
    with pytest.raises(OSError, match="Is a directory"):
        platforms.replace(tmp_path / "file", tmp_path / "folder")
    assert time.monotonic() < begun + 1


def test_without_a_boot_to_tell_of_what_is_fetched_is_synced_before_it_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    releases.release(open_store(str(tmp_path / "store")), tmp_path / "package")
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    monkeypatch.setenv("VMFB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(platforms, "boot", lambda: "")
    monkeypatch.setattr(os, "fsync", fsync)
    assert cli.main(["fetch", "noise", "--full", "-q", "--store", str(tmp_path / "store")]) == 0
    (usage,) = Cache().usages()
    assert usage.entry.present()
    data, state = (
        synced.index(usage.entry.path.name),
        next(i for i, name in enumerate(synced) if name.startswith(".") and usage.entry.path.name in name),
    )
    assert data < state


def test_facts_are_read_as_windows_shells_write_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VMFB_CACHE", str(tmp_path / "cache"))
    releases.release(open_store(str(tmp_path / "store")), tmp_path / "package")
    known = (ROOT / "pipeline/consume/machines/rtx-3060.json").read_text("utf-8")
    (tmp_path / "facts.json").write_bytes(known.encode("utf-16"))
    assert cli.main(["explain", "noise", "--store", str(tmp_path / "store"), "--pretend", str(tmp_path / "facts.json")]) == 0
    assert "RTX 3060" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "crashed", "ending"),
    [(0xC000001D, True, "killed by the exception 0xC000001D"), (255, False, "exit code 255"), (-4, True, "killed by SIGILL")],
)
def test_endings_in_words(code: int, crashed: bool, ending: str, tmp_path: Path) -> None:
    result = Result(code, 0, tmp_path)
    assert (result.crashed, result.ending) == (crashed, ending)


def test_a_pipe_that_nobody_reads_is_no_error_of_the_disk() -> None:
    assert platforms.is_closed_pipe(BrokenPipeError())
    assert not platforms.is_closed_pipe(OSError(errno.EINVAL, ""))  # but on Windows
