"""Backends, one module each, and the questions that concern them all. See `base.Backend` for what one is.

A module of this package that has a `BACKEND` is one: nothing else lists them.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes, sha256_file
from pipeline.iree.backends.base import Backend
from pipeline.iree.device import Device
from pipeline.iree.gates import Gate, Gated, GateError

HEAD = 64  # bytes of an executable that tell its format


@functools.cache
def every() -> tuple[Backend, ...]:
    """All backends, in the order in which a module asks for a device."""
    modules = (importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
    found: list[Backend] = [module.BACKEND for module in modules if hasattr(module, "BACKEND")]
    return tuple(sorted(found, key=lambda backend: backend.rank))


def named(name: str) -> Backend:
    """The backend that specs and the compiler call `name`. Raises KeyError if there is none."""
    return {backend.name: backend for backend in every()}[name]


def of_format(format_: str) -> Backend | None:
    """The backend whose code has this executable format; None for one that this program does not know."""
    return next((backend for backend in every() if format_ in backend.formats), None)


def of_driver(driver: str) -> Backend | None:
    """The backend whose code the runtime's driver runs; None for one that this program does not know."""
    return next((backend for backend in every() if driver == backend.driver), None)


def of_device(device: Device) -> Backend:
    """The backend whose code `device` runs; of a device that this program does not know, one of which nothing is known."""
    return of_driver(device.driver) or Backend()


def digest(backend: Backend) -> str:
    """The digest of all that corrects the backend's code: a change there generates the code again."""
    corrections = backend.corrections()
    if not isinstance(corrections, ModuleType) or not corrections.__file__:
        return ""
    files = sorted(Path(corrections.__file__).parent.glob("*.py"))
    others = ("__init__.py", "space.py")  # which change no code
    return sha256_bytes("".join(sha256_file(path) for path in files if path.name not in others).encode())


def subgroup_size(device: Device) -> int:
    """Lanes of the device's subgroups; 0 for one that has none, or does not tell."""
    return of_device(device).subgroup_size(device)


def is_cpu(device: Device) -> bool:
    """Whether this is the CPU itself, and not something that it plays."""
    return of_device(device).is_cpu


def is_software_gpu(device: Device) -> bool:
    """Whether a CPU does the work of this device, and has code of its own for that."""
    return device.software and not is_cpu(device)


def cpu_code(formats: Iterable[str]) -> bool:
    """Whether code of one of these formats runs on a CPU itself."""
    return any(backend.is_cpu for format_ in formats if (backend := of_format(format_)))


def inspectors() -> list[str]:
    """The tools on this machine that can say something of code that does not run here, and when they were installed."""
    return [f"{tool} {Path(tool).stat().st_mtime_ns}" for backend in every() if (tool := backend.inspector())]


def words() -> Mapping[str, str]:
    """What people may call devices → the driver of those."""
    return {word: backend.driver for backend in reversed(every()) for word in backend.words}


def recognize(head: bytes) -> str:
    """The executable format of what begins with these `HEAD` bytes; empty if it is no code."""
    return next(filter(None, (backend.recognize(head) for backend in every())), "")


def people(format_: str) -> str:
    """What people call the devices that take code of this executable format."""
    backend = of_format(format_)
    return backend.formats[format_] if backend else f"{format_}, which this program does not know: a newer one may"


@functools.cache
def queries() -> list[str]:
    """Every query that the runtime answers, in order."""
    found: dict[str, frozenset[str]] = {}
    for backend in every():
        for category, keys in backend.queries.items():
            found[category] = found.get(category, frozenset()) | keys
    return [f"{category}::{key}" for category, keys in sorted(found.items()) for key in sorted(keys)]


def parse_gate(text: str) -> Gate:
    """The gate that a spec writes. Raises GateError for anything else, and for queries that no device answers."""
    gate = Gate.parse(text)
    if not any(_answers(backend, gate) for backend in every()):
        raise GateError(f"IREE's runtime does not answer the query {gate.query}")
    return gate


def asked(variants: Iterable[Gated]) -> list[Gated]:
    """The variants with those gates that the runtime itself can evaluate."""
    return [replace(v, gates=tuple(gate for gate in v.gates if gate.query in queries())) for v in variants]


def _answers(backend: Backend, gate: Gate) -> bool:
    return any(gate.key in known.get(gate.category, ()) for known in (backend.queries, backend.told))


def require_known(variants: Iterable[Gated], where: str) -> None:
    """Raise PipelineError for gates on queries that this program does not know: it cannot say what devices do with them.

    Variants of formats that it does not know are no matter: no device that it knows takes them.
    """
    for variant in variants:
        backend = of_format(variant.format)
        for gate in variant.gates if backend else ():
            if backend and not _answers(backend, gate):
                what = f"{variant.name} asks devices for {gate.query}, which this program does not know"
                raise PipelineError(what, where=where, hint="upgrade vmfb-pipeline")
