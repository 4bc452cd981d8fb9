"""Arrays in .npz files, named by their position: what a model takes or gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import PipelineError

Array = np.ndarray[Any, Any]


def read(path: Path) -> list[Array]:
    """The arrays of the file, in order."""
    with np.load(path) as archive:
        return [archive[name] for name in sorted(archive, key=int)]


def write(path: Path, arrays: Sequence[Array]) -> None:
    """Write the arrays. (Callers stage the path.)"""
    named: dict[str, Any] = {str(position): array for position, array in enumerate(arrays)}
    np.savez(path, **named)


def load(path: Path) -> Array:
    """The array of a .npy file. Raises PipelineError where it is none."""
    try:
        array: Array = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise PipelineError(f"is no .npy file: {error}", where=str(path)) from error
    return array
