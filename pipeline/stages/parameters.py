"""Weights outside the vmfbs, as the stages pass them on: an archive, and its digest with those of its stretches."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.manifest.types import SEGMENT_LIMIT, Blob, Parameters, SegmentInfo

ARCHIVE = "parameters.irpa"
NAME = "parameters.json"
SCOPE = "model"


def describe(archive: Path) -> dict[str, Any]:
    """The manifest's `Parameters` of the archive, as JSON: it is read once."""
    whole, segments, offset = hashlib.sha256(), list[SegmentInfo](), 0
    with archive.open("rb") as file:
        while data := file.read(SEGMENT_LIMIT):
            whole.update(data)
            segments.append(SegmentInfo("data", offset, len(data), hashlib.sha256(data).hexdigest(), ()))
            offset += len(data)
    digest = whole.hexdigest()
    return asdict(Parameters(SCOPE, Blob(f"{digest[:16]}.irpa", digest, offset), tuple(segments)))


def read(imported: Path) -> Parameters | None:
    """The parameters of an imported model, if they are outside."""
    path = imported / NAME
    if not path.is_file():
        return None
    data = json.loads(path.read_text())
    segments = tuple(SegmentInfo(**s | {"variants": ()}) for s in data["segments"])
    return Parameters(data["scope"], Blob(**data["blob"]), segments)


def archive(imported: Path) -> Path | None:
    """The archive of an imported model, if there is one."""
    path = imported / ARCHIVE
    return path if path.is_file() else None
