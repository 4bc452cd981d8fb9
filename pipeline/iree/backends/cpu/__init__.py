"""The CPU: machine code in ELF files that IREE's runtime loads itself, for several architectures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline import platforms
from pipeline.iree import attributes
from pipeline.iree.backends.base import Backend, Corrections, Emulation
from pipeline.iree.backends.cpu import elf
from pipeline.iree.device import Device
from pipeline.iree.gates import Gate, GateError
from pipeline.iree.spaces import Place, Space

if TYPE_CHECKING:
    from iree.compiler import ir

# Architectures by the number that an ELF file has for them (e_machine, in its bytes 18 and 19).
_MACHINES: Mapping[int, str] = {62: "x86_64", 183: "arm_64", 243: "riscv_64", 40: "arm_32", 3: "x86_32"}
_MACHINES_HERE: Mapping[str, str] = {
    "x86_64": "x86_64",
    "AMD64": "x86_64",
    "aarch64": "arm_64",
    "arm64": "arm_64",
    "riscv64": "riscv_64",
    "ARM64": "arm_64",
}
_GENERAL = (
    "--iree-hal-target-device=local",
    "--iree-hal-local-target-device-backends=llvm-cpu",
    "--iree-llvmcpu-debug-symbols=false",
)
_X86_64, _ARM_64, _RISCV_64 = "embedded-elf-x86_64", "embedded-elf-arm_64", "embedded-elf-riscv_64"
_RV64GC = (
    "--iree-llvmcpu-target-triple=riscv64-unknown-unknown-eabi-elf",
    "--iree-llvmcpu-target-abi=lp64d",
    "--iree-llvmcpu-target-cpu=generic-rv64",
    "--iree-llvmcpu-target-cpu-features=+m,+a,+f,+d,+c",
)

_NARROWEST = 16  # bytes of a vector, where nothing else is said
_WIDEST = 64  # of AVX-512, by which x86-64 has twice as many registers

# Every query the runtime of IREE 3.13 answers (runtime/src/iree/schemas/cpu_feature_bits.inl).
QUERIES: Mapping[str, frozenset[str]] = {
    "hal.cpu": frozenset(
        """sse3 ssse3 sse4.1 sse4.2 sse4a avx fma fma4 xop f16c avx2 avx512f avx512cd avx512vl avx512dq avx512bw
        avx512ifma avx512vbmi avx512vpopcntdq avx512vnni avx512vbmi2 avx512bitalg avx512bf16 avx512fp16
        amx-tile amx-int8 amx-bf16
        fp-armv8 lse lse128 fullfp16 fp16fml dotprod i8mm bf16 sve sve2 sve2p1 sve2-bitperm f32mm f64mm
        sme sme2 sme2p1 sme-f16f16 sme-f64f64 sme-i16i64
        v""".split()
    ),
}

# CPU features without a query: what x86-64 has, what every CPU with AVX2 has that was ever made, for Arm what all have and a
# register that is left alone, and for RISC-V what is in rv64gc.
_IMPLIED = frozenset(
    """cmov cx8 fxsr mmx sse sse2 x87 64bit cx16 sahf popcnt crc32 xsave bmi bmi2 lzcnt movbe evex512
    neon reserve-x18 m a f d c""".split()
)


def cpu_gates(features: str) -> tuple[Gate, ...]:
    """The gates of an llvm-cpu target from its `cpu_features` (`+avx,+avx2,…`).

    Raises GateError for a feature that the runtime has no query for and that no queried one brings along.
    """
    names = [f.removeprefix("+") for f in features.split(",") if f.startswith("+")]
    if unknown := sorted(set(names) - QUERIES["hal.cpu"] - _IMPLIED):
        raise GateError(
            f"its code may use {', '.join(unknown)}, for which IREE's runtime has no query: take a level that all have"
        )
    return tuple(sorted(Gate("hal.cpu", name, "==", (1,)) for name in names if name in QUERIES["hal.cpu"]))


class Cpu(Backend):
    """The CPU, with IREE's LLVM code generation."""

    name = "llvm-cpu"
    formats: ClassVar[Mapping[str, str]] = {
        _X86_64: "x86-64 CPUs",
        _ARM_64: "64-bit Arm CPUs",
        _RISCV_64: "64-bit RISC-V CPUs",
    }
    rank = 100
    hal_device = "local"
    any_device = '#hal.device.target<"local", [#hal.executable.target<"llvm-cpu", "embedded-elf-x86_64">]> : !hal.device'
    is_slow_to_generate = True
    only_chooses_tiles = True
    takes_tuning_specs = True
    # The runtime learns what a CPU has when it makes its first executable; until then every query of hal.cpu answers 0.
    warm_ups: ClassVar[Mapping[str, tuple[str, ...]]] = {
        _X86_64: (*_GENERAL, "--iree-llvmcpu-target-cpu=x86-64"),
        _ARM_64: (*_GENERAL, "--iree-llvmcpu-target-triple=aarch64-unknown-unknown-eabi-elf"),
        _RISCV_64: (*_GENERAL, *_RV64GC),
    }
    emulations: ClassVar[Mapping[str, Emulation]] = {
        _ARM_64: Emulation(
            "local-sync",
            "qemu-aarch64-static",
            ("max", "neoverse-n1", "cortex-a72"),
            "dpkg --add-architecture arm64; apt-get update; apt-get install qemu-user-static libc6:arm64 libstdc++6:arm64",
            "manylinux_2_28_aarch64",
            "iree_base_runtime-3.13.0-cp311-cp311-manylinux_2_27_aarch64.manylinux_2_28_aarch64.whl",
            "e09a3505f2c4d00f33518e668b4e9830c1569cad5ffa9f2a3b985b888ff2815a",
        ),
        _X86_64: Emulation(
            "local-sync",
            "qemu-x86_64-static",
            ("Haswell", "Nehalem"),
            "dpkg --add-architecture amd64; apt-get update; apt-get install qemu-user-static libc6:amd64 libstdc++6:amd64",
            "manylinux_2_28_x86_64",
            "iree_base_runtime-3.13.0-cp311-cp311-manylinux_2_28_x86_64.whl",
            "4ecb03d5a33989d765eaa8bf1fe6199a937c88c1004e56c85714532cd95934fa",
        ),
    }
    queries = QUERIES
    driver = "local-task"
    absent = "the build had no CPU of its architecture"
    words = ("local", "local-task")
    is_cpu = True
    profiled = "host-execution,executable-metadata"  # it refuses the events of devices that have a clock of their own

    def flags(self, device: str) -> list[str]:
        return [*_GENERAL, f"--iree-llvmcpu-target-cpu={device}"]

    def corrections(self) -> Corrections:
        from pipeline.iree.backends.cpu import corrections

        return corrections

    def space(self, places: Sequence[Place], attribute: str, element_bytes: int, seconds: float) -> Space | None:
        from pipeline.iree.backends.cpu import space

        vector = re.search(r"native_vector_size = (\d+)", attribute)
        size = int(vector[1] if vector else _NARROWEST)
        registers = 16 if "x86_64" in attribute and size < _WIDEST else 32
        return space.of(places, max(1, size // element_bytes), registers, seconds)

    def lean(self, attribute: str) -> str:
        # IREE links its C library, all of it, into every kernel before LLVM optimizes it, and another library besides. Without
        # the one, and with the other once for many kernels, serializing takes a fifth of the time.
        return attributes.with_entry(attribute, "link_embedded", "false")

    def joins(self, variant: ir.Operation) -> bool:
        from pipeline.iree.backends.cpu import objects

        return objects.joins(variant)

    def apart(self, data: bytes) -> Mapping[str, bytes]:
        from pipeline.iree.backends.cpu import objects
        from pipeline.iree.toolchain import CompilerRefusedError

        try:
            return objects.apart(data)
        except objects.NotTakenApartError as error:
            raise CompilerRefusedError(f"the object file cannot be taken apart: {error}") from error

    def gates(self, attribute: str, codes: Sequence[bytes], declared: Sequence[Gate]) -> tuple[Gate, ...]:
        features = attributes.entry(attribute, "cpu_features", '"', '"')
        return tuple(sorted({*cpu_gates(features), *declared}))

    def recognize(self, head: bytes) -> str:
        if head[:4] != b"\x7fELF" or len(head) <= 20:
            return ""
        return f"embedded-elf-{_MACHINES.get(int.from_bytes(head[18:20], 'little'), 'unknown machine')}"

    def trimmed(self, code: bytes) -> bytes:
        return elf.trimmed(code)

    def formats_here(self) -> list[str]:
        machine = platforms.machine()
        return [f"embedded-elf-{_MACHINES_HERE.get(machine, machine)}"]

    def described(self, entry: Mapping[str, Any], info: Mapping[str, str]) -> dict[str, Any]:
        return {"uri": self.driver, "name": platforms.cpu_name(), "driver_info": "", "software": True}

    def ways(self, device: Device, cores: int) -> Sequence[Device]:
        # One thread without any queue, as many as there are cores (the driver's own way), and between them powers of two.
        fewer = [1 << n for n in range(1, cores.bit_length()) if 1 << n < cores]
        return [replace(device, uri="local-sync", threads=0), *(replace(device, threads=n) for n in fewer)]

    def line(self, device: Device) -> str:
        held = [name.split("::")[1] for name, value in device.facts.answers.items() if value]
        return f"{super().line(device)}, {' '.join(held)}"


BACKEND = Cpu()
