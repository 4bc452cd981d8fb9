"""`vmfb list`: the models of a store."""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor

from pipeline.commands.release import open_remote, tell_notes
from pipeline.consume.cache import Cache
from pipeline.consume.reference import Reference
from pipeline.consume.render import index_lines, verified_briefly
from pipeline.consume.resolve import Remote, Resolver
from pipeline.consume.yanks import Yanks
from pipeline.errors import PipelineError
from pipeline.layout import yank_of
from pipeline.manifest.codec import encode
from pipeline.manifest.types import Index
from pipeline.names import is_version
from pipeline.store.yanks import told
from pipeline.terminal import put, put_document, say

_AT_A_TIME = 4  # releases that are looked up
_LOOKED_UP = 200  # channels; a store's list may have any number


def run(arguments: argparse.Namespace) -> None:
    """Print the store's index, with the evidence for what each channel points to and what was yanked, or as JSON."""
    if arguments.url and arguments.store:
        raise PipelineError("two stores are named", hint="give STORE or --store")
    remote = open_remote(arguments)
    index = Resolver(remote, Cache(), say).index()
    tell_notes(arguments, remote)
    if arguments.json:
        put_document(encode(index).decode())
        return
    channels = [(model.name, channel.channel) for model in index.models for channel in model.channels]
    if len(channels) > _LOOKED_UP:
        say(f"how releases were verified is told for the first {_LOOKED_UP} of {len(channels)} channels")
        channels = channels[:_LOOKED_UP]
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        found = pool.map(lambda pair: _verified(remote, index, *pair), channels)
        yanked = pool.map(lambda release: _yanked(remote, *release), _candidates(remote, index))
        put(*index_lines(index, dict(zip(channels, found, strict=True))), *filter(None, yanked))


def _verified(remote: Remote, index: Index, model: str, channel: str) -> str:
    """How the release was verified; what is wrong with it, where it cannot be told: other models are still listed."""
    resolver = Resolver(remote, Cache(), index=index)
    try:
        manifest = resolver.manifest(Reference(model, channel=channel))
        return verified_briefly(resolver.evidence(manifest), manifest)
    except PipelineError as error:
        return f"! {error.what}"


def _candidates(remote: Remote, index: Index) -> list[tuple[str, str]]:
    """The releases that no channel points to and that may have been yanked: by the store's keys, else the first in its list."""
    pointed = {(model.name, channel.version) for model in index.models for channel in model.channels}
    others = [(m.name, version) for m in index.models for version in m.versions if (m.name, version) not in pointed]
    if not (remote.offline or remote.is_away) and (keys := remote.source.listed("yanked/")) is not None:
        yanked = set(map(yank_of, keys))
        return [release for release in others if release in yanked]
    if len(others) > _LOOKED_UP:
        say(f"which releases were yanked is told for the first {_LOOKED_UP} of {len(others)} that no channel points to")
    return [(model, version) for model, version in others[:_LOOKED_UP] if is_version(version)]


def _yanked(remote: Remote, model: str, version: str) -> str:
    """A line about a release that was yanked; empty for another."""
    yanks = Yanks(remote.cached_as, Cache())
    try:
        away = remote.offline or remote.is_away
        yank = yanks.remembered(model, version) if away else yanks.ask(remote.source, model, version)
    except PipelineError as error:
        return f"  ! {model}@{version}: {error.what}"
    return f"  ! {told(yank)}" if yank else ""
