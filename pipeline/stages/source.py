"""Fetch: the model file, by its spec, checked against its digest."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import disk_errors
from pipeline.files import sha256_file
from pipeline.sources.fetch import fetch
from pipeline.spec.types import Model


def run(model: Model, output: Path) -> None:
    """Put the model file at `output`. What is there already and has the right digest stays."""
    with disk_errors(str(output)):
        output.parent.mkdir(parents=True, exist_ok=True)
        if output.is_file() and sha256_file(output) == model.source.sha256:
            return
    fetch(model, output)
