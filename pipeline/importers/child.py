"""How an importer runs as a child process: its arguments, and its errors on standard output for the parent to show."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.spec.types import Input


def _input(said: dict[str, Any]) -> Input:
    return Input(**said | {"shape": tuple(said["shape"]), "file": Path(said["file"]) if said["file"] else None})


def inputs_of(text: str) -> list[Input]:
    """The inputs that a parent wrote as JSON, see `inputs_as_text`."""
    return [_input(said) for said in json.loads(text)]


def inputs_as_text(inputs: Sequence[Input]) -> str:
    """`inputs` as JSON, for the command line of a child."""
    return json.dumps([asdict(i) | {"file": str(i.file) if i.file else None} for i in inputs])


def main(convert: Callable[[Path, Path, list[Input], str | None], None]) -> int:
    """Call `convert(source, folder, inputs, entry)` with the command line's arguments; the exit code."""
    source, folder, inputs, entry = sys.argv[1:]
    try:
        convert(Path(source), Path(folder), inputs_of(inputs), entry or None)
    except PipelineError as error:
        print(f"error: {error.what}")
        if error.hint:
            print(f"hint: {error.hint}")
        return 3
    except MemoryError:
        print("error: there is not enough memory to import it\nhint: free memory, run the same command again")
        return 3
    except Exception as error:  # whatever ONNX's tools and this program did not foresee
        traceback.print_exc()
        said = next(iter(str(error).strip().splitlines()), "")
        print(f"error: the importer did not foresee this model: {type(error).__name__}{f': {said[:300]}' if said else ''}")
        return 3
    return 0
