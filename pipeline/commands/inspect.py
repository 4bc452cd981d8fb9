"""`vmfb inspect`: what is in a vmfb, or in a release."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from pipeline.commands.release import Release, names_file, refuse_archive
from pipeline.consume import inspect, render, weights
from pipeline.errors import PipelineError
from pipeline.manifest import provenance
from pipeline.manifest.codec import encode
from pipeline.terminal import put, put_document


def run(arguments: argparse.Namespace) -> None:
    """Print what the file, or the release's manifest, says. PipelineError for what is neither."""
    if names_file(arguments.what):
        if arguments.evidence or arguments.provenance:
            told = "how it was verified" if arguments.evidence else "where it comes from"
            raise PipelineError(f"a file does not tell {told}: give a MODEL", where=arguments.what)
        contents = inspect.inspect(Path(arguments.what))
        if arguments.parameters:
            weights.of_file(contents, arguments.parameters, whole=True)
        put_document(render.contents_json(contents)) if arguments.json else put(*render.contents_lines(contents))
    else:
        refuse_archive(arguments)
        release = Release(arguments, arguments.what, shows=True)
        if arguments.evidence:
            said = release.testimony()
            if arguments.json:
                put_document(json.dumps([asdict(d) for d in said.documents], indent=1))
            else:
                put(f"{release.manifest.model.name}@{release.manifest.version}", *render.evidence_lines(said))
        elif arguments.provenance:
            document = release.provenance()
            if arguments.json:
                put_document(json.dumps(document, indent=1, sort_keys=True))
            else:
                name = f"{release.manifest.model.name}@{release.manifest.version}"
                put(name, *(f"  {line}" for line in provenance.lines(document)))
        elif arguments.json:
            put_document(encode(release.manifest).decode())
        else:
            put(*render.manifest_lines(release.manifest, release.testimony()), f"  its name for good: {release.pin}")
