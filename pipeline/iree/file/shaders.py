"""The pipelines of a Vulkan executable: a FlatBuffer `VKE1` (runtime/src/iree/schemas/vulkan_executable_def.fbs in IREE 3.13)
that holds SPIR-V modules, and one pipeline for each exported function."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.iree.file.flatbuffer import MalformedError as MalformedError
from pipeline.iree.file.flatbuffer import Table, unpack

MAGIC = b"VKE1"
_HEADER = 64  # iree_flatbuffer_file_header_t: magic, u32 version, u64 size of the FlatBuffer, padding


@dataclass(frozen=True)
class Pipeline:
    """A function called `name` in the SPIR-V module `shader`, and the subgroup size that it requires, or 0."""

    name: str
    shader: memoryview
    subgroup_size: int


def pipelines(executable: bytes | memoryview) -> list[Pipeline]:
    """All pipelines of one Vulkan executable. Raises MalformedError for anything else."""
    data = memoryview(executable)
    if bytes(data[:4]) != MAGIC:
        raise MalformedError("not a Vulkan executable: the magic VKE1 is missing")
    root = Table.root(data[_HEADER : _HEADER + unpack("Q", data, 8)], MAGIC)
    shaders = [module.bytes_vector(0, 4) for module in root.tables(3)]
    found = []
    for pipeline in root.tables(0):
        ordinal = pipeline.scalar(0, "I")
        if ordinal >= len(shaders):
            raise MalformedError(f"a pipeline names shader module {ordinal} of {len(shaders)}")
        found.append(Pipeline(pipeline.string(1), shaders[ordinal], pipeline.scalar(3, "I")))
    return found
