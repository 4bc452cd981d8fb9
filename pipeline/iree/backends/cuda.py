"""CUDA: PTX for NVIDIA GPUs, which the driver translates for the GPU at hand."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from pipeline import process
from pipeline.iree import attributes
from pipeline.iree.backends.base import Backend, Inspection
from pipeline.iree.device import Device
from pipeline.iree.gates import Gate

_MAJOR, _MINOR = "compute_capability_major", "compute_capability_minor"
_FORMAT = "cuda-nvptx-fb"


def _architecture(attribute: str) -> tuple[int, int]:
    """Major and minor number of the compute capability that code of this target attribute is for; zeros if it has none."""
    found = re.fullmatch(r"sm_(\d+)(\d)", attributes.entry(attribute, "arch", '"', '"'))
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _ptx(code: bytes) -> bytes:
    """The text in an executable, which ends in a zero; empty where it holds machine code instead."""
    return code[code.find(b".version") :].split(b"\0", 1)[0] if b".version" in code else b""


def _numbers(pattern: str, text: str) -> list[int]:
    return [0, *map(int, re.findall(pattern, text))]


class Cuda(Backend):
    """CUDA, with IREE's NVPTX code generation."""

    name = "cuda"
    formats: ClassVar[Mapping[str, str]] = {_FORMAT: "NVIDIA GPUs with CUDA"}
    rank = 10
    hal_device = "cuda"
    overrides = frozenset(["max_workgroup_memory_bytes"])
    # Every query the runtime of IREE 3.13 answers (runtime/src/iree/hal/drivers/cuda/cuda_device.c).
    queries: ClassVar[Mapping[str, frozenset[str]]] = {"cuda.device": frozenset([_MAJOR, _MINOR])}
    driver = "cuda"
    words = ("cuda",)
    absent = "the build had no NVIDIA GPU with a CUDA driver, and nothing plays one"
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

    def inspector(self) -> str:
        """NVIDIA's assembler: as pip installs it, or on the PATH."""
        spec = importlib.util.find_spec("nvidia")
        places = spec.submodule_search_locations or () if spec else ()
        installed = (shutil.which("ptxas", path=f"{place}/cuda_nvcc/bin") for place in places)
        return next(filter(None, installed), None) or shutil.which("ptxas") or ""

    def inspect(self, attribute: str, codes: Sequence[bytes], folder: Path) -> Inspection | None:
        """What NVIDIA's assembler says of the code, for its own architecture."""
        if not (tool := self.inspector()):
            return None
        major, minor = _architecture(attribute)
        arch, registers, memory, spilled = f"sm_{major}{minor}", 0, 0, 0
        for number, code in enumerate(codes):
            source, log = folder / f"{number}.ptx", folder / f"{number}.log"
            if not (text := _ptx(code)):
                return Inspection("it is no PTX that could be assembled")
            source.write_bytes(text)
            ended = process.execute([tool, "-v", f"-arch={arch}", source, "-o", os.devnull], log)
            said = log.read_text("utf-8", "replace")
            if ended.returncode:
                # With the line that it does not take: else the tool is older than the code, or broken.
                refusal = re.search(rf"{number}\.ptx, line \d+; error +: (.*)", said)
                what = refusal[1] if refusal else process.tail(log, 1).strip()
                return Inspection(f"ptxas for {arch}: {what}", wrong=bool(refusal) and "version" not in what.lower())
            registers = max(registers, *_numbers(r"Used (\d+) registers", said))
            memory = max(memory, *_numbers(r"(\d+) bytes smem", said))
            spilled += max(_numbers(r"(\d+) bytes spill stores", said)) > 0
        needs = f"at most {registers} registers, {memory} bytes of static shared memory"
        return Inspection(f"ptxas assembles every kernel for {arch} ({needs}, {spilled or 'none'} spills)")

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
