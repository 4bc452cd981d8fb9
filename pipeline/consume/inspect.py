"""What a vmfb holds, from the file alone: ours or anyone's."""

from __future__ import annotations

from collections.abc import Mapping
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
    """A segment with what its own bytes tell: an executable's `format` (empty: constant data) and Vulkan demands.

    `variants` are those whose code it is, by the file's own description. Not `fetched`: a hole in a file that was fetched for
    other devices.
    """

    segment: vmfb.Segment
    format: str
    demands: Demands | None
    variants: tuple[str, ...] = ()
    fetched: bool = True


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

    def holds(self, variant: str) -> bool:
        """Whether all code of `variant` is in the file, and not left out by a fetch for other devices."""
        return all(part.fetched for part in self.parts if variant in part.variants)

    @property
    def entries(self) -> tuple[vmfb.Export, ...]:
        """The exported functions that callers are meant to use."""
        return tuple(e for e in self.module.exports if not (e.name.startswith("__") or "$" in e.name))

    @property
    def declarations(self) -> tuple[str, ...]:
        """Names and types of those functions, where the compiler kept them."""
        return tuple(e.attributes.get("iree.abi.declaration", f"@{e.name}(…)") for e in self.entries)


def _part(segment: vmfb.Segment, data: bytes, variants: tuple[str, ...], expected: str) -> Part:
    """`expected` is the format of the code that it should be; empty where the file does not say."""
    magic = data[:4]
    if magic == b"\x7fELF" and len(data) > 20:
        machine = _ELF_MACHINES.get(int.from_bytes(data[18:20], "little"), "unknown machine")
        return Part(segment, f"embedded-elf-{machine}", None, variants)
    if magic == b"VKE1":
        try:
            return Part(segment, _FORMATS[magic], demands(data), variants)
        except MalformedError:
            return Part(segment, f"{_FORMATS[magic]} (damaged)", None, variants)
    if expected:
        is_hole = magic == bytes(4)
        return Part(segment, expected if is_hole else f"{expected} (damaged)", None, variants, not is_hole)
    return Part(segment, "", None)


def inspect(path: Path, digests: bool = True) -> Contents:
    """The contents of the vmfb at `path`. Raises PipelineError where it is none. Without `digests` large files take no time."""
    module = vmfb.read(path, digests)
    described = description.read(module, str(path))
    users: dict[int, list[Described]] = {}
    for variant in described:
        for segment in variant.segments(module):
            users.setdefault(segment.number, []).append(variant)
    parts = []
    with path.open("rb") as file:
        for segment in module.segments:
            file.seek(segment.offset)
            magic = file.read(4)
            data = magic + file.read(segment.length - 4 if magic in _FORMATS else 0) if segment.length >= 4 else b""
            used = users.get(segment.number, [])
            parts.append(_part(segment, data, tuple(d.gated.name for d in used), used[0].gated.format if used else ""))
    return Contents(path, module, tuple(parts), described)
