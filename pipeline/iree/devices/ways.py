"""The ways in which the runtime runs code on a device: a CPU's is run by one thread or by several, by one driver or another."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from pipeline.iree import backends, devices
from pipeline.iree.device import Device
from pipeline.manifest.evidence import DriverLatency, VariantProof

_WORTH = 0.95  # of the driver's own way, which a CPU that is shared by others may need


def cores() -> int:
    """How many threads this process may run at once."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def of(device: Device) -> list[Device]:
    """`device` in every way that there is on this machine, the driver's own first; of a device that has one way, only that."""
    return [device, *backends.of_device(device).ways(device, cores())]


def measure(
    module: Path, device: Device, function: str, inputs: Path, folder: Path, parameters: Path | None, seconds: float
) -> tuple[DriverLatency, ...]:
    """The latency of a function in each way, measured one after the other for `seconds`; none where there is but one way.

    A way that gives other bytes than the driver's own is left out.
    """
    from pipeline import arrays  # needs numpy, which choosing does not

    every = of(device)
    if len(every) == 1:
        return ()
    found: list[DriverLatency] = []
    wanted = b""
    for number, way in enumerate(every):
        name = f"way-{number}"
        ran = devices.run(module, way, function, [inputs], folder, name, parameters=parameters, seconds=seconds)
        if ran.error or not ran.latency_s:
            if number == 0:
                return ()
            continue
        given = b"".join(array.tobytes() for array in arrays.read(devices.outputs(folder, name)))
        wanted = wanted or given
        if given == wanted:
            found.append(DriverLatency(way.uri, way.threads, ran.latency_s, ran.spread_s or 0.0, ran.rounds))
    return tuple(found)


def fastest(device: Device, proofs: Iterable[VariantProof]) -> Device:
    """`device` in the way that was fastest for a variant's code, by what was seen of it, the newest first: of this very CPU
    where that was seen, else of any. In the driver's own way where nothing is known, or others are hardly faster."""
    known = [proof for proof in proofs if proof.drivers]
    here = [proof for proof in known if proof.device == device.name] or known
    said = {(one.driver, one.threads): one.latency_s for one in here[0].drivers} if here else {}
    own, *others = of(device)
    before = said.get((own.uri, own.threads))
    best = min(others, key=lambda way: said.get((way.uri, way.threads), float("inf")), default=own)
    latency = said.get((best.uri, best.threads))
    return best if before and latency and latency < _WORTH * before else own


def is_left_open(device: Device, word: str) -> bool:
    """Whether somebody who asks for a device by this word leaves the way open: who names a driver means that one."""
    return word != device.driver and word not in {way.uri for way in of(device)}


def named(device: Device, word: str) -> Device | None:
    """`device` in the way whose driver is named by `word`; None where it has no such way."""
    return next((way for way in of(device) if way.uri == word), None)
