"""What this machine is to verification, cheaply: its CPU, its Vulkan drivers and its IREE runtime. Not the devices; only if they changed."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.files import sha256_bytes
from pipeline.iree.devices import runtime_version

_DRIVER_FOLDERS = ("/etc/vulkan/icd.d", "/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d")


def fingerprint() -> str:
    """A digest of the runtime's version, the CPU's features, and the Vulkan drivers that are installed or chosen by environment."""
    parts = [runtime_version()]
    parts += [os.environ.get(name, "") for name in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES")]
    for folder in map(Path, _DRIVER_FOLDERS):
        if folder.is_dir():
            parts += [f"{file} {file.stat().st_mtime_ns}" for file in sorted(folder.glob("*.json"))]
    cpu = Path("/proc/cpuinfo")
    if cpu.exists():
        parts += [line for line in cpu.read_text().splitlines() if line.startswith(("flags", "Features"))][:1]
    return sha256_bytes("\n".join(parts).encode())
