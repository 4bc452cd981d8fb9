"""Fetch: the model's files, by its spec, checked against their digests."""

from __future__ import annotations

from pipeline.errors import disk_errors
from pipeline.files import sha256_file
from pipeline.sources.fetch import fetch
from pipeline.stages.origin import Origin


def run(origin: Origin) -> None:
    """Put the model's files where `origin` says. What is there already and has the right digest stays."""
    for output, entry in origin.files.items():
        with disk_errors(str(output)):
            output.parent.mkdir(parents=True, exist_ok=True)
            if output.is_file() and sha256_file(output) == entry.source.sha256:
                continue
        fetch(entry.source, output, origin.model.path)
