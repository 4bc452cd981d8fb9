"""Reading a vmfb: exports, and every segment with its place in the file. Needs no IREE; trusts nothing in the file.

A vmfb is a FlatBuffer `BytecodeModuleDef` (runtime/src/iree/schemas/bytecode_module_def.fbs in IREE 3.13) followed by its
read-only data, and usually a ZIP at the same time, whose headers name the pieces of that data.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes
from pipeline.iree.file.flatbuffer import MalformedError, Table, unpack

_ALIGNMENT = 64
_ZIP = b"PK\x03\x04"
_NEAR = 4096  # bytes before a segment in which its ZIP header begins: it is as long as a name and an alignment
_LIMIT = 1 << 20  # entries of any table: far above what a compiler makes, far below what hurts


@dataclass(frozen=True)
class Segment:
    """A stretch of the file: `name` is the ZIP member's, empty where the file is no ZIP. Offsets and lengths in bytes.

    `number` is its place among all read-only data of the module, some of which has no stretch of its own.
    """

    number: int
    name: str
    offset: int
    length: int
    sha256: str


@dataclass(frozen=True)
class Export:
    """An exported function with the reflection attributes the compiler gave it."""

    name: str
    attributes: Mapping[str, str]


@dataclass(frozen=True)
class Module:
    """What a vmfb holds. The head is everything before the first of `segments`.

    `inline` are the segments inside the head: small ones, such as strings. They have neither names nor digests.
    """

    name: str
    size: int
    exports: tuple[Export, ...]
    imports: tuple[str, ...]
    segments: tuple[Segment, ...]
    inline: tuple[Segment, ...] = ()


def _name(data: memoryview, offset: int) -> str:
    """The name in the ZIP header right before a segment, which comes with it where a fetch left the ZIP's directory out.

    Empty where there is none.
    """
    before = bytes(data[max(0, offset - _NEAR) : offset])
    header = memoryview(before[max(0, before.rfind(_ZIP)) :])
    if len(header) < 30 or header[:4] != _ZIP:
        return ""
    length, extra = unpack("H", header, 26), unpack("H", header, 28)
    return bytes(header[30 : 30 + length]).decode("utf-8", "replace") if 30 + length + extra == len(header) else ""


def _flatbuffer_start(data: memoryview) -> int:
    """Where the size-prefixed FlatBuffer begins: behind the first ZIP header, if there is one."""
    if bytes(data[:4]) != _ZIP:
        return 0
    return 30 + unpack("H", data, 26) + unpack("H", data, 28)


def _parse(data: memoryview, digests: bool) -> Module:
    start = _flatbuffer_start(data)
    length = unpack("I", data, start)
    body = data[start + 4 : start + 4 + length]
    root = Table.root(body, b"IREE")
    base = -(-(start + 4 + length) // _ALIGNMENT) * _ALIGNMENT
    signatures = root.tables(8)
    exports = []
    for export in root.tables(7)[:_LIMIT]:
        ordinal = export.scalar(1, "i")
        attributes = signatures[ordinal].tables(1) if 0 <= ordinal < len(signatures) else []
        exports.append(Export(export.string(0), {a.string(0): a.string(1) for a in attributes}))
    segments, inline = [], []
    for number, segment in enumerate(root.tables(9)[:_LIMIT]):
        offset, size = base + segment.scalar(3, "Q"), segment.scalar(4, "Q")
        if size:
            if offset + size > len(data):
                raise MalformedError(f"a segment of {size} bytes at {offset} runs past the end of the file")
            digest = sha256_bytes(data[offset : offset + size]) if digests else ""
            segments.append(Segment(number, _name(data, offset), offset, size, digest))
        else:
            at, size = segment.stretch(2)
            inline.append(Segment(number, "", start + 4 + at, size, ""))
    imports = tuple(i.string(0) for i in root.tables(6)[:_LIMIT])
    return Module(root.string(0), len(data), tuple(exports), imports, tuple(segments), tuple(inline))


def read(path: Path, digests: bool = True) -> Module:
    """The contents of the vmfb at `path`. Raises PipelineError where it is none, or is damaged.

    Without `digests` the segments' are empty, and only the head of the file is read.
    """
    try:
        with path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise MalformedError("it is empty")
            # Not closed here: views of it live in the traceback of whatever is wrong with the file.
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return _parse(memoryview(mapped), digests)
    except (MalformedError, ValueError) as error:
        raise PipelineError(f"is no vmfb, or damaged: {error}", where=str(path)) from error
    except OSError as error:
        raise PipelineError(f"cannot be read: {error.strerror}", where=str(path)) from error
