"""Locks: a small file that says what names mean, once and for all, to be reviewed and kept beside who uses the releases."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from pipeline.consume.reference import Reference
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import expanded
from pipeline.manifest.codec import decode
from pipeline.manifest.types import SCHEMA, Lock, LockedRelease
from pipeline.names import did_you_mean

VARIABLE = "VMFB_LOCK"
DEFAULT_FILE = "vmfb.lock"  # that is written, never one that is obeyed because it is there
_LONG = 16 << 20  # bytes, far more than any lock has


def lock_path(named: str | Path | None) -> Path | None:
    """The lock that a user names, or VMFB_LOCK does; None where there is none."""
    text = str(named) if named is not None else os.environ.get(VARIABLE, "")
    if named is not None and not text:
        raise PipelineError("names no lock", where="--lock", hint="give its path; leave it out to take what names mean now")
    return expanded(text) if text else None


def read_lock(path: Path) -> Lock:
    """The lock in a file. Raises PipelineError where there is none, and where it is none."""
    with disk_errors(str(path)), path.open("rb") as file:
        data = file.read(_LONG + 1)
    if len(data) > _LONG:
        raise PipelineError("is larger than any lock", where=str(path))
    try:
        return decode(Lock, data, str(path))
    except PipelineError as error:
        hint = error.hint or f"make it again: `vmfb lock MODEL… -o {path}`"
        raise PipelineError(error.what, where=error.where, hint=hint) from error


def find_lock(named: str | Path | None = None) -> Lock | None:
    """The lock to obey: `lock_path`, read."""
    path = lock_path(named)
    return read_lock(path) if path else None


def locked(lock: Lock, reference: Reference) -> LockedRelease:
    """What the lock says of a name: of one that was locked, of a version or a digest that one was locked to.

    Raises PipelineError for any other, with what to do.
    """
    for one in lock.releases:
        of_version = reference.version and (one.model, one.version) == (reference.model, reference.version)
        of_digest = reference.sha256 and (one.model, one.manifest) == (reference.model, reference.sha256)
        if one.name == str(reference) or of_version or of_digest:
            return one
    known = [one.name for one in lock.releases]
    names = " ".join([*known, str(reference)])
    hint = f"`vmfb lock {names}` makes it again, with that" if len(known) < 20 else "`vmfb lock`, with all names, makes it again"
    raise PipelineError(f"{reference} is not in the lock: {did_you_mean(str(reference), known)}", hint=hint)


def made_lock(store: str, releases: Iterable[LockedRelease]) -> Lock:
    """The lock of these."""
    return Lock(SCHEMA, store, tuple(sorted(set(releases), key=lambda one: one.name)))
