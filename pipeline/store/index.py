"""The list of what a store holds, `index.json`: made of its keys, for stores that cannot be listed."""

from __future__ import annotations

from contextlib import suppress

from pipeline.errors import PipelineError
from pipeline.layout import INDEX_KEY, channel_key, channel_of, release_of
from pipeline.manifest.codec import decode, encode
from pipeline.manifest.types import SCHEMA, Channel, Index, IndexedChannel, IndexedModel
from pipeline.store.base import Object, Store
from pipeline.store.channels import read_channel
from pipeline.store.documents import require_not_newer, swap

_Known = dict[str, tuple[set[str], dict[str, str]]]  # by model: its versions, and what each channel points to


def require_our_index(store: Store) -> None:
    """Raise PipelineError where the index is of a newer program, which this one would write over."""
    require_not_newer(store.get(INDEX_KEY), SCHEMA, f"{store.url}/{INDEX_KEY}")


def update_index(store: Store, moved: Channel | None = None) -> bool:
    """Write the index anew after a channel moved, or anything else (None), where it is not up to date; whether that changed it.

    Whoever moves a channel writes the index after it, of what the store holds then: so however several interleave, the last index
    has what the channels say. Entries that were lost come back.
    """

    # The index is read before the keys and channels are: what changes in between changes its tag, and it is made again.
    def wanted(current: Object | None) -> bytes:
        require_not_newer(current, SCHEMA, f"{store.url}/{INDEX_KEY}")
        return encode(_index(_held(store, moved, _known(current))))

    return swap(store, INDEX_KEY, wanted)


def made_index(store: Store) -> Index:
    """The index as the store's keys and channels say it should be."""
    return _index(_held(store, None, {}))


def _known(current: Object | None) -> _Known:
    """What the present index says; nothing where it is damaged."""
    try:
        found = decode(Index, current.data, INDEX_KEY).models if current else ()
    except PipelineError:
        found = ()
    return {m.name: (set(m.versions), {c.channel: c.version for c in m.channels}) for m in found}


def _held(store: Store, moved: Channel | None, before: _Known) -> _Known:
    """What the store holds, by its keys; where they may not be listed, what was known before and the release that is there now.

    Channels are read for the model of `moved`, or for all, and for others where nothing is known of them: whoever moves those
    writes too.
    """
    releases, channels = store.listed("releases/"), store.listed("channels/")
    if releases is None or channels is None:
        if moved is None:
            return before
        versions, pointers = before.setdefault(moved.model, (set(), {}))
        versions.add(moved.version)
        pointers[moved.channel] = _pointed(store, moved.model, moved.channel) or moved.version
        return before
    held: _Known = {}
    for model, version in filter(None, map(release_of, releases)):
        held.setdefault(model, (set(), {}))[0].add(version)
    for model, channel in filter(None, map(channel_of, channels)):
        known = before.get(model, (set(), {}))[1].get(channel)
        pointed = known if known and moved and model != moved.model else _pointed(store, model, channel) or known
        if pointed:
            held.setdefault(model, (set(), {}))[1][channel] = pointed
    return held


def _pointed(store: Store, model: str, channel: str) -> str | None:
    """The version that a channel points to; None where that is not to be read."""
    found = store.get(channel_key(model, channel))
    with suppress(PipelineError):  # damaged, or of a newer program
        pointer = read_channel(found, model, channel, store.url)
        return pointer.version if pointer else None
    return None


def _index(known: _Known) -> Index:
    return Index(
        SCHEMA,
        tuple(
            IndexedModel(name, tuple(IndexedChannel(c, v) for c, v in sorted(channels.items())), tuple(sorted(versions)))
            for name, (versions, channels) in sorted(known.items())
        ),
    )
