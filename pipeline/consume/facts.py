"""Devices: of this machine, remembered while it does not change, and of other machines, from files of facts."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.consume.cache import Cache
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import write
from pipeline.iree import backends, devices
from pipeline.iree.device import Device
from pipeline.iree.gates import Facts
from pipeline.machine import fingerprint
from pipeline.names import closest

MACHINES = Path(__file__).with_name("machines")
SCHEMA = 1


def to_json(found: Sequence[Device]) -> dict[str, Any]:
    """The facts of devices as `from_json` reads them."""
    described = [
        {
            "uri": d.uri,
            "name": d.name,
            "driver": d.driver,
            "driver_info": d.driver_info,
            "software": d.software,
            "formats": sorted(d.facts.formats),
            "answers": dict(sorted(d.facts.answers.items())),
        }
        for d in found
    ]
    return {"schema": SCHEMA, "devices": described}


def from_json(data: Any, where: str) -> list[Device]:
    """The devices in a document of `to_json`. Raises PipelineError for anything else."""
    try:
        if data["schema"] != SCHEMA:
            raise PipelineError(f"has schema {data['schema']!r}, this program reads {SCHEMA}", where=where)
        return [
            Device(
                str(d.get("uri", "")),
                str(d["name"]),
                str(d["driver"]),
                str(d["driver_info"]),
                bool(d["software"]),
                Facts(str(d["name"]), frozenset(d["formats"]), {str(k): int(v) for k, v in d["answers"].items()}),
            )
            for d in data["devices"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        hint = "`vmfb devices --json` makes one"
        raise PipelineError(f"is no file of device facts: {error!r}", where=where, hint=hint) from error


def known_machines() -> list[str]:
    """The names of the machines whose facts ship with this program."""
    return sorted(p.stem for p in MACHINES.glob("*.json"))


def of_machine(name: str) -> list[Device]:
    """The devices of another machine: one of `known_machines`, or the path of a file that `vmfb devices --json` wrote."""
    path = MACHINES / f"{name}.json" if name in known_machines() else Path(name)
    try:
        return from_json(json.loads(path.read_bytes()), str(path))
    except OSError as error:
        if name == "auto" or name in backends.words():
            raise PipelineError(f"{name!r} is no other machine, but devices here", hint=f"--device {name}") from error
        near = closest(name, known_machines())
        known = f"did you mean {near!r}?" if near else "`vmfb devices --known` lists names of machines;"
        hint = f"{known} or give a file of `vmfb devices --json`"
        raise PipelineError(f"cannot be read: {error.strerror}", where=str(path), hint=hint) from error
    except (ValueError, RecursionError) as error:
        raise PipelineError(f"is no file of device facts: {error}", where=str(path)) from error


def of_this_machine(cache: Cache, note: Callable[[str], None]) -> list[Device]:
    """The devices here. Asked of the drivers once, and again when drivers, device files, CPU or runtime change.

    A driver that crashes takes all its devices with it, and not the CPU: `note` is told, and it is not remembered.

    Raises PipelineError where IREE's runtime is not installed.
    """
    now, path = fingerprint(), cache.root / "devices.json"
    try:
        known = json.loads(path.read_bytes())
        if known["fingerprint"] == now:
            return from_json(known["facts"], str(path))
    except (OSError, ValueError, KeyError, TypeError, PipelineError):
        pass  # not asked yet, or by another version of this program
    with disk_errors("the folder for temporary files"), tempfile.TemporaryDirectory() as name:
        found: list[Device] = []
        failed = False
        for driver in devices.known_drivers():
            try:
                found += devices.find(Path(name), [driver])
            except PipelineError as error:
                if not found:  # the CPU is the first, and works everywhere
                    raise
                note(f"{error.what}; going on without them")
                failed = True
        if failed:
            return found
    with suppress(PipelineError):  # no cache that can be written to: they are asked again next time
        write(path, json.dumps({"fingerprint": now, "facts": to_json(found)}).encode())
    return found
