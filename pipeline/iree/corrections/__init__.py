"""Work-arounds of wrong and of slow lowerings in IREE 3.13, by IR surgery on single kernels between the compiler's phases.

One module for each kind of code. Each function here takes a `hal.executable.variant` at one phase and calls what applies to
its target. The digest of all files of this package is a part of every piece's key: a change here generates all code again.
"""

from __future__ import annotations

from pathlib import Path

from iree.compiler import ir

from pipeline.files import sha256_bytes, sha256_file
from pipeline.iree.corrections import barriers, cpu, halves, vulkan
from pipeline.iree.mlir import operations


def digest() -> str:
    """The digest of all corrections."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return sha256_bytes("".join(map(sha256_file, files)).encode())


def _is_vulkan(variant: ir.Operation) -> bool:
    return '"vulkan-spirv"' in str(variant.attributes["target"])[:60]


def _has_avx512(variant: ir.Operation) -> bool:
    return '"llvm-cpu"' in str(variant.attributes["target"])[:60] and "+avx512f" in str(variant.attributes["target"])


def _is_x86(variant: ir.Operation) -> bool:
    target = str(variant.attributes["target"])
    return '"llvm-cpu"' in target[:60] and 'target_triple = "x86_64-' in target


def _converts_halves(variant: ir.Operation) -> bool:
    """Whether the CPU has instructions that convert float16. (Every CPU with AVX-512 has.)"""
    target = str(variant.attributes["target"])
    return "+f16c" in target or "+avx512f" in target


def correct_sources(variant: ir.Operation) -> None:
    """At the `executable-sources` phase: before the compiler chooses how a kernel is lowered."""
    if _is_vulkan(variant):
        vulkan.fuse_producers(variant)
        vulkan.align_loops(variant)
        vulkan.convert_through_float(variant)


def correct_configurations(variant: ir.Operation, subgroup_size: int) -> None:
    """At `executable-configurations`: what the compiler chose. `subgroup_size` is what Vulkan code is made for."""
    for function in operations(variant, "func.func"):
        if _is_vulkan(variant):
            vulkan.configure_kernel(function, subgroup_size)
        elif _has_avx512(variant):
            cpu.widen_product(function)


def correct_translated(variant: ir.Operation) -> None:
    """At `executable-targets`: the kernels in the dialect of their back end, LLVM or SPIR-V, before they are serialized."""
    if _is_x86(variant):
        cpu.convert_through_i32(variant)
        halves.make_exact(variant, _converts_halves(variant))
    if _is_vulkan(variant):
        barriers.leave_out_idle_threads(variant)
        barriers.synchronize(variant)
