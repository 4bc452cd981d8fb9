"""The devices that this program knows, for pages: which of them runs which variant, and their facts for the script that answers
the same for others."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.consume import facts
from pipeline.iree import backends
from pipeline.iree.device import Device
from pipeline.iree.gates import Gate, Gated, decide

SCRIPTS = ("machines.js", "choose.js")


@dataclass(frozen=True)
class Known:
    """A device that machines of these names have."""

    device: Device
    kind: str
    machines: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """What a device does with a file: for each variant `runs`, `fits` (its gates hold, an earlier one is taken), or nothing."""

    device: Known
    cells: tuple[str, ...]

    @property
    def runs(self) -> bool:
        """Whether it runs the file at all."""
        return "runs" in self.cells


@functools.cache
def machines() -> Mapping[str, tuple[Device, ...]]:
    """The machines whose facts ship with this program, by name, with their devices."""
    return {name: tuple(facts.of_machine(name)) for name in facts.known_machines()}


@functools.cache
def known() -> tuple[Known, ...]:
    """Each of their devices once, GPUs before CPUs, those of a kind together."""
    found: dict[str, tuple[Device, list[str]]] = {}
    for name, devices in machines().items():
        for device in devices:
            found.setdefault(_identity(device), (device, []))[1].append(name)
    rows = [Known(device, _kind(device), tuple(names)) for device, names in found.values()]
    return tuple(sorted(rows, key=lambda row: (backends.is_cpu(row.device), row.kind, row.device.title.lower())))


def _identity(device: Device) -> str:
    """What tells two devices apart; the same CPU is in many machines."""
    return json.dumps([device.title, device.driver, sorted(device.facts.formats), sorted(device.facts.answers.items())])


def _kind(device: Device) -> str:
    """What people call such devices, by the code that they take."""
    return ", ".join(backends.people(format_) for format_ in sorted(device.facts.formats))


def matrix(variants: Sequence[Gated]) -> list[tuple[str, list[Row]]]:
    """What each known device does with a file of these variants, by the kind of device."""
    rows = []
    for one in known():
        accepted = [decision.accepted for decision in decide(variants, one.device.facts)]
        first = accepted.index(True) if True in accepted else -1
        rows.append(Row(one, tuple("runs" if i == first else "fits" if fits else "" for i, fits in enumerate(accepted))))
    return [(kind, list(found)) for kind, found in itertools.groupby(rows, lambda row: row.device.kind)]


def question(files: Iterable[tuple[str, str, Sequence[Gated]]]) -> dict[str, object]:
    """Files as `choose.js` reads them: for each a title, a link and its variants, of which equal ones, and equal gates, are there
    once."""
    gates: dict[Gate, int] = {}
    variants: dict[Gated, int] = {}
    found = []
    for title, link, held in files:
        for variant in held:
            variants.setdefault(variant, len(variants))
            for gate in variant.gates:
                gates.setdefault(gate, len(gates))
        found.append({"title": title, "link": link, "variants": [variants[variant] for variant in held]})
    return {
        "gates": [[gate.query, gate.op, list(gate.values)] for gate in gates],
        "variants": [[v.name, v.format, [gates[gate] for gate in v.gates]] for v in variants],
        "files": found,
    }


@functools.cache
def script() -> bytes:
    """`machines.js`: the known machines' facts, each device once, and the queries that devices of a kind answer once for all."""
    shapes: dict[tuple[str, ...], int] = {}
    devices: dict[str, int] = {}
    names: dict[str, list[int]] = {}
    for name, found in machines().items():
        for one in facts.to_json(found)["devices"]:
            answers = one["answers"]
            shape = shapes.setdefault(tuple(answers), len(shapes))
            said = [one["name"], one["driver"], one["driver_info"], one["software"], one["formats"], shape, [*answers.values()]]
            names.setdefault(name, []).append(devices.setdefault(_compact(said), len(devices)))
    cpus = sorted(backend.driver for backend in backends.every() if backend.is_cpu)
    data = {"schema": facts.SCHEMA, "cpuDrivers": cpus, "shapes": list(shapes), "machines": names}
    listed = f"[{','.join(devices)}]"
    return f'"use strict";\nconst KNOWN = {_compact(data)};\nKNOWN.devices = {listed};\n'.encode()


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
