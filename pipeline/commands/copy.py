"""`vmfb copy`: releases from one store into another."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pipeline.commands.release import open_remote, tell_notes
from pipeline.commands.several import asked, require_releases
from pipeline.consume.cache import Cache
from pipeline.consume.copy import Copied, Copier
from pipeline.consume.parts import gather
from pipeline.consume.render import size
from pipeline.consume.resolve import Remote
from pipeline.consume.wanted import Wanted
from pipeline.errors import PipelineError
from pipeline.layout import channel_key, release_key
from pipeline.manifest.types import Channel
from pipeline.store.base import Store
from pipeline.store.open import address_of, open_to_copy_to
from pipeline.terminal import Bar, put, say
from pipeline.trust import mirror
from pipeline.trust.signed import signing


def run(arguments: argparse.Namespace) -> None:
    """Copy releases, and tell of each what was sent. PipelineError where a version is another release in the other store."""
    require_releases(arguments)
    remote = open_remote(arguments)
    if remote.name == address_of(arguments.to).name:
        raise PipelineError("is the store to copy from, too", where=remote.url, hint="name another one with --to")
    # Before it is asked what there is: what is published in between is signed in no copy that has not got it.
    signatures = mirror.read_signatures(remote.bare) if arguments.all else None
    wanted, channels = asked(arguments, remote)
    tell_notes(arguments, remote)
    _copy(remote, open_to_copy_to(arguments.to), arguments, wanted, channels, signatures)


def _copy(
    remote: Remote,
    store: Store,
    arguments: argparse.Namespace,
    wanted: Sequence[Wanted],
    channels: Sequence[Channel],
    signatures: mirror.Signatures | None,
) -> None:
    is_mirror = signatures is not None and mirror.may_be_copy(
        store, signatures, (release_key(w.model, w.version) for w in wanted)
    )
    if not is_mirror:
        store = signing(store, arguments.to)
    staging = Cache(Cache().root / "copying")
    copier = Copier(remote.source, store, staging, Bar(arguments.quiet), say)
    copier.begin()
    for one in wanted:
        parts = gather(remote.source, one.model, one.version, one.sha256, say, doubtful=is_mirror)
        put(_told(copier.put(parts, () if is_mirror else one.channels)))
    if is_mirror and signatures:
        for channel in channels:
            found = remote.source.get(channel_key(channel.model, channel.channel))
            if found:
                copier.set_channel(channel.model, channel.channel, found.data)
    copier.end()
    if is_mirror and signatures:
        mirror.put_signatures(store, signatures)


def _told(copied: Copied) -> str:
    sent = f"{size(copied.bytes)} sent" if copied.blobs else "nothing to send"
    moved = "".join(f", channel {channel}" for channel in copied.moved)
    return f"{copied.name}: {sent}{'' if copied.is_new else ', was there'}{moved}"
