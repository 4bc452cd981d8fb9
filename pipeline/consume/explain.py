"""The question this project grew from, answered as values: on this machine, which code of this file runs, and why."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.consume.choose import Choice, choices, is_software_gpu
from pipeline.consume.inspect import Contents
from pipeline.iree import devices
from pipeline.iree.devices import Device
from pipeline.iree.gates import Gated

_SPIRV = "vulkan-spirv-fb"


@dataclass(frozen=True)
class Answer:
    """For one device: what it decides, what is wrong or could be better, and what the module itself says.

    `reported` is the variant that the module's own function returned on the device, None where it was not asked. `bug`: the
    prediction from gates and the module differ. `unfetched`: the code it would run is not here.
    """

    choice: Choice
    warnings: tuple[str, ...] = ()
    unfetched: bool = False
    reported: str | None = None
    bug: str = ""


def _ungated(contents: Contents, device: Device) -> Answer:
    """A file of plain iree-compile: a device takes whatever has its format, right for it or not."""
    taken = [f for f in sorted(device.facts.formats) if f in contents.formats]
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
    return Answer(Choice(device, (), taken[0] if taken else None), tuple(warnings))


def _warnings(choice: Choice, variants: Sequence[Gated]) -> tuple[str, ...]:
    device = choice.device
    if choice.variant is None:
        own = any(v.format in device.facts.formats for v in variants)
        reason = "a target for it in the bundle would help" if own else "the file has no code of its kind"
        return (f"nothing in the file is right for this device, which refuses it when it is loaded: {reason}",)
    if is_software_gpu(device):
        cpu = any(v.format != _SPIRV for v in variants)
        better = ": prefer --device local, which runs the file's CPU code" if cpu else ", which is slow"
        return (f"this is a software driver, the CPU does its work{better}",)
    mine = [v.name for v in variants if v.format == _SPIRV]
    if device.driver == "vulkan" and len(mine) > 1 and choice.variant == mine[-1]:
        return ("this is the code for any Vulkan device: a target for this very GPU in the bundle would be faster",)
    return ()


def explain_file(contents: Contents, found: Sequence[Device]) -> list[Answer]:
    """What each device does with a file, predicted from the file and the devices' facts."""
    if not contents.variants:
        return [_ungated(contents, device) for device in found]
    return explain(contents.variants, found, [v.name for v in contents.variants if contents.holds(v.name)])


def explain(variants: Sequence[Gated], found: Sequence[Device], held: Collection[str]) -> list[Answer]:
    """What each device does with these variants, of which those in `held` are here, in the order of `found`."""
    made = {id(c.device): c for c in choices(variants, found)}
    return [Answer(made[id(d)], _warnings(made[id(d)], variants), made[id(d)].variant not in (None, *held)) for d in found]


def ask(path: Path, variants: Sequence[Gated], answers: Sequence[Answer]) -> list[Answer]:
    """Load the file on devices of this machine, and compare its own word with the prediction.

    Answers about devices whose code was not fetched stay as they are.
    """
    asked = [a for a in answers if not a.unfetched and path.exists()]
    if not asked:
        return list(answers)
    with tempfile.TemporaryDirectory() as folder:
        reports = devices.report(path, [a.choice.device for a in asked], Path(folder))
    compared = {id(a): _compared(a, r, [v.name for v in variants]) for a, r in zip(asked, reports, strict=True)}
    return [compared.get(id(a), a) for a in answers]


def _compared(answer: Answer, report: devices.Report, names: Sequence[str]) -> Answer:
    predicted = answer.choice.variant
    if report.error:
        if predicted is None:
            return replace(answer, reported="refuses")
        return replace(answer, bug=f"{predicted} should run here, but loading the file fails: {report.error}")
    chosen = report.selected
    said = names[chosen] if chosen is not None and 0 <= chosen < len(names) else "nothing"
    if said == (predicted or "nothing"):
        return replace(answer, reported=said)
    return replace(answer, reported=said, bug=f"predicted is {predicted or 'nothing'}, the module itself says {said}")


def machine_advice(has_gpu_code: bool, found: Sequence[Device]) -> list[str]:
    """What would let this machine use the file's code for GPUs, if it has a GPU that no driver here drives."""
    if not has_gpu_code or any(d.driver == "vulkan" and not d.software for d in found):
        return []
    nodes = [*Path("/dev").glob("dri/renderD*"), *Path("/dev").glob("nvidia[0-9]*")]
    if not nodes:
        return []
    which = ", ".join(map(str, nodes))
    return [f"there is a GPU here ({which}) without a Vulkan driver: install its driver (mesa-vulkan-drivers, or NVIDIA's)"]
