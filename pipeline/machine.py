"""What this machine is to verification, cheaply: not its devices, only whether they may have changed, and what is told of it."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import re
from pathlib import Path

from pipeline import __version__, platforms
from pipeline.files import expanded, sha256_bytes
from pipeline.iree import backends
from pipeline.iree.devices import runtime_version
from pipeline.manifest.evidence import Witness

_PATTERNS = (
    ("/etc/vulkan/icd.d", "*.json"),
    ("/usr/share/vulkan/icd.d", "*.json"),
    ("/usr/local/share/vulkan/icd.d", "*.json"),
    ("~/.local/share/vulkan/icd.d", "*.json"),
    ("/usr/lib", "libvulkan.so.1"),
    ("/usr/lib", "*/libvulkan.so.1"),
    ("/usr/lib64", "libvulkan.so.1"),
    ("/usr/local/lib", "libvulkan.so.1"),
    ("/dev", "dri/render*"),
    ("/dev", "nvidia*"),
    ("/usr/bin", "qemu-*-static"),
)
# Read whole: a GPU that was exchanged, a driver that was updated.
_TEXTS = (("/sys/class/drm", "card*/device/uevent"), ("/proc/driver/nvidia", "version"))
# Which devices and drivers the Vulkan loader and the drivers themselves show.
_VARIABLES = re.compile(r"(VK|MESA|LP|RADV|ANV)_\w+|\w+_VISIBLE_DEVICES|DRI_PRIME|GALLIUM_DRIVER")


def _found(root: str, pattern: str) -> list[Path]:
    """The files below a folder; none where this user may not look."""
    try:
        return sorted(expanded(root).glob(pattern))
    except OSError:
        return []


def fingerprint() -> str:
    """A digest of the IREE runtime's version, the CPU's features, the Vulkan loader and drivers, the variables
    that steer these, and the GPUs with their device files."""
    parts = [runtime_version(), *platforms.traits(), *backends.inspectors()]
    parts += [f"{name}={value}" for name, value in sorted(os.environ.items()) if _VARIABLES.fullmatch(name)]
    for root, pattern in _PATTERNS:
        for path in _found(root, pattern):
            with contextlib.suppress(OSError):  # a link to nothing is no driver
                is_device = root == "/dev"
                parts.append(f"{path} {os.access(path, os.R_OK | os.W_OK) if is_device else path.stat().st_mtime_ns}")
    for root, pattern in _TEXTS:
        for path in _found(root, pattern):
            with contextlib.suppress(OSError):
                parts.append(path.read_text("utf-8", "replace"))
    cpu = Path("/proc/cpuinfo")
    if cpu.exists():
        parts += [line for line in cpu.read_text("utf-8", "replace").splitlines() if line.startswith(("flags", "Features"))][:1]
    return sha256_bytes("\n".join(parts).encode())


def witness() -> Witness:
    """This machine and its programs, as evidence names them."""
    system = f"{platform.system()} {platform.release()} {platforms.machine()}"
    return Witness(f"vmfb-pipeline {__version__}", runtime_version(), system, platforms.cpu_name())


def now() -> str:
    """The time as evidence has it, UTC."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
