"""The weights that a vmfb does not hold: an archive, of a release by its manifest, beside a file by what that says of itself."""

from __future__ import annotations

from pathlib import Path

from pipeline.consume.inspect import Contents
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import sha256_file
from pipeline.manifest.types import Blob

SUFFIX = ".irpa"
READ = 64 << 20  # bytes of an archive that are read each time to see that they are right: it takes a tenth of a second


class MissingError(PipelineError):
    """A file whose weights are not beside it, and were not named."""


def beside(path: Path) -> Path:
    """Where the weights of the vmfb at `path` are: beside it, by the same name."""
    return path.with_suffix(SUFFIX) if path.suffix == ".vmfb" else path.with_name(path.name + SUFFIX)


def of_file(contents: Contents, named: Path | None = None, whole: bool = False) -> Path | None:
    """The archive that the file needs: the one that is `named`, or the one beside it. None where it needs none.

    Its size must be what the file says, and its digest, if it is small or `whole` is asked for. Raises PipelineError if it is
    not, and MissingError where there is none.
    """
    wanted = contents.identity.parameters if contents.identity else ()
    if not contents.needs_parameters:
        if named:
            raise PipelineError("holds all its weights, it takes no --parameters", where=str(contents.path))
        return None
    path = named or beside(contents.path)
    if not wanted:  # a file that does not say which
        if named is None:
            what = "needs weights that it does not hold, and does not say which"
            raise MissingError(what, where=str(contents.path), hint=f"--parameters FILE{SUFFIX}")
        return path
    if named is None and not _is_of_size(path, wanted[0].size):
        other = f"; {path} has another size" if path.is_file() else ""
        what = f"needs its weights, {wanted[0].size} bytes in a file of their own (SHA-256 {wanted[0].sha256}){other}"
        hint = f"`vmfb fetch MODEL -o FOLDER/` brings both; or name them: --parameters FILE{SUFFIX}"
        raise MissingError(what, where=str(contents.path), hint=hint)
    _require(path, wanted[0], contents.path, whole or wanted[0].size <= READ)
    return path


def _is_of_size(path: Path, size: int) -> bool:
    try:
        return path.is_file() and path.stat().st_size == size
    except OSError:
        return False


def _require(path: Path, wanted: Blob, file: Path, whole: bool) -> None:
    """Raise PipelineError if the archive at `path` is not the one that `file` needs, as far as that is looked at."""
    hint = f"these are other weights, or they are damaged: {file.name} needs those of the SHA-256 {wanted.sha256}"
    with disk_errors(str(path)):
        if not path.is_file() and path.exists():
            raise PipelineError("is no regular file", where=str(path), hint=f"give the weights of {file.name}")
        if (size := path.stat().st_size) != wanted.size:
            raise PipelineError(f"has {size} bytes, the weights of {file.name} have {wanted.size}", where=str(path), hint=hint)
        if whole and (digest := sha256_file(path)) != wanted.sha256:
            raise PipelineError(f"has the SHA-256 {digest}, not the one of its weights", where=str(path), hint=hint)
