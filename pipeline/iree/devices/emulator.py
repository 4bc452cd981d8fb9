"""CPUs that are not here, played by QEMU: the runtime's own tools for them run files there.

QEMU and, for another architecture, its libraries must be installed. The runtime's wheel for it is fetched once, by pip, and kept.
"""

from __future__ import annotations

import importlib.resources
import re
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import arrays, process, wheels
from pipeline.errors import PipelineError
from pipeline.files import other_content, sha256_file
from pipeline.iree import backends
from pipeline.iree.backends.base import Backend, Emulation
from pipeline.iree.device import Device
from pipeline.iree.devices import SCOPE, runtimes
from pipeline.iree.file import vmfb
from pipeline.iree.gates import SELECTED, Facts

_TOOLS = "iree/_runtime_libs"


def find(formats: Sequence[str], folder: Path) -> tuple[list[Device], dict[str, str]]:
    """The CPUs that can be played for code of these executable formats, the best first. Logs go into `folder`.

    With them, why those of a format cannot be, though QEMU is here.
    """
    found: list[Device] = []
    problems = {}
    for format_ in formats:
        backend = backends.of_format(format_)
        emulation = backend.emulations.get(format_) if backend else None
        if backend and emulation and (program := shutil.which(emulation.program)):
            try:
                found += _played(program, backend, emulation, format_, folder)
            except PipelineError as error:
                problems[format_] = f"{error.what} ({error.hint})" if error.hint else error.what
    return found, problems


def _played(program: str, backend: Backend, emulation: Emulation, format_: str, folder: Path) -> list[Device]:
    tools = _installed() if format_ in backend.formats_here() else _tools(emulation, folder)
    version = _said([program, "--version"], folder / "version.log", r"version (\S+)")
    found = []
    for cpu in emulation.cpus:
        command = (program, "-cpu", cpu, str(tools), emulation.device)
        answers = _answers(command, backend.queries, folder / f"cpuinfo-{cpu}.log", emulation.install)
        facts = Facts(cpu, frozenset([format_]), answers)
        found.append(Device(f"qemu://{cpu}", cpu, backend.driver, f"QEMU {version}", True, facts, emulator=command))
    return found


def _installed() -> Path:
    """The folder of the runtime's tools for this machine's architecture."""
    return Path(str(importlib.resources.files("iree._runtime_libs")))


def _tools(emulation: Emulation, folder: Path) -> Path:
    """The folder of the runtime's tools for another architecture."""
    place = runtimes.home() / emulation.sha256[:16]
    return wheels.unpacked(place, lambda into: _download(emulation, into, folder)) / _TOOLS


def _download(emulation: Emulation, into: Path, logs: Path) -> Path:
    requirement = "==".join(emulation.wheel.split("-")[:2]).replace("_", "-")
    tags = ["--python-version=3.11", "--implementation=cp", "--abi=cp311", f"--platform={emulation.platform}"]
    wheel = wheels.download(requirement, into, logs / "download.log", tags)
    if (found := sha256_file(wheel)) != emulation.sha256:
        raise other_content(found, emulation.sha256, emulation.wheel, "")
    return wheel


def _said(words: Sequence[str | Path], log: Path, pattern: str) -> str:
    process.run(words, log)
    match = re.search(pattern, log.read_text("utf-8", "replace").partition("\n")[2])
    return match[1] if match else ""


def _answers(command: Sequence[str], queries: Mapping[str, frozenset[str]], log: Path, install: str) -> dict[str, int]:
    """What the runtime finds out about the CPU, as the queries' answers."""
    *words, tools, _ = command
    if process.execute([*words, Path(tools) / "iree-cpuinfo"], log).returncode:
        raise PipelineError("QEMU cannot run the runtime's tools for these CPUs", where=str(log), hint=install)
    said = dict(re.findall(r"(?m)^(\S+) +(\d)$", log.read_text()))
    return {f"{category}::{key}": int(said[key]) for category, keys in queries.items() for key in keys if key in said}


def run(
    module: Path,
    device: Device,
    sets: Sequence[tuple[str, Path, Path]],
    log: Path,
    timeout: float,
    parameters: Path | None = None,
) -> dict[str, Any]:
    """Run each set, a function of `module`, an .npz file of inputs and one for outputs; what the child process of a run tells.

    No more set is begun when half of `timeout` is over. `parameters` is the archive of weights that the module needs.
    """
    *words, tools, uri = device.emulator
    base: list[str | Path] = [*words, Path(tools) / "iree-run-module", f"--module={module}", f"--device={uri}"]
    base += [f"--parameters={SCOPE}={parameters}"] if parameters else []
    started, runs = time.monotonic(), list[float]()
    ended = process.execute([*base, f"--function={SELECTED}"], log, timeout=timeout)
    selected = re.search(r"i32=(-?\d+)", log.read_text("utf-8", "replace"))
    for function, inputs, outputs in sets:
        if ended.returncode or (runs and time.monotonic() > started + timeout / 2):
            break
        with tempfile.TemporaryDirectory() as name:
            given, made = arrays.read(inputs), [Path(name) / f"out{n}.npy" for n in range(_results(module, function))]
            places = [Path(name) / f"in{number}.npy" for number in range(len(given))]
            for place, array in zip(places, given, strict=True):
                np.save(place, array)
            flags = [f"--function={function}", *(f"--input=@{p}" for p in places), *(f"--output=@{p}" for p in made)]
            left = timeout - (time.monotonic() - started)
            ended = process.execute([*base, *flags], log, timeout=max(left, 1.0))
            if not ended.returncode:
                runs.append(ended.seconds)
                arrays.write(outputs, [np.load(path) for path in made])
    if ended.returncode:
        crashed = ended.returncode < 0
        return {"error": f"the process was {ended.ending}" if crashed else process.tail(log, 1).strip(), "crashed": crashed}
    return {"selected": int(selected[1]) if selected else None, "runs_s": runs, "done": len(runs)}


def _results(module: Path, function: str) -> int:
    """How many results the function has, by its declaration."""
    found = next(e.attributes.get("iree.abi.declaration", "") for e in vmfb.read(module, False).exports if e.name == function)
    return found.rpartition(") -> (")[2].count("tensor<")
