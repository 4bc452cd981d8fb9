"""Device facts: `facts.vmfb` asks a device every query that the runtime answers; this builds it, once a compiler release.

The module travels in the package, so that facts can be had without a compiler. `python -m pipeline.iree.facts` makes it
again; a test checks that it would come out the same.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from pipeline.iree.gates import QUERIES

MODULE = Path(__file__).with_name("facts.vmfb")
NAMES = tuple(f"{category}::{key}" for category, keys in sorted(QUERIES.items()) for key in sorted(keys))

_SOURCE = (
    "func.func @unused(%a: tensor<1xf32>) -> tensor<1xf32> { %b = arith.addf %a, %a : tensor<1xf32> return %b : tensor<1xf32> }"
)


def build(output: Path) -> None:
    """Write the module to `output`: a trivial program for any Vulkan device and any x86-64 CPU, and the queries."""
    from pipeline.iree import compiler, link, mlir
    from pipeline.iree.targets import resolve
    from pipeline.iree.toolchain import LINK_FLAGS, iree_compile
    from pipeline.spec.types import Executable

    def target(name: str, backend: str, device: str) -> Executable:
        return Executable(name, Path(__file__), "", backend, device, (), {}, (), None)

    targets = [
        resolve(target("vulkan", "vulkan-spirv", "vp_android_baseline_2022")),
        resolve(target("x86-64", "llvm-cpu", "x86-64")),
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "source.mlir").write_text(_SOURCE)
        compiler.compile_module(folder / "source.mlir", folder, targets, {t.name: () for t in targets})
        with mlir.opened(folder / "linked.mlirbc") as module:
            link.append(module, link.render("facts.mlir.j2", queries=[n.split("::") for n in NAMES]))
            mlir.save(module, folder / "facts.mlirbc")
        iree_compile(folder / "facts.mlirbc", output, ["--compile-from=hal", *LINK_FLAGS], folder / "facts.log")


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else MODULE)
