"""One MLIR module → one vmfb with a gated variant for each target: front half, code generation, link."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes
from pipeline.iree import description, link, spirv, vmfb
from pipeline.iree.gates import Gate, Gated, GateError, cpu_gates, spirv_gates, unreachable
from pipeline.iree.targets import Target, device
from pipeline.iree.toolchain import CODEGEN_FLAGS, LINK_FLAGS, CompilerRefusedError, iree_compile

_BYTECODE = "--emit-mlir-bytecode"


class UnreachableError(PipelineError):
    """A variant that no device could ever run, in this order and with these gates."""


class FrontHalfError(PipelineError):
    """The model itself cannot be compiled: this has nothing to do with any target."""


@dataclass(frozen=True)
class Placed:
    """A dispatch's code in the file: the variant that owns the bytes and where they are."""

    dispatch: str
    owner: str
    segment: vmfb.Segment


@dataclass(frozen=True)
class Compiled:
    """A finished module: its variants in order of preference, and for each where the code of every dispatch is."""

    variants: tuple[Gated, ...]
    code: Mapping[str, tuple[Placed, ...]]
    module: vmfb.Module


def _gates(target: Target, declared: Sequence[Gate], codes: Sequence[link.Code]) -> tuple[Gate, ...]:
    if target.backend == "llvm-cpu":
        return tuple(sorted({*cpu_gates(target.cpu_features), *declared}))
    demands = spirv.Demands()
    for code in codes:
        if code.variant == target.name:
            demands = demands.merge(spirv.demands(code.data))
    return spirv_gates(demands, declared)


def _check_whole(order: Sequence[str], codes: Sequence[link.Code], where: str) -> None:
    dispatches = {code.dispatch for code in codes}
    for name in order:
        if missing := dispatches - {code.dispatch for code in codes if code.variant == name}:
            raise PipelineError(
                f"the compiler left out {name} for {len(missing)} dispatches, {sorted(missing)[0]} first", where=where
            )


def generate(source: Path, folder: Path, targets: Sequence[Target], flags: Sequence[str]) -> dict[tuple[str, str], str]:
    """Front half and code generation of `source` for `targets`: writes `generated.mlirbc` into `folder`.

    Returns the names that `link.configure` found. Raises PipelineError with the compiler's first error.
    """
    paths = {name: folder / f"{name}.mlirbc" for name in ("input", "sources", "aligned", "configured", "gated", "generated")}
    with link.opened(source) as module:
        link.set_targets(module, device(targets))
        link.save(module, paths["input"])
    step = ["--compile-to=executable-sources", _BYTECODE, *flags]
    try:
        iree_compile(paths["input"], paths["sources"], step, folder / "sources.log")
    except CompilerRefusedError as error:
        raise FrontHalfError(error.what, where=error.where, hint=error.hint) from error
    with link.opened(paths["sources"]) as module:
        link.align_loops(module)
        link.save(module, paths["aligned"])
    step = ["--compile-from=executable-sources", "--compile-to=executable-configurations", _BYTECODE, *flags]
    iree_compile(paths["aligned"], paths["configured"], step, folder / "configured.log")
    with link.opened(paths["configured"]) as module:
        names = link.configure(module, {t.name: t.subgroup_size for t in targets})
        link.save(module, paths["gated"])
    step = ["--compile-from=executable-configurations", "--compile-to=hal", _BYTECODE, *CODEGEN_FLAGS, *flags]
    iree_compile(paths["gated"], paths["generated"], step, folder / "generated.log")
    for name in ("input", "sources", "aligned", "configured", "gated"):
        paths[name].unlink()
    return names


def _gated(
    targets: Sequence[Target], declared: Mapping[str, Sequence[Gate]], codes: Sequence[link.Code], where: str
) -> tuple[Gated, ...]:
    variants = []
    for target in targets:
        try:
            variants.append(Gated(target.name, target.format, _gates(target, declared[target.name], codes)))
        except GateError as error:
            raise PipelineError(f"{target.name}: {error}", where=where) from error
    if problems := unreachable(variants):
        hint = "put the narrower target first; where both accept the same devices, narrow one's gates or keep only one"
        raise UnreachableError("\n".join(problems), where=where, hint=hint)
    return tuple(variants)


def _read_back(
    path: Path, found: Sequence[link.Code], owners: Mapping[tuple[str, str], str], variants: Sequence[Gated]
) -> Compiled:
    """Read the finished file and find every variant's code in it, by digest."""
    module = vmfb.read(path)
    segments = {segment.sha256: segment for segment in module.segments}
    code: dict[str, list[Placed]] = {variant.name: [] for variant in variants}
    for piece in found:
        segment = segments.get(sha256_bytes(piece.data))
        if segment is None:
            raise PipelineError(f"the code of {piece.variant} for {piece.dispatch} is not in the file", where=str(path))
        code[piece.variant].append(Placed(piece.dispatch, owners[piece.variant, piece.dispatch], segment))
    described = {d.gated.name: d.segments(module) for d in description.read(module, str(path))}
    if described != {name: {piece.segment for piece in pieces} for name, pieces in code.items()}:
        raise PipelineError("the file's own description of its variants is not what it holds", where=str(path))
    return Compiled(tuple(variants), {name: tuple(pieces) for name, pieces in code.items()}, module)


def compile_module(
    source: Path, folder: Path, targets: Sequence[Target], declared: Mapping[str, Sequence[Gate]], flags: Sequence[str] = ()
) -> Compiled:
    """Compile the MLIR at `source` for `targets`, in order of preference: `folder/module.vmfb`, read back and checked.

    `declared` are the gates of the specs; the rest is derived from target attributes and generated code. Also leaves
    `folder/linked.mlirbc`, from which `force_variant` makes copies that run one variant.
    """
    names = generate(source, folder, targets, flags)
    order = [target.name for target in targets]
    with link.opened(folder / "generated.mlirbc") as module:
        found = link.codes(module, names)
        if not found:
            raise PipelineError("the model has no dispatch: nothing in it computes", where=str(source))
        _check_whole(order, found, str(source))
        variants = _gated(targets, declared, found, str(source))
        owners = link.link(module, names, variants)
        link.save(module, folder / "linked.mlirbc")
    (folder / "generated.mlirbc").unlink()
    step = ["--compile-from=hal", "--compile-to=vm", _BYTECODE]
    iree_compile(folder / "linked.mlirbc", folder / "vm.mlirbc", step, folder / "vm.log")
    with link.opened(folder / "vm.mlirbc") as module:
        link.order_code(module, owners, order)
        link.save(module, folder / "ordered.mlirbc")
    iree_compile(folder / "ordered.mlirbc", folder / "module.vmfb", ["--compile-from=vm", *LINK_FLAGS], folder / "module.log")
    for name in ("vm", "ordered"):
        (folder / f"{name}.mlirbc").unlink()
    return _read_back(folder / "module.vmfb", found, owners, variants)


def force_variant(linked: Path, index: int, output: Path) -> None:
    """From a `linked.mlirbc`, a vmfb that runs variant `index` without asking the device. The code's bytes are the same."""
    forced = output.with_suffix(".mlirbc")
    with link.opened(linked) as module:
        link.force(module, index)
        link.save(module, forced)
    iree_compile(forced, output, ["--compile-from=hal", *LINK_FLAGS], output.with_suffix(".log"))
    forced.unlink()
