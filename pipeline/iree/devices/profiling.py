"""How long each kernel takes on a device, by the profiling of IREE's runtime.

Its Python bindings have none (3.13: it "requires a profile sink and is not exposed by the runtime bindings"), so the tools of its
wheel do it: `iree-benchmark-module` runs the function, `iree-profile` says what was seen.
"""

from __future__ import annotations

import importlib.resources
import json
import re
import statistics
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline import arrays, process
from pipeline.errors import PipelineError, disk_errors
from pipeline.iree import backends
from pipeline.iree.device import Device
from pipeline.iree.devices import SCOPE, runtime_version


@dataclass(frozen=True)
class Timing:
    """What one kernel took: the name of its function in the code, its calls in a run, and the seconds that a run spends in it.

    The seconds are the median over the runs. On a CPU they are from the first work group's begin to the last one's end.
    """

    symbol: str
    calls: float
    seconds: float


def profile(
    module: Path,
    device: Device,
    function: str,
    inputs: Path,
    folder: Path,
    *,
    runs: int,
    parameters: Path | None = None,
    timeout: float = 600,
) -> list[Timing]:
    """Run `function` of `module` on `device` so many times, and time each kernel, in the order of their first calls.

    `inputs` is an .npz file, `parameters` the archive of weights that the module needs. Files and logs go into `folder`.
    Raises PipelineError where the device cannot be profiled, or the function does not end within `timeout` seconds.
    """
    capture, report = folder / "capture.ireeprof", folder / "events.jsonl"
    words: list[str | Path] = [_tool("iree-benchmark-module"), f"--module={module}", f"--device={device.uri}"]
    words += [f"--parameters={SCOPE}={parameters}"] if parameters else []
    words += [f"--function={function}", *(f"--input=@{path}" for path in _unpacked(inputs, folder))]
    words += [f"--benchmark_min_time={runs}x", f"--device_profiling_mode={backends.of_device(device).profiled}"]
    log = folder / "run.log"
    ended = process.execute([*words, f"--device_profiling_output={capture}"], log, timeout=timeout, env=device.environment)
    if ended.returncode:
        raise _refusal(ended, device)
    export: list[str | Path] = [_tool("iree-profile"), "export", "--format=ireeperf-jsonl", f"--output={report}", capture]
    if (told := process.execute(export, folder / "export.log", timeout=timeout)).returncode:
        raise PipelineError(f"iree-profile: {told.ending}\n{process.tail(told.log)}", where=device.title)
    with disk_errors(str(report)), report.open("rb") as lines:
        return _timings(_events(lines, str(report)), runs)


def _tool(name: str) -> Path:
    path = Path(str(importlib.resources.files("iree._runtime_libs"))) / f"{name}{sysconfig.get_config_var('EXE') or ''}"
    if not path.exists():
        raise PipelineError(f"the installed iree-base-runtime {runtime_version()} has no {name}", where=str(path.parent))
    return path


def _unpacked(inputs: Path, folder: Path) -> list[Path]:
    """The arrays as files of their own, which the tools read."""
    found = []
    for number, array in enumerate(arrays.read(inputs)):
        found.append(folder / f"input{number}.npy")
        with disk_errors(str(folder)):
            np.save(found[-1], array)
    return found


def _refusal(ended: process.Result, device: Device) -> PipelineError:
    said = process.tail(ended.log, 3, 2000)
    status = re.search(r"\b([A-Z_]{6,}); (.*?)(?:; while|$)", said, re.MULTILINE)
    if status and status[1] in ("UNIMPLEMENTED", "UNAVAILABLE", "FAILED_PRECONDITION"):
        what = f"cannot be profiled, IREE's runtime {runtime_version()} says: {status[2]}"
        return PipelineError(what, where=device.title, hint="`vmfb run --benchmark` measures whole runs on any device")
    reason = status[2] if status else f"the process was {ended.ending}" if ended.crashed else said.strip()
    return PipelineError(f"profiling it failed: {reason}", where=device.title, hint="`vmfb run` without a profile tells more")


def _events(lines: Iterable[bytes], where: str) -> Iterator[tuple[str, float]]:
    """The kernel and the seconds of each dispatch, in the order of execution."""
    try:
        for line in lines:
            if b'"dispatch' not in line:
                continue
            row = json.loads(line)
            called = row["record_type"] == "dispatch_event"
            if (called or (row["record_type"] == "host_execution_event" and row["op"] == "dispatch")) and row["valid"]:
                if row.get("duration_ns") is None:
                    raise PipelineError("the device's clock cannot be related to seconds", where=where)
                yield str(row["key"]), float(row["duration_ns"]) / 1e9
    except (ValueError, KeyError, TypeError) as error:
        raise PipelineError(f"iree-profile writes what is not known here: {error!r:.200}", where=where) from error


def _timings(events: Iterable[tuple[str, float]], runs: int) -> list[Timing]:
    seen: dict[str, list[float]] = {}
    for symbol, seconds in events:
        seen.setdefault(symbol, []).append(seconds)
    return [Timing(symbol, len(found) / runs, _median_of_runs(found, runs)) for symbol, found in seen.items()]


def _median_of_runs(seconds: list[float], runs: int) -> float:
    """What a run spends in a kernel with these calls, in order; the mean where runs differ in how often they call it."""
    calls, left = divmod(len(seconds), runs)
    if left:
        return sum(seconds) / runs
    return statistics.median(sum(seconds[start : start + calls]) for start in range(0, len(seconds), calls))
