"""How an importer runs as a child process: its arguments, and its errors on standard output for the parent to show."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline import process
from pipeline.errors import PipelineError
from pipeline.spec.types import Dimension, Input


@dataclass(frozen=True)
class Options:
    """What an importer is told beside the model: the `function` it makes, which one of an MLIR file (`entry`, empty: the only
    one), where large weights are to be (see `Model.parameters`), and whether the model may be changed for speed (`FASTER`)."""

    function: str = "main"
    entry: str = ""
    parameters: str = ""
    faster: bool = True


# The rewrites that are for speed alone.
FASTER = ("steps", "integers", "shuffles", "sums", "rows")

Convert = Callable[[Path, Path, list[Input], Options], None]


def _input(said: dict[str, Any]) -> Input:
    shape = tuple(Dimension(**size) if isinstance(size, dict) else size for size in said["shape"])
    return Input(**said | {"shape": shape, "file": Path(said["file"]) if said["file"] else None})


def inputs_of(text: str) -> list[Input]:
    """The inputs that a parent wrote as JSON, see `inputs_as_text`."""
    return [_input(said) for said in json.loads(text)]


def inputs_as_text(inputs: Sequence[Input]) -> str:
    """`inputs` as JSON, for the command line of a child."""
    return json.dumps([asdict(i) | {"file": str(i.file) if i.file else None} for i in inputs])


def main(convert: Convert) -> int:
    """Call `convert(source, folder, inputs, options)` for each request, see `process.Forks`; the exit code."""
    return process.serve(lambda arguments: _done(convert, *arguments))


def _done(convert: Convert, source: str, folder: str, inputs: str, options: str) -> int:
    try:
        convert(Path(source), Path(folder), inputs_of(inputs), Options(**json.loads(options)))
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
