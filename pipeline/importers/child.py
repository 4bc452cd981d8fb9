"""How an importer runs as a child process: its arguments, and its errors on standard output for the parent to show."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.importers.signature import Tensor


def main(convert: Callable[[Path, Path, list[Tensor], str | None], None]) -> int:
    """Call `convert(source, folder, inputs, entry)` with the command line's arguments; the exit code."""
    source, folder, inputs, entry = sys.argv[1:]
    try:
        convert(Path(source), Path(folder), [Tensor(n, d, tuple(s)) for n, d, s in json.loads(inputs)], entry or None)
    except PipelineError as error:
        print(f"error: {error.what}")
        return 3
    return 0
