"""Where things are and who may read them: `~`, modes whatever the umask, links, what is no file, names that are misread."""

from __future__ import annotations

import os
import socket
import stat
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import logs, process, wheels
from pipeline.consume import fetch
from pipeline.consume.api import Quiet
from pipeline.consume.cache import Cache
from pipeline.consume.reference import parse
from pipeline.consume.resolve import Remote, Resolver
from pipeline.errors import ManyProblemsError, PipelineError
from pipeline.files import locked, staged, write
from pipeline.spec.load import load
from pipeline.store.open import open_store
from tests import releases
from tests.project import Project

KEY = "releases/m/1/manifest.json"


@pytest.fixture(params=[0o077, 0o022, 0o002], ids="{:03o}".format)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# Where


def test_a_home_folder_means_one_place_to_both_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    store = open_store("~/store")
    store.create(KEY, b"1")
    assert (tmp_path / "store" / KEY).read_bytes() == b"1"
    assert Remote("~/store").url == store.url == str(tmp_path / "store")
    assert open_store("~nobody-of-that-name/x").url == "~nobody-of-that-name/x"


def test_doit_publishes_to_where_vmfb_looks(again: Project, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    result = again.doit("publish", HOME=str(home), PIPELINE_STORE="~/store")
    assert result.returncode == 0, result.stdout
    assert (home / "store/index.json").is_file()
    assert not (again.root / "~").exists()


# Modes


def test_what_is_published_may_be_read_by_a_web_server(umask: int, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "new" / "store"))
    store.create(KEY, b"1")
    store.replace("index.json", b"1", None)
    write(tmp_path / "file", b"x")
    store.upload("blobs/sha256/2d/x", tmp_path / "file", "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881")
    for path in [tmp_path / "new", *(tmp_path / "new").rglob("*")]:
        if path.name != ".lock":
            assert mode(path) & 0o755 == (0o755 if path.is_dir() else 0o644), path
    assert mode(tmp_path / "file") == 0o666 & ~umask  # what is not published is for whom the user says


def test_what_is_private_is_so_from_its_first_byte(umask: int, tmp_path: Path) -> None:
    with staged(tmp_path / "key", 0o600) as temporary:
        assert mode(temporary) == 0o600
    assert mode(tmp_path / "key") == 0o600


# Links, pipes and other things


def test_a_link_in_the_cache_is_not_written_through(tmp_path: Path) -> None:
    manifest, data = releases.release(open_store(str(tmp_path / "store")), tmp_path / "package", 1 << 18, 1 << 16)
    remote, cache = Remote(str(tmp_path / "store")), Cache(tmp_path / "cache")
    artifact = fetch.pick(Resolver(remote, cache).manifest(parse("noise")))
    entry, other = fetch.entry(cache, artifact), tmp_path / "precious"
    other.write_bytes(b"precious")
    entry.path.parent.mkdir(parents=True)
    for path in (entry.path, entry.path.with_name(f"{entry.path.name}.lock"), entry.path.with_name(f"{entry.path.name}.json")):
        path.symlink_to(other)
    fetched = fetch.fetch(remote, cache, artifact, None, Quiet())
    assert other.read_bytes() == b"precious"
    assert not fetched.path.is_symlink()
    assert fetched.path.read_bytes() == data
    assert manifest.model.name == "noise"


def test_a_lock_or_a_log_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    for name in ("lock", "log"):
        (tmp_path / name).symlink_to(tmp_path / f"{name}-elsewhere")
    with locked(tmp_path / "lock", "busy"):
        process.run(["true"], tmp_path / "log")
    assert not list(tmp_path.glob("*-elsewhere"))


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_is_no_file_is_not_waited_for(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / KEY
    path.parent.mkdir(parents=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            monkeypatch.chdir(path.parent)  # the names of sockets are short
            made.bind(path.name)
    else:
        path.symlink_to("/dev/zero")
    store = open_store(str(tmp_path))
    with pytest.raises(PipelineError, match=r"no regular file|No such device"):
        store.get(KEY)
    with pytest.raises(PipelineError, match=r"no regular file|No such device"), store.open(KEY, 0, 1):
        pass
    with pytest.raises(PipelineError, match=r"no regular file|No such device"):
        store.holds(KEY, path.stat().st_size, "0" * 64)
    cache = Cache(tmp_path / "cache")
    kept = cache._document("x", KEY)
    kept.parent.mkdir(parents=True)
    kept.symlink_to(path)
    assert cache.document("x", KEY) is None


# Names


@pytest.mark.parametrize("name", ["m.YAML", "m.yml", "m.Yml"])
def test_a_spec_by_another_ending_is_not_passed_over(name: str, tmp_path: Path) -> None:
    project = Project(tmp_path, "small")
    (project.targets / "models" / name).write_text("about: x")
    (project.targets / name.replace("m.", "policy.")).write_text("channels: {}")
    with pytest.raises(ManyProblemsError) as caught:
        load(project.targets)
    assert len(caught.value.problems) == 2
    assert "rename it to m.yaml" in str(caught.value)
    assert "rename it to policy.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("package", "version"),
    [
        ("--index-url=http://x", "1"),
        ("-r", "1"),
        ("x @ http://x/y.whl", "1"),
        ("http://x/y.whl", "1"),
        ("./x", "1"),
        ("x[extra]", "1"),
        ("x", "*"),
        ("x", "1.*"),
        ("x", "1,>0"),
        ("x", ">=1"),
        ("x", "1 --pre"),
        ("x", "1; python_version>'3'"),
        ("x", "1" * 200),
    ],
)
def test_what_pip_would_misread_is_no_package(package: str, version: str, tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.add("small", source={"kind": "wheel", "package": package, "version": version, "member": "x", "sha256": "0" * 64})
    with pytest.raises(ManyProblemsError, match=r"source\.(package|version): must be") as caught:
        load(project.targets)
    assert len(caught.value.problems) == 1
    with pytest.raises(PipelineError, match="no NAME==VERSION"):
        wheels.download(f"{package}=={version}", tmp_path, tmp_path / "log")
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("version", ["1", "1.2.3", "3.13.0rc20260101", "1!2.0.post1", "2.0+cpu", "v1.0-1", "2024.1.1.dev0"])
def test_versions_of_packages(version: str) -> None:
    assert wheels.is_version(version)
    assert not wheels.is_version("1" + "a" * 100 + "!")


# Much


def test_a_long_log_keeps_its_head_and_its_tail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LIMIT", 1 << 20)
    monkeypatch.setattr(logs, "_HEAD", 1 << 16)
    monkeypatch.setattr(logs, "_TAIL", 1 << 17)
    peak = f"import os; print('peak', max(os.stat({str(tmp_path / 'log')!r}).st_size, 0))"
    code = f"""if True:
        import sys, time
        print("the first line", flush=True)
        for number in range(40):
            sys.stdout.write(f"{{number:8}}\\n" * 20_000)
            sys.stdout.flush()
            time.sleep(0.02)
        {peak}
        print("the last line")"""
    process.run([sys.executable, "-c", code], tmp_path / "log")
    text = (tmp_path / "log").read_text()
    assert len(text) <= 1 << 20
    assert "\nthe first line\n" in text[: 1 << 12]
    assert text.splitlines()[-1] == "the last line"
    cut = [line for line in text.splitlines() if "bytes of this log were cut out" in line]
    assert len(cut) == 1
    assert int(cut[0].split()[1]) + len(text) > 0.9 * 40 * 20_000 * 9  # it wrote on
    assert int(text.splitlines()[-2].split()[1]) < 0.5 * 40 * 20_000 * 9  # while it was written, too


def test_a_forks_log_is_kept_short_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LIMIT", 1 << 16)
    monkeypatch.setattr(logs, "_HEAD", 1 << 12)
    monkeypatch.setattr(logs, "_TAIL", 1 << 12)
    code = "import sys; from pipeline import process; sys.exit(process.serve(lambda words: print('x' * 10**6)))"
    process.Forks([sys.executable, "-c", code]).execute(["0"], tmp_path / "log", timeout=60, env={})
    assert (tmp_path / "log").stat().st_size < 1 << 14


def wheel(folder: Path, members: dict[str, int]) -> Path:
    path = folder / "x-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, size in members.items():
            archive.writestr(name, bytes(size))
    return path


def test_a_wheel_that_is_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "_SMALL", 1 << 20)
    with pytest.raises(PipelineError, match="is not unpacked: b has 2097152 bytes, packed"):
        wheels.unpacked(tmp_path / "place", lambda folder: wheel(folder, {"a": 1, "b": 2 << 20}))
    assert not (tmp_path / "place").exists()
    assert wheels.unpacked(tmp_path / "place", lambda folder: wheel(folder, {"a": 1 << 20})).is_dir()
    monkeypatch.setattr(wheels, "_UNPACKED", 1 << 20)
    with pytest.raises(PipelineError, match="is not unpacked: it has 3 files in it, of 1200000 bytes"):
        wheels.unpacked(tmp_path / "other", lambda folder: wheel(folder, dict.fromkeys("abc", 400_000)))
