"""What people see: colours on terminals only, and a word from whatever takes long."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import activity, cli, colors, terminal
from pipeline.commands import devices
from tests.project import ROOT


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    colors.choose("auto")


@pytest.mark.parametrize(
    ("chosen", "environment", "on_terminal", "in_file"),
    [
        ("auto", {}, True, False),
        ("auto", {"TERM": "dumb"}, False, False),
        ("auto", {"NO_COLOR": "1", "FORCE_COLOR": "1"}, False, False),
        ("auto", {"NO_COLOR": ""}, True, False),
        ("auto", {"FORCE_COLOR": "1"}, True, True),
        ("always", {"NO_COLOR": "1"}, True, True),
        ("never", {"FORCE_COLOR": "1"}, False, False),
    ],
)
def test_who_gets_colors(chosen: str, environment: dict[str, str], on_terminal: bool, in_file: bool) -> None:
    colors.choose(chosen)
    assert colors.wanted(_Terminal(), environment) == on_terminal
    assert colors.wanted(io.StringIO(), environment) == in_file


def test_only_marks_have_a_color_and_all_else_stays_as_it_is() -> None:
    colors.choose("always")
    assert colors.painted("✓ verify:x  1.0 s") == "\x1b[32m✓\x1b[0m verify:x  1.0 s"
    assert colors.painted("  ✗ amd  no") == "  \x1b[31m✗\x1b[0m amd  no"
    assert colors.painted("error: x") == "\x1b[31merror:\x1b[0m x"
    assert colors.painted("x  WRONG  y") == "x  \x1b[31mWRONG\x1b[0m  y"
    assert colors.painted("/store/error: x → y!") == "/store/error: x → y!"


def _on_a_terminal(*words: str, **variables: str) -> bytes:
    """What a command prints whose output is a terminal."""
    own, its = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", **variables}
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *words], stdout=its, stderr=its, stdin=its, env=environment, check=False
    )
    os.close(its)
    assert done.returncode == 1
    said = os.read(own, 4096)
    os.close(own)
    return said


def test_colors_on_a_real_terminal(tmp_path: Path) -> None:
    words = ["fetch", "nosuch", "--store", str(tmp_path / "gone")]
    assert b"\x1b[31merror:\x1b[0m" in _on_a_terminal(*words)
    for said in (_on_a_terminal(*words, NO_COLOR="1"), _on_a_terminal(*words, "--color", "never")):
        assert b"error:" in said
        assert b"\x1b" not in said


def test_a_command_that_takes_long_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(terminal, "SILENCE", 0.1)
    monkeypatch.setattr(terminal, "LATER", 0.2)
    monkeypatch.setattr(devices, "run", lambda _: time.sleep(0.6))
    began = time.monotonic()
    assert cli.main(["devices"]) == 0
    captured = capsys.readouterr()
    assert 1 <= captured.err.count("vmfb devices: still at work, ") <= 1 + (time.monotonic() - began) / 0.2
    assert captured.out == ""

    def talks(_: object) -> None:
        for _ in range(10):
            terminal.say("a word")
            time.sleep(0.02)

    monkeypatch.setattr(terminal, "SILENCE", 5)
    monkeypatch.setattr(devices, "run", talks)
    assert cli.main(["devices"]) == 0
    assert "still at work" not in capsys.readouterr().err


def test_a_step_says_how_many_of_how_many() -> None:
    with activity.step("fsck:store"):
        for number in activity.each("blobs", iter(range(4)), 4):
            if number == 2:
                assert activity.text("fsck:store") == "2 of 4 blobs"
        assert activity.text("fsck:store") == "4 of 4 blobs"
