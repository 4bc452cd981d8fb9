"""Fetch: the model's files and its data sets', by its spec, checked against their digests."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from pipeline.errors import disk_errors
from pipeline.sources.fetch import fetch
from pipeline.spec.types import source_files
from pipeline.stages.origin import Origin

_OURS, _PARTIAL = "fetch.log", ".*.partial"


def run(origin: Origin) -> None:
    """Put the model's files where `origin` says. What is there already and has the right digest stays, and nothing else."""
    for output, entry in origin.files.items():
        _leave(output.parent, {*source_files(entry.source, output), output.parent / _OURS, *output.parent.glob(_PARTIAL)})
        fetch(entry.source, output, origin.model.path)
    for file, output in origin.data.items():
        fetch(file.source, output, origin.model.path, file.where)
    for root in {output.parent.parent for output in origin.data.values()}:
        files = set(origin.data.values())
        _leave(root, {*files, *(path.parent / _OURS for path in files)})


def _leave(folder: Path, files: set[Path]) -> None:
    """Leave only these in the folder: what another spec brought there, an ONNX file would take for its own data."""
    with disk_errors(str(folder)):
        for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder before it
            if path.is_dir() and not path.is_symlink():
                with suppress(OSError):  # it is not empty
                    path.rmdir()
            elif path not in files:
                path.unlink()
