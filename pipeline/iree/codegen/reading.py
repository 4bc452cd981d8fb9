"""What must be known of a model before its front half is compiled, read once from IREE's `input` phase and remembered."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from iree.compiler import ir

from pipeline.cache import LocalCache
from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes, sha256_file
from pipeline.iree import mlir, toolchain
from pipeline.iree.codegen import convolutions
from pipeline.iree.mlir import operations

# By default IREE turns double into float, and tells nobody: seconds since 1970 are then good to two minutes.
KEEP_FLOAT64 = "--iree-input-demote-f64-to-f32=false"
_OPERATORS = {"score_threshold": "NonMaxSuppression"}


@dataclass(frozen=True)
class Reading:
    """A model's `largest_matrix`, whether it computes in `float64`, and the `conditions` on its data that its lowering makes.

    A condition has the name of the node that makes it, empty if that is unknown.
    """

    largest_matrix: float | None
    float64: bool
    conditions: Mapping[str, str]

    def flags(self, given: Sequence[str]) -> tuple[str, ...]:
        """The flags that the model needs for its front half besides those `given`."""
        said = {flag.split("=")[0] for flag in given}
        own = (KEEP_FLOAT64,) if self.float64 and KEEP_FLOAT64.split("=")[0] not in said else ()
        return (*convolutions.flags(self.largest_matrix, given), *own)

    def require_unconditional(self, where: str) -> None:
        """Raise PipelineError where the lowering is right for some data only: no test data could show that it is right."""
        for condition, node in self.conditions.items():
            operator = next((f"onnx.{name}" for word, name in _OPERATORS.items() if word in condition), "an operator")
            called = f" (node {node!r})" if node else ""
            raise PipelineError(
                f"{operator}{called} is compiled for some data only, and fails for other: {condition!r} is checked when it runs",
                where=where,
                hint="compute this part outside the model: cut the graph before it and name what it takes as outputs",
            )


def read(source: Path, folder: Path, cache: LocalCache) -> Reading:
    """The reading of the model at `source`. Raises CompilerRefusedError for one that IREE does not take; logs in `folder`."""
    files = (source, Path(__file__), Path(convolutions.__file__))
    key = ["reading", *map(sha256_file, files), toolchain.digest()]
    found = json.loads(cache.remember(sha256_bytes(json.dumps(key).encode()), lambda: _read(source, folder)))
    return Reading(found["largest_matrix"], found["float64"], found["conditions"])


def _read(source: Path, folder: Path) -> bytes:
    with mlir.opened(source) as module:
        float64 = _has_float64(module)
    output = folder / "read.mlirbc"
    step = ["--compile-to=input", "--emit-mlir-bytecode", *([KEEP_FLOAT64] if float64 else [])]
    toolchain.iree_compile(source, output, step, folder / "read.log")
    with mlir.opened(output) as module:
        reading = Reading(convolutions.largest_matrix(module), float64, _conditions(module))
    output.unlink()
    return json.dumps(asdict(reading)).encode()


# What makes a tensor of a number of Python's, which PyTorch writes as a double whatever it is computed with.
_NUMBERS = ("torch.vtensor.literal", "torch.aten.full", "torch.aten.scalar_tensor", "torch.prim.NumToTensor.Scalar")


def _is_number(value: ir.Value) -> bool:
    owner = value.owner
    return str(value.type) == "!torch.vtensor<[],f64>" and not isinstance(owner, ir.Block) and owner.name in _NUMBERS


def _has_float64(module: ir.Module) -> bool:
    """Whether the model itself has a tensor of doubles. (Scalars are attributes; what lowering adds may be demoted.)"""
    found = False

    def visit(operation: ir.Operation) -> ir.WalkResult:
        nonlocal found
        types = (str(value.type) for value in (*operation.operands, *operation.results) if not _is_number(value))
        found = found or any("tensor<" in text and "f64>" in text for text in types)
        return ir.WalkResult.INTERRUPT if found else ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    return found


def operators(source: Path) -> list[str]:
    """The ONNX operators of the imported model at `source`, in order, each once."""
    with mlir.opened(source) as module:
        names = [str(ir.StringAttr(o.attributes["name"]).value) for o in operations(module, "torch.operator")]
    return list(dict.fromkeys(names))


_SIZES = ("hal.buffer_view.dim", "tensor.dim")


def _depends_on_inputs(operation: ir.Operation) -> bool:
    """Whether an argument of a function or a branch reaches `operation`, and not only constants and sizes.

    Sizes have a range that consumers check, and both ends of it are verified.
    """
    seen: set[int] = set()
    waiting = [operation]
    while waiting:
        for operand in waiting.pop().operands:
            owner = operand.owner
            if not isinstance(owner, ir.Block) and owner.name in _SIZES:
                continue
            if isinstance(owner, ir.Block):
                return True
            if hash(owner) not in seen:
                seen.add(hash(owner))
                waiting.append(owner.operation)
    return False


def _conditions(module: ir.Module) -> dict[str, str]:
    """What is asserted of data, outside kernels: what kernels assert, such as indices in range, ONNX demands of its users."""
    found: dict[str, str] = {}
    for operation in operations(module, "cf.assert"):
        parent = operation.parent
        inside = parent is not None and parent.name.startswith("linalg.")
        if not inside and _depends_on_inputs(operation):
            found.setdefault(str(ir.StringAttr(operation.attributes["msg"]).value), mlir.node(operation))
    return found
