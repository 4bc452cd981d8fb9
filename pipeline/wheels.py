"""Wheels from the package index that pip is configured for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline import process
from pipeline.errors import PipelineError


def download(requirement: str, folder: Path, log: Path, tags: Sequence[str] = ()) -> Path:
    """The wheel of `requirement`, `NAME==VERSION`, put into `folder`; for another Python or platform by pip's flags `tags`.

    Raises PipelineError with what pip says.
    """
    argv = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"]
    result = process.execute([*argv, *tags, "--dest", str(folder), requirement], log)
    if result.returncode:
        lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.startswith("ERROR")]
        raise PipelineError(
            lines[-1].removeprefix("ERROR: ") if lines else f"pip was {result.ending}",
            where=requirement,
            hint=f"pip finds packages by its own configuration; its whole output is in {log}",
        )
    return next(folder.glob("*.whl"))
