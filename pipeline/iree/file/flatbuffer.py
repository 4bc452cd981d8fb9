"""Read-only, bounds-checked access to FlatBuffers tables: the container of vmfb modules and of Vulkan executables.

The format is described at https://flatbuffers.dev/internals/. Only what the two schemas of IREE need is here: scalars,
strings, vectors of tables and byte vectors. Every read is checked against the buffer, since files come from anywhere.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass


class MalformedError(ValueError):
    """The bytes are not a FlatBuffer of the expected shape; the message says where."""


def unpack(fmt: str, data: memoryview, offset: int) -> int:
    """One little-endian integer of `struct` format `fmt` at `offset`; MalformedError when it lies outside `data`."""
    size = struct.calcsize("<" + fmt)
    if offset < 0 or offset + size > len(data):
        raise MalformedError(f"offset {offset} lies outside the {len(data)} bytes")
    value: int = struct.unpack_from("<" + fmt, data, offset)[0]
    return value


@dataclass(frozen=True)
class Table:
    """A FlatBuffers table at byte `offset` of `data`. Fields are named by their index in the schema (0-based)."""

    data: memoryview
    offset: int

    @staticmethod
    def root(data: memoryview, identifier: bytes) -> Table:
        """The root table of a buffer whose file identifier must be `identifier` (4 bytes)."""
        if bytes(data[4:8]) != identifier:
            raise MalformedError(f"no FlatBuffer with identifier {identifier.decode()}")
        return Table(data, unpack("I", data, 0))

    def _field(self, index: int) -> int | None:
        vtable = self.offset - unpack("i", self.data, self.offset)
        entry = 4 + 2 * index
        if entry + 2 > unpack("H", self.data, vtable):
            return None
        relative = unpack("H", self.data, vtable + entry)
        return self.offset + relative if relative else None

    def scalar(self, index: int, fmt: str, default: int = 0) -> int:
        """The integer field `index` of `struct` format `fmt`, or `default` where it is absent."""
        at = self._field(index)
        return default if at is None else unpack(fmt, self.data, at)

    def _indirect(self, at: int) -> int:
        return at + unpack("I", self.data, at)

    def string(self, index: int) -> str:
        """The string field `index`; empty where it is absent."""
        return bytes(self.bytes_vector(index)).decode("utf-8", "replace")

    def _vector(self, index: int, item_size: int) -> tuple[int, int]:
        at = self._field(index)
        if at is None:
            return 0, 0
        start = self._indirect(at)
        count = unpack("I", self.data, start)
        if start + 4 + count * item_size > len(self.data):
            raise MalformedError(f"a vector of {count} items at {start} runs past the end")
        return start + 4, count

    def stretch(self, index: int, item_size: int = 1) -> tuple[int, int]:
        """Where in `data` the scalar or struct vector `index` with items of `item_size` bytes is: offset, length in bytes."""
        start, count = self._vector(index, item_size)
        return start, count * item_size

    def bytes_vector(self, index: int, item_size: int = 1) -> memoryview:
        """The raw bytes of that vector."""
        start, length = self.stretch(index, item_size)
        return self.data[start : start + length]

    def tables(self, index: int) -> list[Table]:
        """The tables of the vector of tables `index`; empty where it is absent."""
        start, count = self._vector(index, 4)
        return [Table(self.data, self._indirect(start + 4 * i)) for i in range(count)]

    def table(self, index: int) -> Table | None:
        """The table in field `index`, or None where it is absent."""
        at = self._field(index)
        return None if at is None else Table(self.data, self._indirect(at))
