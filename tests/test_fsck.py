"""A store that is damaged in every way it can be: each is found, told with what to do, repaired where `out/` has what is lost."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.consume.cache import Cache
from pipeline.consume.reference import Reference
from pipeline.consume.resolve import Remote, Resolver
from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes
from pipeline.layout import (
    INDEX_KEY,
    PROBE_KEY,
    PRUNING_KEY,
    blob_key,
    channel_key,
    evidence_index_key,
    evidence_key,
    lease_key,
    release_key,
    yank_key,
)
from pipeline.manifest.codec import encode
from pipeline.stages import fsck, yank
from pipeline.stages.fsck import Check, Finding, Packages
from pipeline.stages.publish import publish
from pipeline.store.base import Keeper, Store
from pipeline.store.documents import add_evidence
from pipeline.store.open import open_to_keep
from pipeline.store.s3keeper import S3Keeper
from tests import releases, servers, trusting
from tests.publishing import LATEST, MODEL, KeeperSpy, Package, assert_whole, manifest_of, pointed_at

Damage = Callable[[Keeper], None]


def overwrite(store: Store, key: str, data: bytes) -> None:
    found = store.get(key)
    assert store.replace(key, data, found.tag if found else None)


def state(store: Store) -> dict[str, bytes]:
    found = {key: store.get(key) for key in store.keys("") if not key.startswith("prune/")}
    return {key: one.data for key, one in found.items() if one}


@pytest.fixture
def keeper(store: Store, package: Package) -> Keeper:
    """A store of each kind in turn that holds three releases, one of a version derived from its content."""
    publish(package("one"), store)
    publish(package("two"), store, version="2.0", channel="stable")
    publish(package("two"), store, version="2.0")
    publish(package("three"), store, version="3.0")
    return open_to_keep(store.url)


@pytest.fixture
def check(keeper: Keeper, package: Package) -> Callable[..., list[Finding]]:
    """Looks at the store."""
    folders = [package(content) for content in ("one", "two", "three")]

    def call(deep: bool = False, repair: bool = False, packages: bool = True) -> list[Finding]:
        return list(Check(keeper, Packages(folders if packages else []), deep, repair).run())

    return call


@pytest.fixture
def derived(package: Package) -> str:
    return manifest_of(package("one")).version


def first_blob(package: Package, content: str = "two") -> str:
    return blob_key(manifest_of(package(content)).artifacts[0].blob.sha256)


def document(package: Package, version: str, content: str = "two") -> str:
    return evidence_key(MODEL, version, sha256_bytes(encode(releases.unseen(manifest_of(package(content))))))


def test_a_store_that_is_right_has_no_findings_and_is_not_written(
    keeper: Keeper, check: Callable[..., list[Finding]], tmp_path: Path
) -> None:
    assert check() == check(deep=True) == check(repair=True) == []
    spy = KeeperSpy(keeper)
    list(Check(spy, Packages([]), True, True).run())
    assert not spy.writes
    fsck.run(keeper.url, False, False, tmp_path / "out", tmp_path / "report")
    said = (tmp_path / "report" / "report.txt").read_text()
    assert f"{keeper.url}: 3 releases, 2 channels, 12 documents, 5 blobs of 11.0 kB: all is as it should be" in said


# What is damaged, by what: what is said, and what says how to go on.
CASES: dict[str, tuple[Callable[[Package], str], bytes | None, str]] = {
    "a blob is gone": (first_blob, None, "is not there; needed by tiny@2.0"),
    "a blob is short": (first_blob, b"x", "has 1 bytes, not 3000; needed by tiny@2.0"),
    "a blob has other bytes": (first_blob, b"x" * 3000, "has other bytes than its digest says"),
    "a manifest that a channel points to is gone": (lambda _: release_key(MODEL, "2.0"), None, "a channel points to it"),
    "a manifest is damaged": (lambda _: release_key(MODEL, "2.0"), b"{", "not JSON"),
    "a manifest is another's": (lambda _: release_key(MODEL, "2.0"), b"", "not JSON"),
    "evidence has other bytes": (lambda p: document(p, "2.0"), b"{}", "does not have the digest that it is named by"),
    "the list of evidence is wrong": (
        lambda _: evidence_index_key(MODEL, "2.0"),
        b'{"schema": 1, "documents": []}',
        "does not list",
    ),
    "the list of evidence is damaged": (lambda _: evidence_index_key(MODEL, "2.0"), b"{", "not JSON"),
    "the list of evidence is gone": (
        lambda _: evidence_index_key(MODEL, "2.0"),
        None,
        "is not there: web servers show none",
    ),
    "the index is gone": (lambda _: INDEX_KEY, None, "is not there"),
    "the index is damaged": (lambda _: INDEX_KEY, b"{", "not JSON"),
    "the index is empty": (lambda _: INDEX_KEY, b'{"schema": 1, "models": []}', "does not list what is there"),
}


@pytest.mark.parametrize("case", CASES)
def test_damage_is_found_and_repaired(
    keeper: Keeper, check: Callable[..., list[Finding]], package: Package, tmp_path: Path, case: str
) -> None:
    where, data, said = CASES[case]
    key, before = where(package), state(keeper)
    keeper.remove(key) if data is None else overwrite(keeper, key, data)
    broken = state(keeper)
    wrong = {one.key: one for one in check() if one.is_wrong}
    assert wrong.keys() | {INDEX_KEY} == {key, INDEX_KEY}  # which lists the manifests that are there
    finding = wrong[key]
    assert finding.is_open
    assert said in finding.what
    assert "doit fsck repair=yes" in finding.hint
    assert state(keeper) == broken  # nothing is written where that is not asked for
    (finding,) = check(repair=True)
    assert not finding.is_open, finding
    assert state(keeper) == before
    assert check() == []


def test_what_out_does_not_have_stays_and_is_told(
    keeper: Keeper, check: Callable[..., list[Finding]], package: Package, tmp_path: Path, derived: str
) -> None:
    for key in (first_blob(package), release_key(MODEL, derived)):
        overwrite(keeper, key, b"x")
    broken = state(keeper)
    found = {one.key: one for one in check(repair=True, packages=False)}
    assert set(found) == {first_blob(package), release_key(MODEL, derived)} | ({"blobs/"} & set(found))
    assert state(keeper) == broken
    with pytest.raises(PipelineError) as caught:
        fsck.run(keeper.url, False, True, tmp_path / "nothing", tmp_path / "report")
    text = str(caught.value)
    assert "2 problems" in text
    assert f"✗ {first_blob(package)}: has 1 bytes, not 3000; needed by tiny@2.0" in text
    assert "docs/runbook.html" in text


def test_a_manifest_is_put_back_only_if_it_is_known_to_be_right(
    keeper: Keeper, check: Callable[..., list[Finding]], package: Package, derived: str
) -> None:
    """A version derived from the content tells itself; of others a channel has the digest, or nobody knows."""
    overwrite(keeper, release_key(MODEL, derived), b"{")
    check(repair=True)
    assert_whole(keeper, derived)
    publish(package("two"), keeper, version="9.0", channel="other")
    keeper.remove(channel_key(MODEL, "other"))
    overwrite(keeper, release_key(MODEL, "9.0"), b"{")
    assert [one.is_open for one in check(repair=True) if one.key == release_key(MODEL, "9.0")] == [True]


def test_evidence_that_nobody_has_any_more_is_removed(
    keeper: Keeper, check: Callable[..., list[Finding]], package: Package
) -> None:
    key = document(package, "2.0")
    overwrite(keeper, key, b"{}")
    check(repair=True, packages=False)
    assert keeper.get(key) is None
    assert check() == []  # nor is it listed


def test_a_blob_of_the_right_digest_by_another_program_is_no_damage(
    keeper: Keeper, check: Callable[..., list[Finding]], package: Package
) -> None:
    """In a bucket it has no digest beside it, so its bytes are read."""
    found = keeper.get(first_blob(package))
    assert found is not None
    keeper.remove(first_blob(package))
    assert keeper.create(first_blob(package), found.data)
    assert check() == []


def test_channels_that_lead_nowhere(keeper: Keeper, check: Callable[..., list[Finding]], tmp_path: Path) -> None:
    yank.run(keeper.url, MODEL, "3.0", "it was bad", False, tmp_path / "yank")
    overwrite(keeper, channel_key(MODEL, "stable"), b"{")
    found = {one.key: one for one in check(repair=True) if one.key != INDEX_KEY}
    assert set(found) == {LATEST, channel_key(MODEL, "stable")}
    assert "points to what nobody gets: tiny@3.0 was yanked on" in found[LATEST].what
    assert found[LATEST].hint == f"`doit rollback model={MODEL} channel=latest`"
    assert "doit promote model=tiny version=VERSION channel=stable" in found[channel_key(MODEL, "stable")].hint


def test_a_channel_whose_release_is_another_is_told(keeper: Keeper, check: Callable[..., list[Finding]]) -> None:
    found = keeper.get(LATEST)
    assert found is not None
    said = json.loads(found.data)
    said["manifest"]["sha256"] = "0" * 64
    overwrite(keeper, LATEST, json.dumps(said).encode())
    (finding,) = check(repair=True)
    assert finding.key == release_key(MODEL, "3.0")
    assert f"its channels say {'0' * 64}" in finding.what
    said["manifest"]["name"] = release_key(MODEL, "2.0")
    overwrite(keeper, LATEST, json.dumps(said).encode())
    assert [one for one in check() if "points to releases/tiny/2.0/manifest.json" in one.what]


def test_a_yank_that_cannot_be_read_is_told(keeper: Keeper, check: Callable[..., list[Finding]]) -> None:
    keeper.create(yank_key(MODEL, "2.0"), b"{")
    (finding,) = check()
    assert finding.key == yank_key(MODEL, "2.0")
    assert "undo=yes" in finding.hint


def test_what_is_nobodys_is_told_and_is_no_problem(
    keeper: Keeper, check: Callable[..., list[Finding]], package: Package, tmp_path: Path
) -> None:
    strays = ["README.txt", "releases/x", "blobs/sha256/00/x", "channels/a/b/c.json", "releases/tiny/2.0/notes.txt"]
    known = ["trust/1.root.json", "releases/tiny/2.0/provenance.json", "releases/tiny/2.0/bom.json", PROBE_KEY, lease_key("x")]
    known.append(document(package, "2.0").removesuffix("json") + "0a1b2c.sig")
    for key in (*strays, *known):
        keeper.create(key, b"{}")
    keeper.create(blob_key(sha256_bytes(b"orphan")), b"orphan")
    keeper.create(evidence_key(MODEL, "0.1", sha256_bytes(b"x")), b"x")
    found = {one.key: one for one in check()}
    assert set(found) == {"others", "blobs/", "evidence/tiny/0.1/"}
    assert not any(one.is_open for one in found.values())
    assert "5 objects are not of this program" in found["others"].what
    assert all(key in found["others"].what for key in strays)
    assert "1 that no manifest names, 6 B" in found["blobs/"].what
    assert "doit prune" in found["blobs/"].hint
    fsck.run(keeper.url, False, False, tmp_path / "nothing", tmp_path / "report")


def test_what_a_pruner_wrote_that_cannot_be_read_is_told(keeper: Keeper, check: Callable[..., list[Finding]]) -> None:
    keeper.create(PRUNING_KEY, b"{")
    (finding,) = check()
    assert "what is being removed cannot be read" in finding.what


def test_deep_reads_what_a_server_only_says(keeper: Keeper, check: Callable[..., list[Finding]], package: Package) -> None:
    """A bucket that keeps the digest beside other bytes: only a server could do that, by its disks."""
    if not isinstance(keeper, S3Keeper):
        pytest.skip("a folder's files are read in any case")
    sha256 = first_blob(package).split("/")[-1]
    keeper._send(first_blob(package), keeper._client.put_object, b"x" * 3000, Metadata={"sha256": sha256})
    assert check() == []
    (finding,) = check(deep=True)
    assert "has other bytes than its digest says" in finding.what
    check(deep=True, repair=True)
    assert check(deep=True) == []


def test_uploads_that_were_never_completed_are_given_up(
    keeper: Keeper, check: Callable[..., list[Finding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(keeper, S3Keeper):
        key = keeper._key(blob_key("0" * 64))
        keeper._client.create_multipart_upload(Bucket=keeper.bucket, Key=key)
    else:
        path = Path(keeper.url) / "blobs" / ".x.y.part"
        path.write_bytes(b"half")
    assert check(repair=True) == []  # it may go on at this moment
    assert len(list(keeper.unfinished())) == 1
    now = time.time()
    monkeypatch.setattr(fsck.time, "time", lambda: now + 2 * 86400)
    (finding,) = check()
    assert not finding.is_open
    assert "never completed" in finding.what
    check(repair=True)
    assert list(keeper.unfinished()) == []


def test_what_is_published_and_pruned_meanwhile_is_no_damage(tmp_path: Path, package: Package) -> None:
    store = open_to_keep(str(tmp_path / "store"))
    publish(package("one"), store, version="1.0")
    publish(package("two"), store, version="2.0")
    count = 0
    while True:
        count += 1
        done: list[object] = []

        def meanwhile(spy: KeeperSpy, count: int = count, done: list[object] = done) -> None:
            if len(spy.calls) == count:
                done.append(publish(package(str(count)), store, version=f"0.{count}"))

        spy = KeeperSpy(store, before=meanwhile)  # type: ignore[arg-type]
        wrong = [one for one in Check(spy, Packages([])).run() if one.is_open]
        assert not [one for one in wrong if one.key != INDEX_KEY], wrong
        if not done or count > 25:
            break
    assert pointed_at(store)


@pytest.mark.parametrize(
    "at", [("entries", ""), ("get", evidence_index_key(MODEL, "1.0")), ("get", INDEX_KEY), ("listed", "releases/")], ids=str
)
@pytest.mark.parametrize("hook", ["before", "after"])
def test_a_list_that_grows_while_it_is_looked_at_is_right(
    tmp_path: Path, package: Package, at: tuple[str, str], hook: str
) -> None:
    store, done = open_to_keep(str(tmp_path / "store")), list[object]()
    publish(package("one"), store, version="1.0")
    document = encode(replace(releases.unseen(manifest_of(package("one"))), made="2026-02-01T12:00:00Z"))

    def meanwhile(spy: KeeperSpy) -> None:
        if spy.calls[-1] == at and not done:
            done.append(publish(package("two"), store, version="2.0"))
            add_evidence(store, MODEL, "1.0", document)

    spy = KeeperSpy(store, **{hook: meanwhile})  # type: ignore[arg-type]
    assert not [one for one in Check(spy, Packages([])).run() if one.is_open]
    assert done


def test_a_server_that_is_away_is_an_error_and_no_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    servers.use_aws(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(PipelineError, match="cannot connect"):
        fsck.run("s3://bucket", False, False, tmp_path, tmp_path)


def test_an_empty_store_and_files_that_cannot_be_read(tmp_path: Path) -> None:
    store = open_to_keep(str(tmp_path / "store"))
    assert list(Check(store, Packages([])).run()) == []
    (tmp_path / "store" / INDEX_KEY).mkdir(parents=True)
    with pytest.raises(PipelineError):
        list(Check(store, Packages([])).run())


def test_a_signed_store_is_checked_and_repaired_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was signed is put back as it was, or stays: that it is missed would be as bad. Lists are not signed."""
    signed = trusting.begun(tmp_path, monkeypatch)
    manifest = signed.publish(1)
    keeper, out = open_to_keep(signed.url), tmp_path / "out"
    fsck.run(signed.url, True, False, out, tmp_path / "report")
    package = next(signed.packages.glob(f"{trusting.MODEL}-1"))
    made = out / "models" / trusting.MODEL / "package"
    made.parent.mkdir(parents=True)
    made.symlink_to(package)
    evidence = next(one.key for one in keeper.entries("evidence/") if not one.key.endswith("index.json"))
    for key in (release_key(trusting.MODEL, manifest.version), evidence, INDEX_KEY):
        overwrite(keeper, key, b"{")
    broken = state(keeper)[evidence]
    with pytest.raises(PipelineError, match="is not what was signed"):
        fsck.run(signed.url, False, True, tmp_path / "nothing", tmp_path / "report")
    assert state(keeper)[evidence] == broken
    fsck.run(signed.url, False, True, out, tmp_path / "report")
    fsck.run(signed.url, True, False, out, tmp_path / "report")
    found = Resolver(Remote(signed.url), Cache(tmp_path / "cache"))
    again = found.manifest(Reference(trusting.MODEL, channel="latest"))
    assert again.version == manifest.version
    assert found.evidence(again).documents
    assert [model.name for model in found.index().models] == [trusting.MODEL]
