"""The question this project grew from, answered as values: on this machine, which code of this file runs, and why."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.consume.choose import Choice, choices
from pipeline.consume.inspect import Contents
from pipeline.iree import backends, devices
from pipeline.iree.device import Device
from pipeline.iree.gates import Gated, select


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
    if not taken:
        held = ", ".join(contents.formats) or "no code at all"
        return Answer(Choice(device, (), None), (f"the file holds {held}: nothing in it can run here",))
    codes = [contents.read(part) for part in contents.parts if part.format == taken[0]]
    return Answer(Choice(device, (), taken[0]), tuple(backends.of_device(device).ungated(codes, device)))


def _warnings(choice: Choice, variants: Sequence[Gated]) -> tuple[str, ...]:
    device = choice.device
    mine = [v for v in variants if v.format in device.facts.formats]
    if choice.variant is None and (tried := select(backends.asked(variants), device.facts)):
        return (f"`vmfb` does not run it here; IREE's own tools cannot tell, and would try {tried}",)
    if choice.variant is None:
        reason = "a target for it in the bundle would help" if mine else "the file has no code of its kind"
        return (f"nothing in the file is right for this device, which refuses it when it is loaded: {reason}",)
    if backends.is_software_gpu(device):
        cpu = backends.cpu_code(v.format for v in variants)
        better = ": prefer --device local, which runs the file's CPU code" if cpu else ", which is slow"
        return (f"this is a software driver, the CPU does its work{better}",)
    better = backends.of_device(device).better(mine, choice.variant)
    return (better,) if better else ()


def explain_file(contents: Contents, found: Sequence[Device]) -> list[Answer]:
    """What each device does with a file, predicted from the file and the devices' facts."""
    if not contents.variants:
        return [_ungated(contents, device) for device in found]
    backends.require_known(contents.variants, str(contents.path))
    return explain(contents.variants, found, [v.name for v in contents.variants if contents.holds(v.name)])


def explain(variants: Sequence[Gated], found: Sequence[Device], held: Collection[str]) -> list[Answer]:
    """What each device does with these variants, of which those in `held` are here, in the order of `found`."""
    made = {id(c.device): c for c in choices(variants, found)}
    return [Answer(made[id(d)], _warnings(made[id(d)], variants), made[id(d)].variant not in (None, *held)) for d in found]


def ask(path: Path, variants: Sequence[Gated], answers: Sequence[Answer], parameters: Path | None = None) -> list[Answer]:
    """Load the file on devices of this machine, and compare its own word with the prediction.

    `parameters` is the archive of weights that it needs.

    Answers about devices whose code was not fetched stay as they are.
    """
    asked = [a for a in answers if not a.unfetched and path.exists()]
    if not asked:
        return list(answers)
    with tempfile.TemporaryDirectory() as folder:
        reports = devices.report(path, [a.choice.device for a in asked], Path(folder), parameters)
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


def lacks(formats: Collection[str]) -> list[str]:
    """What the formats of a file without gates lead people to think, and is not so."""
    held = [backend for backend in backends.every() if any(format_ in backend.formats for format_ in formats)]
    return [] if backends.cpu_code(formats) else [backend.without_cpu_code for backend in held if backend.without_cpu_code]


def machine_advice(formats: Collection[str], found: Sequence[Device]) -> list[str]:
    """What would let this machine use code of these formats, if it has devices for it that no driver here drives."""
    held = [backend for backend in backends.every() if any(format_ in backend.formats for format_ in formats)]
    return [line for backend in held for line in backend.advice(found)]
