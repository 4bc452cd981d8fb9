"""The choice in a file: a constant in its head that says which variant runs, or that the gates choose.

A copy with another constant runs that variant, on any device that takes its code: to try each, no compiler is needed. A
module reads the constant once, when it is loaded.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

from pipeline.errors import PipelineError, disk_errors
from pipeline.files import copy_sparse, staged
from pipeline.iree.file import description, vmfb
from pipeline.iree.file.vmfb import Module, Segment

MAGIC = b"vmfb.choice:"
BY_GATES = -1


def encode(index: int = BY_GATES) -> bytes:
    """The constant: MAGIC, the index of the variant as a 32-bit number, and 4 bytes that keep its CRC-32.

    The ZIP directory of a file has the CRC-32 of the whole head, which so is that of every copy.
    """
    number, usual = struct.pack("<i", index), struct.pack("<i", BY_GATES)
    return MAGIC + number + struct.pack("<I", zlib.crc32(number) ^ zlib.crc32(usual))


def _segment(module: Module, where: str) -> Segment:
    """Where the constant of one of our files is: no search, the file tells it."""
    if not description.read(module, where):
        raise PipelineError("does not tell its variants: it is no file of this pipeline", where=where)
    number = description.choice(module)
    if not number:
        what = "made by an older release of this pipeline: its variants cannot be forced"
        raise PipelineError(what, where=where, hint="it has to be built again")
    for segment in module.inline:
        if str(segment.number) == number and segment.length == len(encode()):
            return segment
    raise PipelineError(f"damaged: segment {number} does not say which variant runs", where=where)


def _index(held: bytes, where: str) -> int:
    index: int = struct.unpack_from("<i", held, len(MAGIC))[0] if len(held) == len(encode()) else BY_GATES
    if held != encode(index):
        raise PipelineError("damaged: what should say which variant runs does not", where=where)
    return index


def read(path: Path, module: Module) -> int:
    """The index of the variant that the file at `path`, which holds `module`, runs whatever the gates say, or BY_GATES.

    PipelineError for a file that cannot tell.
    """
    segment = _segment(module, str(path))
    with disk_errors(str(path)), path.open("rb") as file:
        file.seek(segment.offset)
        index = _index(file.read(segment.length), str(path))
    if not BY_GATES <= index < len(description.read(module, str(path))):
        raise PipelineError(f"damaged: it has no variant number {index}, which it says it runs", where=str(path))
    return index


def force(path: Path, index: int, output: Path) -> None:
    """Write a copy of the vmfb at `path` to `output` that runs variant `index`, in order of preference, and asks no gates.

    All else has the same bytes, and what is a hole (code that was not fetched) stays one. A device that does not take the
    format of the variant's code refuses the copy; one that takes it and lacks a feature may crash or compute wrong numbers.
    PipelineError for a file that is not of this pipeline, was made before it had the choice, or has no such variant.
    """
    module = vmfb.read(path, digests=False)
    segment, count = _segment(module, str(path)), len(description.read(module, str(path)))
    if not 0 <= index < count:
        raise PipelineError(f"has {count} variants, counted from 0, and no number {index}", where=str(path))
    with disk_errors(str(path)), path.open("rb") as source:
        mode = os.fstat(source.fileno()).st_mode & 0o777
        with staged(output, mode) as temporary, disk_errors(str(output)), temporary.open("rb+") as target:
            copy_sparse(source, target)
            target.seek(segment.offset)
            _index(target.read(segment.length), str(path))
            target.seek(segment.offset)
            target.write(encode(index))
