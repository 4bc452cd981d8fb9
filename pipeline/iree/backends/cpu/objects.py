"""Object files of several kernels, as LLVM leaves them, taken apart: a file for each kernel, whatever it was compiled with.

LLVM has a section for each function and each constant, and IREE a table of the functions, in arrays: their addresses, names and
attributes (`iree_hal_executable_library_v0_t` in its runtime's executable_library.h). So a kernel's own file has what it refers
to, and a table of one. The order of sections is that of the kernel, not of the file that they come from.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from iree.compiler import ir

from pipeline.iree.mlir import operations, symbol

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")
_RELOCATABLE = 1
_SYMTAB, _STRTAB, _RELA, _NOBITS, _ATTRIBUTES = 2, 3, 4, 8, 0x70000003
_ALLOC, _EXECINSTR, _MERGE, _STRINGS, _INFO_LINK = 2, 4, 16, 32, 64
_UNDEFINED, _GLOBAL, _OF_SECTION = 0, 1, 3
_X86_64 = 62
_UNNAMED = (".text", ".rodata", ".srodata", ".data.rel.ro", ".data", ".bss")
_QUERY = "iree_hal_executable_library_query"
_TABLE = f"{_QUERY}_v0"
_POINTER, _PAGE = 8, 4096  # bytes
_IMPORTS, _COUNT, _CONSTANTS = 8, 24, 104  # in the table: how many imports, functions, and constants the code has


class NotTakenApartError(Exception):
    """The file is not of the form that is known, so its kernels have to be compiled one by one."""


class _SharedError(Exception):
    """The kernel refers to what has no section of its own, and is no entry of a pool."""


@dataclass(frozen=True)
class _Symbol:
    name: str
    info: int
    other: int
    section: int
    value: int
    size: int


@dataclass(frozen=True)
class _Relocation:
    offset: int
    kind: int
    symbol: int
    addend: int


@dataclass(frozen=True)
class _Section:
    name: str
    kind: int
    flags: int
    alignment: int
    entry: int
    data: bytes
    relocations: Sequence[_Relocation] = ()


@dataclass
class _File:
    """An object file: its head, `sections` by their number, and `symbols` by theirs."""

    head: tuple[int | bytes, ...]
    sections: dict[int, _Section]
    symbols: list[_Symbol]
    named: dict[str, int] = field(default_factory=dict)

    def place(self, name: str) -> int:
        """The section that holds the symbol `name`, and nothing else."""
        if name not in self.named:
            raise NotTakenApartError(f"no {name}")
        symbol = self.symbols[self.named[name]]
        if symbol.section not in self.sections or symbol.value:
            raise NotTakenApartError(f"{name} has no section of its own")
        return symbol.section


def _string(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode()


def _read(data: bytes) -> _File:
    if data[:6] != b"\x7fELF\x02\x01" or len(data) < _HEADER.size:
        raise NotTakenApartError("not a 64-bit little-endian ELF file")
    head = _HEADER.unpack_from(data)
    if head[1] != _RELOCATABLE or head[11] != _SECTION.size:
        raise NotTakenApartError("not an object file")
    rows = [_SECTION.unpack_from(data, head[6] + number * _SECTION.size) for number in range(head[12])]

    def content(row: Sequence[int]) -> bytes:
        return b"" if row[1] == _NOBITS else data[row[4] : row[4] + row[5]]

    names = content(rows[head[13]])
    (table,) = [row for row in rows if row[1] == _SYMTAB]
    strings = content(rows[table[6]])
    symbols = [
        _Symbol(_string(strings, name), info, other, section, value, size)
        for name, info, other, section, value, size in _SYMBOL.iter_unpack(content(table))
    ]
    sections = {
        number: _Section(_string(names, row[0]), row[1], row[2], row[8], row[9], content(row))
        for number, row in enumerate(rows)
        if row[2] & _ALLOC or row[1] == _ATTRIBUTES
    }
    if any(section.alignment > _PAGE for section in sections.values()):
        raise NotTakenApartError("an alignment of more than a page")
    for row in rows:
        if row[1] == _RELA and row[7] in sections:
            found = [_Relocation(o, i & 0xFFFFFFFF, i >> 32, addend) for o, i, addend in _RELOCATION.iter_unpack(content(row))]
            sections[row[7]] = replace(sections[row[7]], relocations=sorted(found, key=lambda r: r.offset))
    named = {symbol.name: number for number, symbol in enumerate(symbols) if symbol.section in sections and symbol.name}
    return _File(head, sections, symbols, named)


def joins(variant: ir.Operation) -> bool:
    """Whether LLVM makes the same of a translated kernel whatever is compiled with it: one function that calls no other.

    A function that several kernels call is inlined or not by how many do, unless it always is.
    """
    exports = operations(variant, "hal.executable.export")
    functions = [function for function in operations(variant, "llvm.func") if not symbol(function).startswith("llvm.")]
    kept = [symbol(function) for function in functions if "always_inline" not in function.attributes]
    return len(exports) == 1 and kept == [symbol(exports[0])]


def apart(data: bytes) -> dict[str, bytes]:
    """The object files of the kernels in the object file `data`, by the names of their functions.

    Without those that share with others what cannot be told apart: which these are is no matter of what they were compiled with.
    Raises NotTakenApartError where the file is not as IREE 3.13 makes them.
    """
    found = {}
    try:
        for name, own in _kernels(_read(data)).items():
            with suppress(_SharedError):
                found[name] = _write(*_closure(*own))
    except (struct.error, ValueError, LookupError) as error:
        raise NotTakenApartError(str(error)) from error
    return found


def _kernels(file: _File) -> dict[str, tuple[_File, int]]:
    """For each kernel, the file as if it were the only one in the table, and the section of its code."""
    table, header = file.place(_TABLE), file.place(f"{_TABLE}_header")
    functions, attributes, names = (file.place(f"{_TABLE}_{part}") for part in ("funcs", "attrs", "names"))
    held = file.sections
    (count,) = struct.unpack_from("<I", held[table].data, _COUNT)
    if not count or any(len(held[section].data) != count * _POINTER for section in (functions, names)):
        raise NotTakenApartError("another table of functions")
    if len(held[attributes].data) % count or held[attributes].relocations:
        raise NotTakenApartError("another table of attributes")
    if any(struct.unpack_from("<I", held[table].data, at)[0] for at in (_IMPORTS, _CONSTANTS)):
        raise NotTakenApartError("the code needs what another one gives")
    found = {}
    for index in range(count):
        mine = {section: _element(held[section], index, count) for section in (functions, names, attributes)}
        mine |= {section: replace(mine[section], alignment=_POINTER) for section in (functions, names)}  # larger for several
        (code,), (name,) = mine[functions].relocations, mine[names].relocations
        (called,) = held[header].relocations
        data = bytearray(held[table].data)
        struct.pack_into("<I", data, _COUNT, 1)
        mine[table] = replace(held[table], data=bytes(data))
        title = file.symbols[called.symbol].section  # the library's name: it is called as its function is
        symbol = file.symbols[code.symbol]
        text = held[file.symbols[name.symbol].section].data
        start = file.symbols[name.symbol].value + name.addend
        if symbol.section not in held or symbol.value + code.addend:
            raise NotTakenApartError("a function in a section of several")
        mine[title] = replace(held[title], data=f"{_string(text, start)}\0".encode())
        found[_string(text, start)] = (replace(file, sections={**held, **mine}), symbol.section)
    if len(found) != count:
        raise NotTakenApartError("two functions of one name")
    return found


def _element(section: _Section, index: int, count: int) -> _Section:
    """The array with the one element of `count`."""
    size = len(section.data) // count
    start = index * size
    inside = [replace(r, offset=r.offset - start) for r in section.relocations if start <= r.offset < start + size]
    return replace(section, data=section.data[start : start + size], relocations=inside)


def _closure(file: _File, code: int) -> tuple[_File, Sequence[int]]:
    """The file with pools of what this kernel refers to alone, and the numbers of its sections, in the order to write them."""
    entries: dict[int, set[int]] = {}  # of pools of constants
    target = [number for number, section in file.sections.items() if section.kind == _ATTRIBUTES]
    reached = [code, file.place(_QUERY), *target]
    for number in reached:
        for relocation in file.sections[number].relocations:
            symbol_ = file.symbols[relocation.symbol]
            if symbol_.section == _UNDEFINED:
                continue
            section = file.sections.get(symbol_.section)
            # Constants of sizes that no pool is for, as those of 64 bytes, are all in one section without a name.
            if section is None or section.name in _UNNAMED:
                raise _SharedError(symbol_.name)
            if symbol_.section not in reached:
                reached.append(symbol_.section)
            if section.flags & _MERGE:
                entries.setdefault(symbol_.section, set()).add(_entry(file, relocation))
    return _with_pools(file, entries, reached), sorted(reached, key=_rank(file, reached))


def _entry(file: _File, relocation: _Relocation) -> int:
    """The number in its pool of the constant that is referred to."""
    symbol_ = file.symbols[relocation.symbol]
    pool = file.sections[symbol_.section]
    if pool.flags & _STRINGS or not pool.entry or pool.relocations:
        raise _SharedError(pool.name)
    if not _is_of_section(symbol_):
        return symbol_.value // pool.entry
    if file.head[2] == _X86_64 or not 0 <= relocation.addend < len(
        pool.data
    ):  # there it may be reckoned from the next instruction
        raise _SharedError(pool.name)
    return relocation.addend // pool.entry


def _is_of_section(symbol_: _Symbol) -> bool:
    return symbol_.info & 15 == _OF_SECTION


def _with_pools(file: _File, entries: Mapping[int, Collection[int]], reached: Sequence[int]) -> _File:
    """The file whose pools have these entries alone; what is `reached` refers to them where they are now.

    A pool is aligned as each of its entries needs to be, whatever others would like.
    """
    sections, symbols = dict(file.sections), list(file.symbols)
    for number, found in entries.items():
        pool, used = sections[number], sorted(found)

        def moved(place: int, size: int = pool.entry, used: Sequence[int] = used) -> int:
            return used.index(place // size) * size + place % size

        data = b"".join(pool.data[index * pool.entry :][: pool.entry] for index in used)
        sections[number] = replace(pool, data=data, alignment=pool.entry)
        for at, symbol_ in enumerate(symbols):
            if symbol_.section == number and not _is_of_section(symbol_) and symbol_.value // pool.entry in found:
                symbols[at] = replace(symbol_, value=moved(symbol_.value))
        for user in reached:
            relocations = [
                replace(r, addend=moved(r.addend))
                if symbols[r.symbol].section == number and _is_of_section(symbols[r.symbol])
                else r
                for r in sections[user].relocations
            ]
            sections[user] = replace(sections[user], relocations=relocations)
    return replace(file, sections=sections, symbols=symbols)


def _rank(file: _File, reached: Sequence[int]) -> Callable[[int], tuple[int, int]]:
    """How sections are ordered: as LLVM has them, but for large constants, which it shares with other kernels: by their use."""
    texts = [file.sections[number] for number in reached if file.sections[number].flags & _EXECINSTR]
    constants = {file.symbols[relocation.symbol].section for text in texts for relocation in text.relocations}

    def rank(number: int) -> tuple[int, int]:
        section = file.sections[number]
        if section.flags & _MERGE:
            return 0, section.entry
        if section.flags & _EXECINSTR:
            return 1, number
        return (2, reached.index(number)) if number in constants and number != file.place(_TABLE) else (3, number)

    return rank


def _write(file: _File, order: Sequence[int]) -> bytes:
    """The object file with these sections, and those symbols that they refer to."""
    query, places = file.named[_QUERY], {number: index for index, number in enumerate(order, 1)}
    every = (relocation.symbol for number in order for relocation in file.sections[number].relocations)
    used = dict.fromkeys(number for number in every if number)  # 0 is no symbol: a mark for the linker
    mine = [number for number in used if number != query and file.symbols[number].section != _UNDEFINED]
    others = [query, *(number for number in used if file.symbols[number].section == _UNDEFINED)]
    numbers = {0: 0} | {number: index for index, number in enumerate((*mine, *others), 1)}
    names = _Names()
    symbols = bytearray(_SYMBOL.size)
    for number in mine:
        s = file.symbols[number]
        symbols += _SYMBOL.pack(0, s.info & 15, 0, places[s.section], s.value, s.size)
    for number in others:
        s = file.symbols[number]
        symbols += _SYMBOL.pack(names.at(s.name), _GLOBAL << 4 | s.info & 15, 0, places.get(s.section, 0), s.value, s.size)
    rows: list[tuple[str, tuple[int, ...], bytes]] = []
    table, count = len(order) + 1, len(order)
    for number in order:
        section = file.sections[number]
        rows.append((_prefix(section.name), (section.kind, section.flags, 0, 0, section.alignment, section.entry), section.data))
    rows.append((".symtab", (_SYMTAB, 0, table + 1, len(mine) + 1, 8, _SYMBOL.size), bytes(symbols)))
    rows.append((".strtab", (_STRTAB, 0, 0, 0, 1, 0), b""))
    for number in order:
        if relocations := file.sections[number].relocations:
            packed = (_RELOCATION.pack(r.offset, numbers[r.symbol] << 32 | r.kind, r.addend) for r in relocations)
            rows.append((".rela", (_RELA, _INFO_LINK, table, places[number], 8, _RELOCATION.size), b"".join(packed)))
    body, heads = bytearray(_HEADER.size), bytearray(_SECTION.size)
    named = [names.at(name) for name, _, _ in rows]
    for at, (name, (kind, flags, link, info, alignment, entry), data) in zip(named, rows, strict=True):
        data = bytes(names.data) if name == ".strtab" else data
        body += bytes(-len(body) % max(alignment, 1))
        heads += _SECTION.pack(at, kind, flags, 0, len(body), len(data), link, info, alignment, entry)
        body += data
    body += bytes(-len(body) % 8)
    head = list(file.head)
    head[6], head[12], head[13] = len(body), len(rows) + 1, count + 2
    _HEADER.pack_into(body, 0, *head)
    return bytes(body + heads)


class _Names:
    """A table of strings."""

    def __init__(self) -> None:
        self.data = bytearray(1)

    def at(self, name: str) -> int:
        self.data += name.encode() + b"\0"
        return len(self.data) - len(name.encode()) - 1


def _prefix(name: str) -> str:
    """What the linker goes by of a section's name: the rest tells what else was compiled with it."""
    if "rodata.cst" in name or name.endswith(".attributes"):
        return name
    for prefix in (".text", ".rodata", ".srodata", ".data.rel.ro"):
        if name == prefix or name.startswith(f"{prefix}."):
            return prefix
    raise _SharedError(f"a section {name}")
