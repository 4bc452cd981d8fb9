"""Fetch: the model's file and its data files, by its spec, checked against their digests."""

from __future__ import annotations

from pathlib import Path

from pipeline.sources.fetch import fetch
from pipeline.spec.types import Model


def run(model: Model, output: Path) -> None:
    """Put the model's file at `output`, its data files beside it. What is there already and has the right digest stays."""
    fetch(model.source, output, model.path)
