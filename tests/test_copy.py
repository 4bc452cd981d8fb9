"""Releases are copied from one store into another: as they are, once, and whole after every kill."""

from __future__ import annotations

import dataclasses
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli
from pipeline.commands import copy as command
from pipeline.commands import several
from pipeline.consume.api import Quiet
from pipeline.consume.cache import Cache
from pipeline.consume.copy import Copier
from pipeline.consume.parts import gather
from pipeline.consume.reference import Reference
from pipeline.errors import DeniedError, PipelineError
from pipeline.files import sha256_bytes
from pipeline.layout import (
    LEASES,
    PROBE_KEY,
    TIMESTAMP_KEY,
    blob_key,
    blob_of,
    bom_key,
    evidence_key,
    provenance_key,
    release_key,
    release_of,
    signature_key,
    yank_key,
)
from pipeline.manifest import types as m
from pipeline.manifest.codec import decode, encode
from pipeline.stages import yank
from pipeline.stages.prune import Asked, prune
from pipeline.stages.publish import publish
from pipeline.store.base import Object, Store
from pipeline.store.channels import find_channel
from pipeline.store.open import open_store, open_to_keep
from pipeline.trust.mirror import read_signatures
from tests import releases, trusting, web
from tests.publishing import LATEST, MODEL, KeeperSpy, Package, Spy, assert_whole, pointed_at
from tests.trusting import Signed
from tests.waiting import FOREVER

Vmfb = Callable[..., int]


@pytest.fixture
def vmfb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Vmfb:
    """The command, with a cache of this test's."""
    monkeypatch.setenv("VMFB_CACHE", str(tmp_path / "cache"))
    return lambda *words: cli.main([str(word) for word in words])


@pytest.fixture
def source(tmp_path: Path, package: Package) -> Store:
    """A folder with two releases, 1.0 and 2.0, of which the channel `latest` had each, and all that may be beside."""
    store = open_store(str(tmp_path / "source"))
    for version, content in (("1.0", "one"), ("2.0", "two")):
        publish(package(content), store, version=version)
        assert store.get(provenance_key(MODEL, version))
        assert store.get(bom_key(MODEL, version))
        for key in store.keys(f"evidence/{MODEL}/{version}/"):
            if not key.endswith("index.json"):
                store.create(signature_key(key, "ab12"), b"a signature")
    return store


def content(store: Store, but: tuple[str, ...] = ()) -> dict[str, bytes]:
    """All that is in a store, but what publishers leave to each other."""
    left_out = ("prune/", PROBE_KEY, *but)
    found = {key: store.get(key) for key in store.keys("") if not key.startswith(left_out)}
    return {key: one.data for key, one in found.items() if one}


def test_all_of_a_store_is_copied_and_nothing_twice(
    source: Store, store: Store, vmfb: Vmfb, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """To each kind of store and back."""
    assert vmfb("copy", "--all", "--store", source.url, "--to", store.url) == 0
    said = capsys.readouterr().out
    assert f"{MODEL}@1.0: " in said
    assert ", channel latest" in said.splitlines()[1]
    assert content(store, ("channels/",)) == content(source, ("channels/",))
    assert pointed_at(store) == "2.0"
    assert vmfb("copy", "--all", "--store", source.url, "--to", store.url) == 0
    assert capsys.readouterr().out.splitlines() == [f"{MODEL}@{v}: nothing to send, was there" for v in ("1.0", "2.0")]
    back = open_store(str(tmp_path / "back"))
    assert vmfb("copy", "--all", "--store", store.url, "--to", back.url) == 0
    assert content(back) == content(store)
    assert not list((tmp_path / "cache" / "copying").rglob("*.vmfb*"))
    assert not [path for path in (tmp_path / "cache" / "copying").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("words", "versions", "channels"),
    [
        ((MODEL,), {"2.0"}, {"latest": "2.0"}),
        ((f"{MODEL}@1.0",), {"1.0"}, {}),
        ((f"{MODEL}@1.0", "--channel", "beta"), {"1.0"}, {"beta": "1.0"}),
        ((f"{MODEL}@1.0", MODEL), {"1.0", "2.0"}, {"latest": "2.0"}),
    ],
)
def test_what_is_named_is_copied(
    source: Store, vmfb: Vmfb, tmp_path: Path, words: tuple[str, ...], versions: set[str], channels: dict[str, str]
) -> None:
    there = open_store(str(tmp_path / "there"))
    assert vmfb("copy", *words, "--store", source.url, "--to", there.url) == 0
    assert {found[1] for found in map(release_of, there.keys("releases/")) if found} == versions
    assert len(there.keys("channels/")) == len(channels)
    for channel, version in channels.items():
        assert pointed_at(there, channel) == version
    for version in versions:
        assert_whole(there, version)
        assert there.get(provenance_key(MODEL, version))


def test_from_a_web_server(source: Store, vmfb: Vmfb, tmp_path: Path) -> None:
    """Which lists nothing: what only its keys would tell, signatures, stays."""
    there = open_store(str(tmp_path / "there"))
    with web.serve(tmp_path / "source") as server:
        assert vmfb("copy", "--all", "--store", server.url, "--to", there.url) == 0
    wanted = {key: data for key, data in content(source, ("channels/",)).items() if not key.endswith(".sig")}
    assert content(there, ("channels/",)) == wanted


def test_a_manifest_keeps_its_bytes(source: Store, vmfb: Vmfb, tmp_path: Path) -> None:
    """Whatever this program would write."""
    found = source.get(release_key(MODEL, "1.0"))
    assert found
    data = found.data.replace(b"\n", b"\n ")
    assert data != found.data
    (tmp_path / "source" / release_key(MODEL, "1.0")).write_bytes(data)
    there = open_store(str(tmp_path / "there"))
    assert vmfb("copy", f"{MODEL}@1.0", "--channel", "old", "--store", source.url, "--to", there.url) == 0
    kept = there.get(release_key(MODEL, "1.0"))
    assert kept and kept.data == data
    assert pointed_at(there, "old") == "1.0"


def test_another_release_of_that_version_is_refused_before_anything_is_sent(
    source: Store, package: Package, vmfb: Vmfb, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = open_store(str(tmp_path / "there"))
    publish(package("other"), there, version="1.0")
    before = content(there)
    assert vmfb("copy", f"{MODEL}@1.0", "--store", source.url, "--to", there.url) == 1
    assert "is published already, with other content" in capsys.readouterr().err
    assert content(there) == before


def test_yanks_are_copied_and_never_lifted(source: Store, vmfb: Vmfb, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = open_store(str(tmp_path / "there"))
    copy = ("copy", "--all", "--store", source.url, "--to", there.url)
    yank.run(source.url, MODEL, "2.0", "wrong on Tuesdays", False, tmp_path / "yank")
    assert vmfb(*copy) == 0
    assert there.get(yank_key(MODEL, "2.0")) == source.get(yank_key(MODEL, "2.0"))
    assert find_channel(there, MODEL, "latest") is None  # it points to nothing that may be used
    assert f"the channel latest does not move to {MODEL}@2.0" in capsys.readouterr().err
    yank.run(there.url, MODEL, "1.0", "who keeps this store says so", False, tmp_path / "yank")
    yank.run(source.url, MODEL, "2.0", "", True, tmp_path / "yank")  # undone
    before = {key: data for key, data in content(there).items() if key.startswith("yanked/")}
    assert vmfb(*copy) == 0
    assert {key: data for key, data in content(there).items() if key.startswith("yanked/")} == before


class _KilledError(BaseException):
    """Where a process would end."""


def test_a_kill_at_any_moment_leaves_whole_releases(source: Store, tmp_path: Path) -> None:
    """At each write in turn; and the next run goes on, with the blobs that are not there."""
    whole = [gather(source, MODEL, version, "", print) for version in ("1.0", "2.0")]
    blobs = {blob_key(sha256) for parts in whole for sha256 in parts.blobs}

    def copy(store: Store) -> None:
        copier = Copier(source, store, Cache(tmp_path / "staging"), Quiet())
        for parts in whole:
            copier.put(parts, ["latest"])
        copier.end()

    for count in range(1, 100, 4):

        def kill(spy: Spy, count: int = count) -> None:
            if len(spy.writes) == count:
                raise _KilledError

        there = open_store(str(tmp_path / f"there-{count}"))
        try:
            copy(Spy(there, before=kill))
        except _KilledError:
            pass
        else:
            break
        for _, version in filter(None, map(release_of, there.keys("releases/"))):
            assert_whole(there, version)
        if there.keys("channels/"):
            pointed_at(there)
        sent = set(there.keys("blobs/"))
        spy = Spy(there)
        copy(spy)
        assert {key for name, key in spy.writes if name == "upload"} == blobs - sent
        assert pointed_at(there) == "2.0"
        assert content(there, ("channels/",)) == content(source, ("channels/",))
    assert 15 < count < 97


def test_what_is_pruned_while_it_is_copied_is_not_half_there(tmp_path: Path, package: Package) -> None:
    """A prune removes a release that the copy has found there, and has not come to its blobs when the copy goes on."""
    there = open_to_keep(str(tmp_path / "there"))
    for version in ("one", "two", "three"):
        publish(package(version), there, version=version)
    for key in there.keys(LEASES):
        there.remove(key)
    source = open_store(str(shutil.copytree(tmp_path / "there", tmp_path / "source")))
    removing, copied = threading.Event(), threading.Event()

    def pause(spy: Spy) -> None:
        if spy.calls[-1][0] == "remove" and spy.calls[-1][1].startswith("blobs/"):
            removing.set()
            assert copied.wait(FOREVER)

    asked = Asked(1, grace=0)
    thread = threading.Thread(target=lambda: prune(KeeperSpy(there, before=pause), asked, dry=False))
    started: list[object] = []

    def overtaken(spy: Spy) -> None:
        if spy.calls[-1] == ("get", release_key(MODEL, "one")) and not started:
            started.append(thread.start())
            assert removing.wait(FOREVER)

    parts = gather(source, MODEL, "one", "", print)
    Copier(source, Spy(there, after=overtaken), Cache(tmp_path / "staging"), Quiet()).put(parts)
    copied.set()
    thread.join(FOREVER)
    for _, version in filter(None, map(release_of, there.keys("releases/"))):
        assert_whole(there, version)


def test_a_channel_that_moved_since_the_releases_were_asked_for_stays(source: Store, tmp_path: Path) -> None:
    there, said = open_store(str(tmp_path / "there")), list[str]()
    copier = Copier(source, there, Cache(tmp_path / "staging"), Quiet(), said.append)
    first, second = (gather(source, MODEL, version, "", print) for version in ("1.0", "2.0"))
    copier.put(first)
    found = source.get(LATEST)
    assert found
    assert not copier.set_channel(MODEL, "latest", found.data)
    assert there.get(LATEST) is None
    assert said == ["the channel latest of tiny does not move to 2.0, which is not here: copy again"]
    copier.put(second)
    assert [copier.set_channel(MODEL, "latest", found.data) for _ in range(2)] == [True, False]
    assert pointed_at(there) == "2.0"


def test_a_blob_goes_on_where_it_was(tmp_path: Path, vmfb: Vmfb, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_store(str(tmp_path / "source"))
    manifest, data = releases.release(store, tmp_path / "package", size=1 << 20, segment=1 << 16)
    there = open_store(str(tmp_path / "there"))
    with web.serve(tmp_path / "source") as server:
        server.manners.break_after, server.manners.only = 300_000, "blobs/"
        server.manners.status, server.manners.statuses = 0, 0
        copy = ("copy", "noise", "--store", server.url, "--to", there.url)
        server.manners.broke = lambda: setattr(server.manners, "status", 404) or setattr(server.manners, "statuses", 10**9)
        assert vmfb(*copy) == 1
        assert not there.keys("releases/")
        assert not there.keys("blobs/")
        sent = server.sent
        assert sent >= 300_000
        server.manners.__init__()  # type: ignore[misc]
        assert vmfb(*copy) == 0
        assert server.sent - sent < len(data) - (200_000)
    assert there.get(blob_key(manifest.artifacts[0].blob.sha256))


@pytest.mark.parametrize("key", [provenance_key, bom_key])
@pytest.mark.parametrize("of", ["other", "damaged"])
def test_what_is_about_another_release_stays_behind(
    source: Store, vmfb: Vmfb, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: Callable[[str, str], str], of: str
) -> None:
    """It would stand in the way of what is right, for good."""
    there, path = open_store(str(tmp_path / "there")), tmp_path / "source" / key(MODEL, "2.0")
    right = path.read_bytes()
    path.write_bytes((tmp_path / "source" / key(MODEL, "1.0")).read_bytes() if of == "other" else b"[")
    copy = ("copy", MODEL, "--store", source.url, "--to", there.url)
    assert vmfb(*copy) == 0
    assert "left out" in capsys.readouterr().err
    assert there.get(key(MODEL, "2.0")) is None
    path.write_bytes(right)
    assert vmfb(*copy) == 0
    found = there.get(key(MODEL, "2.0"))
    assert found and found.data == right


@pytest.mark.parametrize("damage", ["blob", "gone", "manifest", "evidence"])
def test_what_is_damaged_there_does_not_come_here(
    source: Store, vmfb: Vmfb, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    there = open_store(str(tmp_path / "there"))
    root = tmp_path / "source"
    found = source.get(release_key(MODEL, "2.0"))
    assert found
    blob = decode(m.Manifest, found.data, "").artifacts[0].blob
    if damage == "blob":
        (root / blob_key(blob.sha256)).write_bytes(b"x" * blob.size)
    elif damage == "gone":
        (root / blob_key(blob.sha256)).unlink()
    elif damage == "manifest":
        (root / release_key(MODEL, "2.0")).write_bytes(found.data[:-10])
    else:
        path = next(p for p in (root / "evidence" / MODEL / "2.0").glob("*.json") if p.name != "index.json")
        path.write_bytes(b"{}")
        assert vmfb("copy", MODEL, "--store", source.url, "--to", there.url) == 0
        assert "left out" in capsys.readouterr().err
        assert not [key for key in there.keys("evidence/") if not key.endswith("index.json")]
        return
    assert vmfb("copy", MODEL, "--store", source.url, "--to", there.url) == 1
    said = capsys.readouterr().err
    assert "error: " in said
    assert "→" in said
    assert not there.keys("releases/")
    assert not [key for key in there.keys("blobs/") if blob_of(key) == blob.sha256]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "which releases?"),
        ((MODEL, "--all"), "which releases?"),
        (("--all", "--channel", "x"), "give it with MODEL"),
        ((MODEL, "--channel", "X/Y"), "give it with MODEL"),
        (("nothing",), "there is no model nothing"),
        ((f"{MODEL}@1.0", f"{MODEL}@2.0", "--channel", "x"), "cannot point to"),
    ],
)
def test_what_cannot_be_meant(
    source: Store, vmfb: Vmfb, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    assert vmfb("copy", *words, "--store", source.url, "--to", tmp_path / "there") == 1
    assert says in capsys.readouterr().err
    assert not (tmp_path / "there").exists()


def test_stores_that_are_one_or_can_only_be_read(
    source: Store, vmfb: Vmfb, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vmfb("copy", MODEL, "--store", source.url, "--to", f"{source.url}/") == 1
    assert "is the store to copy from, too" in capsys.readouterr().err
    assert vmfb("copy", MODEL, "--store", source.url, "--to", "https://models.example.org") == 1
    assert "can only be read" in capsys.readouterr().err


@pytest.fixture
def signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Signed:
    return trusting.begun(tmp_path, monkeypatch)


def test_a_copy_of_a_signed_store_is_signed_as_it_is(
    signed: Signed, vmfb: Vmfb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By nobody who has no key; and it is kept up."""
    monkeypatch.setenv(trusting.VARIABLE, str(tmp_path / "none"))
    there = str(tmp_path / "there")
    copy = ("copy", "--all", "--store", signed.url, "--to", there)
    assert vmfb(*copy) == 0
    trusting.believe(there, signed)
    latest = Reference(trusting.MODEL, channel="latest")
    first = trusting.manifest_of(there, latest, tmp_path / "a")
    assert first == trusting.manifest_of(signed.url, latest, tmp_path / "b")
    monkeypatch.setenv(trusting.VARIABLE, str(signed.keys))
    second = signed.publish(1)
    monkeypatch.setenv(trusting.VARIABLE, str(tmp_path / "none"))
    assert trusting.manifest_of(there, latest, tmp_path / "c") == first
    assert vmfb(*copy) == 0
    assert trusting.manifest_of(there, latest, tmp_path / "d") == second != first
    was = shutil.copytree(there, tmp_path / "was")
    assert vmfb(*copy) == 0
    assert {p.relative_to(was): p.read_bytes() for p in was.rglob("*.json") if "prune" not in p.parts} == {
        p.relative_to(there): p.read_bytes() for p in Path(there).rglob("*.json") if "prune" not in p.parts
    }


def test_a_copy_says_nothing_of_what_was_published_while_it_was_made(
    signed: Signed, vmfb: Vmfb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, latest = str(tmp_path / "there"), Reference(trusting.MODEL, channel="latest")
    published: list[m.Manifest] = []

    def overtaken(*arguments: Any) -> Any:
        found = several.asked(*arguments)
        published.append(signed.publish(1))
        return found

    first = trusting.manifest_of(signed.url, latest, tmp_path / "a")
    monkeypatch.setattr(command, "asked", overtaken)
    assert vmfb("copy", "--all", "--store", signed.url, "--to", there) == 0
    trusting.believe(there, signed)
    assert trusting.manifest_of(there, latest, tmp_path / "b") == first
    assert vmfb("copy", "--all", "--store", signed.url, "--to", there) == 0
    assert trusting.manifest_of(there, latest, tmp_path / "c") == published[0] != first


def test_signatures_do_not_go_where_they_would_hide_or_replace_others(
    signed: Signed, vmfb: Vmfb, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = open_store(str(tmp_path / "there"))
    releases.make(tmp_path / "mine", 1 << 12, 1 << 10, 7, name="mine")
    publish(tmp_path / "mine", there)
    assert vmfb("copy", "--all", "--store", signed.url, "--to", there.url) == 1
    assert "is not signed, and has what the signed store" in capsys.readouterr().err
    assert vmfb("copy", trusting.MODEL, "--store", signed.url, "--to", there.url) == 0
    assert there.get(TIMESTAMP_KEY) is None
    assert pointed_at_noise(there)


def pointed_at_noise(store: Store) -> str:
    found = find_channel(store, trusting.MODEL, "latest")
    assert found
    return found.version


def test_into_a_signed_store_with_its_own_keys(
    signed: Signed, source: Store, vmfb: Vmfb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was copied is signed by who copies; who has no key is refused before anything is sent."""
    copy = ("copy", MODEL, "--store", source.url, "--to", signed.url)
    before = content(open_store(signed.url))
    with monkeypatch.context() as patch:
        patch.setenv(trusting.VARIABLE, str(tmp_path / "none"))
        assert vmfb(*copy) == 1
    assert content(open_store(signed.url)) == before
    capsys.readouterr()
    assert vmfb(*copy) == 0
    found = trusting.manifest_of(signed.url, Reference(MODEL, channel="latest"), tmp_path / "cache-2")
    assert found.version == "2.0"


def test_evidence_that_does_not_count_is_not_made_to(signed: Signed, vmfb: Vmfb, tmp_path: Path) -> None:
    """A document that no witness of a signed store has signed stays behind, for another store would believe it."""
    manifest = trusting.manifest_of(signed.url, Reference(trusting.MODEL, channel="latest"), tmp_path / "a")
    data = encode(releases.unseen(manifest)) + b" "
    key = evidence_key(trusting.MODEL, manifest.version, sha256_bytes(data))
    open_store(signed.url).create(key, data)
    there = open_store(str(tmp_path / "there"))
    assert vmfb("copy", trusting.MODEL, "--store", signed.url, "--to", there.url) == 0
    assert there.get(key) is None
    assert len(there.keys("evidence/")) > 1


def test_from_a_store_that_does_not_say_what_is_not_there(source: Store, tmp_path: Path) -> None:
    """As S3 does for who may not list: it refuses what is not there."""

    class Denying(Spy):
        def get(self, key: str) -> Object | None:
            if (found := super().get(key)) is None:
                raise DeniedError("may be there, or not")
            return found

        def listed(self, prefix: str) -> list[str] | None:
            return None

    for key in source.keys("releases/"):
        if not key.endswith("manifest.json"):
            (tmp_path / "source" / key).unlink()
    denying = Denying(source)
    parts = gather(denying, MODEL, "1.0", "", print)
    assert (parts.beside, parts.yank, len(parts.evidence)) == ({}, None, 1)
    assert read_signatures(denying) is None


def test_the_first_error_is_told_and_nothing_is_left_at_work(source: Store, tmp_path: Path) -> None:
    """Of several blobs at a time."""

    class Full(Spy):
        def upload(self, key: str, path: Path, sha256: str) -> None:
            raise PipelineError("no space left", where=key)

    parts = gather(source, MODEL, "1.0", "", print)
    before = threading.active_count()
    with pytest.raises(PipelineError, match="no space left"):
        Copier(source, Full(open_store(str(tmp_path / "there"))), Cache(tmp_path / "staging"), Quiet()).put(parts)
    assert threading.active_count() == before


def test_a_whole_of_right_stretches_that_is_wrong(source: Store, tmp_path: Path) -> None:
    """A manifest that contradicts itself: nothing of it goes there."""
    parts = gather(source, MODEL, "1.0", "", print)
    blob = parts.manifest.artifacts[0].blob
    other = dataclasses.replace(blob, sha256="0" * 64)
    artifact = dataclasses.replace(parts.manifest.artifacts[0], blob=other)
    manifest = dataclasses.replace(parts.manifest, artifacts=(artifact,))
    (tmp_path / "source" / blob_key("0" * 64)).parent.mkdir()
    shutil.copy(tmp_path / "source" / blob_key(blob.sha256), tmp_path / "source" / blob_key("0" * 64))
    wrong = dataclasses.replace(parts, manifest=manifest, data=encode(manifest))
    there = open_store(str(tmp_path / "there"))
    with pytest.raises(PipelineError, match="and all of it is not"):
        Copier(source, there, Cache(tmp_path / "staging"), Quiet()).put(wrong)
    assert not there.keys("releases/")
    assert blob_key("0" * 64) not in there.keys("blobs/")
