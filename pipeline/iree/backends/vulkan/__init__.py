"""Vulkan: SPIR-V for GPUs of any vendor, and for software devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from pipeline.iree import attributes
from pipeline.iree.backends.base import Backend, Corrections
from pipeline.iree.backends.vulkan.spirv import Demands, MalformedError, demands
from pipeline.iree.device import Device
from pipeline.iree.gates import Gate, Gated, GateError
from pipeline.iree.spaces import Place, Space

_FORMAT = "vulkan-spirv-fb"
_SUBGROUP_SIZE = "vulkan.device::subgroup_size"
# Mesa's llvmpipe is asked for the width of its vectors. Asked for more it says 32 or 64 lanes, but its subgroup operations
# reach only 16 (measured with Mesa 22.3.6): what runs on such a device proves nothing.
_LLVMPIPE_BITS = (128, 256, 512)
_LLVMPIPE_LANES = 16

# Every query the runtime of IREE 3.13 answers (runtime/src/iree/hal/drivers/vulkan/logical_device.c).
QUERIES: Mapping[str, frozenset[str]] = {
    "vulkan.device": frozenset(
        ["api_version", "subgroup_size", "max_compute_workgroup_invocations"]
        + [f"max_compute_workgroup_{what}_{axis}" for what in ("size", "count") for axis in "xyz"]
    ),
    "vulkan.feature": frozenset(
        """buffer_device_address subgroup_size_control cooperative_matrix_khr storage_buffer_8bit_access
        storage_buffer_16bit_access shader_float16 shader_float64 shader_int8 shader_int16 shader_int64
        shader_integer_dot_product shader_bfloat16_type shader_bfloat16_dot_product shader_bfloat16_cooperative_matrix
        vulkan_memory_model vulkan_memory_model_device_scope""".split()
    ),
    "vulkan.cooperative_matrix": frozenset(["supported", "property_count", "supported_stages"]),
}

# SPIR-V capability -> the feature a device must have enabled. None: every Vulkan 1.3 device with compute has it, or (the
# subgroup operations beyond basic) no query answers for it, and all desktop drivers have it, and Arm's by IREE's own table.
_CAPABILITY_FEATURE: Mapping[str, str | None] = {
    "Matrix": None,
    "Shader": None,
    "Float16": "shader_float16",
    "Float64": "shader_float64",
    "Int64": "shader_int64",
    "Int16": "shader_int16",
    "Int8": "shader_int8",
    "GroupNonUniform": None,
    "GroupNonUniformVote": None,
    "GroupNonUniformArithmetic": None,
    "GroupNonUniformBallot": None,
    "GroupNonUniformShuffle": None,
    "GroupNonUniformShuffleRelative": None,
    "GroupNonUniformClustered": None,
    "GroupNonUniformQuad": None,
    "StorageBuffer16BitAccess": "storage_buffer_16bit_access",
    "StorageBuffer8BitAccess": "storage_buffer_8bit_access",
    "BFloat16TypeKHR": "shader_bfloat16_type",
    "BFloat16DotProductKHR": "shader_bfloat16_dot_product",
    "BFloat16CooperativeMatrixKHR": "shader_bfloat16_cooperative_matrix",
    "VulkanMemoryModel": "vulkan_memory_model",
    "VulkanMemoryModelDeviceScope": "vulkan_memory_model_device_scope",
    "PhysicalStorageBufferAddresses": "buffer_device_address",
    "DotProductInputAll": "shader_integer_dot_product",
    "DotProductInput4x8Bit": "shader_integer_dot_product",
    "DotProductInput4x8BitPacked": "shader_integer_dot_product",
    "DotProduct": "shader_integer_dot_product",
    "CooperativeMatrixKHR": "cooperative_matrix_khr",
}


def spirv_gates(demands: Demands, declared: Sequence[Gate]) -> tuple[Gate, ...]:
    """The gates of Vulkan code: what the code declares, and the `declared` gates of its executable target.

    A declared gate on `subgroup_size` replaces the derived one: it names devices whose default differs from the size the
    kernels require but which can be asked for it. Raises GateError where no query can guard what the code needs.
    """
    if demands.unsized_subgroup_use:
        kernels = ", ".join(demands.unsized_subgroup_use[:3])
        raise GateError(f"kernels use subgroup operations without requiring a subgroup size: {kernels}")
    unknown = sorted(demands.capabilities - _CAPABILITY_FEATURE.keys())
    if unknown:
        raise GateError(f"the SPIR-V declares {', '.join(unknown)}, for which IREE's runtime has no query")
    if len(demands.subgroup_sizes) > 1:
        raise GateError(f"kernels require different subgroup sizes: {sorted(demands.subgroup_sizes)}")
    gates = {
        Gate("vulkan.feature", feature, "==", (1,))
        for capability in demands.capabilities
        if (feature := _CAPABILITY_FEATURE[capability])
    }
    gates.add(Gate("vulkan.device", "max_compute_workgroup_invocations", ">=", (demands.invocations,)))
    for axis, size in zip("xyz", demands.local_size, strict=True):
        gates.add(Gate("vulkan.device", f"max_compute_workgroup_size_{axis}", ">=", (size,)))
    if demands.subgroup_sizes:
        gates.add(Gate("vulkan.feature", "subgroup_size_control", "==", (1,)))
        if not any(g.query == "vulkan.device::subgroup_size" for g in declared):
            gates.add(Gate("vulkan.device", "subgroup_size", "==", tuple(demands.subgroup_sizes)))
    return tuple(sorted(gates.union(declared)))


class Vulkan(Backend):
    """Vulkan, with IREE's SPIR-V code generation."""

    name = "vulkan-spirv"
    formats: ClassVar[Mapping[str, str]] = {_FORMAT: "Vulkan devices"}
    rank = 20
    hal_device = "vulkan"
    overrides = frozenset(
        """compute storage subgroup dot mma subgroup_size_choices max_workgroup_sizes max_thread_count_per_workgroup
        max_workgroup_memory_bytes max_workgroup_counts""".split()
    )
    has_twins = True
    queries = QUERIES
    driver = "vulkan"
    words = ("vulkan",)
    absent = "the build had no Vulkan device; lavapipe is one (Debian: apt-get install mesa-vulkan-drivers libvulkan1)"
    without_cpu_code = "There is no CPU code in it: where it runs, a Vulkan driver runs it, perhaps a software one."

    def flags(self, device: str) -> list[str]:
        return ["--iree-hal-target-device=vulkan", f"--iree-vulkan-target={device}"]

    def has_float64(self, attribute: str) -> bool:
        return "fp64" in attributes.entry(attribute, "compute", "", ",")

    def corrections(self) -> Corrections:
        from pipeline.iree.backends.vulkan import corrections

        return corrections

    def space(self, places: Sequence[Place], attribute: str, element_bytes: int, seconds: float) -> Space | None:
        from pipeline.iree.backends.vulkan import space

        return space.of(places)

    def gates(self, attribute: str, codes: Sequence[bytes], declared: Sequence[Gate]) -> tuple[Gate, ...]:
        found = Demands()
        for code in codes:
            found = found.merge(demands(code))
        return spirv_gates(found, declared)

    def recognize(self, head: bytes) -> str:
        return _FORMAT if head[:4] == b"VKE1" else ""

    def is_whole(self, code: bytes) -> bool:
        try:
            demands(code)
        except MalformedError:
            return False
        return True

    def computes_across_subgroups(self, code: bytes) -> bool:
        found = demands(code)
        return bool(found.subgroup_sizes) or any("GroupNonUniform" in capability for capability in found.capabilities)

    def uses_matrix_cores(self, code: bytes) -> bool:
        return "CooperativeMatrixKHR" in demands(code).capabilities

    def described(self, entry: Mapping[str, Any], info: Mapping[str, str]) -> dict[str, Any]:
        return super().described(entry, info) | {"software": info.get("type") == "cpu"}

    def subgroup_size(self, device: Device) -> int:
        return device.facts.answers.get(_SUBGROUP_SIZE, 0)

    def guises(self, device: Device) -> Sequence[Mapping[str, str]]:
        return [{"LP_NATIVE_VECTOR_WIDTH": str(bits)} for bits in _LLVMPIPE_BITS] if "llvmpipe" in device.name else []

    def same_device(self, device: Device, others: Sequence[Device]) -> list[Device]:
        same = [d for d in others if d.uri == device.uri and self.subgroup_size(d) <= _LLVMPIPE_LANES]
        sizes = {self.subgroup_size(d): replace(d, name=device.name) for d in same}  # its name tells the width
        return [sizes[size] for size in sorted(sizes)]

    def line(self, device: Device) -> str:
        kind = "software driver" if device.software else "GPU"
        return f"{super().line(device)}, {kind}, subgroup size {device.facts.answers.get(_SUBGROUP_SIZE)}"

    def note(self, device: Device) -> str:
        software = ", a software driver" if device.software else ""
        return f"subgroup size {device.facts.answers.get(_SUBGROUP_SIZE)}{software}"

    def better(self, mine: Sequence[Gated], chosen: str) -> str:
        if len(mine) > 1 and chosen == mine[-1].name:
            return "this is the code for any Vulkan device: a target for this very GPU in the bundle would be faster"
        return ""

    def ungated(self, codes: Sequence[bytes], device: Device) -> list[str]:
        size, found = self.subgroup_size(device), Demands()
        for code in codes:
            if self.is_whole(code):
                found = found.merge(demands(code))
        warnings = []
        if unsized := len(found.unsized_subgroup_use):
            warnings.append(
                f"{unsized} kernels compute across a subgroup and do not say for which size; here it is {size}: "
                "if they were tuned for another, the results are wrong without any error"
            )
        if found.subgroup_sizes - {size}:
            warnings.append(f"kernels require subgroups of {sorted(found.subgroup_sizes)}; here the size is {size}")
        if device.software:
            warnings.append("this is a software driver: the CPU does the work, slowly, and not by CPU code of this file")
        return warnings

    def advice(self, found: Sequence[Device]) -> list[str]:
        if any(d.driver == self.driver and not d.software for d in found):
            return []
        nodes = [*Path("/dev").glob("dri/renderD*"), *Path("/dev").glob("nvidia[0-9]*")]
        if not nodes:
            return []
        which = ", ".join(map(str, nodes))
        return [f"there is a GPU here ({which}) without a Vulkan driver: install its driver (mesa-vulkan-drivers, or NVIDIA's)"]


BACKEND = Vulkan()
