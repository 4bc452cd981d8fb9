"""An ONNX file without its large tensors: read a field at a time, so that they are never in memory.

A file is protobuf: messages of fields, some of which are messages again. Everything is copied as it is but tensors of many
bytes, whose data goes elsewhere, and the lengths of what they are in.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, numpy_helper

Place = Callable[[TensorProto, memoryview], None]  # puts data elsewhere, and says in the tensor where

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_DEEPEST = 100  # messages in messages, as protobuf itself allows
_RAW = TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number
# Lists of numbers that are in a file as they are in memory, and the type that they are of.
_PLAIN = {
    TensorProto.DESCRIPTOR.fields_by_name["float_data"].number: TensorProto.FLOAT,
    TensorProto.DESCRIPTOR.fields_by_name["double_data"].number: TensorProto.DOUBLE,
}


class _Field(NamedTuple):
    """A field's number and kind, where it starts, and where its content begins and ends."""

    number: int
    kind: int
    start: int
    begin: int
    end: int


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value, at, shift = value | (byte & 0x7F) << shift, at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise DecodeError("the file ends early")


def _written(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _fields(data: memoryview, begin: int, end: int) -> Iterator[_Field]:
    """The fields of the message between `begin` and `end`. Raises DecodeError for what is none."""
    while begin < end:
        tag, at = _varint(data, begin)
        kind, length = tag & 7, 0
        if kind == _VARINT:
            length = _varint(data, at)[1] - at
        elif kind == _LENGTH:
            length, at = _varint(data, at)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise DecodeError(f"field {tag >> 3} is of the unknown kind {kind}")
        if at + length > end:
            raise DecodeError("the file ends early")
        yield _Field(tag >> 3, kind, begin, at, at + length)
        begin = at + length


def read(path: Path, smallest: int, place: Place) -> onnx.ModelProto:
    """The ONNX model at `path` in which `place` was called for the data of every tensor of at least `smallest` bytes.

    Sparse tensors stay as they are, and so do those of strings. Raises DecodeError for what is no protobuf, OSError.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as data:
        return onnx.ModelProto.FromString(_lean(data, 0, len(data), onnx.ModelProto.DESCRIPTOR, smallest, place, 0))


def _lean(data: memoryview, begin: int, end: int, kind: Any, smallest: int, place: Place, depth: int) -> bytes:
    """The message of a `kind` between `begin` and `end` without the large tensors in it."""
    if end - begin < smallest or kind is onnx.SparseTensorProto.DESCRIPTOR:
        return bytes(data[begin:end])
    if depth > _DEEPEST:
        raise DecodeError("its graphs are nested too deeply")
    if kind is TensorProto.DESCRIPTOR:
        return _lean_tensor(data, begin, end, smallest, place)
    parts: list[bytes] = []
    for field in _fields(data, begin, end):
        inner = kind.fields_by_number.get(field.number)
        if field.kind == _LENGTH and inner is not None and inner.message_type is not None:
            message = _lean(data, field.begin, field.end, inner.message_type, smallest, place, depth + 1)
            parts += [_written(field.number << 3 | _LENGTH), _written(len(message)), message]
        else:
            parts.append(bytes(data[field.start : field.end]))
    return b"".join(parts)


def _lean_tensor(data: memoryview, begin: int, end: int, smallest: int, place: Place) -> bytes:
    fields = list(_fields(data, begin, end)) if not _is_unpacked(data, begin, end) else []
    large = [f for f in fields if f.kind == _LENGTH and f.end - f.begin >= smallest and f.number in (_RAW, *_PLAIN)]
    rest = b"".join(bytes(data[f.start : f.end]) for f in fields if f not in large) if len(large) == 1 else b""
    tensor = TensorProto.FromString(rest)
    plain = bool(rest) and not any(f.number in (_RAW, *_PLAIN) for f in fields if f not in large)
    if plain and _PLAIN.get(large[0].number, tensor.data_type) == tensor.data_type != TensorProto.STRING:
        with data[large[0].begin : large[0].end] as held:
            place(tensor, held)
        return bytes(tensor.SerializeToString())
    return _listed(bytes(data[begin:end]), place)


def _is_unpacked(data: memoryview, begin: int, end: int) -> bool:
    """Whether the message seems to hold a list of numbers with a field for each, as old writers have them."""
    few = 64
    return sum(1 for _, _ in zip(_fields(data, begin, end), range(few + 1), strict=False)) > few


def _listed(message: bytes, place: Place) -> bytes:
    """A tensor whose numbers are listed, or in some other way unusual: it alone is read as a whole."""
    tensor = TensorProto.FromString(message)
    if tensor.data_type == TensorProto.STRING or tensor.data_location == TensorProto.EXTERNAL:
        return message
    with suppress(ValueError, TypeError, KeyError):  # what numpy does not read is for ONNX's checker to say
        packed = numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name)
        packed.doc_string = tensor.doc_string
        if packed.data_type == tensor.data_type and packed.HasField("raw_data"):
            raw = packed.raw_data
            packed.ClearField("raw_data")
            place(packed, memoryview(raw))
            return bytes(packed.SerializeToString())
    return message
