"""How long ONNX Runtime takes for an inference, for the benches that compare with it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import onnxruntime

from pipeline.arrays import Array


def of_onnxruntime(model: Path | bytes, given: Sequence[Array], seconds: float, threads: int = 0) -> Callable[[], float]:
    """Measures the median milliseconds of an inference in this process in `seconds`: optimized, a thread a core or so many."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or os.cpu_count() or 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = {put.name: array for put, array in zip(session.get_inputs(), given, strict=True)}

    def once() -> float:
        started = time.perf_counter()
        session.run(None, feed)
        return (time.perf_counter() - started) * 1000

    def measure() -> float:
        until = time.monotonic() + seconds
        times = [once()]
        while time.monotonic() < until:
            times.append(once())
        return median(times[len(times) // 5 :])

    return measure
