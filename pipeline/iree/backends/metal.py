"""Metal: shader source for Apple's GPUs, which macOS and iOS translate for the GPU at hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pipeline.iree import attributes
from pipeline.iree.backends.base import Backend

_FORMAT = "metal-msl-fb"


class Metal(Backend):
    """Metal, with IREE's SPIR-V code generation, translated to Metal's language.

    The runtime's driver answers no query at all (runtime/src/iree/hal/drivers/metal/metal_device.m): code has no gates, and
    must be right for every GPU of Apple's computers, whose subgroups differ in size.
    """

    name = "metal-spirv"
    formats: ClassVar[Mapping[str, str]] = {_FORMAT: "Apple GPUs with Metal"}
    rank = 15
    hal_device = "metal"
    overrides = frozenset("compute storage subgroup dot max_workgroup_memory_bytes".split())
    driver = "metal"
    words = ("metal",)
    absent = "Metal is on Apple's computers alone, and nothing plays it"
    without_cpu_code = "There is no CPU code in it: only an Apple GPU with Metal runs it."

    def flags(self, device: str) -> list[str]:
        return ["--iree-hal-target-device=metal", f"--iree-metal-target-platform={device}"]

    def problem(self, attribute: str) -> str:
        if attributes.entry(attribute, "subgroup", "", ",") == "none":
            return ""
        return "no query tells the size of a Metal device's subgroups: `attribute: {subgroup: none}` makes code right for all"

    def has_float64(self, attribute: str) -> bool:
        return False

    def recognize(self, head: bytes) -> str:
        return _FORMAT if head[:4] == b"MTL1" else ""


BACKEND = Metal()
