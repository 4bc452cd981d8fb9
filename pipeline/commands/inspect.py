"""`vmfb inspect`: what is in a vmfb, or in a release."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.commands.release import Release, names_file, refuse_archive
from pipeline.consume import inspect, render, weights
from pipeline.manifest.codec import encode
from pipeline.terminal import put


def run(arguments: argparse.Namespace) -> None:
    """Print what the file, or the release's manifest, says. PipelineError for what is neither."""
    if names_file(arguments.what):
        contents = inspect.inspect(Path(arguments.what))
        if arguments.parameters:
            weights.of_file(contents, arguments.parameters, whole=True)
        put(render.contents_json(contents) if arguments.json else "\n".join(render.contents_lines(contents)))
    else:
        refuse_archive(arguments)
        manifest = Release(arguments, arguments.what).manifest
        put(encode(manifest).decode() if arguments.json else "\n".join(render.manifest_lines(manifest)))
