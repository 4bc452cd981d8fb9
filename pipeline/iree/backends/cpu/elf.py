"""CPU code as the embedded linker leaves it: an ELF file. What whoever runs it never reads is left out."""

from __future__ import annotations

import struct

_HEADER = 64  # bytes of the head of a 64-bit file
_SECTION = 64  # bytes of an entry of the table
_ENTRY = struct.Struct("<IIQQQQ")  # of a segment: kind, flags, offset, two addresses, length


def trimmed(code: bytes) -> bytes:
    """`code` without its sections' names, and the symbols that only they tell of: a third of most kernels.

    A loader goes by the segments. IREE's wants a table of sections, and reads nothing in it: one has the entry that all begin
    with. Other files than 64-bit little-endian ones are left as they are.
    """
    if code[:6] != b"\x7fELF\x02\x01" or len(code) < _HEADER:
        return code
    (table,), (size, count) = struct.unpack_from("<Q", code, 32), struct.unpack_from("<HH", code, 54)
    segments = [_ENTRY.unpack_from(code, table + size * number) for number in range(count)]
    end = max([_HEADER, table + size * count, *(offset + length for _, _, offset, _, _, length in segments)])
    end = min(-(-end // 8) * 8, len(code))
    head = bytearray(code[:_HEADER])
    struct.pack_into("<Q", head, 40, end)  # where the table is
    struct.pack_into("<HHH", head, 58, _SECTION, 1, 0)  # the size of an entry, how many there are, and which has the names
    return bytes(head) + code[_HEADER:end] + bytes(_SECTION)
