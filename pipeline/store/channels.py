"""Channels of a store: what they point to, and what they pointed to before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pipeline.errors import PipelineError
from pipeline.layout import channel_key
from pipeline.machine import now
from pipeline.manifest.codec import decode, encode
from pipeline.manifest.types import HISTORY_LIMIT, Channel, PastRelease
from pipeline.store.base import Object, Source, Store
from pipeline.store.documents import swap


def read_channel(found: Object | None, model: str, channel: str, url: str) -> Channel | None:
    """The channel in `found`; None where there is none. Raises PipelineError where it is none, or that of another model."""
    if found is None:
        return None
    where = f"{url}/{channel_key(model, channel)}"
    try:
        pointer = decode(Channel, found.data, where)
    except PipelineError as error:
        hint = error.hint or "remove that object and publish again: a channel is only a pointer"
        raise PipelineError(error.what, where=error.where, hint=hint) from error
    if (pointer.model, pointer.channel) != (model, channel):
        raise PipelineError(f"is the channel {pointer.channel} of {pointer.model}", where=where, hint="remove it, publish again")
    return pointer


def find_channel(source: Source, model: str, channel: str) -> Channel | None:
    """What a channel of the store points to. Raises PipelineError as `read_channel` does."""
    return read_channel(source.get(channel_key(model, channel)), model, channel, source.url)


def move_channel(store: Store, pointer: Channel, allowed: Callable[[Channel | None], None], rolled_back: bool = False) -> bool:
    """Point a channel elsewhere, by compare-and-swap; whether it pointed elsewhere. What it pointed to goes into its history.

    `allowed` is asked, with what the channel is just before, and again where another moves it meanwhile.
    """

    def wanted(current: Object | None) -> bytes:
        before = read_channel(current, pointer.model, pointer.channel, store.url)
        allowed(before)
        if current and before and (before.version, before.manifest) == (pointer.version, pointer.manifest):
            return current.data
        return encode(replace(pointer, history=_history(before, rolled_back)))

    return swap(store, channel_key(pointer.model, pointer.channel), wanted)


def _history(before: Channel | None, rolled_back: bool) -> tuple[PastRelease, ...]:
    if before is None:
        return ()
    left = PastRelease(before.version, before.manifest.sha256, now(), rolled_back)
    return (left, *before.history)[:HISTORY_LIMIT]
