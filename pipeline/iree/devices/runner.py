"""The child processes that touch devices, forks of this one: `python -m pipeline.iree.devices.runner`. Arguments: JOB RESULT.

Drivers crash and code for the wrong CPU dies of an illegal instruction; here that ends one process, and its ending is a
result. A job is {"action": "devices", "driver"}, {"action": "report", "module", "parameters", "devices"} or {"action": "run",
"module", "parameters", "device", "threads", "sets", "repeats", "budget", "least", "within", "seconds", "runtime"} with sets of a
function, an .npz file of inputs and one for outputs, and the folder of the runtime that this process must have, if that is not
the installed one.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import iree.runtime as rt

from pipeline import arrays, platforms, process
from pipeline.errors import PipelineError
from pipeline.iree import backends
from pipeline.iree.devices.session import FACTS, Session, open_device

_ROUNDS = 1000
_PATIENCE = 10.0  # seconds in which all sets of inputs are run again
_FIRST = 60.0  # and in which the first one is, in any case: what a race makes differs from run to run


def _facts(device: rt.HalDevice) -> dict[str, int]:
    session = Session(FACTS, device)
    answers = {name: session.number(name) for name in backends.queries()}
    return {name: value for name, value in answers.items() if value >= 0}


def _info(text: str) -> dict[str, str]:
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith(" "))
    return {key.strip().removeprefix("- "): value.strip() for key, value in pairs}


def devices(driver_name: str) -> list[dict[str, Any]]:
    """Every device of a driver: uri, name, driver, whether it is software, formats and answers to queries."""
    backend = backends.of_driver(driver_name)
    if not backend:
        raise ValueError(f"no backend's code runs on {driver_name}")
    try:
        driver = rt.get_driver(driver_name)
        listed = driver.query_available_devices()
    except (RuntimeError, ValueError):
        return []  # no such driver on this machine, for example no Vulkan loader
    found: list[dict[str, Any]] = []
    for entry in listed:
        info = _info(driver.dump_device_info(entry["device_id"]))
        described = backend.described(entry, info)
        answers = _facts(driver.create_device(entry["device_id"])) | backend.answers(info)
        found.append(described | {"driver": driver_name, "formats": backend.formats_here(), "answers": answers})
    return found


def _session(job: dict[str, Any], device: rt.HalDevice) -> Session:
    return Session(Path(job["module"]), device, Path(job["parameters"]) if job["parameters"] else None)


def report(job: dict[str, Any]) -> list[dict[str, Any]]:
    """For each device: the index of the variant that the module says it runs there, or the runtime's refusal."""
    found: list[dict[str, Any]] = []
    for uri in job["devices"]:
        try:
            found.append({"selected": _session(job, open_device(uri)).selected()})
        except (RuntimeError, ValueError) as error:
            found.append({"error": _first_line(error)})
    return found


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Load the module, run a function on each set of inputs, save the outputs. Returns the chosen variant's index and seconds.

    Each set runs `repeats` times more, but for the first only in the first seconds, and none after `within`: `varies` counts the
    sets whose outputs were not the same then, and `spoiled` those whose inputs were not; `runs_s` has the seconds of the faster
    run of each. When `budget` seconds are over no more sets are begun, and after `within` seconds, of which the first run takes
    none if it is repeated, only the first `least`; `done` is how many were. The first set runs again for
    `seconds`: `latency_s` is the median of those runs, from arguments on the device to results on it, `spread_s` the distance of
    their quartiles.
    `peak_memory` is the most that this process had, in bytes.
    """
    device = _opened(job["device"], job["runtime"]) if job["runtime"] else open_device(job["device"], job["threads"])
    started = time.perf_counter()
    session = _session(job, device)
    loaded = quick = time.perf_counter()
    done, varies, spoiled, runs = 0, 0, 0, list[float]()
    for function, inputs, outputs in job["sets"]:
        if done and time.perf_counter() > (loaded + job["budget"] if done < job["least"] else quick + job["within"]):
            break
        given = arrays.read(Path(inputs))
        arguments = session.place(given)
        invoked = time.perf_counter()
        found = [session.read(view) for view in session.call(function, arguments)]
        repeated = time.perf_counter()
        again = [
            [session.read(view) for view in session.call(function, arguments)]
            for _ in range(job["repeats"])
            if time.perf_counter() < (quick + min(job["within"], _PATIENCE) if done else loaded + _FIRST)
        ]
        # Drivers compile kernels when these are first called, which is not how long the code takes.
        took = repeated - invoked
        runs.append(min(took, (time.perf_counter() - repeated) / len(again)) if again else took)
        if again and not done:
            quick = repeated
        spoiled += any(session.read(view).tobytes() != array.tobytes() for view, array in zip(arguments, given, strict=True))
        varies += not all(a.tobytes() == b.tobytes() for other in again for a, b in zip(found, other, strict=True))
        arrays.write(Path(outputs), found)
        done += 1
    rounds = _rounds(session, job)
    return {
        "selected": session.selected(),
        "load_s": loaded - started,
        "runs_s": runs,
        "latency_s": statistics.median(rounds) if rounds else None,
        "spread_s": _spread(rounds) if rounds else None,
        "rounds": len(rounds),
        "peak_memory": platforms.peak_memory(),
        "done": done,
        "varies": varies,
        "spoiled": spoiled,
    }


def _opened(uri: str, runtime: str) -> rt.HalDevice:
    """The device, in another runtime than the installed one. PipelineError for what says nothing of any module."""
    if not Path(rt.__file__).is_relative_to(runtime):
        raise PipelineError(f"Python finds another runtime first, {rt.__file__}", where=runtime)
    try:
        return open_device(uri)
    except (RuntimeError, ValueError) as error:
        raise PipelineError(f"it cannot open {uri}: {_first_line(error)}", where=runtime) from error


def _rounds(session: Session, job: dict[str, Any]) -> list[float]:
    """Seconds of each further run on the first set of inputs, for as long as the job says."""
    rounds: list[float] = []
    function, inputs, _ = job["sets"][0]
    arguments = session.place(arrays.read(Path(inputs))) if job["seconds"] else []
    end = time.perf_counter() + job["seconds"]
    longest = end + 9 * job["seconds"]  # of a slow one too, three rounds are measured if it is not too slow
    while job["seconds"] and len(rounds) < _ROUNDS and time.perf_counter() < (end if len(rounds) >= 3 else longest):
        before = time.perf_counter()
        session.call(function, arguments)
        rounds.append(time.perf_counter() - before)
    return rounds


def _spread(rounds: list[float]) -> float:
    low, _, high = statistics.quantiles(rounds, n=4) if len(rounds) > 1 else (0.0, 0.0, 0.0)
    return high - low


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [repr(error)])[0][:1000]


def act(job: dict[str, Any]) -> dict[str, Any]:
    """Do the job. Raises RuntimeError and ValueError as the runtime does."""
    if job["action"] == "devices":
        return {"devices": devices(job["driver"])}
    return {"report": report(job)} if job["action"] == "report" else run(job)


def main(arguments: list[str]) -> int:
    """Do the job; a refusal by the runtime is a result with `error`, everything else ends the process.

    A module that cannot be read says nothing of any device: it is a `problem`.
    """
    job = json.loads(Path(arguments[0]).read_bytes())
    try:
        result = act(job)
    except (RuntimeError, ValueError) as error:
        result = {"error": _first_line(error)}
    except PipelineError as error:
        result = {"problem": {"what": error.what, "where": error.where, "hint": error.hint}}
    Path(arguments[1]).write_bytes(json.dumps(result).encode())
    return 0


if __name__ == "__main__":
    sys.exit(process.serve(main))
