"""What a stage did, beside what it made: a key over all its inputs, and the digests of its outputs. Written last.

With the record a stage that is run again, after a kill for instance, knows that its work is done.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError, disk_errors
from pipeline.files import sha256_bytes, sha256_file, write

NAME = "record.json"
ANSWERS = "answers.json"
# What verification leaves of a bundle, beside its test data: the file, what it holds, what was seen of it here, by whom, and in
# which runtimes it works; and what the witnesses that were asked answered, whose documents are beside it.
VERIFIED = ("module.vmfb", "compiled.json", "evidence.json", "witness.json", "runtimes.json", ANSWERS)
# Raise a stage's when the way that it works changes: what it made before is then made again.
REVISIONS = {"import": 18, "reference": 10, "score": 1, "compile": 17, "verify": 12, "package": 11}


def canonical(value: Any) -> bytes:
    """`value` as JSON bytes that are the same for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def key(files: Iterable[Path], **options: Any) -> str:
    """A digest of the contents of `files`, in order, and of `options` (JSON values)."""
    with disk_errors("an input"):
        return sha256_bytes(canonical({"files": [sha256_file(file) for file in files], "options": options}))


def _key_of_intact(folder: Path) -> str | None:
    """The key of the record in `folder` if every output still is what it says; None otherwise."""
    try:
        record = json.loads((folder / NAME).read_text())
        intact = all(sha256_file(folder / name) == digest for name, digest in record["outputs"].items())
        return str(record["key"]) if intact else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def is_current(folder: Path, key_: str) -> bool:
    """Whether `folder` holds whole outputs of exactly these inputs."""
    return _key_of_intact(folder) == key_


def require_intact(folder: Path) -> None:
    """Raise PipelineError if an output in `folder` is not what its stage wrote."""
    if _key_of_intact(folder) is None:
        raise PipelineError("was changed after it was made", where=str(folder), hint="remove that folder, then run doit again")


def write_record(folder: Path, key_: str, outputs: Iterable[str]) -> None:
    """Note that `outputs` (names inside `folder`) are what these inputs make."""
    digests = {name: sha256_file(folder / name) for name in outputs}
    write(folder / NAME, canonical({"key": key_, "outputs": digests}))
