"""`vmfb diff`: what differs between two releases, or files."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from pipeline.commands.release import Release, names_file
from pipeline.consume import diff, inspect, render
from pipeline.terminal import put, put_document


def run(arguments: argparse.Namespace) -> None:
    """Print what differs. PipelineError for what is neither a release nor a file."""
    found = diff.difference(_side(arguments, arguments.before), _side(arguments, arguments.after))
    put_document(json.dumps(asdict(found), indent=1)) if arguments.json else put(*render.difference_lines(found))


def _side(arguments: argparse.Namespace, what: str) -> diff.Side:
    if names_file(what):
        return diff.of_file(inspect.inspect(Path(what)))
    release = Release(arguments, what, shows=True)
    contents = inspect.inspect(release.fetch(None).path) if arguments.kernels else None
    return diff.of_release(release.manifest, release.artifact, release.testimony(), contents)
