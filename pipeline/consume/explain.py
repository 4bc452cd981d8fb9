"""The question this project grew from, answered as values: on this machine, which code of this file runs, and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.consume.inspect import Contents
from pipeline.errors import PipelineError
from pipeline.iree.devices import Device
from pipeline.iree.gates import Decision, Facts, decide, select

MACHINES = Path(__file__).with_name("machines")


@dataclass(frozen=True)
class Answer:
    """For one device: what it decides on each variant, and which one it runs (None: it refuses the file).

    `warnings` are about files without gates, where a device takes code that is wrong for it.
    """

    device: Device
    decisions: tuple[Decision, ...]
    selected: str | None
    warnings: tuple[str, ...]


def _ungated(contents: Contents, device: Device) -> Answer:
    """A file of plain iree-compile: a device takes whatever has its format, right for it or not."""
    taken = [f for f in device.facts.formats if f in contents.formats]
    warnings = []
    if not taken:
        held = ", ".join(contents.formats) or "no code at all"
        warnings.append(f"the file holds {held}: nothing in it can run here")
    elif device.driver == "vulkan":
        size = device.facts.answers.get("vulkan.device::subgroup_size")
        unsized = [k for p in contents.parts if p.demands for k in p.demands.unsized_subgroup_use]
        required = {s for p in contents.parts if p.demands for s in p.demands.subgroup_sizes}
        if unsized:
            warnings.append(
                f"{len(unsized)} kernels compute across a subgroup and do not say for which size; here it is {size}: "
                "if they were tuned for another, the results are wrong without any error"
            )
        if required - {size}:
            warnings.append(f"kernels require subgroups of {sorted(required)}; here the size is {size}")
        if device.software:
            warnings.append("this is a software driver: the CPU does the work, slowly, and not by CPU code of this file")
    return Answer(device, (), taken[0] if taken else None, tuple(warnings))


def explain(contents: Contents, devices: Sequence[Device]) -> list[Answer]:
    """What each of `devices` does with the file."""
    answers = []
    for device in devices:
        if not contents.variants:
            answers.append(_ungated(contents, device))
            continue
        selected = select(contents.variants, device.facts)
        warnings = []
        if selected and device.driver == "vulkan" and device.software:
            warnings.append("this is a software driver: prefer --device=local-task, which runs the file's CPU code")
        answers.append(Answer(device, decide(contents.variants, device.facts), selected, tuple(warnings)))
    return answers


def to_json(devices: Sequence[Device]) -> str:
    """The facts of devices as `pretend` reads them."""
    described = [
        {
            "name": d.name,
            "driver": d.driver,
            "driver_info": d.driver_info,
            "software": d.software,
            "formats": sorted(d.facts.formats),
            "answers": dict(sorted(d.facts.answers.items())),
        }
        for d in devices
    ]
    return json.dumps({"schema": 1, "devices": described}, indent=1)


def pretend(path: Path) -> list[Device]:
    """The devices of another machine, from a file that `to_json` wrote. Raises PipelineError for anything else."""
    try:
        data = json.loads(path.read_text())
        if data["schema"] != 1:
            raise PipelineError(f"has schema {data['schema']!r}, this program reads 1", where=str(path))
        return [
            Device(
                "",
                str(d["name"]),
                str(d["driver"]),
                str(d["driver_info"]),
                bool(d["software"]),
                Facts(str(d["name"]), frozenset(d["formats"]), {str(k): int(v) for k, v in d["answers"].items()}),
            )
            for d in data["devices"]
        ]
    except OSError as error:
        known = ", ".join(sorted(p.stem for p in MACHINES.glob("*.json")))
        raise PipelineError(
            f"cannot be read: {error.strerror}", where=str(path), hint=f"give a file of `vmfb devices --json`, or one of {known}"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        hint = "`vmfb devices --json` makes one"
        raise PipelineError(f"is no file of device facts: {error!r}", where=str(path), hint=hint) from error
