"""Publishing to a directory and to real S3 servers: whole or not at all, once, and nothing lost, whatever fails."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes, write
from pipeline.layout import (
    INDEX_KEY,
    LEASES,
    blob_key,
    bom_key,
    channel_key,
    evidence_index_key,
    evidence_key,
    provenance_key,
    release_key,
)
from pipeline.manifest import types as m
from pipeline.manifest.codec import decode, encode
from pipeline.stages.publish import publish, read_receipt, run
from pipeline.store.base import Object, Store
from pipeline.store.open import open_store
from pipeline.store.published import look
from tests import releases, servers
from tests.publishing import LATEST, MODEL, Package, Spy, assert_whole, manifest_of, pointed_at
from tests.waiting import FOREVER


def state(store: Store, *packages: Path, channels: tuple[str, ...] = ("latest",)) -> dict[str, Object | None]:
    """Everything in the store that publishing these packages under their own versions may touch."""
    keys = [channel_key(MODEL, channel) for channel in channels]
    for manifest in map(manifest_of, packages):
        keys += [release_key(MODEL, manifest.version), *(blob_key(b.sha256) for b in manifest.blobs())]
    return {key: store.get(key) for key in keys}


def assert_nothing_dangles(store: Store, version: str) -> None:
    """What a failure may leave: blobs without a manifest, a release without a channel; nothing else in part."""
    if store.get(release_key(MODEL, version)):
        assert_whole(store, version)
    if store.get(LATEST):
        assert pointed_at(store) == version
        assert store.get(provenance_key(MODEL, version))
        assert store.get(bom_key(MODEL, version))


def test_a_release_is_written_blobs_first_then_manifest_then_pointers(store: Store, package: Package) -> None:
    folder = package("one")
    manifest = manifest_of(folder)
    spy = Spy(store)
    receipt = publish(folder, spy)
    blobs = dict.fromkeys(("upload", blob_key(b.sha256)) for b in manifest.blobs())
    document = encode(releases.unseen(manifest))
    evidence = evidence_key(MODEL, manifest.version, sha256_bytes(document))
    release, listed = release_key(MODEL, manifest.version), evidence_index_key(MODEL, manifest.version)
    origin = (provenance_key(MODEL, manifest.version), bom_key(MODEL, manifest.version))
    created = [("create", key) for key in (release, *origin, evidence)]
    assert spy.writes == [("create", LEASES), *blobs, *created, ("replace", listed), ("replace", LATEST), ("replace", INDEX_KEY)]
    assert (found := store.get(evidence)) and found.data == document
    assert pointed_at(store) == manifest.version
    looks = receipt.pop("looks")
    kept = [f"{store.url}/{key}" for key in (release, *(key for _, key in blobs), *origin, evidence)]
    assert looks == ({} if "://" in store.url else {name: look(name) for name in kept})
    assert receipt == {
        "store": store.url,
        "identity": store.identity,
        "manifest": {"key": release, "sha256": sha256_bytes((folder / "manifest.json").read_bytes())},
        "release": f"{MODEL}@{manifest.version}",
        "channel": "latest",
        "objects": [*kept, f"{store.url}/{LATEST}"],
        "blobs_sent": 3,
        "manifest_created": True,
        "channel_moved": True,
        "differs": [],
    }


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_failure_at_any_step_leaves_no_half_release_and_can_be_repeated(
    new_store: Callable[[], Store], package: Package, moment: str
) -> None:
    folder = package("one")
    version = manifest_of(folder).version
    whole = Spy(new_store())
    publish(folder, whole)
    for step in range(1, len(whole.calls) + 1):
        store = new_store()

        def fail(spy: Spy, step: int = step) -> None:
            if len(spy.calls) == step:
                raise PipelineError("injected")

        spy = Spy(store, **{moment: fail})
        with pytest.raises(PipelineError, match="injected"):
            publish(folder, spy)
        assert spy.calls == whole.calls[:step]
        assert_nothing_dangles(store, version)
        publish(folder, store)
        assert pointed_at(store) == version


def test_publishing_the_same_again_changes_nothing(store: Store, package: Package) -> None:
    folder = package("one")
    publish(folder, store)
    before = state(store, folder)
    spy = Spy(store)
    receipt = publish(folder, spy)
    assert (receipt["blobs_sent"], receipt["manifest_created"], receipt["channel_moved"]) == (0, False, False)
    assert {name for name, _ in spy.writes} <= {"create"}  # which found the manifest there
    assert state(store, folder) == before


def test_a_blob_that_the_store_has_is_not_sent_again(store: Store, package: Package) -> None:
    publish(package("one"), store)
    spy = Spy(store)
    assert publish(package("two"), spy)["blobs_sent"] == 1
    assert [name for name, _ in spy.writes] == ["create", "upload", *["create"] * 4, *["replace"] * 3]


def test_what_is_damaged_in_the_store_is_sent_again(store: Store, package: Package) -> None:
    """Of the right size, so that only its content tells: a blob that a release shares with another, and a document."""
    one, two = package("one"), package("two")
    publish(one, store)
    digest = manifest_of(one).entries[0].reference.draws[0].inputs[0].sha256
    evidence = evidence_key(MODEL, manifest_of(one).version, sha256_bytes(encode(releases.unseen(manifest_of(one)))))
    for key in (blob_key(digest), evidence):
        found = store.get(key)
        assert found is not None
        assert store.replace(key, found.data[::-1], found.tag)
    assert publish(two, store)["blobs_sent"] == 2
    assert_whole(store, manifest_of(two).version)
    publish(one, store)
    found = store.get(evidence)
    assert found is not None
    assert found.data == encode(releases.unseen(manifest_of(one)))


def test_other_content_under_a_published_version_is_refused_and_changes_nothing(store: Store, package: Package) -> None:
    one, two = package("one"), package("two")
    publish(one, store, version="1.0")
    before = state(store, one, two), store.get(release_key(MODEL, "1.0"))
    spy = Spy(store)
    with pytest.raises(PipelineError, match=r"tiny@1\.0 is published already, with other content") as caught:
        publish(two, spy, version="1.0")
    assert "under another version" in str(caught.value)
    assert not spy.writes
    assert (state(store, one, two), store.get(release_key(MODEL, "1.0"))) == before


def test_of_two_releases_that_race_for_a_version_one_is_refused(store: Store, package: Package) -> None:
    # Both have seen that the version is free; only the create-only write of the manifest can tell.
    one, two = package("one"), package("two")

    def overtake(spy: Spy) -> None:
        if spy.calls[-1][0] == "create":
            publish(one, store, version="1.0")

    with pytest.raises(PipelineError, match="published already, with other content"):
        publish(two, Spy(store, before=overtake), version="1.0")
    assert pointed_at(store) == "1.0"
    found = store.get(release_key(MODEL, "1.0"))
    assert found is not None
    assert decode(m.Manifest, found.data, "store") == replace(manifest_of(one), version="1.0")


def test_an_explicit_version_is_the_one_published(store: Store, package: Package) -> None:
    folder = package("one")
    receipt = publish(folder, store, version="1.0+Beta")
    assert receipt["release"] == "tiny@1.0+Beta"
    assert pointed_at(store) == "1.0+Beta"
    assert store.get(release_key(MODEL, manifest_of(folder).version)) is None


def test_content_that_was_given_a_version_keeps_it(store: Store, package: Package) -> None:
    one, two = package("one"), package("two")
    publish(one, store, version="1.0")
    spy = Spy(store)
    receipt = publish(one, spy)  # as `doit` does, where nothing is said
    assert (receipt["release"], receipt["channel_moved"], pointed_at(store)) == ("tiny@1.0", False, "1.0")
    assert {name for name, _ in spy.writes} <= {"create"}
    assert publish(two, store)["release"] == f"tiny@{manifest_of(two).version}"
    assert publish(one, store)["release"] == "tiny@1.0"  # the channel had it
    assert publish(one, store, channel="beta")["release"] == "tiny@1.0"  # another has it
    assert publish(one, store, version="2.0")["release"] == "tiny@2.0"  # it was said
    assert store.get(release_key(MODEL, manifest_of(one).version)) is None


def test_a_version_that_only_the_index_names_is_not_taken(store: Store, package: Package) -> None:
    folder = package("one")
    store.create(release_key(MODEL, "9.9"), encode(replace(manifest_of(folder), version="9.9")))
    forged = m.IndexedModel(MODEL, (m.IndexedChannel("beta", "9.9"),), ("9.9",))
    store.create(INDEX_KEY, encode(m.Index(m.SCHEMA, (forged,))))
    assert publish(folder, store)["release"] == f"tiny@{manifest_of(folder).version}"


@pytest.mark.parametrize("names", [{"version": "../1"}, {"version": "a/b"}, {"channel": "../x"}, {"channel": ""}])
def test_a_version_or_channel_that_cannot_be_part_of_a_key_is_refused(
    store: Store, package: Package, names: dict[str, str]
) -> None:
    spy = Spy(store)
    with pytest.raises(PipelineError, match=r"cannot be a (version|channel)"):
        publish(package("one"), spy, **names)
    assert not spy.calls


def test_a_channel_moves_and_the_others_stay(store: Store, package: Package) -> None:
    one, two = package("one"), package("two")
    publish(one, store, channel="stable")
    publish(one, store)
    publish(two, store)
    assert pointed_at(store) == manifest_of(two).version
    assert pointed_at(store, "stable") == manifest_of(one).version
    assert publish(one, store)["channel_moved"]  # and back
    assert pointed_at(store) == manifest_of(one).version
    assert_whole(store, manifest_of(two).version)


@pytest.mark.parametrize("first", [True, False], ids=["new channel", "old channel"])
def test_of_two_publishers_that_race_for_a_channel_the_loser_sees_it_and_moves_it_again(
    store: Store, package: Package, first: bool
) -> None:
    if not first:
        publish(package("zero"), store)
    # Both read the channel before either writes it, so that one of the writes must find it changed.
    barrier = threading.Barrier(2, timeout=FOREVER)
    waited: set[int] = set()

    def meet(spy: Spy) -> None:
        if spy.calls[-1] == ("get", LATEST) and id(spy) not in waited:
            waited.add(id(spy))
            barrier.wait()

    packages = package("one"), package("two")
    spies = Spy(store, after=meet), Spy(store, after=meet)
    with ThreadPoolExecutor(2) as pool:
        versions = [manifest_of(folder).version for folder in packages]  # or the channel would be read before, to find one
        receipts = list(pool.map(publish, packages, spies, versions))
    assert [r["channel_moved"] for r in receipts] == [True, True]
    moves = [spy.writes.count(("replace", LATEST)) for spy in spies]
    assert sorted(moves) == [1, 2]
    assert pointed_at(store) == manifest_of(packages[moves.index(2)]).version
    for folder in packages:
        assert_whole(store, manifest_of(folder).version)


def test_a_channel_that_never_rests_is_an_error(tmp_path: Path, package: Package) -> None:
    store = open_store(str(tmp_path / "store"))
    folders = package("one"), package("two")
    for folder in folders:
        publish(folder, store)

    turns = itertools.cycle(folders)

    def overtake(spy: Spy) -> None:
        if spy.calls[-1][0] == "replace":
            publish(next(turns), store)

    with pytest.raises(PipelineError, match="changed 40 times while it was being written"):
        publish(package("three"), Spy(store, before=overtake))


def test_a_channel_of_a_newer_program_is_not_overwritten(store: Store, package: Package) -> None:
    store.create(LATEST, b'{"schema": 3}')
    with pytest.raises(PipelineError, match="has schema version 3"):
        publish(package("one"), store)
    found = store.get(LATEST)
    assert found is not None
    assert found.data == b'{"schema": 3}'


@pytest.mark.parametrize("damage", [lambda p: p.write_bytes(b"x" * p.stat().st_size), Path.unlink], ids=["changed", "missing"])
def test_a_damaged_package_is_refused_and_nothing_of_it_is_stored(
    store: Store, package: Package, damage: Callable[[Path], None]
) -> None:
    folder = package("one")
    blob = folder / "blobs" / manifest_of(folder).artifacts[0].blob.sha256
    damage(blob)
    spy = Spy(store)
    with pytest.raises(PipelineError, match=str(blob)):
        publish(folder, spy)
    assert [name for name, _ in spy.writes] == ["create", "upload"]
    assert store.keys("") == store.keys(LEASES)


def test_a_missing_package_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"manifest\.json"):
        publish(tmp_path / "nothing", open_store(str(tmp_path / "store")))


def test_a_blob_that_arrives_short_is_an_error(tmp_path: Path, package: Package) -> None:
    store = open_store(str(tmp_path / "store"))

    def cut(spy: Spy) -> None:
        name, key = spy.calls[-1]
        if name == "upload":
            write(tmp_path / "store" / key, b"cut")

    folder = package("one")
    with pytest.raises(PipelineError, match="is not there as it was uploaded"):
        publish(folder, Spy(store, after=cut))
    assert_nothing_dangles(store, manifest_of(folder).version)
    publish(folder, store)  # and what is short is sent again
    assert pointed_at(store) == manifest_of(folder).version


def test_weights_are_sent_once_for_all_that_need_them(store: Store, tmp_path: Path) -> None:
    releases.make(tmp_path / "one", 3000, 1000, weights=b"w" * 5000)
    assert publish(tmp_path / "one", store)["blobs_sent"] == 2
    manifest, _ = releases.make(tmp_path / "two", 3000, 1000, seed=1, weights=b"w" * 5000)
    assert publish(tmp_path / "two", store)["blobs_sent"] == 1
    assert store.holds(blob_key(weights := manifest.parameters[0].blob.sha256), 5000, weights)


def test_the_receipt_is_what_was_published(store: Store, package: Package, tmp_path: Path) -> None:
    folder, receipt = package("one"), tmp_path / "publish" / "receipt.json"
    run(folder, store.url, "", "stable", {}, receipt)
    assert read_receipt(receipt)["release"] == f"{MODEL}@{pointed_at(store, 'stable')}"


def test_a_server_that_is_killed_is_an_error_and_the_next_run_finishes(
    tmp_path: Path, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, home = package("one"), tmp_path / "seaweedfs"
    version = manifest_of(folder).version
    home.mkdir()
    with servers.seaweedfs(home) as weed:
        servers.use_aws(monkeypatch, weed.server.endpoint)
        store = open_store(f"s3://{servers.BUCKET}")

        def kill(spy: Spy) -> None:
            if spy.calls[-1] == ("create", release_key(MODEL, version)):
                weed.server.kill()

        with pytest.raises(PipelineError, match="cannot connect") as caught:
            publish(folder, Spy(store, before=kill))
        assert "then run the same command again" in str(caught.value)
        weed.start()
        assert store.get(release_key(MODEL, version)) is None
        assert publish(folder, store)["blobs_sent"] == 0  # the blobs sent before are not sent twice
        assert pointed_at(store) == version
