"""A module loaded on a device, in this process: for the child that verifies and runs, and for programs that load artifacts."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import iree.runtime as rt
import numpy as np

from pipeline.errors import PipelineError, disk_errors
from pipeline.iree.devices import SCOPE
from pipeline.iree.gates import SELECTED

# Asks a device every query: see `linking.facts`, which makes it.
FACTS = Path(__file__).with_name("facts.vmfb")


def open_device(uri: str) -> rt.HalDevice:
    """The HAL device with this URI: `DRIVER`, or `DRIVER://…`."""
    driver, _, path = uri.partition("://")
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

    def place(self, arrays: Sequence[np.ndarray[Any, Any]]) -> list[rt.HalBufferView]:
        """Arrays as arguments on the device."""
        return [rt.asdevicearray(self.device, array)._buffer_view for array in arrays]

    def call(self, entry: str, arguments: Sequence[rt.HalBufferView]) -> list[rt.HalBufferView]:
        """Call an exported function and wait for its results, which stay on the device."""
        function = self._module.vm_module.lookup_function(entry)
        values = rt.VmVariantList(len(arguments))
        for argument in arguments:
            values.push_ref(argument)
        results = rt.VmVariantList(8)
        self._context.vm_context.invoke(function, values, results)
        return [results.get_as_object(i, rt.HalBufferView) for i in range(len(results))]

    def read(self, view: rt.HalBufferView) -> np.ndarray[Any, Any]:
        """A result on the host, through a buffer of the device's own allocator: `DeviceArray.to_host` fails on Vulkan."""
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
