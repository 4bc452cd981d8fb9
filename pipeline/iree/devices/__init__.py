"""The HAL devices of this machine, and running modules on them, in child processes."""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import process
from pipeline.errors import PipelineError, disk_errors
from pipeline.iree import backends
from pipeline.iree.device import Device
from pipeline.iree.gates import Facts
from pipeline.names import numbers

PACKAGE = "iree-base-runtime"
# The runtimes that this program works with: what files, its own among them, were tried with. The extra `run` says the same.
_OLDEST, _TOO_NEW = "3.12.0", "3.14"
REQUIRED_RUNTIME = f"{PACKAGE}>={_OLDEST},<{_TOO_NEW}"
SCOPE = "model"  # the name under which modules ask for weights that they do not hold
_RUNNER = (sys.executable, "-m", "pipeline.iree.devices.runner")
_children = process.Forks(_RUNNER)


@dataclass(frozen=True)
class Run:
    """How a run ended: `error` is empty if it returned. `selected`: the index the module itself says it chose.

    `done` sets of inputs were run, each in so many seconds of `runs_s`, of which `varies` gave other outputs when they were run
    again, and `spoiled` had their inputs written over. `latency_s` is the median of `rounds` more runs, `spread_s` the distance
    of their quartiles, `peak_memory` the most bytes that the process had. `slow`: it did not end in time; `crashed`: a signal
    ended it.
    """

    error: str
    selected: int | None = None
    load_s: float = 0.0
    runs_s: Sequence[float] = ()
    latency_s: float | None = None
    spread_s: float | None = None
    rounds: int = 0
    peak_memory: int | None = None
    done: int = 0
    varies: int = 0
    spoiled: int = 0
    slow: bool = False
    crashed: bool = False


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
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise NoRuntimeError(f"{PACKAGE} is not installed", hint=f"pip install '{REQUIRED_RUNTIME}'") from None


def _child(
    job: dict[str, Any],
    folder: Path,
    name: str,
    timeout: float,
    environment: Mapping[str, str] | None = None,
    runtime: Path | None = None,
) -> dict[str, Any]:
    job_path, result_path = folder / f"{name}.job.json", folder / f"{name}.result.json"
    with disk_errors(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        job_path.write_bytes(json.dumps(job).encode())
        result_path.unlink(missing_ok=True)
    log = folder / f"{name}.log"
    if runtime:
        path = os.pathsep.join(filter(None, [str(runtime), os.environ.get("PYTHONPATH")]))
        with_it = {**(environment or {}), "PYTHONPATH": path}
        ended = process.execute([*_RUNNER, job_path, result_path], log, timeout=timeout, env=with_it)
    else:
        ended = _children.execute([job_path, result_path], log, timeout=timeout, env=environment or {})
    if ended.killed:
        raise PipelineError(
            "the process was killed, perhaps for want of memory", where=str(log), hint="free memory, run the same command again"
        )
    if ended.returncode or not result_path.exists():
        last = process.tail(log, 1).strip()
        crashed = ended.crashed
        if runtime and not crashed:  # not a word of the file: a runtime of another Python, or one whose modules changed
            raise PipelineError(f"this program cannot use that runtime: {last}", where=str(log))
        return {"error": f"the process was {ended.ending}" if crashed else f"{ended.ending}: {last}", "crashed": crashed}
    result: dict[str, Any] = json.loads(result_path.read_bytes())
    if "problem" in result:
        raise PipelineError(**result["problem"])
    return result


def find(folder: Path, drivers: Sequence[str] = ()) -> list[Device]:
    """The devices of these drivers, or of all, each driver asked in a child of its own. Logs go into `folder`."""
    runtime_version()
    return [device for driver in drivers or known_drivers() for device in _listed(driver, folder)]


def known_drivers() -> list[str]:
    """The drivers that run code of some backend, the CPU's first."""
    return [backend.driver for backend in reversed(backends.every())]


def guises(device: Device, folder: Path) -> list[Device]:
    """A device as it can be in several environments, such as a software device of several subgroup sizes; or just itself."""
    backend = backends.of_device(device)
    others = [other for environment in backend.guises(device) for other in _listed(device.driver, folder, environment)]
    return backend.same_device(device, others) if others else [device]


def _listed(driver: str, folder: Path, environment: Mapping[str, str] | None = None) -> list[Device]:
    name = "-".join(["devices", driver, *(environment or {}).values()])
    result = _child({"action": "devices", "driver": driver}, folder, name, 120, environment)
    if "error" in result:
        what = f"cannot list the {driver} devices of this machine: {result['error']}"
        here = runtime_version()
        fits = numbers(_OLDEST) <= numbers(here) < numbers(_TOO_NEW)
        hint = "" if fits else f"this program is not made for {PACKAGE} {here}: pip install '{REQUIRED_RUNTIME}'"
        raise PipelineError(what, where=str(folder / f"{name}.log"), hint=hint)
    return [
        Device(
            d["uri"],
            d["name"],
            d["driver"],
            d["driver_info"],
            d["software"],
            Facts(d["name"], frozenset(d["formats"]), d["answers"]),
            environment or {},
        )
        for d in result["devices"]
    ]


def report(module: Path, found: Sequence[Device], folder: Path, parameters: Path | None = None) -> list[Report]:
    """What the module itself says it runs on each device. A crash is the report of the device that crashed.

    `parameters` is the archive of weights that it needs.

    Raises PipelineError for a module that cannot be read.
    """
    uris = [device.uri for device in found]
    weights = str(parameters) if parameters else None
    job = {"action": "report", "module": str(module), "parameters": weights, "devices": uris}
    result = _child(job, folder, "report", 120)
    if "report" in result:
        return [Report(r.get("selected"), r.get("error", "")) for r in result["report"]]
    if len(found) == 1:
        return [Report(None, result["error"])]
    return [report(module, [device], folder, parameters)[0] for device in found]


def run(
    module: Path,
    device: Device,
    entry: str | Sequence[str],
    inputs: Sequence[Path],
    folder: Path,
    name: str,
    *,
    parameters: Path | None = None,
    timeout: float = 600,
    seconds: float = 0,
    repeats: int = 0,
    least: int = 1,
    within: float = float("inf"),
    runtime: Path | None = None,
) -> Run:
    """Run `entry` of `module` on `device` in a child, once for each .npz file of `inputs`; the outputs are where `outputs` says.

    `entry` is one function, or one for each file of inputs. `parameters` is the archive of weights that the module needs.
    A crash or refusal is `Run.error`, and so is a run that does not end within `timeout`, in half of which as many inputs are
    run as can be: the first `least` of them in any case, the others as far as they can be begun `within` so many seconds.
    Runs each `repeats` times more, to see whether outputs vary, and the first for `seconds`, to measure.
    `runtime` is a folder with another version of the runtime to do all this with (see `runtimes`), not on emulators.
    """
    functions = [entry] * len(inputs) if isinstance(entry, str) else entry
    numbered = enumerate(zip(functions, inputs, strict=True))
    sets = [(function, path, outputs(folder, name, number)) for number, (function, path) in numbered]
    job = {
        "action": "run",
        "module": str(module),
        "device": device.uri,
        "threads": device.threads,
        "parameters": str(parameters) if parameters else None,
        "sets": [[function, *map(str, files)] for function, *files in sets],
        "seconds": seconds,
        "repeats": repeats,
        "budget": timeout / 2,
        "least": least,
        "within": min(within, timeout / 2),
        "runtime": str(runtime) if runtime else None,
    }
    try:
        if device.emulator:
            from pipeline.iree.devices import emulator  # a consumer needs none, nor numpy

            with disk_errors(str(folder)):
                folder.mkdir(parents=True, exist_ok=True)
            result = emulator.run(module, device, sets, folder / f"{name}.log", timeout, parameters)
        else:
            result = _child(job, folder, name, timeout, device.environment, runtime)
    except process.TimedOutError as error:
        return Run(error.what, slow=True)
    if "error" in result:
        return Run(result["error"], crashed=result.get("crashed", False))
    return Run("", **result)


def outputs(folder: Path, name: str, number: int = 0) -> Path:
    """Where `run` put the outputs of `name` for the inputs of this number."""
    return folder / f"{name}.{number}.npz"
