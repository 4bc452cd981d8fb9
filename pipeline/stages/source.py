"""Fetch: the model's files, by its spec, checked against their digests."""

from __future__ import annotations

from pipeline.sources.fetch import fetch
from pipeline.stages.origin import Origin


def run(origin: Origin) -> None:
    """Put the model's files where `origin` says. What is there already and has the right digest stays."""
    for output, entry in origin.files.items():
        fetch(entry.source, output, origin.model.path)
