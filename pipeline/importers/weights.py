"""The weights of ONNX models: large ones stay in files, whatever is done with the model.

A model of many bytes is held as a skeleton: its tensors of SMALLEST bytes or more are external data, of which `location` is a
path from the root of the file system. So ONNX Runtime maps them, `values` and `raw` do, and nothing else touches them. What is
made of them on the way is put into a file of its own, see `beside`. Small models are held as ever.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from pipeline.arrays import Array
from pipeline.errors import PipelineError
from pipeline.importers import decisions, skeleton

# A model of fewer bytes is copied in memory a dozen times without harm; larger ones would fill it. So many bytes of weights are
# also worth a file of their own beside the vmfb, by default.
LIMIT = 64 << 20
# Smaller tensors are shapes, scales and biases, which the compiler and the rewrites want to know.
SMALLEST = 1024
ROOT = "/"  # what locations in a skeleton are relative to
_ALIGNMENT = 64
_PARTS = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2, "FLOAT6E2M3": 6, "FLOAT6E3M2": 6}  # bits
_WIDTHS = {TensorProto.DataType.Value(name): bits for name, bits in _PARTS.items() if name in TensorProto.DataType.keys()}  # noqa: SIM118


_SIZED = {*TensorProto.DataType.values()} - {TensorProto.UNDEFINED, TensorProto.STRING}


@dataclass
class Store:
    """Where large weights go that have no file of their own. `differs`: a model that was read has data in other files."""

    path: Path
    limit: int
    is_used: bool = False
    differs: bool = False
    is_kept: bool = False
    models: dict[Path, onnx.ModelProto] = field(default_factory=dict)
    places: dict[bytes, int] = field(default_factory=dict)

    def put(self, data: memoryview) -> tuple[Path, int]:
        """Append `data`, unless the file has it; the file and the offset."""
        self.is_used, key = True, hashlib.sha256(data).digest()
        if key in self.places:  # a rewrite makes the same more than once
            return self.path, self.places[key]
        with self.path.open("ab") as file:
            file.write(bytes(-file.tell() % _ALIGNMENT))
            offset = file.tell()
            file.write(data)
        self.places[key] = offset
        return self.path, offset


_store: ContextVar[Store | None] = ContextVar("_store", default=None)


@contextmanager
def beside(path: Path, limit: int = LIMIT) -> Iterator[Store]:
    """In this block models of more than `limit` bytes are held as skeletons; what has no file of its own goes into `path`.

    The file goes with the block, unless that says that it `is_kept` and ends without an error.
    """
    store = Store(Path(os.path.realpath(path)), limit)
    store.path.unlink(missing_ok=True)
    token = _store.set(store)
    try:
        yield store
    except BaseException:
        store.is_kept = False
        raise
    finally:
        _store.reset(token)
        if not store.is_kept:
            store.path.unlink(missing_ok=True)


@contextmanager
def passing() -> Iterator[None]:
    """What is made in this block goes into a file that ends with it: who uses it has mapped it by then."""
    outer = _store.get()
    if outer is None or not outer.is_used:
        yield
        return
    with tempfile.NamedTemporaryFile(dir=outer.path.parent, prefix=f".{outer.path.name}.", suffix=".part") as file:
        token = _store.set(Store(Path(file.name), outer.limit, is_used=True))
        try:
            yield
        finally:
            _store.reset(token)


def tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """Every constant of the graph and of those inside it: initializers, and attributes of nodes."""
    yield from graph.initializer
    yield from _held(graph.node)


def _held(nodes: Iterable[onnx.NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
        for inner in decisions.inside(node):
            yield from tensors(inner)


def constants(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every constant of the model, those of its functions last; initializers of its graph come first."""
    yield from tensors(model.graph)
    for function in model.functions:
        yield from _held(function.node)


def is_outside(tensor: TensorProto) -> bool:
    """Whether the tensor's data is in a file."""
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def any_outside(model: onnx.ModelProto) -> bool:
    """Whether the model is a skeleton."""
    return any(map(is_outside, constants(model)))


def length(tensor: TensorProto) -> int:
    """The bytes of the tensor's data by type and shape. Raises DecodeError for a type without."""
    count = int(math.prod(tensor.dims))
    if tensor.data_type not in _SIZED or min(tensor.dims, default=0) < 0:
        raise DecodeError(f"the tensor {tensor.name!r} is of no type or shape that has a size")
    if tensor.data_type in _WIDTHS:
        return -(-count * _WIDTHS[tensor.data_type] // 8)
    return count * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def is_whole(tensor: TensorProto) -> bool:
    """Whether the tensor's elements have bytes of their own: four bits have not, strings have no size."""
    return tensor.data_type not in (TensorProto.STRING, *_WIDTHS)


def size(model: onnx.ModelProto) -> int:
    """The bytes of the model, with those of its weights in files."""
    return int(model.ByteSize()) + sum(length(tensor) for tensor in constants(model) if is_outside(tensor))


def place(tensor: TensorProto) -> tuple[Path, int]:
    """The file that the data of a skeleton's tensor is in, and where in it."""
    said = {entry.key: entry.value for entry in tensor.external_data}
    return Path(ROOT + said["location"]), int(said["offset"])


def raw(tensor: TensorProto) -> Array:
    """The bytes of a tensor that is in a file, mapped; writing to them changes nothing else."""
    path, offset = place(tensor)
    return np.asarray(np.memmap(path, np.uint8, "c", offset, (length(tensor),)))


def values(tensor: TensorProto) -> Array:
    """The values of any tensor; those in a file are mapped."""
    if not is_outside(tensor):
        return np.asarray(numpy_helper.to_array(tensor))
    if is_whole(tensor):
        found: Array = raw(tensor).view(helper.tensor_dtype_to_np_dtype(tensor.data_type))
        return found.reshape(tensor.dims)
    inside = TensorProto(dims=tensor.dims, data_type=tensor.data_type, raw_data=raw(tensor).tobytes())
    return np.asarray(numpy_helper.to_array(inside))


def tensor(array: Array, name: str = "") -> TensorProto:
    """A tensor of these values; a large one is put into a file where the model is a skeleton."""
    made = numpy_helper.from_array(array, name)
    _put_out(made)
    return made


def _point(tensor: TensorProto, path: Path, offset: int) -> None:
    """Say that the tensor's data is there."""
    del tensor.external_data[:]
    tensor.data_location = TensorProto.EXTERNAL
    said = {"location": str(path).removeprefix(ROOT), "offset": str(offset), "length": str(length(tensor))}
    for key, value in said.items():
        tensor.external_data.add(key=key, value=value)


def _pointed(tensor: TensorProto, path: Path, offset: int) -> tuple[str, ...]:
    _point(tensor, path, offset)
    return _said(tensor)


def _said(tensor: TensorProto) -> tuple[str, ...]:
    return tuple(entry.value for entry in tensor.external_data)


def _put_out(tensor: TensorProto) -> None:
    store = _store.get()
    if store and store.is_used and tensor.HasField("raw_data") and len(tensor.raw_data) >= SMALLEST:
        path, offset = store.put(memoryview(tensor.raw_data))
        tensor.ClearField("raw_data")
        _point(tensor, path, offset)


def put_out(model: onnx.ModelProto) -> None:
    """Put the large tensors of a skeleton that are in memory into the file, in place."""
    for tensor in constants(model):
        _put_out(tensor)


def put_all_out(model: onnx.ModelProto) -> None:
    """Make a skeleton of any model, in place."""
    if store := _store.get():
        store.is_used = True
    for tensor in constants(model):
        if tensor.data_type in _SIZED and not is_outside(tensor) and length(tensor) >= SMALLEST:
            if not tensor.HasField("raw_data"):  # a list of numbers
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
            _put_out(tensor)


def inside(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model`, or a copy of a skeleton that has all weights in memory."""
    if not any_outside(model):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in filter(is_outside, constants(copy)):
        _take_in(tensor, *place(tensor))
    return copy


def _take_in(tensor: TensorProto, path: Path, offset: int) -> None:
    with path.open("rb") as file:
        file.seek(offset)
        tensor.raw_data = file.read(length(tensor))
    del tensor.external_data[:]
    tensor.ClearField("data_location")


def hollow(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model`, or a copy of a skeleton whose weights in files are empty: ONNX's checker looks for files by other rules."""
    if not any_outside(model):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in filter(is_outside, constants(copy)):
        tensor.dims[:] = [0] * max(1, len(tensor.dims))
        del tensor.external_data[:]
        tensor.ClearField("data_location")
    return copy


def load(source: Path) -> onnx.ModelProto:
    """The ONNX model in the file `source`: as it is, or as a skeleton where it is large and the block is one of `beside`.

    Data that the model has in other files is taken from these; they lie beside `source`. Raises PipelineError where they are
    not there or not what the model says, DecodeError for what is no protobuf, OSError.
    """
    store = _store.get()
    if store and source in store.models:
        copy = onnx.ModelProto()
        copy.CopyFrom(store.models[source])
        return copy
    own: set[tuple[str, ...]] = set()

    def put(tensor: TensorProto, data: memoryview) -> None:
        if store is None or len(data) != length(tensor):
            raise DecodeError(f"the tensor {tensor.name!r} has {len(data)} bytes, its type and shape need {length(tensor)}")
        own.add(_pointed(tensor, *store.put(data)))

    if store is None or source.stat().st_size <= store.limit:
        model = onnx.load_model(source, load_external_data=False)
    else:
        model = skeleton.read(source, SMALLEST, put)
    kept = len(model.graph.initializer)  # those that ONNX Runtime takes from any file
    there = [(n < kept, t) for n, t in enumerate(constants(model)) if is_outside(t) and _said(t) not in own]
    found = [(is_kept, t, *_found(t, source)) for is_kept, t in there]
    if store and model.ByteSize() + sum(length(t) for _, t in there) > store.limit:
        store.is_used = True
    for is_kept, held, path, offset in found:
        _settle(held, path, offset, is_kept)
    put_out(model)
    if store:
        store.differs |= bool(there)
    if store and store.is_used:
        store.models[source] = onnx.ModelProto()
        store.models[source].CopyFrom(model)
    return model


def _found(tensor: TensorProto, source: Path) -> tuple[Path, int]:
    """Where the data of a tensor is that the file `source` has elsewhere. Raises PipelineError."""
    said = {entry.key: entry.value for entry in tensor.external_data}
    location = said.get("location", "")
    name = f"the tensor {tensor.name!r}" if tensor.name else "a tensor"
    what = f"{name} has its data in {location!r}"
    path = source.parent / location
    if not location or PurePosixPath(location).is_absolute() or ".." in PurePosixPath(location).parts:
        hint = "save the model again, with its data in a file beside it"
        raise PipelineError(f"{what}, which is no file beside the model", where=str(source), hint=hint)
    if not path.is_file():
        hint = f"name the file in the model's spec, with its SHA-256: `source: {{…, data: {{{location}: 3f0a…}}}}`"
        raise PipelineError(f"{what}, which is not there", where=str(source), hint=hint)
    hint = "take the file that belongs to this model, or save both again"
    try:
        wanted = length(tensor)
        offset, given = int(said.get("offset", 0)), int(said.get("length", wanted))
    except (DecodeError, ValueError) as error:
        raise PipelineError(f"{what}, but not as a tensor has it: {error}", where=str(source), hint=hint) from error
    if given != wanted:
        type_ = TensorProto.DataType.Name(tensor.data_type).lower()
        why = f"{given} bytes, which are no {type_}{list(tensor.dims)}"
        raise PipelineError(f"{what}: {why}", where=str(source), hint=hint)
    if offset < 0 or offset + wanted > (there := path.stat().st_size):
        what += f", {wanted} bytes from {offset} on" + (f", and that has {there}" if offset >= 0 else "")
        raise PipelineError(what, where=str(source), hint=hint)
    return Path(os.path.realpath(path)), offset


def _settle(tensor: TensorProto, path: Path, offset: int, is_kept: bool) -> None:
    """Take a tensor's data in, or leave it in its file if that will do, or put it into another."""
    store = _store.get()
    if store is None or not store.is_used or length(tensor) < SMALLEST:
        _take_in(tensor, path, offset)
        return
    step = int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    # Inside other graphs ONNX Runtime refuses files that have two names.
    if offset % step == 0 and (is_kept or path.stat().st_nlink == 1):
        _point(tensor, path, offset)
    else:
        _point(tensor, *store.put(np.memmap(path, np.uint8, "r", offset, (length(tensor),)).data))
