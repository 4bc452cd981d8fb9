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

# What pip would read as an option, a file, a URL or a range of versions is none.
PACKAGE = "[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?"
VERSION = "v?([0-9]+!)?[0-9]+[A-Za-z0-9]*([._+-][A-Za-z0-9]+)*"
_UNPACKED = 4 << 30  # bytes that a wheel may have in it
_MEMBERS = 100_000
_EXPANSION = 100  # times that a file in it may be larger than it is packed, above
_SMALL = 256 << 20  # bytes
_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def is_name(text: str) -> bool:
    """Whether `text` names a package, as PEP 508 has names."""
    return bool(re.fullmatch(PACKAGE, text))


def is_version(text: str) -> bool:
    """Whether `text` is one version of a package, and not a range, a URL or an option."""
    return len(text) < 128 and bool(re.fullmatch(VERSION, text))


def require_sane(archive: zipfile.ZipFile, members: Sequence[str] | None = None) -> None:
    """Raise PipelineError where `members` (None: all) would unpack to very much more than they are packed to.

    What an archive says of sizes is what zipfile gives at most.
    """
    found = [m for m in archive.infolist() if members is None or m.filename in members]
    whole = sum(m.file_size for m in found)
    bomb = next((m for m in found if m.file_size > max(_SMALL, _EXPANSION * m.compress_size)), None)
    if bomb or (members is None and (whole > _UNPACKED or len(found) > _MEMBERS)):
        what = (
            f"{bomb.filename} has {bomb.file_size} bytes, packed {bomb.compress_size}"
            if bomb
            else (f"it has {len(found)} files in it, of {whole} bytes")
        )
        raise PipelineError(f"is not unpacked: {what}", where=str(archive.filename), hint="check where the wheel comes from")


def download(requirement: str, folder: Path, log: Path, tags: Sequence[str] = ()) -> Path:
    """The wheel of `requirement`, `NAME==VERSION`, put into `folder`; for another Python or platform by pip's flags `tags`.

    Raises PipelineError with what pip says.
    """
    name, _, version = requirement.partition("==")
    if not is_name(name) or not is_version(version):
        raise PipelineError(f"{requirement!r} is no NAME==VERSION of a package", hint="correct the name and the version")
    argv = [*_PIP, "download", "--no-deps", "--only-binary=:all:", *tags, "--dest", str(folder), "--", requirement]
    _require(process.execute(argv, log), requirement)
    return next(folder.glob("*.whl"))


def versions(name: str, log: Path, timeout: float = 20) -> list[str]:
    """The released versions of the package `name` that the index has for this Python, the newest first.

    Raises PipelineError with what pip says, or if there is no answer in `timeout` seconds.
    """
    argv = [*_PIP, "--retries=1", f"--timeout={timeout / 2:.0f}", "index", "versions", "--", name]
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
        require_sane(archive)
        archive.extractall(folder)  # its digest is known, here or to pip
        for member in archive.infolist():
            if member.external_attr >> 16 & stat.S_IXUSR:  # which files are programs: `extractall` forgets
                (folder / member.filename).chmod(0o755)
