"""Which releases of a store are asked for, with the channels that are to go with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.consume.reference import Reference
from pipeline.consume.resolve import Resolver
from pipeline.errors import PipelineError
from pipeline.layout import channel_of, release_of
from pipeline.manifest.types import Channel
from pipeline.names import is_name, is_version
from pipeline.store.base import Source
from pipeline.store.channels import find_channel


@dataclass(frozen=True)
class Wanted:
    """A release, whose manifest has the digest `sha256` (empty: whichever is there), and channels that point to it."""

    model: str
    version: str
    sha256: str
    channels: tuple[str, ...]


def named(resolver: Resolver, references: Iterable[Reference], channel: str = "") -> list[Wanted]:
    """The releases that `references` mean, in alphabetical order. Each goes with the channel that named it, or with `channel`.

    Raises PipelineError where one is not there, and where a channel would go with two releases.
    """
    found: dict[tuple[str, str, str], set[str]] = {}
    for reference in references:
        manifest = resolver.manifest(reference)
        release = (manifest.model.name, manifest.version, resolver.pin(manifest).sha256)
        found.setdefault(release, set()).update(filter(None, [channel or reference.channel]))
    taken: dict[tuple[str, str], str] = {}
    for (model, version, _), channels in found.items():
        for one in channels:
            if taken.setdefault((model, one), version) != version:
                raise PipelineError(f"the channel {one} of {model} cannot point to {taken[model, one]} and to {version}")
    return [Wanted(*release, tuple(sorted(channels))) for release, channels in sorted(found.items())]


def everything(resolver: Resolver, source: Source) -> tuple[list[Wanted], list[Channel]]:
    """All releases of a store, with its channels, in alphabetical order: by its keys, where it cannot be listed by its index."""
    keys, channel_keys = source.listed("releases/"), source.listed("channels/")
    if keys is None or channel_keys is None:
        models = [m for m in resolver.index().models if is_name(m.name)]
        releases = [(m.name, version) for m in models for version in m.versions if is_version(version)]
        pointers = [(m.name, c.channel) for m in models for c in m.channels if is_name(c.channel)]
    else:
        releases = list(filter(None, map(release_of, keys)))
        pointers = list(filter(None, map(channel_of, channel_keys)))
    channels = [found for pair in sorted(pointers) if (found := find_channel(source, *pair))]
    return [Wanted(model, version, *_pointing(channels, model, version)) for model, version in sorted(set(releases))], channels


def _pointing(channels: Sequence[Channel], model: str, version: str) -> tuple[str, tuple[str, ...]]:
    """The digest that channels say a release has, and their names."""
    those = [c for c in channels if (c.model, c.version) == (model, version)]
    return (those[0].manifest.sha256 if those else "", tuple(c.channel for c in those))
