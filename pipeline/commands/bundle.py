"""`vmfb bundle`: releases in one file, for machines without a network."""

from __future__ import annotations

import argparse

from pipeline.commands.release import open_remote, tell_notes
from pipeline.commands.several import asked, require_releases
from pipeline.consume.bundle import documents, require_bundle_name, write_bundle
from pipeline.consume.parts import gather
from pipeline.consume.render import size
from pipeline.terminal import Bar, put, say


def run(arguments: argparse.Namespace) -> None:
    """Write the file and print its path. PipelineError for releases that are not there."""
    path = require_bundle_name(arguments.output)
    require_releases(arguments)
    remote = open_remote(arguments)
    wanted, _ = asked(arguments, remote)
    tell_notes(arguments, remote)
    releases = [(gather(remote.source, w.model, w.version, w.sha256, say), w.channels) for w in wanted]
    blobs = {sha256: one for parts, _ in releases for sha256, one in parts.blobs.items()}
    total = write_bundle(remote.source, path, documents(releases), blobs, Bar(arguments.quiet))
    if not arguments.quiet:
        say(f"{len(releases)} release{'s' * (len(releases) != 1)}, {size(total)}: `--store {path}` reads it in place")
    put(path)
