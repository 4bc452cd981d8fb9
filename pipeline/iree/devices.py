"""The HAL devices of this machine, and running modules on them, in child processes."""

from __future__ import annotations

import importlib.metadata
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import process
from pipeline.errors import PipelineError, disk_errors
from pipeline.iree.gates import Facts

REQUIRED_RUNTIME = "3.13.0"


@dataclass(frozen=True)
class Device:
    """A HAL device. `software`: a CPU does its work; `driver_info` names a Vulkan driver with its version."""

    uri: str
    name: str
    driver: str
    driver_info: str
    software: bool
    facts: Facts

    @property
    def title(self) -> str:
        """For people: the device, and for Vulkan its driver."""
        if not self.driver_info:
            return f"CPU ({self.name})"
        says_it_all = self.driver_info.startswith(self.name.split(" (")[0])
        return self.driver_info if says_it_all else f"{self.name} ({self.driver_info})"


@dataclass(frozen=True)
class Run:
    """How a run ended: `error` is empty if it returned. `selected`: the index the module itself says it chose.

    `latency_s` is the median of `rounds` more runs.
    """

    error: str
    selected: int | None = None
    load_s: float = 0.0
    run_s: float = 0.0
    latency_s: float | None = None
    rounds: int = 0


class NoRuntimeError(PipelineError):
    """IREE's runtime is not installed."""


@dataclass(frozen=True)
class Report:
    """What a module says when it is loaded on a device: the index of its choice, or why it could not be loaded."""

    selected: int | None
    error: str = ""


def runtime_version() -> str:
    """The version of the installed IREE runtime."""
    try:
        return importlib.metadata.version("iree-base-runtime")
    except importlib.metadata.PackageNotFoundError:
        raise NoRuntimeError(
            "iree-base-runtime is not installed", hint=f"pip install 'iree-base-runtime>={REQUIRED_RUNTIME}'"
        ) from None


def _child(job: dict[str, Any], folder: Path, name: str, timeout: float) -> dict[str, Any]:
    job_path, result_path = folder / f"{name}.job.json", folder / f"{name}.result.json"
    with disk_errors(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        job_path.write_text(json.dumps(job))
        result_path.unlink(missing_ok=True)
    log = folder / f"{name}.log"
    ended = process.execute([sys.executable, "-m", "pipeline.iree.runner", job_path, result_path], log, timeout=timeout)
    if ended.returncode == -signal.SIGKILL:
        raise PipelineError(
            "the process was killed, perhaps for want of memory", where=str(log), hint="free memory, run the same command again"
        )
    if ended.returncode or not result_path.exists():
        last = process.tail(log, 1).strip()
        return {"error": f"the process was {ended.ending}" if ended.returncode < 0 else f"{ended.ending}: {last}"}
    result: dict[str, Any] = json.loads(result_path.read_text())
    if "problem" in result:
        raise PipelineError(**result["problem"])
    return result


def find(folder: Path, drivers: Sequence[str] = ("local-task", "vulkan")) -> list[Device]:
    """The devices of these drivers, each driver asked in a child of its own. Logs go into `folder`."""
    runtime_version()
    return [device for driver in drivers for device in _listed(driver, folder)]


def _listed(driver: str, folder: Path) -> list[Device]:
    name = f"devices-{driver}"
    result = _child({"action": "devices", "driver": driver}, folder, name, 120)
    if "error" in result:
        what = f"cannot list the {driver} devices of this machine: {result['error']}"
        raise PipelineError(what, where=str(folder / f"{name}.log"))
    return [
        Device(
            d["uri"],
            d["name"],
            d["driver"],
            d["driver_info"],
            d["software"],
            Facts(d["name"], frozenset(d["formats"]), d["answers"]),
        )
        for d in result["devices"]
    ]


def report(module: Path, found: Sequence[Device], folder: Path) -> list[Report]:
    """What the module itself says it runs on each device. A crash is the report of the device that crashed.

    Raises PipelineError for a module that cannot be read.
    """
    uris = [device.uri for device in found]
    result = _child({"action": "report", "module": str(module), "devices": uris}, folder, "report", 120)
    if "report" in result:
        return [Report(r.get("selected"), r.get("error", "")) for r in result["report"]]
    if len(found) == 1:
        return [Report(None, result["error"])]
    return [report(module, [device], folder)[0] for device in found]


def run(
    module: Path,
    device: Device,
    entry: str,
    inputs: Path,
    folder: Path,
    name: str,
    timeout: float = 600,
    seconds: float = 0,
) -> Run:
    """Run `entry` of `module` on `device` in a child; outputs to `folder/name.npz`. A crash or refusal is `Run.error`.

    Runs again for `seconds`, to measure.
    """
    job = {
        "action": "run",
        "module": str(module),
        "device": device.uri,
        "entry": entry,
        "inputs": str(inputs),
        "outputs": str(outputs(folder, name)),
        "seconds": seconds,
    }
    result = _child(job, folder, name, timeout)
    if "error" in result:
        return Run(result["error"])
    return Run("", **result)


def outputs(folder: Path, name: str) -> Path:
    """Where `run` put the outputs of `name`."""
    return folder / f"{name}.npz"
