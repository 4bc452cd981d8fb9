"""Test data of a model's inputs: given by file, or drawn as its spec says."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.errors import PipelineError
from pipeline.spec.types import Input


def draw(spec: Input, where: str) -> np.ndarray[Any, Any]:
    """The test data of one input: its .npy file, or numbers drawn as `Input` says. Raises PipelineError on a misfit."""
    if spec.file:
        try:
            array: np.ndarray[Any, Any] = np.load(spec.file, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise PipelineError(f"not a .npy file: {error}", where=str(spec.file)) from error
        if array.shape != spec.shape or str(array.dtype) != spec.dtype:
            raise PipelineError(
                f"{spec.name!r} is {spec.dtype}{list(spec.shape)} in the spec, {array.dtype}{list(array.shape)} in the file",
                where=str(spec.file),
                hint=f"change {where} or the file",
            )
        return array
    generator = np.random.default_rng(spec.seed)
    if np.issubdtype(np.dtype(spec.dtype), np.floating):
        drawn = generator.random(spec.shape, dtype=np.float64 if spec.dtype == "float64" else np.float32)
        return (spec.low + (spec.high - spec.low) * drawn).astype(spec.dtype)
    return generator.integers(int(spec.low), int(spec.high), spec.shape, dtype=np.int64).astype(spec.dtype)
