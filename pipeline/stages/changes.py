"""What a release changes for those who follow its channel: the difference to what that points to now, for people."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from pipeline.consume.cache import Cache
from pipeline.consume.diff import difference, of_release
from pipeline.consume.evidence import Gatherer
from pipeline.consume.render import difference_lines
from pipeline.errors import PipelineError
from pipeline.layout import channel_key
from pipeline.manifest.codec import decode
from pipeline.manifest.types import Channel, Manifest
from pipeline.store.base import Store


def pointed_at(store: Store, model: str, channel: str) -> Manifest | None:
    """The release that the channel points to; None where there is none, or none that this program can read."""
    try:
        pointer = store.get(channel_key(model, channel))
        found = store.get(decode(Channel, pointer.data, store.url).manifest.name) if pointer else None
        return decode(Manifest, found.data, store.url) if found else None
    except PipelineError:
        return None


def lines(store: Store, before: Manifest | None, after: Manifest) -> Sequence[str]:
    """What differs between two releases in the store, for each bundle that both have; nothing where there was none before."""
    if before is None or before.version == after.version:
        return ()
    with tempfile.TemporaryDirectory() as folder:
        gatherer = Gatherer(lambda: store, store.url, Cache(Path(folder)), lambda _: None)
        testimonies = gatherer.gather(before), gatherer.gather(after)
    artifacts = {artifact.bundle: artifact for artifact in before.artifacts}
    said: list[str] = []
    for artifact in after.artifacts:
        if artifact.bundle in artifacts:
            sides = of_release(before, artifacts[artifact.bundle], testimonies[0]), of_release(after, artifact, testimonies[1])
            first, *rest = difference_lines(difference(*sides))
            said += [f"{first}, {artifact.bundle}:", *rest]
        else:
            said.append(f"{artifact.bundle} is new")
    return said
