"""What becomes of a release after it was published: channels that go back, and releases that are not to be used any more."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pipeline import cli
from pipeline.consume.cache import Cache
from pipeline.consume.reference import parse
from pipeline.consume.resolve import Remote, Resolver
from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes
from pipeline.layout import channel_key, release_key, yank_key
from pipeline.manifest import types as m
from pipeline.manifest.codec import decode, encode
from pipeline.stages import promote, rollback, yank
from pipeline.stages.publish import publish
from pipeline.store.base import Store
from pipeline.store.channels import find_channel, move_channel
from pipeline.store.open import open_store
from pipeline.store.yanks import YankedError
from tests import servers, web
from tests.publishing import MODEL, Package, Spy, pointed_at

CHANNEL = channel_key(MODEL, "latest")


def channel(store: Store) -> m.Channel:
    found = find_channel(store, MODEL, "latest")
    assert found is not None
    return found


def past(store: Store) -> list[str]:
    """The versions in the channel's history, the last first; those that a rollback left are marked."""
    return [one.version + "!" * one.rolled_back for one in channel(store).history]


@pytest.fixture
def published(store: Store, package: Package) -> Store:
    """A store whose channel went from 1.0 over 2.0 to 3.0."""
    for version, content in (("1.0", "one"), ("2.0", "two"), ("3.0", "three")):
        publish(package(content), store, version=version)
    return store


def back(store: Store, folder: Path, version: str = "") -> str:
    rollback.run(store.url, MODEL, version, "latest", {}, folder / "rollback")
    return (folder / "rollback" / "report.txt").read_text()


def say_yanked(store: Store, folder: Path, version: str, reason: str = "it is wrong on Tuesdays", undo: bool = False) -> str:
    yank.run(store.url, MODEL, version, "" if undo else reason, undo, folder / "yank")
    return (folder / "yank" / "report.txt").read_text()


def resolve(store: Store, text: str, cache: Path, offline: bool = False, notes: list[str] | None = None) -> m.Manifest:
    notes = [] if notes is None else notes
    return Resolver(Remote(store.url, offline), Cache(cache), notes.append).manifest(parse(text))


# What a channel remembers.


def test_a_channel_remembers_what_it_pointed_to(published: Store) -> None:
    found = channel(published)
    assert (found.version, past(published)) == ("3.0", ["2.0", "1.0"])
    for one in found.history:
        manifest = published.get(release_key(MODEL, one.version))
        assert manifest is not None
        assert one.sha256 == sha256_bytes(manifest.data)


def test_what_a_channel_remembers_is_bounded(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for number in range(m.HISTORY_LIMIT + 3):
        blob = m.Blob("manifest", "0" * 64, 1)
        move_channel(store, m.Channel(m.CHANNEL_SCHEMA, MODEL, "latest", str(number), blob, ()), lambda _: None)
    assert past(store) == [str(number) for number in range(m.HISTORY_LIMIT + 1, 1, -1)]


def test_a_channel_that_stays_is_not_written(published: Store, package: Package) -> None:
    before = published.get(CHANNEL)
    publish(package("three"), published, version="3.0")
    assert published.get(CHANNEL) == before


def test_a_channel_of_schema_1_is_read_left_as_it_is_and_moved(published: Store, package: Package, tmp_path: Path) -> None:
    found = published.get(CHANNEL)
    assert found is not None
    old = json.loads(found.data) | {"schema": 1}
    del old["history"]
    assert published.replace(CHANNEL, json.dumps(old).encode(), found.tag)
    assert resolve(published, MODEL, tmp_path).version == "3.0"
    assert past(published) == []
    publish(package("three"), published, version="3.0")
    found = published.get(CHANNEL)
    assert found is not None
    assert json.loads(found.data) == old  # programs that know no other can go on
    with pytest.raises(PipelineError, match=r"no release is known that latest of tiny pointed to before 3\.0") as caught:
        back(published, tmp_path)
    assert "version=VERSION" in str(caught.value)
    publish(package("four"), published, version="4.0")
    assert past(published) == ["3.0"]


def test_of_moves_that_race_none_is_forgotten(published: Store, package: Package) -> None:
    overtaken = []

    def overtake(spy: Spy) -> None:
        if spy.calls[-1] == ("replace", CHANNEL) and not overtaken:
            overtaken.append(publish(package("five"), published, version="5.0"))

    publish(package("four"), Spy(published, before=overtake), version="4.0")
    assert (channel(published).version, past(published)) == ("4.0", ["5.0", "3.0", "2.0", "1.0"])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"version": "../x"}, r"history\[0\]\.version"),
        ({"until": "today"}, r"history\[0\]\.until"),
        ({"sha256": "0"}, r"history\[0\]\.sha256"),
    ],
)
def test_a_history_that_cannot_be_is_refused(change: dict[str, str], complaint: str) -> None:
    one = {"version": "1", "sha256": "0" * 64, "until": "2026-01-31T12:00:00Z", "rolled_back": False} | change
    blob = {"name": "x", "sha256": "0" * 64, "size": 1}
    said = {"schema": 2, "model": "a", "channel": "b", "version": "1", "manifest": blob, "history": [one]}
    with pytest.raises(PipelineError, match=complaint):
        decode(m.Channel, json.dumps(said).encode(), "test")


# The way back.


def test_rollback_goes_to_the_release_before_and_again_to_the_one_before_that(
    published: Store, package: Package, tmp_path: Path
) -> None:
    assert f"{MODEL}@2.0 is latest in {published.url}" in back(published, tmp_path)
    assert (pointed_at(published), past(published)) == ("2.0", ["3.0!", "2.0", "1.0"])
    back(published, tmp_path)  # not to the one that was left a moment ago
    assert pointed_at(published) == "1.0"
    with pytest.raises(PipelineError, match=r"no release is known that latest of tiny pointed to before 1\.0"):
        back(published, tmp_path)
    publish(package("four"), published, version="4.0")
    back(published, tmp_path)
    assert pointed_at(published) == "1.0"


def test_rollback_passes_over_what_is_gone_changed_or_yanked(tmp_path: Path, package: Package) -> None:
    store = open_store(str(tmp_path / "store"))
    for number in range(5):
        publish(package(str(number)), store, version=f"{number}.0")
    say_yanked(store, tmp_path, "3.0")
    (tmp_path / "store" / release_key(MODEL, "2.0")).unlink()
    back(store, tmp_path)
    assert pointed_at(store) == "1.0"
    path = tmp_path / "store" / release_key(MODEL, "0.0")
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(PipelineError) as caught:
        back(store, tmp_path)
    said = str(caught.value)
    assert "0.0 is not what it was" in said
    assert "2.0 is not in the store any more" in said
    assert "3.0 was yanked on" in said


def test_rollback_may_name_the_release(published: Store, tmp_path: Path) -> None:
    back(published, tmp_path, "1.0")
    assert (pointed_at(published), past(published)) == ("1.0", ["3.0!", "2.0", "1.0"])


def test_rollback_of_a_channel_that_moved_meanwhile_is_an_error(
    published: Store, package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = []

    def overtake(spy: Spy) -> None:
        if spy.calls[-1] == ("get", CHANNEL) and spy.calls.count(("get", CHANNEL)) == 2 and not moved:
            moved.append(publish(package("four"), published, version="4.0"))

    monkeypatch.setattr(rollback, "open_to_publish", lambda _: Spy(published, before=overtake))
    with pytest.raises(PipelineError, match=r"moved meanwhile, to 4\.0"):
        back(published, tmp_path)
    assert pointed_at(published) == "4.0"


@pytest.mark.parametrize(
    ("model", "name", "complaint"), [("", "latest", "which channel"), ("tiny", "other", "tiny has no channel other")]
)
def test_what_cannot_be_rolled_back_is_one_message(
    tmp_path: Path, package: Package, model: str, name: str, complaint: str
) -> None:
    store = open_store(str(tmp_path / "store"))
    publish(package("one"), store)
    with pytest.raises(PipelineError, match=complaint):
        rollback.run(store.url, model, "", name, {}, tmp_path / "out")


# Releases that are not to be used any more.


def test_a_yanked_release_is_kept_told_and_not_resolved(published: Store, tmp_path: Path) -> None:
    said = say_yanked(published, tmp_path, "3.0")
    assert f"{MODEL}@3.0 is yanked in {published.url}: it is wrong on Tuesdays" in said
    assert f"the channel latest points to it: `doit rollback model={MODEL} channel=latest`" in said
    assert pointed_at(published) == "3.0"  # whole, and where it was
    for text in (f"{MODEL}@3.0", MODEL):
        with pytest.raises(YankedError, match=r"tiny@3\.0 was yanked on .*: it is wrong on Tuesdays") as caught:
            resolve(published, text, tmp_path / "cache")
    found = published.get(release_key(MODEL, "3.0"))
    assert found is not None
    pin, notes = f"{MODEL}@sha256:{sha256_bytes(found.data)}", list[str]()
    assert pin in str(caught.value)
    assert resolve(published, pin, tmp_path / "other", notes=notes).version == "3.0"
    assert [note for note in notes if "was yanked" in note and "on Tuesdays" in note]
    back(published, tmp_path)
    assert resolve(published, MODEL, tmp_path / "cache").version == "2.0"


def test_no_channel_moves_to_a_yanked_release(published: Store, package: Package, tmp_path: Path) -> None:
    back(published, tmp_path)
    assert "no channel points to it" in say_yanked(published, tmp_path, "3.0")
    spy = Spy(published)
    with pytest.raises(YankedError, match="on Tuesdays"):
        publish(package("three"), spy, version="3.0")
    assert not spy.writes
    with pytest.raises(YankedError, match="on Tuesdays"):
        promote.run(published.url, MODEL, "3.0", "latest", {}, tmp_path / "out")
    assert pointed_at(published) == "2.0"


def test_a_release_that_is_yanked_while_it_is_published_gets_no_channel(
    published: Store, package: Package, tmp_path: Path
) -> None:
    def overtake(spy: Spy) -> None:
        if spy.calls[-1] == ("get", CHANNEL) and not published.get(yank_key(MODEL, "4.0")):
            say_yanked(published, tmp_path, "4.0")

    with pytest.raises(YankedError):
        publish(package("four"), Spy(published, before=overtake), version="4.0")
    assert pointed_at(published) == "3.0"


def test_a_yank_may_be_undone_said_again_and_given_another_reason(published: Store, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"tiny@3\.0 is not yanked"):
        say_yanked(published, tmp_path, "3.0", undo=True)
    say_yanked(published, tmp_path, "3.0")
    found = published.get(yank_key(MODEL, "3.0"))
    say_yanked(published, tmp_path, "3.0")
    assert published.get(yank_key(MODEL, "3.0")) == found
    say_yanked(published, tmp_path, "3.0", "and on Fridays")
    with pytest.raises(YankedError, match="and on Fridays"):
        resolve(published, MODEL, tmp_path / "cache")
    assert "may be used again" in say_yanked(published, tmp_path, "3.0", undo=True)
    assert resolve(published, MODEL, tmp_path / "cache").version == "3.0"
    assert resolve(published, f"{MODEL}@3.0", tmp_path / "cache").version == "3.0"
    say_yanked(published, tmp_path, "3.0")
    with pytest.raises(YankedError):
        resolve(published, MODEL, tmp_path / "cache")


def test_a_cached_release_learns_of_it_when_the_store_is_asked_and_remembers_it(tmp_path: Path, package: Package) -> None:
    store, cache, exact = open_store(str(tmp_path / "store")), tmp_path / "cache", f"{MODEL}@1.0"
    publish(package("one"), store, version="1.0")
    resolve(store, exact, cache)
    say_yanked(store, tmp_path, "1.0")
    assert resolve(store, exact, cache).version == "1.0"  # which asks no store
    resolver = Resolver(Remote(store.url), Cache(cache))
    with pytest.raises(YankedError):
        resolver.evidence(resolver.manifest(parse(exact)), asks=True)
    for offline in (True, False):
        with pytest.raises(YankedError, match="on Tuesdays"):
            resolve(store, exact, cache, offline)
    say_yanked(store, tmp_path, "1.0", undo=True)
    with pytest.raises(YankedError):  # nobody told
        resolve(store, exact, cache, offline=True)
    resolve(store, exact, cache)
    resolve(store, exact, cache, offline=True)


def test_who_may_not_read_what_is_not_there_is_not_kept_from_a_release(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Buckets that may not be listed, and web servers before them, say 403 of whatever is not there."""
    store, cache = open_store(str(tmp_path / "store")), tmp_path / "cache"
    publish(package("one"), store, version="1.0")
    with web.serve(tmp_path / "store", web.Manners(only="yanked/", status=403)) as server:
        for _ in range(2):
            assert Resolver(Remote(server.url), Cache(cache)).manifest(parse(MODEL)).version == "1.0"
        server.manners.status = 0
        say_yanked(store, tmp_path, "1.0")
        for status in (0, 403):  # what was told once is not forgotten for that
            server.manners.status = status
            with pytest.raises(YankedError):
                Resolver(Remote(server.url), Cache(cache)).manifest(parse(MODEL))


@pytest.mark.parametrize(
    ("data", "complaint"),
    [(b"{", "may be yanked: not JSON"), (b'{"schema": 9}', "upgrade vmfb-pipeline"), (b"", "not JSON")],
)
def test_what_cannot_be_read_of_a_yank_is_taken_for_one(tmp_path: Path, package: Package, data: bytes, complaint: str) -> None:
    store = open_store(str(tmp_path / "store"))
    publish(package("one"), store, version="1.0")
    store.create(yank_key(MODEL, "1.0"), data)
    with pytest.raises(PipelineError) as caught:
        resolve(store, MODEL, tmp_path / "cache")
    assert complaint in str(caught.value)
    if b"9" in data:
        with pytest.raises(PipelineError, match="has schema version 9"):
            say_yanked(store, tmp_path, "1.0")
    else:
        say_yanked(store, tmp_path, "1.0", undo=True)
        resolve(store, MODEL, tmp_path / "cache")


def test_an_emergency_is_not_refused_for_what_else_is_damaged(tmp_path: Path, package: Package) -> None:
    store = open_store(str(tmp_path / "store"))
    publish(package("one"), store, version="1.0")
    publish(package("one"), store, version="1.0", channel="stable")
    (tmp_path / "store" / channel_key(MODEL, "stable")).write_bytes(b"{")
    (tmp_path / "store" / release_key(MODEL, "1.0")).write_bytes(b"{")
    assert "the channel latest points to it" in say_yanked(store, tmp_path, "1.0")
    (tmp_path / "store" / release_key(MODEL, "1.0")).unlink()
    say_yanked(store, tmp_path, "1.0", "and gone")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("", "1.0", "x", False), "which release"),
        ((MODEL, "", "x", False), "which release"),
        ((MODEL, "1.0", " ", False), "a reason is needed"),
        ((MODEL, "1.0", "x", True), "a reason is needed"),
        ((MODEL, "1.0", "x" * 1001, False), "more than 1000 characters"),
        ((MODEL, "1.1", "x", False), "did you mean '1.0'"),
        (("tini", "1.0", "x", False), "did you mean 'tiny'"),
    ],
)
def test_what_cannot_be_yanked_is_one_message(
    tmp_path: Path, package: Package, arguments: Sequence[str | bool], complaint: str
) -> None:
    store = open_store(str(tmp_path / "store"))
    publish(package("one"), store, version="1.0")
    model, version, reason, undo = arguments
    with pytest.raises(PipelineError, match=complaint):
        yank.run(store.url, str(model), str(version), str(reason), bool(undo), tmp_path / "out")
    assert store.keys("yanked/") == []


def test_a_reason_is_one_plain_line(tmp_path: Path, package: Package) -> None:
    store = open_store(str(tmp_path / "store"))
    publish(package("one"), store, version="1.0")
    say_yanked(store, tmp_path, "1.0", "two\nlines and \x1b[31m red")
    found = store.get(yank_key(MODEL, "1.0"))
    assert found is not None
    assert decode(m.Yank, found.data, "test").reason == "two lines and \\x1b[31m red"
    assert encode(decode(m.Yank, found.data, "test")) == found.data


@pytest.fixture
def vmfb(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Runs a command; its exit code and all that it says."""
    monkeypatch.setenv("VMFB_CACHE", str(tmp_path / "cache"))

    def call(*arguments: str) -> tuple[int, str]:
        code = cli.main(arguments)
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


def test_commands_that_only_look_show_it_and_others_refuse(
    tmp_path: Path, package: Package, vmfb: Callable[..., tuple[int, str]]
) -> None:
    store = open_store(str(tmp_path / "store"))
    for version in ("1.0", "2.0", "3.0"):
        publish(package(version), store, version=version)
    for version in ("3.0", "1.0"):
        say_yanked(store, tmp_path, version)
    with web.serve(tmp_path / "store") as server:
        for url in (store.url, server.url):
            code, said = vmfb("list", "--store", url)
            assert (code, said.count("on Tuesdays")) == (0, 2), said
            assert "tiny@1.0 was yanked on" in said
    for arguments in (["inspect"], ["explain", "--pretend", "rtx-3060"], ["inspect", "--json"], ["diff", f"{MODEL}@1.0"]):
        code, said = vmfb(*arguments, MODEL, "--store", store.url)
        assert code == 0, said
        assert "! tiny@3.0 was yanked on" in said
    for command in (["fetch"], ["run"], ["attest"]):
        code, said = vmfb(*command, MODEL, "--store", store.url)
        assert code == 1, said
        assert "tiny@3.0 was yanked on" in said
        assert "have this one all the same, name it tiny@sha256:" in said
    assert vmfb("fetch", "--full", "-q", f"{MODEL}@2.0", "--store", store.url)[0] == 0


def test_a_bucket_says_it_too(server: servers.Server, package: Package, tmp_path: Path) -> None:
    store = open_store(f"s3://{servers.BUCKET}/{tmp_path.name}")
    publish(package("one"), store, version="1.0")
    say_yanked(store, tmp_path, "1.0")
    with pytest.raises(YankedError):
        resolve(store, MODEL, tmp_path / "cache")
