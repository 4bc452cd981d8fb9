"""Old releases are removed, and what only they need; what is left is whole, beside publishers and after kills."""

from __future__ import annotations

import datetime
import itertools
import os
import random
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.consume.reference import parse
from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes
from pipeline.layout import LEASES, PROBE_KEY, PRUNING_KEY, blob_key, evidence_folder, lease_key, release_key, release_of
from pipeline.manifest import types as m
from pipeline.manifest.codec import decode, encode
from pipeline.stages import prune as stage
from pipeline.stages import retention, yank
from pipeline.stages.prune import Asked, prune
from pipeline.stages.publish import publish
from pipeline.stages.retention import Known
from pipeline.store import leases
from pipeline.store.base import Keeper, Store
from pipeline.store.open import open_to_keep
from pipeline.store.s3keeper import S3Keeper
from tests import releases
from tests.publishing import LATEST, MODEL, KeeperSpy, Package, Spy, assert_whole, pointed_at
from tests.test_index import indexed
from tests.waiting import FOREVER


@pytest.fixture
def keeper(store: Store) -> Keeper:
    """An empty store of each kind in turn, to look after."""
    return open_to_keep(store.url)


@pytest.fixture
def new_keeper(new_store: Callable[[], Store]) -> Callable[[], Keeper]:
    """Makes them."""
    return lambda: open_to_keep(new_store().url)


def asked(keep: int = 1, *pins: str, model: str = "") -> Asked:
    """Blobs go whatever their age: those of tests are all young."""
    return Asked(keep, model, tuple(map(parse, pins)), grace=0)


def fill(store: Keeper, package: Package, *contents: str, channel: str = "latest") -> None:
    """Publish packages, each under its content as the version, in different seconds: S3 has no smaller ones. More than a day ago:
    the leases are gone."""
    for content in contents:
        while "://" in store.url and int(time.time()) == getattr(fill, "last", 0):
            time.sleep(0.05)
        publish(package(content), store, version=content, channel=channel)
        fill.last = int(time.time())  # type: ignore[attr-defined]
    for key in store.keys(LEASES):
        store.remove(key)


def filled(folder: Path, package: Package) -> Iterator[Keeper]:
    """Any number of stores that hold the releases one, two and three."""
    first = folder / "filled"
    fill(open_to_keep(str(first)), package, "one", "two", "three")
    for number in itertools.count():
        yield open_to_keep(str(shutil.copytree(first, folder / f"store-{number}")))


def versions(store: Store) -> list[str]:
    return sorted(release[1] for release in map(release_of, store.keys("releases/")) if release)


def assert_all_whole(store: Store) -> None:
    """Every release that is there is, to the byte, and so is what channels point to."""
    for version in versions(store):
        assert_whole(store, version)
    if store.get(LATEST):
        pointed_at(store)


def assert_nothing_else(store: Store) -> None:
    """No blob, evidence or lock of a release that is not there."""
    there = versions(store)
    named = set()
    for version in there:
        found = store.get(release_key(MODEL, version))
        assert found is not None
        named |= {blob_key(blob.sha256) for blob in decode(m.Manifest, found.data, "store").blobs()}
    assert set(store.keys("blobs/")) == named
    assert {key.split("/")[2] for key in store.keys("evidence/")} <= set(there)
    assert indexed(store)[MODEL][1] == tuple(there)


# What stays.

NOW = 1_000_000.0


def known(**written: float) -> dict[tuple[str, str], Known]:
    """Releases of the model `m`, by when they were written; with a capital: yanked."""
    return {("m", name): Known(sha256_bytes(name.encode()), NOW + at, name.isupper()) for name, at in written.items()}


def pointer(version: str, *history: str, name: str = "latest") -> m.Channel:
    past = tuple(m.PastRelease(one, "0" * 64, "2026-01-31T12:00:00Z", False) for one in history)
    return m.Channel(m.CHANNEL_SCHEMA, "m", name, version, m.Blob("x", "0" * 64, 1), past)


@pytest.mark.parametrize(
    ("releases", "channels", "pins", "keep", "stays"),
    [
        (known(a=1, b=2, c=3), [], [], 2, "bc"),
        (known(a=1, b=2, c=3), [pointer("a")], [], 1, "ac"),
        (known(a=1, b=2, c=3, d=4), [pointer("d", "b", "a")], [], 1, "bd"),
        (known(a=1, b=2, c=3, d=4), [pointer("d", "d", "b", "b", "x", "a")], [], 2, "abcd"),
        (known(a=1, b=2, c=3), [], ["m@a"], 1, "ac"),
        (known(a=1, b=2, c=3), [], [f"m@sha256:{sha256_bytes(b'b')}"], 1, "bc"),
        (known(a=1, b=2, c=3), [], ["other@a"], 1, "c"),
        (known(a=1, b=2, C=3), [], [], 1, "bC"),
        (known(a=1, B=2, c=3), [], [], 1, "c"),
        (known(a=1, B=2, c=3), [pointer("c", "B", "a")], [], 1, "ac"),
        (known(a=1, B=2), [pointer("B")], [], 1, "aB"),
        (known(A=1, B=2), [], [], 1, "AB"),
        (known(**{"1.9": 1, "1.10": 1}), [], [], 1, ["1.10"]),
    ],
)
def test_what_stays(
    releases: dict[tuple[str, str], Known], channels: list[m.Channel], pins: list[str], keep: int, stays: list[str]
) -> None:
    kept = retention.kept(releases, channels, [*map(parse, pins)], keep)
    assert sorted(version for _, version in kept) == sorted(stays)
    assert all(kept.values())


def test_what_is_not_signed_takes_the_place_of_nothing() -> None:
    """Or whoever may write could have what is signed pruned, by releases that are newer."""
    found = {("m", name): Known("0" * 64, NOW + at, yanked=False, unsigned=at != 2) for at, name in enumerate("abcd")}
    assert retention.kept(found, [], [], 1) == {
        ("m", "c"): "one of the last 1",
        ("m", "d"): "not signed, and newer than the last 1",
    }


def test_pins_are_read_from_a_file_and_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "pins.txt"
    assert retention.pins(path, "") == ()
    path.write_text("# of products\nm@1.0  # the first\n\nm@sha256:" + "0" * 64 + "\n")
    assert [str(one) for one in retention.pins(path, "n@2,o@3 m@1.0")] == ["m@1.0", f"m@sha256:{'0' * 64}", "n@2", "o@3"]
    path.write_text("m@1.0\nm\nM@1\n")
    with pytest.raises(PipelineError) as caught:
        retention.pins(path, "m:stable")
    said = str(caught.value)
    assert f"{path}:2: m:latest may be another release tomorrow" in said
    assert f"{path}:3: 'M@1' is neither a file nor a model's name" in said
    assert "pins=: m:stable" in said


# What goes.


def test_old_releases_go_and_what_only_they_need(keeper: Keeper, package: Package) -> None:
    fill(keeper, package, "one", "two", "three")
    before = {key: keeper.get(key) for key in keeper.keys("")}
    told = prune(keeper, asked())
    assert {key: keeper.get(key) for key in keeper.keys("")} == before  # dry
    assert "tiny keeps 2 of 3: three (channel latest), two (latest pointed to it)" in told
    day = time.strftime("%Y-%m-%d", time.gmtime())
    assert f"goes: tiny@one, of {day}, with 3.0 kB that nothing which stays needs" in told
    assert "would go: 1 blob, 3.0 kB" in told  # the other is shared
    told = prune(keeper, asked(), dry=False)
    assert "went: 1 blob, 3.0 kB" in told
    assert versions(keeper) == ["three", "two"]
    assert_all_whole(keeper)
    assert_nothing_else(keeper)
    spy = KeeperSpy(keeper)
    prune(spy, asked(), dry=False)
    assert not [call for call in spy.calls if call[0] == "remove"]


def test_what_is_young_stays(keeper: Keeper, package: Package) -> None:
    fill(keeper, package, "one", "two", "three")
    before = keeper.keys("blobs/")
    told = prune(keeper, Asked(1), dry=False)
    assert "went: 0 blobs, 0 B" in told
    assert "of what nothing names stays, for it is younger than a day or named meanwhile: 1 blob, 3.0 kB" in told
    assert keeper.keys("blobs/") == before
    assert versions(keeper) == ["three", "two"]


def test_other_models_pins_and_channels_stay(keeper: Keeper, package: Package) -> None:
    fill(keeper, package, "one", "two", channel="stable")
    fill(keeper, package, "three", "four", "five")
    told = prune(keeper, asked(1, "tiny@three", "tiny@thre"), dry=False)
    assert "the pin tiny@thre names nothing in the store" in told
    assert versions(keeper) == ["five", "four", "one", "three", "two"]
    with pytest.raises(PipelineError, match="there is no model tini"):
        prune(keeper, asked(model="tini"))
    prune(keeper, asked(model=MODEL), dry=False)
    assert versions(keeper) == ["five", "four", "one", "two"]
    assert_nothing_else(keeper)


def test_only_the_model_that_is_named_is_pruned(tmp_path: Path, package: Package) -> None:
    store = open_to_keep(str(tmp_path / "store"))
    made = [releases.release(store, tmp_path / str(seed), 3000, 1000, seed)[0].version for seed in range(3)]
    fill(store, package, "one", "two", "three")
    told = prune(store, asked(model="noise"), dry=False)
    assert not [line for line in told if "tiny" in line]
    assert {key.split("/")[2] for key in store.keys("releases/noise/")} == set(made[1:])
    assert versions(store) == sorted([*made[1:], "one", "two", "three"])


def test_what_cannot_be_read_stops_it(tmp_path: Path, package: Package) -> None:
    """What it names is not known, so nothing can be said to be named by nobody."""
    store, root = open_to_keep(str(tmp_path / "store")), tmp_path / "store"
    fill(store, package, "one", "two", "three")
    for key, data in ((release_key(MODEL, "three"), b"{"), (LATEST, b"{"), (release_key(MODEL, "two"), b'{"schema": 99}')):
        before = (root / key).read_bytes()
        (root / key).write_bytes(data)
        for dry in (True, False):
            with pytest.raises(PipelineError, match="nothing is removed") as caught:
                prune(store, asked(), dry)
            assert key in str(caught.value)
            assert "doit fsck" in str(caught.value)
        (root / key).write_bytes(before)
    (root / release_key(MODEL, "three")).unlink()
    with pytest.raises(PipelineError, match="tiny:latest points to three, which is not there"):
        prune(store, asked(), dry=False)
    assert versions(store) == ["one", "two"]


def test_the_command(tmp_path: Path, package: Package) -> None:
    store, out, pins = open_to_keep(str(tmp_path / "store")), tmp_path / "out", tmp_path / "pins.txt"
    fill(store, package, "one", "two", "three")
    with pytest.raises(PipelineError, match="how many releases"):
        stage.run(store.url, 0, "", "", pins, True, out)
    stage.run(store.url, 1, "tiny", "tiny@x, tiny@y", pins, True, out)
    said = (out / "report.txt").read_text()
    assert "nothing was removed: `doit prune keep=1 model=tiny 'pins=tiny@x, tiny@y' dry=no` does it" in said
    assert versions(store) == ["one", "three", "two"]
    stage.run(store.url, 1, "", "", pins, False, out)
    assert "nothing was removed" not in (out / "report.txt").read_text()
    assert versions(store) == ["three", "two"]


def test_a_yank_of_a_release_that_went_stays(tmp_path: Path, package: Package) -> None:
    store = open_to_keep(str(tmp_path / "store"))
    fill(store, package, "one", "two", "three")
    yank.run(store.url, MODEL, "one", "it was bad", False, tmp_path / "out")
    prune(store, asked(), dry=False)
    assert versions(store) == ["three", "two"]
    assert len(store.keys("yanked/")) == 1


def test_many_go_in_several_turns(tmp_path: Path, package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_to_keep(str(tmp_path / "store"))
    fill(store, package, *map(str, range(12)))
    monkeypatch.setattr(stage, "_RELEASES", 3)
    monkeypatch.setattr(stage, "_BLOBS", 2)
    prune(store, asked(), dry=False)
    assert versions(store) == ["10", "11"]
    assert_nothing_else(store)


def test_what_there_is_no_time_for_goes_in_another_turn(
    tmp_path: Path, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_to_keep(str(tmp_path / "store"))
    fill(store, package, *map(str, range(12)))
    chance = random.Random(1)
    with monkeypatch.context() as patch:
        patch.setattr(leases.Turn, "is_over", property(lambda _: chance.random() < 0.5))
        for _ in range(20):
            with suppress(PipelineError):  # where there was no time for anything
                prune(store, asked(), dry=False)
    assert versions(store) == ["10", "11"]
    assert_all_whole(store)
    prune(store, asked(), dry=False)  # which removes what was left beside them
    assert_nothing_else(store)


# Kills.


class KilledError(BaseException):
    """No code after it counts: whatever is called is not done."""


def dies_at(step: int, after: bool, only: str = "") -> dict[str, Callable[[Any], None]]:
    """Hooks for a spy whose process is killed at a call, before it or after it was done."""

    def hook(when: bool) -> Callable[[Any], None]:
        def call(spy: Any) -> None:
            calls = [one for one in spy.calls if only in ("", one[0])]
            if spy.dead or (len(calls) == step and when == after and only in ("", spy.calls[-1][0])):
                spy.dead = True
                raise KilledError

        return call

    return {"before": hook(False), "after": hook(True)}


class Mortal(KeeperSpy):
    dead = False


def killed(store: Keeper, call: Callable[[Keeper], object], step: int, after: bool, only: str = "") -> bool:
    """Whether `call` was killed at this step."""
    spy = Mortal(store, **dies_at(step, after, only))
    try:
        call(spy)
    except KilledError:
        return True
    return False


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_at_any_removal_leaves_every_other_release_whole(
    tmp_path: Path, package: Package, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    kill_at_each_removal(lambda: open_to_keep(str(tmp_path / uuid.uuid4().hex)), package, monkeypatch, after)


@pytest.mark.thorough
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_so_it_is_in_every_kind_of_store(
    new_keeper: Callable[[], Keeper], package: Package, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    kill_at_each_removal(new_keeper, package, monkeypatch, after)


def kill_at_each_removal(
    new_keeper: Callable[[], Keeper], package: Package, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    monkeypatch.setattr(leases, "PATIENCE", 0.1)
    monkeypatch.setattr(leases, "_POLL", 0.01)
    contents, step = ("one", "two", "three", "four"), 0
    while True:
        step += 1
        store = new_keeper()
        fill(store, package, *contents)
        was_killed = killed(store, lambda spy: prune(spy, asked(), dry=False), step, after, "remove")
        assert_all_whole(store)
        assert pointed_at(store) == "four"
        if step % 2:
            prune(store, asked(), dry=False)
        else:  # somebody publishes what was about to go
            publish(package("one"), store, version="one")
            assert pointed_at(store) == "one"
            assert_all_whole(store)
            prune(store, asked(1), dry=False)
        assert_all_whole(store)
        assert_nothing_else(store)
        if not was_killed:
            assert step > 6
            return


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_at_any_request_is_mended_by_the_next_run(
    tmp_path: Path, package: Package, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    monkeypatch.setattr(leases, "PATIENCE", 0.05)
    monkeypatch.setattr(leases, "_POLL", 0.01)
    step, copies = 0, filled(tmp_path, package)
    while True:
        step += 1
        store = next(copies)
        if not killed(store, lambda spy: prune(spy, asked(), dry=False), step, after):
            break
        assert_all_whole(store)
        prune(store, asked(), dry=False)
        assert versions(store) == ["three", "two"]
        assert_all_whole(store)
        assert_nothing_else(store)
    assert step > 20


# Publishers at the same time.


@pytest.mark.parametrize("version", ["one", "five"], ids=["old", "new"])
def test_whatever_a_publisher_does_between_two_requests_of_a_prune_its_release_is_whole(
    tmp_path: Path, package: Package, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """It publishes again what is about to go, all of whose blobs are there when it looks; or what the prune does not know yet."""
    monkeypatch.setattr(leases, "_POLL", 0.01)
    step, done, copies = 0, False, filled(tmp_path, package)
    folder = package(version)
    while not done:
        step += 1
        store, started = next(copies), list[threading.Thread]()

        def overtake(spy: Spy, step: int = step, store: Keeper = store, started: Any = started) -> None:
            if len(spy.calls) == step:
                thread = threading.Thread(target=publish, args=(folder, store, version))
                thread.start()
                started.append(thread)
                thread.join(0.1)  # longer than it takes, unless it waits for the pruner

        prune(KeeperSpy(store, before=overtake), asked(), dry=False)
        for thread in started:
            thread.join(FOREVER)
        done = not started
        if started:
            assert pointed_at(store) == version
            assert_all_whole(store)
    assert step > 20


def test_a_channel_that_moved_since_it_was_read_is_read_again(tmp_path: Path, package: Package) -> None:
    """What it pointed to came after the listing, and was removed before it was looked for."""
    store = open_to_keep(str(tmp_path / "store"))
    fill(store, package, "one", "two", "three")
    moved: list[str] = []

    def move(version: str) -> None:
        moved.append(version)
        publish(package(version), store, version=version)

    def after(spy: Spy) -> None:
        if spy.calls[-1] == ("entries", "") and not moved:
            move("four")

    def before(spy: Spy) -> None:
        if spy.calls[-1] == ("get", release_key(MODEL, "four")) and moved == ["four"]:
            move("five")
            store.remove(release_key(MODEL, "four"))

    prune(KeeperSpy(store, before=before, after=after), asked(), dry=False)
    assert moved == ["four", "five"]
    assert versions(store) == ["five", "three"]
    assert_all_whole(store)


@pytest.mark.parametrize("version", ["one", "five"], ids=["old", "new"])
def test_whatever_a_prune_does_between_two_requests_of_a_publisher_its_release_is_whole(
    tmp_path: Path, package: Package, version: str
) -> None:
    step, done, copies = 0, False, filled(tmp_path, package)
    folder = package("one")  # a new version of what is there: the blobs are old
    while not done:
        step += 1
        store, pruned = next(copies), list[object]()

        def overtake(spy: Spy, step: int = step, store: Keeper = store, pruned: list[object] = pruned) -> None:
            if len(spy.calls) == step:
                pruned.append(prune(store, asked(), dry=False))

        publish(folder, Spy(store, before=overtake), version=version)
        done = not pruned
        assert pointed_at(store) == version
        assert_all_whole(store)
    assert step > 15


def test_publishers_and_pruners_at_once(tmp_path: Path, package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_and_prune(open_to_keep(str(tmp_path / "store")), package, monkeypatch)


@pytest.mark.thorough
def test_publishers_and_pruners_at_once_in_every_kind_of_store(
    keeper: Keeper, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_and_prune(keeper, package, monkeypatch)


def publish_and_prune(keeper: Keeper, package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four publishers publish what was published before, each to a channel of its own, while two prune all the time."""
    monkeypatch.setattr(leases, "_POLL", 0.01)
    contents = [str(number) for number in range(5)]
    packages = {content: package(content) for content in contents}
    ended = threading.Event()

    def pruning() -> int:
        count = 0
        while not ended.is_set():
            prune(open_to_keep(keeper.url), asked(), dry=False)
            count += 1
        return count

    def publishing(number: int) -> None:
        for turn in range(6):
            content = contents[(turn + number) % len(contents)]
            publish(packages[content], open_to_keep(keeper.url), version=content, channel=f"channel-{number}")
            assert pointed_at(keeper, f"channel-{number}") == content

    with ThreadPoolExecutor(6) as pool:
        pruners = [pool.submit(pruning) for _ in range(2)]
        publishers = [pool.submit(publishing, number) for number in range(4)]
        try:
            for one in publishers:
                one.result()
        finally:
            ended.set()
        assert all(one.result() for one in pruners)
    assert_all_whole(keeper)


def test_a_channel_does_not_move_to_what_was_removed_meanwhile(tmp_path: Path, package: Package) -> None:
    """By a publisher that had nothing to write, and so said nothing, until the channel moved elsewhere."""
    store = open_to_keep(str(tmp_path / "store"))
    fill(store, package, "one", "two", "three", "one")
    moved: list[object] = []

    def overtake(spy: Spy) -> None:
        if spy.calls.count(("get", LATEST)) == 2 and not moved:
            fill(store, package, "two", "three")
            moved.append(prune(store, asked(), dry=False))

    with pytest.raises(PipelineError, match="was removed by `doit prune` while a channel was to move to it"):
        publish(package("one"), Spy(store, before=overtake), version="one")
    assert pointed_at(store) == "three"
    publish(package("one"), store, version="one")
    assert_all_whole(store)


def test_a_publisher_that_takes_long_looks_again(tmp_path: Path, package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    store, clock, looked = open_to_keep(str(tmp_path / "store")), [0.0], list[int]()
    monkeypatch.setattr(leases, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def late(spy: Spy) -> None:
        if spy.calls[-1][0] == "upload":
            clock[0] += leases.DAY / 6
            looked.append(len(store.keys(LEASES)))

    spy = Spy(store, after=late)
    publish(package("one"), spy)
    assert looked == [1, 1, 1]
    assert len(store.keys(LEASES)) == 2
    assert len([call for call in spy.calls if call[0] == "holds"]) == 3 * 2 + 3


@pytest.mark.parametrize("who", ["publisher", "pruner"])
def test_one_who_was_killed_is_waited_for_no_longer_than_needed(
    keeper: Keeper, package: Package, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    monkeypatch.setattr(leases, "_POLL", 0.02)
    fill(keeper, package, "one", "two", "three")
    assert killed(keeper, lambda spy: prune(spy, asked(), dry=False), 1, True, "remove")
    notes: list[str] = []
    monkeypatch.setattr(leases, "PATIENCE", 0.5)
    started = time.monotonic()
    if who == "pruner":
        prune(keeper, asked(), dry=False, note=notes.append)
    else:
        publish(package("one"), keeper, version="one", note=notes.append)
    assert time.monotonic() - started > 0.5
    assert [note for note in notes if note.startswith("waiting for `doit prune`")]
    assert_all_whole(keeper)


def test_what_a_killed_prune_said_is_not_removed_where_it_is_still_there(tmp_path: Path, package: Package) -> None:
    """Also of a model with which this one has nothing to do."""
    store = open_to_keep(str(tmp_path / "store"))
    noise, _ = releases.release(store, tmp_path / "noise", 3000, 1000)
    fill(store, package, "one", "two", "three")
    left = (f"noise@{noise.version}", "tiny@three", "tiny@gone", "tiny@", "tiny", "@", "tiny@../three")
    store.create(PRUNING_KEY, encode(m.Pruning(m.SCHEMA, "", left, ())))
    store.create(evidence_folder(MODEL, "gone") + "index.json", b"{}")
    before = store.keys("evidence/noise/"), store.keys(evidence_folder(MODEL, "three"))
    prune(store, asked(model=MODEL), dry=False)
    assert (store.keys("evidence/noise/"), store.keys(evidence_folder(MODEL, "three"))) == before
    assert all(before)
    assert store.keys(evidence_folder(MODEL, "gone")) == []


@pytest.mark.parametrize("lost", ["create", "replace"])
def test_who_is_not_told_that_it_wrote_goes_on(
    tmp_path: Path, package: Package, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """A request is sent again where the answer is lost: then it finds what it has written itself."""
    monkeypatch.setattr(leases, "_POLL", 0.01)
    store = open_to_keep(str(tmp_path / "store"))
    fill(store, package, "one", "two", "three")
    refused: list[str] = []

    class Lossy(KeeperSpy):
        def create(self, key: str, data: bytes) -> bool:
            return super().create(key, data) and not (lost == "create" and key.startswith(LEASES) and not refused.append(key))

        def replace(self, key: str, data: bytes, tag: str | None) -> bool:
            return super().replace(key, data, tag) and not (lost == "replace" and key == PRUNING_KEY and not refused.append(key))

    started = time.monotonic()
    prune(Lossy(store), asked(), dry=False)
    publish(package("one"), Lossy(store), version="one")
    assert time.monotonic() - started < leases.PATIENCE / 2
    assert refused
    assert pointed_at(store) == "one"
    assert_all_whole(store)


def test_who_has_nothing_to_do_with_what_is_removed_does_not_wait(tmp_path: Path, package: Package) -> None:
    store = open_to_keep(str(tmp_path / "store"))
    fill(store, package, "one")
    state = m.Pruning(m.SCHEMA, "x", ("tiny@one",), ("0" * 64,))
    store.create(PRUNING_KEY, encode(state))
    publish(package("two"), store, version="two")
    assert pointed_at(store) == "two"


def test_leases_that_hold_no_more_are_removed_and_protect_nothing(tmp_path: Path, package: Package) -> None:
    store = open_to_keep(str(tmp_path / "store"))
    fill(store, package, "one", "two", "three")
    lease = m.Lease(m.SCHEMA, MODEL, "one", ())
    ages = {"young": 0.0, "old": leases.DAY + 60, "older": 2 * leases.DAY + 60}
    for name, age in ages.items():
        store.create(lease_key(name), encode(lease))
        at = time.time() - age
        os.utime(tmp_path / "store" / lease_key(name), (at, at))
    prune(store, asked(), dry=False)
    assert lease_key("older") not in store.keys(LEASES)
    assert {lease_key("young"), lease_key("old")} <= set(store.keys(LEASES))
    assert versions(store) == ["one", "three", "two"]
    store.remove(lease_key("young"))
    prune(store, asked(), dry=False)
    assert versions(store) == ["three", "two"]


def test_leases_hold_by_the_clock_of_the_store(tmp_path: Path, package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by this machine's, which may be days ahead."""
    store = open_to_keep(str(tmp_path / "store"))
    fill(store, package, "one", "two", "three")
    store.create(lease_key("young"), encode(m.Lease(m.SCHEMA, MODEL, "one", ())))
    late = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=9)
    clock = SimpleNamespace(datetime=SimpleNamespace(now=lambda _: late, fromtimestamp=datetime.datetime.fromtimestamp))
    monkeypatch.setattr(stage, "datetime", SimpleNamespace(**{**vars(datetime), **vars(clock)}))
    prune(store, asked(), dry=False)
    assert store.keys(LEASES) == [lease_key("young")]
    assert versions(store) == ["one", "three", "two"]


@pytest.mark.parametrize(
    ("key", "complaint"), [(PRUNING_KEY, "what is being removed cannot be read"), (lease_key("x"), "not JSON")]
)
def test_what_cannot_be_read_of_others_stops_it(tmp_path: Path, package: Package, key: str, complaint: str) -> None:
    store = open_to_keep(str(tmp_path / "store"))
    fill(store, package, "one", "two", "three")
    store.create(key, b"{")
    with pytest.raises(PipelineError, match=complaint):
        prune(store, asked(), dry=False)
    assert versions(store) == ["one", "three", "two"]
    if key == PRUNING_KEY:
        with pytest.raises(PipelineError, match=complaint):
            publish(package("four"), store)


# What a store to look after can do.


def test_objects_are_listed_with_size_and_time_and_removed(keeper: Keeper) -> None:
    for key in ("a/b", "a/c/d", "e"):
        keeper.create(key, key.encode() * 2)
    found = {one.key: one for one in keeper.entries("") if one.key != PROBE_KEY}
    assert {key: one.size for key, one in found.items()} == {"a/b": 6, "a/c/d": 10, "e": 2}
    assert all(abs(one.written - time.time()) < 5 for one in found.values())
    assert {one.key for one in keeper.entries("a/")} == {"a/b", "a/c/d"}
    assert list(keeper.entries("b/")) == []
    keeper.remove("a/b")
    keeper.remove("a/b")
    assert keeper.get("a/b") is None
    assert keeper.create("a/b", b"again")


def test_an_object_that_is_written_again_is_young(keeper: Keeper) -> None:
    keeper.create("a/b", b"data")
    (before,) = keeper.entries("a/")
    time.sleep(1.1)
    found = keeper.get("a/b")
    assert found is not None
    assert keeper.replace("a/b", b"data", found.tag)
    (after,) = keeper.entries("a/")
    assert after.written > before.written


def test_many_objects_are_listed_page_by_page(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    if "://" not in store.url:
        pytest.skip("a folder has no pages")
    keeper = open_to_keep(store.url)
    assert isinstance(keeper, S3Keeper)
    for number in range(7):
        keeper.create(f"a/{number}", b"")
    listed = keeper._client.list_objects_v2
    monkeypatch.setattr(keeper._client, "list_objects_v2", lambda **more: listed(**more, MaxKeys=2))
    assert sorted(one.key for one in keeper.entries("a/")) == [f"a/{number}" for number in range(7)]
