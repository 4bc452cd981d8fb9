"""A module loaded on a device, in this process: for the child that verifies and runs, and for programs that load artifacts."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import iree.runtime as rt
import numpy as np
from iree.runtime import array_interop

from pipeline.errors import PipelineError, disk_errors
from pipeline.iree.devices import SCOPE
from pipeline.iree.gates import SELECTED

_THREADS = "--task_topology_group_count"
# Asks a device every query: see `linking.facts`, which makes it.
FACTS = Path(__file__).with_name("facts.vmfb")


def open_device(uri: str, threads: int = 0) -> rt.HalDevice:
    """The HAL device with this URI: `DRIVER`, or `DRIVER://…`; one of so many `threads`, if not of as many as it takes itself."""
    driver, _, path = uri.partition("://")
    if threads:
        rt.flags.parse_flags(f"{_THREADS}={threads}")  # of the drivers that are made from now on
        try:
            return rt._binding.create_hal_driver(driver).create_default_device()  # `get_driver` keeps the first
        finally:
            rt.flags.parse_flags(f"{_THREADS}=0")
    return rt.get_driver(driver).create_device_by_uri(uri) if path else rt.get_device(driver)


def _mapped(path: Path) -> mmap.mmap:
    """The file as memory to read: `VmModule.mmap` opens it to write, which files of others and of images refuse."""
    with disk_errors(str(path)), path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _provider(path: Path) -> rt.ParameterProvider:
    """The weights in the archive at `path`, mapped."""
    with disk_errors(str(path)):
        path.open("rb").close()  # whose errors say more than the runtime's
    index = rt.ParameterIndex()
    try:
        index.load(str(path))
    except (RuntimeError, ValueError, IndexError) as error:
        what = f"is no archive of weights, or damaged: {_reason(error)}"
        raise PipelineError(what, where=str(path), hint="give the .irpa file that belongs to the vmfb") from error
    return index.create_provider(scope=SCOPE)


def _reason(error: Exception) -> str:
    """What the runtime says, without the places in its own source."""
    first = (str(error).splitlines() or [repr(error)])[0]
    return first.rpartition("c/runtime/")[2].partition(": ")[2].partition("; while")[0] or first


_OTHER_WEIGHTS = "these are the weights of another model, or of another version: give the .irpa file that belongs to the vmfb"


def _weights_error(error: Exception, path: Path, parameters: Path | None) -> PipelineError | None:
    """What the runtime's refusal of a module says of its weights; None where they are not what it is about."""
    text = str(error)
    if not parameters and "required module 'io_parameters'" in text:
        return PipelineError("needs weights that it does not hold", where=str(path), hint="--parameters FILE.irpa")
    if parameters and "io_parameters." in text:
        what = f"does not hold the weights that {path.name} asks for: {_reason(error)}"
        return PipelineError(what, where=str(parameters), hint=_OTHER_WEIGHTS)
    return None


_ALIGNMENT = 64  # bytes; where IREE's allocator of host memory wants a buffer to begin
_SMALL = 1 << 12  # bytes, which are copied in less time


def _is_usable(array: np.ndarray[Any, Any]) -> bool:
    is_plain = array.dtype.kind in "iuf" and array.flags.c_contiguous
    return is_plain and array.nbytes >= _SMALL and array.ctypes.data % _ALIGNMENT == 0


def aligned(shape: Sequence[int], dtype: Any) -> np.ndarray[Any, Any]:
    """An array, with whatever was in the memory, that a CPU takes as an argument without a copy: numpy's own seldom begin where
    IREE wants them to."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    made: np.ndarray[Any, Any] = memory[start : start + size].view(dtype).reshape(shape)
    return made


class Session:
    """The module at `path` on `device`. PipelineError if it or its weights cannot be read, else what the runtime raises.

    `parameters` is the archive of weights that it needs.
    """

    def __init__(self, path: Path, device: rt.HalDevice, parameters: Path | None = None) -> None:
        self.device = device
        config = rt.Config(device=device)
        loaded = rt.VmModule.from_buffer(config.vm_instance, _mapped(path))
        modules = [rt.create_hal_module(config.vm_instance, device), loaded]
        if parameters:
            modules.insert(0, rt.create_io_parameters_module(config.vm_instance, _provider(parameters)))
        try:
            self._context = rt.SystemContext(vm_modules=modules, config=config)
        except (RuntimeError, ValueError, IndexError) as error:
            if problem := _weights_error(error, path, parameters):
                raise problem from error
            raise
        self._module = self._context.modules[loaded.name]

    @property
    def functions(self) -> list[str]:
        """The names of all exported functions."""
        names: list[str] = self._module.vm_module.function_names
        return names

    def number(self, function: str) -> int:
        """What an exported function without arguments returns."""
        return int(self._module[function]())

    def selected(self) -> int | None:
        """The index of the variant that the module itself says it runs here; None where it has no such function."""
        return self.number(SELECTED) if SELECTED in self.functions else None

    def place(self, arrays: Sequence[np.ndarray[Any, Any]], borrows: bool = False) -> list[rt.HalBufferView]:
        """Arrays as arguments on the device. `borrows`: on a CPU, those whose memory IREE can use where it is are not copied."""
        return [self._borrowed(array) if borrows and _is_usable(array) else self._copied(array) for array in arrays]

    def _copied(self, array: np.ndarray[Any, Any]) -> rt.HalBufferView:
        return rt.asdevicearray(self.device, array)._buffer_view

    def _borrowed(self, array: np.ndarray[Any, Any]) -> rt.HalBufferView:
        """A view of the array's own memory, which it keeps."""
        memory = rt.MemoryType.HOST_LOCAL | rt.MemoryType.DEVICE_VISIBLE
        usage = rt.BufferUsage.DEFAULT | rt.BufferUsage.MAPPING_SCOPED
        buffer = self.device.allocator.import_host_allocation(array, memory_type=int(memory), allowed_usage=int(usage))
        return rt.HalBufferView(buffer, array.shape, array_interop.map_dtype_to_element_type(array.dtype))

    def call(self, entry: str, arguments: Sequence[rt.HalBufferView | int]) -> list[rt.HalBufferView]:
        """Call an exported function and wait for its results, which stay on the device."""
        function = self._module.vm_module.lookup_function(entry)
        values = rt.VmVariantList(len(arguments))
        for argument in arguments:
            values.push_int(argument) if isinstance(argument, int) else values.push_ref(argument)
        results = rt.VmVariantList(8)
        self._context.vm_context.invoke(function, values, results)
        return [results.get_as_object(i, rt.HalBufferView) for i in range(len(results))]

    def mapped(self, view: rt.HalBufferView) -> np.ndarray[Any, Any] | None:
        """A result where it is, without a copy; None where the host does not see it.

        What a module keeps, constants too, it copies before it returns it. But two results may be the same memory, and a result
        that of an argument.
        """
        buffer = view.get_buffer()
        sees = buffer.memory_type() & int(rt.MemoryType.HOST_LOCAL) and buffer.memory_type() & int(rt.MemoryType.HOST_VISIBLE)
        if not sees or not buffer.allowed_usage() & int(rt.BufferUsage.MAPPING_SCOPED):
            return None
        there: np.ndarray[Any, Any] = view.map().asarray(view.shape, rt.HalElementType.map_to_dtype(view.element_type))
        return there

    def read(self, view: rt.HalBufferView) -> np.ndarray[Any, Any]:
        """A result on the host, through a buffer of the device's own allocator: `DeviceArray.to_host` fails on Vulkan."""
        if (there := self.mapped(view)) is not None:
            return np.copy(there)
        dtype = rt.HalElementType.map_to_dtype(view.element_type)
        source = view.get_buffer()
        size = source.byte_length()
        target = self.device.allocator.allocate_buffer(
            memory_type=rt.MemoryType.HOST_LOCAL | rt.MemoryType.DEVICE_VISIBLE,
            allowed_usage=rt.BufferUsage.TRANSFER_TARGET | rt.BufferUsage.MAPPING_SCOPED,
            allocation_size=size,
        )
        semaphore = self.device.create_semaphore(0)
        self.device.queue_copy(source, target, rt.HalFence.create_at(semaphore, 0), rt.HalFence.create_at(semaphore, 1))
        semaphore.wait(1)
        return np.copy(target.map().asarray(view.shape, dtype))
