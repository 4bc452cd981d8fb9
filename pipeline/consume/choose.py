"""Which device, and which variant on it: values, so that fetching, explaining and running agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.consume import facts
from pipeline.errors import PipelineError
from pipeline.iree import backends
from pipeline.iree.backends import is_software_gpu
from pipeline.iree.device import Device
from pipeline.iree.devices import ways
from pipeline.iree.gates import Decision, Gate, Gated, GateError, decide, select
from pipeline.manifest.types import Artifact
from pipeline.plain import html_table

WORDS = ("auto", *backends.words())  # what --device means whatever files there are


@dataclass(frozen=True)
class Choice:
    """What a device does with a file: its decision on each variant, and the one it runs (None: it refuses the file)."""

    device: Device
    decisions: tuple[Decision, ...]
    variant: str | None

    def _repr_html_(self) -> str:
        """What notebooks show."""
        runs = f"runs {self.variant}" if self.variant else "refuses the file"
        decided = ((d.variant, "would do" if d.accepted else d.reason) for d in self.decisions if d.variant != self.variant)
        return html_table([(self.device.title, runs), *decided])


class Choices(list[Choice]):
    """What several devices do, the best first."""

    def _repr_html_(self) -> str:
        """What notebooks show."""
        return "".join(choice._repr_html_() for choice in self)


def gated(artifact: Artifact, where: str) -> tuple[Gated, ...]:
    """The variants of a published artifact as selection sees them. PipelineError for gates this program does not know."""
    try:
        found = tuple(Gated(v.name, v.format, tuple(Gate.parse(g) for g in v.gates)) for v in artifact.variants)
    except GateError as error:
        raise PipelineError(str(error), where=where, hint="upgrade vmfb-pipeline") from error
    backends.require_known(found, where)
    return found


def choices(variants: Sequence[Gated], devices: Sequence[Device]) -> list[Choice]:
    """What each device does, the best first: the file's order of preference decides, but a software GPU comes last."""
    order = {variant.name: place for place, variant in enumerate(variants)}
    found = [Choice(d, decide(variants, d.facts), select(variants, d.facts)) for d in devices]
    return sorted(found, key=lambda c: (c.variant is None, is_software_gpu(c.device), order.get(c.variant or "", 0)))


def worth_having(found: Sequence[Choice]) -> list[str]:
    """The variants to fetch for these devices together; those of software GPUs only if nothing else runs."""
    real = [c for c in found if c.variant and not is_software_gpu(c.device)]
    return list(dict.fromkeys(c.variant for c in real or found if c.variant))


def named(devices: Sequence[Device], name: str) -> list[Device]:
    """Those of `devices` that `name` means: one of WORDS, a URI, or a part of a device's name."""
    if name == "auto":
        return list(devices)
    if in_way := [way for device in devices if (way := ways.named(device, name))]:
        found = in_way
    elif name in WORDS:
        found = [d for d in devices if d.driver == backends.words()[name]]
    else:
        found = [d for d in devices if name and (name == d.uri or name.lower() in d.title.lower())]
    if not found:
        if name in facts.known_machines():
            hint = f"it is another machine: `vmfb explain MODEL --pretend {name}` says what that would run"
            raise PipelineError(f"there is no device {name!r} here", hint=hint)
        here = ", ".join(f"{d.uri} ({d.name})" for d in devices) or "none"
        raise PipelineError(f"there is no device {name!r} here", hint=f"`vmfb devices` lists them: {here}")
    return found


def refusal(found: Sequence[Choice]) -> str:
    """Why none of these devices runs the file, one line a device."""
    lines = []
    for choice in found:
        near = [d for d in choice.decisions if "executable format" not in d.reason]
        reasons = [f"{d.variant} {d.reason}" for d in near] or ["the file holds no code of its kind"]
        lines.append(f"{choice.device.title}: " + "; ".join(reasons))
    return "\n    ".join(lines) or "there is no device"
