"""The child process that touches devices: `python -m pipeline.iree.runner JOB.json RESULT.json`.

Drivers crash and code for the wrong CPU dies of an illegal instruction; here that ends one process, and its ending is a
result. A job is {"action": "devices"} or {"action": "run", "module", "device", "entry", "inputs", "outputs"} with
inputs and outputs .npz files whose arrays are named by position. Nothing else in the project imports the runtime.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import iree.runtime as rt
import numpy as np

from pipeline.iree.facts import MODULE, NAMES
from pipeline.iree.gates import SELECTED

_FORMATS = {"local-task": "embedded-elf-x86_64", "vulkan": "vulkan-spirv-fb"}


def _context(module: Path, device: rt.HalDevice) -> tuple[rt.SystemContext, Any]:
    config = rt.Config(device=device)
    loaded = rt.VmModule.mmap(config.vm_instance, str(module))
    context = rt.SystemContext(vm_modules=[rt.create_hal_module(config.vm_instance, device), loaded], config=config)
    return context, context.modules[loaded.name]


def _facts(device: rt.HalDevice) -> dict[str, int]:
    _, functions = _context(MODULE, device)
    answers = {name: int(functions[name]()) for name in NAMES}
    return {name: value for name, value in answers.items() if value >= 0}


def _info(text: str) -> dict[str, str]:
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith(" "))
    return {key.strip(): value.strip() for key, value in pairs}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "CPU"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU")


def devices() -> list[dict[str, Any]]:
    """Every local-task and Vulkan device: uri, name, driver, whether it is software, formats and answers to queries."""
    found: list[dict[str, Any]] = []
    for driver_name, format_ in _FORMATS.items():
        try:
            driver = rt.get_driver(driver_name)
            listed = driver.query_available_devices()
        except (RuntimeError, ValueError):
            continue  # no such driver on this machine, for example no Vulkan loader
        for entry in listed:
            info = _info(driver.dump_device_info(entry["device_id"]))
            device = driver.create_device(entry["device_id"])
            local = driver_name == "local-task"
            found.append(
                {
                    "uri": driver_name if local else f"{driver_name}://{entry['path']}",
                    "driver": driver_name,
                    "name": _cpu_name() if local else info.get("name", entry["name"]),
                    "driver_info": "" if local else f"{info.get('driver', '')} {info.get('driver_info', '')}".strip(),
                    "software": local or info.get("type") == "cpu",
                    "formats": [format_],
                    "answers": _facts(device),
                }
            )
    return found


def _to_host(device: rt.HalDevice, view: rt.HalBufferView) -> np.ndarray[Any, Any]:
    """Read a result back through a buffer of the device's own allocator: `DeviceArray.to_host` fails on Vulkan."""
    dtype = rt.HalElementType.map_to_dtype(view.element_type)
    source = view.get_buffer()
    size = source.byte_length()
    target = device.allocator.allocate_buffer(
        memory_type=rt.MemoryType.HOST_LOCAL | rt.MemoryType.DEVICE_VISIBLE,
        allowed_usage=rt.BufferUsage.TRANSFER_TARGET | rt.BufferUsage.MAPPING_SCOPED,
        allocation_size=size,
    )
    semaphore = device.create_semaphore(0)
    device.queue_copy(source, target, rt.HalFence.create_at(semaphore, 0), rt.HalFence.create_at(semaphore, 1))
    semaphore.wait(1)
    return np.copy(target.map().asarray(view.shape, dtype))


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Load the module, run its entry on the inputs, save the outputs. Returns the chosen variant's index and seconds."""
    driver, _, path = job["device"].partition("://")
    device = rt.get_driver(driver).create_device_by_uri(job["device"]) if path else rt.get_device(driver)
    started = time.monotonic()
    context, functions = _context(Path(job["module"]), device)
    loaded = time.monotonic()
    selected = int(functions[SELECTED]()) if SELECTED in functions.vm_module.function_names else None
    with np.load(job["inputs"]) as arrays:
        inputs = [arrays[name] for name in sorted(arrays, key=int)]
    arguments = [rt.asdevicearray(device, array) for array in inputs]
    invoked = time.monotonic()
    function = functions.vm_module.lookup_function(job["entry"])
    values = rt.VmVariantList(len(arguments))
    for argument in arguments:
        values.push_ref(argument._buffer_view)
    results = rt.VmVariantList(8)
    context.vm_context.invoke(function, values, results)
    outputs = [_to_host(device, results.get_as_object(i, rt.HalBufferView)) for i in range(len(results))]
    finished = time.monotonic()
    named: dict[str, Any] = {str(i): output for i, output in enumerate(outputs)}
    np.savez(job["outputs"], **named)
    return {"selected": selected, "load_s": loaded - started, "run_s": finished - invoked}


def main(arguments: list[str]) -> int:
    """Do the job; a refusal by the runtime is a result with `error`, everything else ends the process."""
    job = json.loads(Path(arguments[0]).read_text())
    try:
        result: Any = {"devices": devices()} if job["action"] == "devices" else run(job)
    except (RuntimeError, ValueError) as error:
        result = {"error": str(error).splitlines()[0][:1000]}
    Path(arguments[1]).write_text(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
