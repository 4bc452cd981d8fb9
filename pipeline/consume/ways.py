"""How the code that was chosen is run on a CPU: by the driver, and as many threads, that were fastest for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipeline.consume.choose import Choice
from pipeline.consume.evidence import Standing
from pipeline.iree import backends
from pipeline.iree.device import Device
from pipeline.iree.devices import ways
from pipeline.manifest.evidence import VariantProof


def proofs(standing: Standing) -> list[VariantProof]:
    """What was seen of a variant where it ran right, the newest first."""
    return [seen.proof for seen in standing.right]


def suited(device: Device, asked: str, standing: Standing | None) -> Device:
    """`device` in the way that was fastest for a variant, of which `standing` is known; as it is where `asked`, the word for it,
    names a driver."""
    if standing is None or not ways.is_left_open(device, asked):
        return device
    return ways.fastest(device, proofs(standing))


def in_every(found: Sequence[Choice], asked: str) -> list[Choice]:
    """Every choice in each way in which its device runs code, the driver's own first; unchanged where `asked` names a driver."""
    return [
        replace(choice, device=way)
        for choice in found
        for way in (ways.of(_own(choice.device)) if ways.is_left_open(choice.device, asked) else [choice.device])
    ]


def _own(device: Device) -> Device:
    return replace(device, uri=device.driver, threads=0) if backends.is_cpu(device) else device
