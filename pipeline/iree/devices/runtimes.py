"""Other versions of IREE's runtime, each in a folder of its own that a child process puts before all others.

They come by pip, are kept beside this machine's cache of code, and change nothing in the running environment.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import sysconfig
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import cache, wheels
from pipeline.errors import PipelineError
from pipeline.iree.devices import PACKAGE, runtime_version
from pipeline.iree.toolchain import REQUIRED
from pipeline.names import numbers

VARIABLE = "PIPELINE_RUNTIMES"
_OLDER = 2  # minor releases before the pinned one
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
    """The folder in which runtimes are kept: it may be deleted at any time."""
    return cache.local().folder / "runtimes"


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
        key = (str(home()), versions)
        if key not in _found:
            _found[key] = [_fetched(version, logs) for version in (_versions(logs) if versions is None else versions)]
        return _found[key]


def _versions(logs: Path) -> list[str]:
    try:
        return chosen(wheels.versions(PACKAGE, logs / "runtimes.log"))
    except PipelineError as error:
        kept = [version for path in home().glob("*") if (version := path.name.partition("-")[0]) and path == _place(version)]
        found = sorted({*kept, REQUIRED}, key=numbers)
        _log.warning("%s: %s; files are tried with those that are here: %s", PACKAGE, error.what, ", ".join(found))
        return found


def _place(version: str) -> Path:
    # A wheel is for one Python and one system, which may share this folder with others.
    return home() / f"{version}-{sys.implementation.cache_tag}-{sysconfig.get_platform()}"


def _fetched(version: str, logs: Path) -> Runtime:
    if version == runtime_version():
        return Runtime(version)
    try:
        log = logs / f"runtime-{version}.log"
        return Runtime(
            version, wheels.unpacked(_place(version), lambda into: wheels.download(f"{PACKAGE}=={version}", into, log))
        )
    except PipelineError as error:
        return Runtime(version, problem=f"it cannot be had: {error.what}")
