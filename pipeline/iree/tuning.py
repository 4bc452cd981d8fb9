"""Tuning records: of one executable target, what was found to be faster than the compiler's own choice, kernel by kernel.

A kernel is named by the digest of its content, as pieces are, so a record holds for every model that has it. An entry keeps the
attributes by which the compiler would lower the kernel, and those to put in their place. Where the compiler chooses otherwise
than it did then, another release for instance, the entry is passed over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError, disk_errors
from pipeline.files import sha256_bytes, write

_SCHEMA = 1
_KERNEL = re.compile(r"kernel_[0-9a-f]{32}")
_LIMIT = 64 << 20  # bytes of a file
ATTRIBUTES = ("translation_info", "lowering_config")


@dataclass(frozen=True)
class Change:
    """One attribute of a kernel, as MLIR's text: what the compiler chose `before`, what to put in its place `after`.

    `index`: of the kernel's operations that have such attributes, which one, in order; `operation` is its name.
    """

    index: int
    operation: str
    attribute: str
    before: str
    after: str


Lowering = tuple[Change, ...]


@dataclass(frozen=True)
class Tuned:
    """A kernel's entry: `changes` of what the compiler chose, and what was measured.

    `name` is what a model calls the kernel, `operations` what it computes. Milliseconds are of one call, on `device`, the best of
    so many `rounds`, by one thread where that has several. Without changes it says that the kernel stays as the compiler lowers
    it, whatever the package's own record has.
    """

    kernel: str
    name: str
    operations: str
    changes: Lowering
    before_ms: float
    after_ms: float
    rounds: int
    device: str
    compiler: str

    @property
    def speed(self) -> float:
        """How many times as fast it is as without."""
        return self.before_ms / self.after_ms

    @property
    def voided(self) -> Tuned:
        """The entry by which a project does without this one."""
        return replace(self, changes=(), after_ms=self.before_ms)


@dataclass(frozen=True)
class Applied:
    """How much of a variant's code is lowered by a record: `tuned` of its `kernels`, by entries whose `digest` is `sha256`."""

    tuned: int
    kernels: int
    sha256: str


Record = Mapping[str, Tuned]  # by kernel


def kernel_of(symbol: str) -> str:
    """The kernel that a piece of this name is of: equal kernels of one model are numbered."""
    return symbol[: len("kernel_") + 32]


def digest(entries: Iterable[Tuned]) -> str:
    """A digest of what these entries do to code; what was measured does not matter."""
    return sha256_bytes(json.dumps(sorted((e.kernel, [asdict(c) for c in e.changes]) for e in entries)).encode())


def updated(record: Record, found: Iterable[Tuned], lost: Collection[str]) -> Record:
    """The record with what was found, which was compared with what it had, and without the kernels that have `lost` by it."""
    kept = {kernel: entry for kernel, entry in record.items() if kernel not in lost}
    return kept | {entry.kernel: entry for entry in found}


def encode(target: str, record: Record) -> bytes:
    """A record as a file's bytes: JSON, the kernels sorted, an entry's changes a line each, so that a diff shows what changed."""
    kernels = [asdict(record[name]) for name in sorted(record)]
    return (json.dumps({"schema": _SCHEMA, "target": target, "kernels": kernels}, indent=1, ensure_ascii=False) + "\n").encode()


def save(path: Path, record: Record) -> None:
    """Write the record of the target that the file is named for, whole or not at all."""
    with disk_errors(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
    write(path, encode(path.stem, record))


def read(path: Path) -> Record:
    """The record in a file; empty where there is none. Raises PipelineError for one that is damaged, or another target's."""
    if not path.exists():
        return {}
    hint = "restore it, or remove it: then nothing is tuned for that target"
    with disk_errors(str(path)):
        data = path.read_bytes()
    try:
        if len(data) > _LIMIT:
            raise ValueError("too large")
        value = json.loads(data)
        if value["schema"] != _SCHEMA:
            raise ValueError(f"has schema {value['schema']!r:.20}, this program reads {_SCHEMA}")
        if value["target"] != path.stem:
            raise ValueError(f"is of the target {value['target']!r:.100}, and named for another")
        entries = [_entry(one) for one in value["kernels"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise PipelineError(f"is no tuning record, or damaged: {what:.200}", where=str(path), hint=hint) from error
    return {entry.kernel: entry for entry in entries}


def _entry(value: dict[str, Any]) -> Tuned:
    changes = lowering_of(value["changes"])
    texts = {name: _text(value[name]) for name in ("kernel", "name", "operations", "device", "compiler")}
    before, after, rounds = float(value["before_ms"]), float(value["after_ms"]), int(value["rounds"])
    if not _KERNEL.fullmatch(texts["kernel"]):
        raise ValueError(f"{texts['kernel']!r:.60} names no kernel")
    if not 0 < after < 1e9 or not 0 < before < 1e9:
        raise ValueError(f"{texts['kernel']} has no times")
    return Tuned(changes=changes, before_ms=before, after_ms=after, rounds=rounds, **texts)


def lowering_of(value: Iterable[dict[str, Any]]) -> Lowering:
    """The changes that JSON values say. Raises ValueError, KeyError or TypeError where they say none."""
    return tuple(_change(one) for one in value)


def _change(value: dict[str, Any]) -> Change:
    if type(value["index"]) is not int or value["attribute"] not in ATTRIBUTES:
        raise ValueError(f"{value['attribute']!r:.60} is no attribute that is tuned")
    return Change(value["index"], *(_text(value[name]) for name in ("operation", "attribute", "before", "after")))


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"{value!r:.60} is no text")
    return value


def applied(entries: Sequence[Tuned], kernels: int) -> Applied | None:
    """What there is to say of a variant of so many `kernels` whose code is lowered by these entries; None for none."""
    return Applied(len(entries), kernels, digest(entries)) if entries else None


def told(variant: str, tuned: int, kernels: int) -> str:
    """How much of a variant is tuned, for people."""
    return f"{variant}: {tuned} of {kernels} kernels tuned"
