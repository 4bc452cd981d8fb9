"""HIP: machine code for AMD GPUs on ROCm, each file of it for one architecture."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pipeline import process
from pipeline.iree import attributes
from pipeline.iree.backends.base import Backend, Inspection
from pipeline.iree.device import Device
from pipeline.iree.gates import Gate

_FORMAT = "rocm-hsaco-fb"
_CATEGORY = "hip.architecture"
# The architectures for which IREE 3.13 generates code: compiler/src/iree/compiler/Codegen/Dialect/GPU/TargetUtils/
# KnownTargets.cpp. It takes none of LLVM's generic ones (gfx11-generic and the like).
_ARCHITECTURES = frozenset("gfx908 gfx90a gfx942 gfx950 gfx1100 gfx1101 gfx1103 gfx1150 gfx1151 gfx1200 gfx1201".split())
_MEMORY, _REGISTERS = "group_segment_fixed_size", "vgpr_count"  # LLVM's names of what a kernel needs, in its notes


def _architecture(info: Mapping[str, str]) -> str:
    """What the driver says of its device, without the features of that very board (`gfx942:sramecc+:xnack-`)."""
    return info.get("gpu-arch-name", "").partition(":")[0]


class Hip(Backend):
    """ROCm, with IREE's AMDGPU code generation.

    The runtime's driver answers no query that tells two architectures apart (runtime/src/iree/hal/drivers/hip/hip_device.c),
    so a file can hold code for one. This program gives it to no other GPU; the runtime alone would try, and ROCm refuses to
    load it.
    """

    name = "rocm"
    formats: ClassVar[Mapping[str, str]] = {_FORMAT: "AMD GPUs with ROCm"}
    rank = 12
    hal_device = "hip"
    told: ClassVar[Mapping[str, frozenset[str]]] = {_CATEGORY: _ARCHITECTURES}
    driver = "hip"
    words = ("hip", "rocm")
    absent = "the build had no AMD GPU with ROCm, and nothing plays one"
    without_cpu_code = "There is no CPU code in it: only an AMD GPU of its very architecture with ROCm runs it."

    def flags(self, device: str) -> list[str]:
        return ["--iree-hal-target-device=hip", f"--iree-rocm-target={device}"]

    def problem(self, attribute: str) -> str:
        known = attributes.entry(attribute, "arch", '"', '"') in _ARCHITECTURES
        return "" if known else f"no architecture of ROCm that is known here: {', '.join(sorted(_ARCHITECTURES))}"

    def gates(self, attribute: str, codes: Sequence[bytes], declared: Sequence[Gate]) -> tuple[Gate, ...]:
        own = Gate(_CATEGORY, attributes.entry(attribute, "arch", '"', '"'), "==", (1,))
        return tuple(sorted({own, *declared}))

    def answers(self, info: Mapping[str, str]) -> dict[str, int]:
        return {f"{_CATEGORY}::{name}": int(name == _architecture(info)) for name in _ARCHITECTURES}

    def inspector(self) -> str:
        names = ("llvm-readelf", *(f"llvm-readelf-{number}" for number in range(25, 13, -1)))
        return next(filter(None, map(shutil.which, names)), None) or ""

    def inspect(self, attribute: str, codes: Sequence[bytes], folder: Path) -> Inspection | None:
        """What the notes of the machine code say: for which architecture it is, and what it needs."""
        if not (tool := self.inspector()):
            return None
        arch = attributes.entry(attribute, "arch", '"', '"')
        limit = attributes.entry(attribute, "max_workgroup_memory_bytes", "", ",")
        memory, registers = 0, 0
        for number, code in enumerate(codes):
            source, log = folder / f"{number}.hsaco", folder / f"{number}.log"
            source.write_bytes(code[code.find(b"\x7fELF") :])
            process.execute([tool, "--notes", source], log)
            said = log.read_text("utf-8", "replace")
            target = re.search(r"amdhsa\.target:.*-(gfx\w+)", said)
            if not target:
                return Inspection(f"{Path(tool).name} reads no notes in it: an older one may not know them")
            if target[1] != arch:
                return Inspection(f"a kernel is for {target[1]}, not for {arch}", wrong=True)
            memory = max([memory, *map(int, re.findall(rf"\.{_MEMORY}: +(\d+)", said))])
            registers = max([registers, *map(int, re.findall(rf"\.{_REGISTERS}: +(\d+)", said))])
        if limit.isdigit() and memory > int(limit):
            return Inspection(f"a kernel needs {memory} bytes of shared memory; {arch} has {limit}", wrong=True)
        needs = f"at most {registers} vector registers, {memory} bytes of shared memory"
        return Inspection(f"every kernel is machine code for {arch} ({needs})")

    def recognize(self, head: bytes) -> str:
        return _FORMAT if head[:4] == b"HIP1" else ""

    def note(self, device: Device) -> str:
        return next((key.split("::")[1] for key, value in device.facts.answers.items() if value), "of unknown architecture")

    def described(self, entry: Mapping[str, Any], info: Mapping[str, str]) -> dict[str, Any]:
        return super().described(entry, info) | {"driver_info": "ROCm"}


BACKEND = Hip()
