"""The index of a store: what its keys and channels say, whoever else writes, and whatever else is in the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.layout import INDEX_KEY, channel_key, evidence_index_key
from pipeline.manifest import types as m
from pipeline.manifest.codec import decode, encode
from pipeline.stages.publish import publish
from pipeline.store.base import Store
from pipeline.store.open import open_store
from tests import releases
from tests.publishing import LATEST, MODEL, Package, Spy, manifest_of, pointed_at


def indexed(store: Store) -> dict[str, tuple[dict[str, str], tuple[str, ...]]]:
    """What the index says of each model: its channels, its versions."""
    found = store.get(INDEX_KEY)
    assert found is not None
    index = decode(m.Index, found.data, INDEX_KEY)
    return {model.name: ({c.channel: c.version for c in model.channels}, model.versions) for model in index.models}


def versions(*packages: Path) -> tuple[str, ...]:
    return tuple(sorted(manifest_of(one).version for one in packages))


@pytest.mark.parametrize("call", ["get", "replace"])
def test_the_index_says_what_the_channel_says_after_a_race(store: Store, package: Package, call: str) -> None:
    """Another publisher does all of its work just before one looks at the index, and just before it writes it."""
    one, two = package("one"), package("two")
    overtaken = []

    def overtake(spy: Spy) -> None:
        moved = ("replace", LATEST) in spy.calls
        if moved and spy.calls[-1] == (call, INDEX_KEY) and not overtaken:
            overtaken.append(publish(two, store))

    publish(one, Spy(store, before=overtake))
    assert overtaken
    assert indexed(store) == {MODEL: ({"latest": pointed_at(store)}, versions(one, two))}
    assert pointed_at(store) == manifest_of(two).version


def test_entries_that_the_index_lost_come_back(store: Store, package: Package) -> None:
    one, two = package("one"), package("two")
    publish(one, store, channel="stable")
    publish(two, store)
    noise, _ = releases.release(store, one.parent / "noise")
    whole = indexed(store)
    found = store.get(INDEX_KEY)
    assert found is not None
    assert store.replace(INDEX_KEY, encode(m.Index(m.SCHEMA, ())), found.tag)
    publish(two, store)
    both = {"latest": manifest_of(two).version, "stable": manifest_of(one).version}
    assert indexed(store) == whole == {MODEL: (both, versions(one, two)), "noise": ({"latest": noise.version}, (noise.version,))}


def test_an_index_of_a_newer_program_is_not_overwritten_and_nothing_moves(store: Store, package: Package) -> None:
    newer = b'{"schema": 2, "models": [], "signed": true}'
    store.create(INDEX_KEY, newer)
    with pytest.raises(PipelineError, match=r"index\.json: has schema version 2, this program writes version 1"):
        publish(package("one"), store)
    found = store.get(INDEX_KEY)
    assert found is not None
    assert found.data == newer
    assert store.get(LATEST) is None


def test_a_list_of_evidence_of_a_newer_program_is_not_overwritten(tmp_path: Path, package: Package) -> None:
    store, folder = open_store(str(tmp_path / "store")), package("one")
    key = evidence_index_key(MODEL, manifest_of(folder).version)
    store.create(key, b'{"schema": 99}')
    with pytest.raises(PipelineError, match="has schema version 99"):
        publish(folder, store)
    assert (found := store.get(key)) and found.data == b'{"schema": 99}'


def test_keys_and_documents_of_others_neither_break_the_index_nor_get_into_it(store: Store, package: Package) -> None:
    strays = ["releases/README.txt", "releases/Not-A-Name/1/manifest.json", "releases/a/-/manifest.json", "releases/tiny/1/notes"]
    strays += [
        "channels/README.txt",
        f"channels/{MODEL}/Not-A-Name.json",
        f"channels/{MODEL}/damaged.json",
        "channels/x/y/z.json",
    ]
    for key in strays:
        store.create(key, b"{")
    store.create(channel_key(MODEL, "newer"), b'{"schema": 3}')
    pointer = m.Channel(m.CHANNEL_SCHEMA, "another", "latest", "1", m.Blob("x", "0" * 64, 1), ())
    store.create(channel_key(MODEL, "strange"), encode(pointer))
    store.create(INDEX_KEY, b'{"schema": 1, "models": [{"name": "../x", "channels": [], "versions": []}]}')
    publish(folder := package("one"), store)
    (version,) = versions(folder)
    assert indexed(store) == {MODEL: ({"latest": version}, (version,))}


class Unlisted(Spy):
    """A store whose user may not list it."""

    def listed(self, prefix: str) -> None:
        return None


def test_who_may_not_list_adds_to_the_index(tmp_path: Path, package: Package) -> None:
    store, one, two = open_store(str(tmp_path / "store")), package("one"), package("two")
    publish(one, store)
    publish(two, Unlisted(store), channel="beta")
    both = {"latest": manifest_of(one).version, "beta": manifest_of(two).version}
    assert indexed(store) == {MODEL: (both, versions(one, two))}
