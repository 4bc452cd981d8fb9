"""CUDA: PTX for NVIDIA GPUs, which the driver translates for the GPU at hand."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

from pipeline.iree import attributes
from pipeline.iree.backends.base import Backend
from pipeline.iree.device import Device
from pipeline.iree.gates import Gate

_MAJOR, _MINOR = "compute_capability_major", "compute_capability_minor"


_FORMAT = "cuda-nvptx-fb"


def _architecture(attribute: str) -> tuple[int, int]:
    """Major and minor number of the compute capability that code of this target attribute is for; zeros if it has none."""
    found = re.fullmatch(r"sm_(\d+)(\d)", attributes.entry(attribute, "arch", '"', '"'))
    return (int(found[1]), int(found[2])) if found else (0, 0)


class Cuda(Backend):
    """CUDA, with IREE's NVPTX code generation."""

    name = "cuda"
    formats: ClassVar[Mapping[str, str]] = {_FORMAT: "NVIDIA GPUs with CUDA"}
    rank = 10
    hal_device = "cuda"
    # Every query the runtime of IREE 3.13 answers (runtime/src/iree/hal/drivers/cuda/cuda_device.c).
    queries: ClassVar[Mapping[str, frozenset[str]]] = {"cuda.device": frozenset([_MAJOR, _MINOR])}
    driver = "cuda"
    words = ("cuda",)
    absent = "this machine has no NVIDIA GPU with a CUDA driver, and nothing plays one"
    without_cpu_code = "There is no CPU code in it: only an NVIDIA GPU with a CUDA driver runs it."

    def flags(self, device: str) -> list[str]:
        return ["--iree-hal-target-device=cuda", f"--iree-cuda-target={device}"]

    def problem(self, attribute: str) -> str:
        # IREE 3.13 takes any number, and generates no code for those that it does not know.
        return "" if _architecture(attribute)[0] else "the compiler has no GPU of this architecture: take an older one"

    def gates(self, attribute: str, codes: Sequence[bytes], declared: Sequence[Gate]) -> tuple[Gate, ...]:
        """PTX runs on its architecture and on all later ones. A gate on a minor number is of one major number."""
        major, minor = _architecture(attribute)
        own = [Gate("cuda.device", _MAJOR, "==" if minor else ">=", (major,))]
        own += [Gate("cuda.device", _MINOR, ">=", (minor,))] if minor else []
        return tuple(sorted({*own, *declared}))

    def recognize(self, head: bytes) -> str:
        return _FORMAT if head[:4] == b"CDA1" else ""

    def subgroup_size(self, device: Device) -> int:
        return 32

    def note(self, device: Device) -> str:
        answers = (device.facts.answers.get(f"cuda.device::{key}") for key in (_MAJOR, _MINOR))
        return f"compute capability {'.'.join(map(str, answers))}"

    def line(self, device: Device) -> str:
        return f"{super().line(device)}, {self.note(device)}"


BACKEND = Cuda()
