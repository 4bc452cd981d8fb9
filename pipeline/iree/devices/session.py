"""A module loaded on a device, in this process: for the child that verifies and runs, and for programs that load artifacts."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import iree.runtime as rt
import numpy as np

from pipeline.errors import disk_errors
from pipeline.iree.gates import SELECTED

# Asks a device every query: see `linking.facts`, which makes it.
FACTS = Path(__file__).with_name("facts.vmfb")
SCOPE = "model"  # the name under which modules ask for weights that they do not hold


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
    index.load(str(path))
    return index.create_provider(scope=SCOPE)


class Session:
    """The module at `path` on `device`. PipelineError if it cannot be read, else errors and crashes as the runtime's.

    `parameters` is the archive of weights that it needs.
    """

    def __init__(self, path: Path, device: rt.HalDevice, parameters: Path | None = None) -> None:
        self._device = device
        config = rt.Config(device=device)
        loaded = rt.VmModule.from_buffer(config.vm_instance, _mapped(path))
        modules = [rt.create_hal_module(config.vm_instance, device), loaded]
        if parameters:
            modules.insert(0, rt.create_io_parameters_module(config.vm_instance, _provider(parameters)))
        self._context = rt.SystemContext(vm_modules=modules, config=config)
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
        return [rt.asdevicearray(self._device, array)._buffer_view for array in arrays]

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
        target = self._device.allocator.allocate_buffer(
            memory_type=rt.MemoryType.HOST_LOCAL | rt.MemoryType.DEVICE_VISIBLE,
            allowed_usage=rt.BufferUsage.TRANSFER_TARGET | rt.BufferUsage.MAPPING_SCOPED,
            allocation_size=size,
        )
        semaphore = self._device.create_semaphore(0)
        self._device.queue_copy(source, target, rt.HalFence.create_at(semaphore, 0), rt.HalFence.create_at(semaphore, 1))
        semaphore.wait(1)
        return np.copy(target.map().asarray(view.shape, dtype))
