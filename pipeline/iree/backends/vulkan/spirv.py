"""What generated Vulkan code demands of a device, read from the SPIR-V itself."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pipeline.iree.file import shaders
from pipeline.iree.file.shaders import MalformedError as MalformedError

_MAGIC = 0x07230203
_OP_CAPABILITY, _OP_EXECUTION_MODE = 17, 16
_MODE_LOCAL_SIZE = 17

# SPIR-V specification, section 3.2.30 "Capability": the ones that IREE's SPIR-V code generation can declare.
CAPABILITIES = {
    0: "Matrix",
    1: "Shader",
    9: "Float16",
    10: "Float64",
    11: "Int64",
    22: "Int16",
    39: "Int8",
    61: "GroupNonUniform",
    62: "GroupNonUniformVote",
    63: "GroupNonUniformArithmetic",
    64: "GroupNonUniformBallot",
    65: "GroupNonUniformShuffle",
    66: "GroupNonUniformShuffleRelative",
    67: "GroupNonUniformClustered",
    68: "GroupNonUniformQuad",
    4433: "StorageBuffer16BitAccess",
    4434: "UniformAndStorageBuffer16BitAccess",
    4435: "StoragePushConstant16",
    4448: "StorageBuffer8BitAccess",
    4449: "UniformAndStorageBuffer8BitAccess",
    4450: "StoragePushConstant8",
    5116: "BFloat16TypeKHR",
    5117: "BFloat16DotProductKHR",
    5118: "BFloat16CooperativeMatrixKHR",
    5345: "VulkanMemoryModel",
    5346: "VulkanMemoryModelDeviceScope",
    5347: "PhysicalStorageBufferAddresses",
    6016: "DotProductInputAll",
    6017: "DotProductInput4x8Bit",
    6018: "DotProductInput4x8BitPacked",
    6019: "DotProduct",
    6022: "CooperativeMatrixKHR",
}


@dataclass(frozen=True)
class Demands:
    """What one or more executables declare. Sizes are in invocations; `subgroup_sizes` are the sizes pipelines require."""

    capabilities: frozenset[str] = frozenset()
    local_size: tuple[int, int, int] = (1, 1, 1)
    invocations: int = 1
    subgroup_sizes: frozenset[int] = frozenset()
    unsized_subgroup_use: tuple[str, ...] = ()

    def merge(self, other: Demands) -> Demands:
        """What both together demand: unions, and the larger of each size."""
        x, y, z = (max(a, b) for a, b in zip(self.local_size, other.local_size, strict=True))
        return Demands(
            self.capabilities | other.capabilities,
            (x, y, z),
            max(self.invocations, other.invocations),
            self.subgroup_sizes | other.subgroup_sizes,
            self.unsized_subgroup_use + other.unsized_subgroup_use,
        )


def _module(words: memoryview) -> tuple[frozenset[str], tuple[int, int, int]]:
    code = struct.unpack(f"<{len(words) // 4}I", words[: len(words) // 4 * 4])
    if len(code) < 5 or code[0] != _MAGIC:
        raise MalformedError("a shader module is not SPIR-V")
    capabilities: set[str] = set()
    local_size = (1, 1, 1)
    at = 5
    while at < len(code):
        length, opcode = code[at] >> 16, code[at] & 0xFFFF
        if length == 0 or at + length > len(code):
            raise MalformedError(f"a SPIR-V instruction at word {at} runs past the end")
        if opcode == _OP_CAPABILITY:
            capabilities.add(CAPABILITIES.get(code[at + 1], f"capability {code[at + 1]}"))
        elif opcode == _OP_EXECUTION_MODE and code[at + 2] == _MODE_LOCAL_SIZE:
            x, y, z = (max(a, b) for a, b in zip(local_size, code[at + 3 : at + 6], strict=True))
            local_size = (x, y, z)
        elif opcode == 54:  # OpFunction: declarations are over
            break
        at += length
    return frozenset(capabilities), local_size


def demands(executable: bytes | memoryview) -> Demands:
    """The demands of one Vulkan executable. Raises MalformedError for anything else."""
    result = Demands()
    for pipeline in shaders.pipelines(executable):
        capabilities, (x, y, z) = _module(pipeline.shader)
        size = pipeline.subgroup_size
        uses_subgroups = any(c.startswith(("GroupNonUniform", "CooperativeMatrix")) for c in capabilities)
        result = result.merge(
            Demands(
                capabilities,
                (x, y, z),
                x * y * z,
                frozenset({size} if size else ()),
                (pipeline.name,) if uses_subgroups and not size else (),
            )
        )
    return result
