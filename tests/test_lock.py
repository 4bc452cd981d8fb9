"""What a lock says that a name means is what it means, wherever it is asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import cli
from pipeline.files import sha256_bytes
from pipeline.layout import release_key, release_of, yank_key
from pipeline.manifest.codec import encode
from pipeline.manifest.types import SCHEMA, Yank
from pipeline.stages.publish import publish
from pipeline.store.base import Store
from pipeline.store.open import open_store
from tests import releases, web
from tests.project import Project
from tests.publishing import MODEL, Package

Vmfb = Callable[..., int]


@pytest.fixture
def vmfb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Vmfb:
    monkeypatch.setenv("VMFB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PIPELINE_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    return lambda *words: cli.main([str(word) for word in words])


@pytest.fixture
def store(tmp_path: Path, package: Package) -> Store:
    """A folder with a release of one model, and one of another."""
    store = open_store(str(tmp_path / "store"))
    publish(package("one"), store, version="1.0")
    releases.release(store, tmp_path / "noise")
    return store


@pytest.fixture
def lock(store: Store, vmfb: Vmfb, tmp_path: Path) -> Path:
    """Of the first, before its channel moves to another."""
    assert vmfb("lock", MODEL, "noise", "--store", store.url) == 0
    return tmp_path / "vmfb.lock"


@pytest.fixture
def moved(lock: Path, store: Store, package: Package) -> Path:
    publish(package("two"), store, version="2.0")
    return lock


def versions(vmfb: Vmfb, capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert vmfb("inspect", MODEL, "--json", *words) == 0
    found: str = json.loads(capsys.readouterr().out)["version"]
    return found


def test_a_name_means_what_was_locked(
    moved: Path, store: Store, vmfb: Vmfb, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the file is obeyed where it is named, never because it is there."""
    assert versions(vmfb, capsys, "--store", store.url) == "2.0"
    assert versions(vmfb, capsys, "--lock", moved) == "1.0"  # from the lock's own store
    monkeypatch.setenv("VMFB_LOCK", "vmfb.lock")
    assert versions(vmfb, capsys) == "1.0"
    for name in (f"{MODEL}:latest", f"{MODEL}@1.0"):
        assert vmfb("inspect", name) == 0
    for command in (("fetch", "--full"), ("explain",), ("run",), ("diff", MODEL), ("profile",)):
        for name in (f"{MODEL}@2.0", f"{MODEL}:beta", "other"):
            assert vmfb(*command, name, "--store", store.url) == 1
            assert f"{name if name != 'other' else 'other:latest'} is not in the lock" in (said := capsys.readouterr().err)
            assert "→ `vmfb lock " in said


def test_it_is_the_same_for_the_same_and_its_changes_are_told(
    lock: Path, store: Store, vmfb: Vmfb, package: Package, capsys: pytest.CaptureFixture[str]
) -> None:
    first = lock.read_bytes()
    assert json.loads(first)["releases"][1] == {
        "name": f"{MODEL}:latest",
        "model": MODEL,
        "version": "1.0",
        "manifest": sha256_bytes((Path(store.url) / release_key(MODEL, "1.0")).read_bytes()),
    }
    assert vmfb("lock", "noise:latest", MODEL, "--store", store.url, "-o", "other.lock") == 0
    assert Path("other.lock").read_bytes() == first
    publish(package("two"), store, version="2.0")
    capsys.readouterr()
    assert vmfb("lock") == 0
    said = capsys.readouterr().out
    assert f"{MODEL}:latest: 2.0 (was 1.0)" in said
    assert "noise:latest: " in said
    assert ", as it was" in said
    assert vmfb("lock", "noise", "--store", store.url) == 0
    assert f"{MODEL}:latest: not locked any more" in capsys.readouterr().out
    assert [one["name"] for one in json.loads(lock.read_text())["releases"]] == ["noise:latest"]


def test_another_manifest_of_that_version_is_refused(
    lock: Path, store: Store, vmfb: Vmfb, tmp_path: Path, package: Package, capsys: pytest.CaptureFixture[str]
) -> None:
    other = open_store(str(tmp_path / "other"))
    publish(package("other"), other, version="1.0")
    assert vmfb("fetch", "--full", MODEL, "--lock", lock, "--store", other.url) == 1
    assert "the lock says" in capsys.readouterr().err
    with web.serve(Path(other.url)) as server:
        assert vmfb("inspect", MODEL, "--lock", lock, "--store", server.url) == 1


def test_what_is_cached_asks_no_store(lock: Path, store: Store, vmfb: Vmfb, capsys: pytest.CaptureFixture[str]) -> None:
    """It never changes; so a store that is gone, or one whose channel moved, is none of its business."""
    with web.serve(Path(store.url)) as server:
        assert vmfb("fetch", "-q", "--full", "noise", "--lock", lock, "--store", server.url) == 0
        seen = len(server.seen)
        assert seen
        assert vmfb("fetch", "-q", "--full", "noise", "--lock", lock, "--store", server.url) == 0
        assert len(server.seen) == seen


def test_what_was_yanked_since_is_told(lock: Path, store: Store, vmfb: Vmfb, capsys: pytest.CaptureFixture[str]) -> None:
    """As of a pin; and is not locked anew."""
    store.create(yank_key(MODEL, "1.0"), encode(Yank(SCHEMA, MODEL, "1.0", "it is wrong", "2026-01-31T12:00:00Z", "")))
    shutil.rmtree("cache")
    assert vmfb("fetch", "-q", "--full", MODEL, "--lock", lock) == 0
    assert "was yanked on 2026-01-31: it is wrong" in capsys.readouterr().err
    before = lock.read_bytes()
    assert vmfb("lock") == 1
    assert "was yanked" in capsys.readouterr().err
    assert lock.read_bytes() == before


def test_copies_and_bundles_of_what_is_locked(moved: Path, store: Store, vmfb: Vmfb, tmp_path: Path) -> None:
    """All of it, where nothing else is named; and a machine without a network has the lock's word for what the file holds."""
    assert vmfb("bundle", "--lock", moved, "-o", "x.tar") == 0
    assert vmfb("copy", MODEL, "--lock", moved, "--to", "copied") == 0
    assert set(filter(release_of, open_store("copied").keys("releases/"))) == {release_key(MODEL, "1.0")}
    shutil.rmtree(store.url)
    shutil.rmtree("cache")
    assert vmfb("fetch", "-q", "--full", MODEL, "--lock", moved, "--store", "x.tar") == 0
    assert vmfb("fetch", "-q", "--full", "noise", "--lock", moved, "--store", "x.tar") == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema": 2}, "has schema version 2"),
        ({"more": 1}, "more: is not a key here"),
        ({"releases": [{"name": "a", "model": "../a", "version": "1", "manifest": "0" * 64}]}, "is no name"),
        ({"releases": [{"name": "a", "model": "a", "version": "..", "manifest": "0" * 64}]}, "is no version"),
        ({"releases": [{"name": "a", "model": "a", "version": "1", "manifest": "0"}]}, "is no SHA-256"),
        ({"releases": [{"name": "a", "model": "a", "version": "1", "manifest": "0" * 64}] * 2}, "has a name twice"),
    ],
)
def test_what_is_no_lock(
    lock: Path, vmfb: Vmfb, capsys: pytest.CaptureFixture[str], change: dict[str, object], says: str
) -> None:
    lock.write_text(json.dumps({**json.loads(lock.read_text()), **change}))
    assert vmfb("fetch", MODEL, "--lock", lock) == 1
    assert says in (said := capsys.readouterr().err)
    assert "→" in said


def test_locks_that_are_not_there(vmfb: Vmfb, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert vmfb("fetch", MODEL, "--lock", "none.lock", "--store", store.url) == 1
    assert "none.lock" in capsys.readouterr().err
    assert vmfb("fetch", MODEL, "--lock", "", "--store", store.url) == 1
    assert "names no lock" in capsys.readouterr().err
    assert vmfb("lock", "--store", store.url, "-o", "none.lock") == 1
    assert "which releases?" in capsys.readouterr().err
    assert not Path("none.lock").exists()


def test_programs_obey_it_too(built: Project, vmfb: Vmfb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.consume import load
    from pipeline.errors import PipelineError

    url = str(built.root / "out" / "store")
    assert vmfb("lock", "small", "--store", url, "-o", "small.lock") == 0
    model = load("small", lock="small.lock")
    assert json.loads(Path("small.lock").read_text())["releases"][0]["version"] == model.manifest.version
    monkeypatch.setenv("VMFB_LOCK", str(tmp_path / "small.lock"))
    assert load("small", store=url).manifest == model.manifest
    with pytest.raises(PipelineError, match="small:beta is not in the lock"):
        load("small:beta", store=url)
