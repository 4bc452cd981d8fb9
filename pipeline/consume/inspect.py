"""What a vmfb holds, from the file alone: ours or anyone's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.iree import description, vmfb
from pipeline.iree.description import Described
from pipeline.iree.flatbuffer import MalformedError
from pipeline.iree.gates import Gated
from pipeline.iree.spirv import Demands, demands

_FORMATS: Mapping[bytes, str] = {b"\x7fELF": "embedded-elf-x86_64", b"VKE1": "vulkan-spirv-fb"}
_ELF_MACHINES: Mapping[int, str] = {62: "x86_64", 183: "arm_64", 243: "riscv_64", 40: "arm_32", 3: "x86_32"}


@dataclass(frozen=True)
class Part:
    """A segment with what its own bytes tell: an executable's `format` (empty: constant data) and Vulkan demands."""

    segment: vmfb.Segment
    format: str
    demands: Demands | None


@dataclass(frozen=True)
class Contents:
    """A vmfb's contents. `described` are the variants of a gated file, in order; empty for a file of plain iree-compile."""

    path: Path
    module: vmfb.Module
    parts: tuple[Part, ...]
    described: tuple[Described, ...]

    @property
    def variants(self) -> tuple[Gated, ...]:
        """The variants as selection sees them."""
        return tuple(d.gated for d in self.described)

    @property
    def formats(self) -> dict[str, int]:
        """Executable format → bytes of code in it."""
        sizes: dict[str, int] = {}
        for part in self.parts:
            if part.format:
                sizes[part.format] = sizes.get(part.format, 0) + part.segment.length
        return sizes

    @property
    def code(self) -> int:
        """Bytes of code for all devices together."""
        return sum(self.formats.values())


def _part(segment: vmfb.Segment, data: bytes) -> Part:
    magic = data[:4]
    if magic == b"\x7fELF" and len(data) > 20:
        machine = _ELF_MACHINES.get(int.from_bytes(data[18:20], "little"), "unknown machine")
        return Part(segment, f"embedded-elf-{machine}", None)
    if magic == b"VKE1":
        try:
            return Part(segment, _FORMATS[magic], demands(data))
        except MalformedError:
            return Part(segment, f"{_FORMATS[magic]} (damaged, or not fetched)", None)
    return Part(segment, "", None)


def inspect(path: Path) -> Contents:
    """The contents of the vmfb at `path`. Raises PipelineError where it is none."""
    module = vmfb.read(path)
    parts = []
    with path.open("rb") as file:
        for segment in module.segments:
            file.seek(segment.offset)
            magic = file.read(4)
            file.seek(segment.offset)
            parts.append(_part(segment, file.read(segment.length if magic in _FORMATS else 0)))
    return Contents(path, module, tuple(parts), description.read(module, str(path)))


def signature(contents: Contents) -> Sequence[str]:
    """The declarations of the exported functions that callers are meant to use."""
    return [
        e.attributes.get("iree.abi.declaration", f"@{e.name}")
        for e in contents.module.exports
        if not (e.name.startswith("__") or "$" in e.name)
    ]
