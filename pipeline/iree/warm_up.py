"""Code that any x86-64 CPU can load: the runtime learns what a CPU has when it makes its first executable (see gates)."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pipeline.cache import LocalCache
from pipeline.files import sha256_bytes
from pipeline.iree import link, mlir, toolchain

_SOURCE = "func.func @f(%a: tensor<1xf32>) -> tensor<1xf32> { %b = arith.addf %a, %a : tensor<1xf32> return %b : tensor<1xf32> }"
_FLAGS = (
    "--iree-hal-target-device=local",
    "--iree-hal-local-target-device-backends=llvm-cpu",
    "--iree-llvmcpu-target-cpu=x86-64",
    "--iree-llvmcpu-debug-symbols=false",
)


def code(cache: LocalCache) -> bytes:
    """An executable of the format `link.BASELINE_FORMAT`, for a file whose own CPU code all has gates."""
    return cache.remember(sha256_bytes("\n".join([_SOURCE, *_FLAGS, toolchain.digest()]).encode()), _generate)


def _generate() -> bytes:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "f.mlir").write_text(_SOURCE)
        step = ["--compile-to=hal", "--emit-mlir-bytecode", *_FLAGS]
        toolchain.iree_compile(folder / "f.mlir", folder / "f.mlirbc", step, folder / "log")
        with mlir.opened(folder / "f.mlirbc") as module:
            return link.codes(module)[0].data
