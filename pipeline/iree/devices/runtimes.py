"""Other versions of IREE's runtime, and how a file runs in them.

Each is in a folder of its own that a child process puts before all others. They come by pip, are kept beside this machine's cache
of code, and change nothing in the running environment.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import sysconfig
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline import cache, process, wheels
from pipeline.errors import PipelineError
from pipeline.files import other_content, sha256_file
from pipeline.iree import backends
from pipeline.iree.device import Device
from pipeline.iree.devices import PACKAGE, Run, run, runtime_version
from pipeline.iree.gates import Gated, select
from pipeline.iree.toolchain import REQUIRED
from pipeline.manifest.evidence import RuntimeInfo
from pipeline.names import numbers

VARIABLE = "PIPELINE_RUNTIMES"
_OLDER = 2  # minor releases before the pinned one
_TIMEOUT = 300.0  # seconds for a file in a runtime
_SOURCE = re.compile(r"^.*?\bruntime/src/\S+: (?:[A-Z_]+; )?")  # where in its own source the runtime complains
# The digests of their wheels for Linux on x86-64, which alone makes releases: for Python 3.11, and for those from 3.12 on. Pip's
# index vouches for what is released later.
_WHEELS = {
    "3.11.0": (
        "f2ec0acead1341acbf723743bf62227e216eceb75ac4cef206c8a8001fa44cad",
        "b3ff2b214780871d5677994b82332f9d1bae365a2e115c928464bd15ab5a5098",
    ),
    "3.12.0": (
        "21ea20fed5005c7969553f24dd405ca7eda4e9d6c002665c173456d73d16a9de",
        "1714757a6d4fc6c24ac5105f9a5b596d5b8c569a3db26fe5c4eea7e8f09e2f4e",
    ),
    "3.13.0": (
        "4ecb03d5a33989d765eaa8bf1fe6199a937c88c1004e56c85714532cd95934fa",
        "e342bf407010dd42ee2fb431ab763d97c6ebbcad0762c1e843806db3db31572c",
    ),
}
_log = logging.getLogger(__name__)
_found: dict[tuple[str, tuple[str, ...] | None], list[Runtime]] = {}  # by the folder that they are kept in, and what was wanted
_finding = threading.Lock()


@dataclass(frozen=True)
class Runtime:
    """A version of the runtime in a `folder`, which is None for the installed one; or the `problem`: why it is not here."""

    version: str
    folder: Path | None = None
    problem: str = ""


def home() -> Path:
    """The folder in which runtimes are kept: it may be deleted at any time.

    Raises PipelineError if others than this user may write to it: what is in it is run.
    """
    return cache.local().private("runtimes")


def wanted() -> tuple[str, ...] | None:
    """The versions that PIPELINE_RUNTIMES names, `none` for no version; None where it is not set. Raises PipelineError."""
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return None
    named = () if text == "none" else tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    for version in named:
        if not re.fullmatch(r"\d+(\.\d+)+\w*", version):
            raise PipelineError(f"{version!r} is no version", where=VARIABLE, hint="write it like 3.12.0,3.13.0, or none")
    return named


def chosen(available: Sequence[str], pinned: str = REQUIRED) -> list[str]:
    """Of the versions that there are, those that files are tried with: `pinned`, the last of the two minor releases before it,
    and the newest. The oldest first."""
    last = {numbers(version)[:2]: version for version in sorted(available, key=numbers)}
    older = [version for minor, version in last.items() if minor < numbers(pinned)[:2]][-_OLDER:]
    return sorted({*older, pinned, *list(last.values())[-1:]}, key=numbers)


def find(versions: tuple[str, ...] | None, logs: Path) -> list[Runtime]:
    """The runtimes of these versions, or of those that files are tried with; each is fetched once for this machine.

    Without an index to ask, those that are here. What pip says goes into the folder `logs`.
    """
    with _finding:
        key = (str(cache.local().folder), versions)
        if key not in _found:
            _found[key] = [_fetched(version, logs) for version in (_versions(logs) if versions is None else versions)]
        return _found[key]


def _versions(logs: Path) -> list[str]:
    try:
        return chosen(wheels.versions(PACKAGE, logs / "runtimes.log"))
    except PipelineError as error:
        found = sorted({*_kept(), REQUIRED}, key=numbers)
        _log.warning("%s: %s; files are tried with those that are here: %s", PACKAGE, error.what, ", ".join(found))
        return found


def _kept() -> list[str]:
    with suppress(PipelineError):
        return [version for path in home().glob("*") if (version := path.name.partition("-")[0]) and path == _place(version)]
    return []


def _place(version: str) -> Path:
    # A wheel is for one Python and one system, which may share this folder with others.
    return home() / f"{version}-{sys.implementation.cache_tag}-{sysconfig.get_platform()}"


def _fetched(version: str, logs: Path) -> Runtime:
    if version == runtime_version():
        return Runtime(version)
    try:
        log = logs / f"runtime-{version}.log"
        return Runtime(version, wheels.unpacked(_place(version), lambda into: _download(version, into, log)))
    except PipelineError as error:
        return Runtime(version, problem=f"it cannot be had: {error.what}")


def _download(version: str, into: Path, log: Path) -> Path:
    wheel = wheels.download(f"{PACKAGE}=={version}", into, log)
    if version in _WHEELS and (found := sha256_file(wheel)) not in _WHEELS[version]:
        raise other_content(found, " or ".join(_WHEELS[version]), wheel.name, "that is not what was released")
    return wheel


def device_for(variants: Sequence[Gated], found: Sequence[Device]) -> Device | None:
    """What a file of these variants is tried on: the CPU if it has code for it, else a software device, else a real one.

    What a runtime refuses it refuses on all devices, and a CPU takes no time to compile shaders. None that is played.
    """
    takes = [device for device in found if not device.emulator and select(variants, device.facts) is not None]
    return min(takes, key=lambda device: (not backends.is_cpu(device), not device.software), default=None)


@dataclass(frozen=True)
class Trial:
    """How a file is tried: each of `functions` on one file of `inputs`, on the `device`. Logs and outputs go into `folder`.

    `parameters` is the archive of weights that it needs. `judge` says of a run and its name whether it `works`, and `how`: see
    `RuntimeInfo`.
    """

    module: Path
    device: Device | None
    functions: Sequence[str]
    inputs: Sequence[Path]
    folder: Path
    parameters: Path | None
    judge: Callable[[Run, str, Device], tuple[bool | None, str]]

    def of(self, found: Sequence[Runtime]) -> list[RuntimeInfo]:
        """How it runs in each runtime, several at a time.

        Raises PipelineError where this run is being interrupted: what is ended then says nothing of the file.
        """
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            infos = list(pool.map(self._of, found))
        if process.interrupted():
            raise PipelineError("interrupted")
        return infos

    def _of(self, runtime: Runtime) -> RuntimeInfo:
        name, version = f"runtime-{runtime.version}", runtime.version
        if runtime.problem or self.device is None:
            return RuntimeInfo(version, None, runtime.problem or "no device here runs any code of the file")
        asked = partial(run, parameters=self.parameters, timeout=_TIMEOUT, runtime=runtime.folder)
        try:
            ran = asked(self.module, self.device, self.functions, self.inputs, self.folder, name)
        except PipelineError as error:
            return RuntimeInfo(version, None, error.what)
        if ran.error:
            return RuntimeInfo(version, None if ran.slow else False, _SOURCE.sub("", ran.error))
        if ran.done < len(self.functions):
            return RuntimeInfo(version, None, f"there was time for {ran.done} of {len(self.functions)} functions")
        return RuntimeInfo(version, *self.judge(ran, name, self.device))
