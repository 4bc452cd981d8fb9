"""Arrays from the command line: `x.npy`, or as iree-run-module takes them, `1x3x48x192xf32=0.5`."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import PipelineError
from pipeline.files import ZIP_ERRORS, write
from pipeline.manifest.types import TensorInfo

_INPUT = re.compile(r"((?:\d+x)*)([a-z]+\d+)=(.*)", re.DOTALL)
_DTYPES = {f"f{n}": f"float{n}" for n in (16, 32, 64)} | {"i1": "bool"}
_DTYPES |= {f"{sign}i{n}": f"{'u' if sign == 'u' else ''}int{n}" for sign in ("", "s", "u") for n in (8, 16, 32, 64)}
_HINT = "write 2x3xf32=0.5, 3xi32=1,2,3, or the path of a .npy file"


def parse(text: str) -> np.ndarray[Any, Any]:
    """The array that `text` describes. Raises PipelineError that says what is wrong."""
    match = _INPUT.fullmatch(text)
    if not match:
        return load(Path(text.removeprefix("@")))
    dtype = _DTYPES.get(match[2])
    if dtype is None:
        raise PipelineError(f"--input {text}: {match[2]!r} is no type here", hint=_HINT)
    words = match[3].replace("[", " ").replace("]", " ").replace(",", " ").split()
    try:
        shape = tuple(int(n) for n in match[1].split("x")[:-1])
        values = np.array([_number(w, dtype) for w in words], dtype)
        return np.full(shape, values[0], dtype) if values.size == 1 else values.reshape(shape)
    except (ValueError, IndexError, OverflowError, MemoryError) as error:
        raise PipelineError(f"--input {text[:80]}: {error}", hint=_HINT) from error


def _number(word: str, dtype: str) -> float | int:
    if dtype == "bool" and word in ("true", "false"):
        return word == "true"
    return float(word) if dtype.startswith("float") else int(word)


def load(path: Path) -> np.ndarray[Any, Any]:
    """The array in a .npy file. Raises PipelineError where it is none."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, MemoryError, *ZIP_ERRORS) as error:
        raise PipelineError(str(error), where=str(path), hint=_HINT) from error
    if not isinstance(array, np.ndarray):
        raise PipelineError("holds several arrays", where=str(path), hint="give one .npy for each input")
    return array


def save(arrays: Mapping[str, np.ndarray[Any, Any]], folder: Path) -> list[Path]:
    """Write each array as `NAME.npy` into `folder`; returns the paths."""
    paths: list[Path] = []
    for name, array in arrays.items():
        buffer = io.BytesIO()
        np.save(buffer, array)
        plain = re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".")
        names = (folder / f"{plain}{end}.npy" for end in ("", *(f"_{n}" for n in range(1, len(arrays) + 1))))
        paths.append(next(path for path in names if path not in paths))
        write(paths[-1], buffer.getvalue())
    return paths


def as_said(array: np.ndarray[Any, Any], tensor: TensorInfo) -> np.ndarray[Any, Any]:
    """An output as its signature says it: the integers of MLIR carry no sign."""
    dtype = np.dtype(tensor.dtype)
    return array.view(dtype) if array.dtype.kind in "iu" and array.dtype.itemsize == dtype.itemsize else array
