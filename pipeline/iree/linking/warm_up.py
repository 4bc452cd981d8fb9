"""Code that any device of a format can load, for backends that need some before their gates are answered (see `base`)."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from pipeline.cache import LocalCache
from pipeline.files import sha256_bytes
from pipeline.iree import backends, mlir, toolchain
from pipeline.iree.linking import link

_SOURCE = "func.func @f(%a: tensor<1xf32>) -> tensor<1xf32> { %b = arith.addf %a, %a : tensor<1xf32> return %b : tensor<1xf32> }"


def code(format_: str, cache: LocalCache) -> bytes:
    """An executable of this format that any device of it loads, for a file whose own code of the format all has gates."""
    backend = backends.of_format(format_)
    flags = backend.warm_ups[format_] if backend else ()
    key = sha256_bytes("\n".join([_SOURCE, *flags, toolchain.digest()]).encode())
    return cache.remember(key, lambda: _generate(flags))


def _generate(flags: Sequence[str]) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "f.mlir").write_text(_SOURCE)
        step = ["--compile-to=hal", "--emit-mlir-bytecode", *flags]
        toolchain.iree_compile(folder / "f.mlir", folder / "f.mlirbc", step, folder / "log")
        with mlir.opened(folder / "f.mlirbc") as module:
            return link.codes(module)[0].data
