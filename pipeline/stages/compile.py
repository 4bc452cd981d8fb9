"""Compile: `model.mlirbc` → one fat `module.vmfb` for a bundle, every variant gated, read back and reachable."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from pipeline import activity
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import fresh_folder
from pipeline.iree import toolchain, tuning
from pipeline.iree.file import kernels
from pipeline.manifest.types import Identity
from pipeline.spec.types import Bundle, Executable
from pipeline.stages import identity as identities
from pipeline.stages import record
from pipeline.stages.compiled import Compiled, Dropped, Piece, Variant
from pipeline.stages.origin import Origin

OUTPUTS = ("module.vmfb", "compiled.json")
SLOWER = "slower"  # in the folder of a bundle: the model as it was imported for it alone
NOT_FASTER = "the model is not changed for speed"


def options(bundle: Bundle, targets: Sequence[Executable]) -> dict[str, object]:
    """Everything but the imported model that a compiled bundle depends on, as JSON values."""
    return {
        "bundle": {"flags": bundle.flags, "on_failure": bundle.on_failure},
        "targets": [_target_options(target) for target in targets],
        "compiler": toolchain.version(),
        "revision": record.REVISIONS["compile"],
    }


def _target_options(target: Executable) -> dict[str, object]:
    """All of a target that every file for it depends on. Its tuning record is not that: see `_tuning`."""
    found = asdict(replace(target, tuning={}))
    for name in ("tuning", "tuning_files", "record"):
        del found[name]
    return found | {"path": "", "about": "", "gates": [str(gate) for gate in target.gates]}


def _tuning(folder: Path, targets: Sequence[Executable]) -> dict[str, str]:
    """For each target the digest of what its tuning record says of the kernels of the file in `folder`."""
    path = folder / kernels.NAME
    if not path.is_file() or not any(target.tuning for target in targets):
        return {}
    named = {tuning.kernel_of(made.symbol) for kernel in kernels.read(path) for made in kernel.code.values()}
    said = {target.name: [entry for name, entry in target.tuning.items() if name in named] for target in targets}
    return {name: tuning.digest(entries) for name, entries in said.items() if entries}


def compile_targets(
    source: Path,
    folder: Path,
    bundle: Bundle,
    targets: Sequence[Executable],
    lanes: int = 0,
    narrow: int = 0,
    identity: Identity | None = None,
) -> Compiled:
    """Compile `source` for exactly `targets` into `folder`; nothing is dropped. `identity` is what the file says of itself.

    `lanes`: for the targets' twins of that subgroup size. `narrow`: what computes across a subgroup is for that size instead.
    """
    from pipeline.iree import compiler
    from pipeline.iree.targets import resolve

    started = time.monotonic()
    resolved = [resolve(target, lanes) for target in targets]
    declared = {target.name: () if lanes else target.gates for target in targets}
    other = resolve(targets[0], narrow) if narrow else None
    try:
        said = asdict(identity) if identity else None
        made = compiler.compile_module(source, folder, resolved, declared, bundle.flags, narrow=other, identity=said)
    except compiler.UnreachableError as error:
        raise PipelineError(error.what, where=str(bundle.path), hint=error.hint) from error
    variants = tuple(
        Variant(
            gated,
            target.backend,
            target.device,
            target.flags,
            attribute.attribute,
            tuple(
                Piece(p.dispatch, p.owner, p.segment.offset, p.segment.length, p.segment.sha256) for p in made.code[gated.name]
            ),
            made.tuned[gated.name],
        )
        for gated, target, attribute in zip(made.variants, targets, resolved, strict=True)
    )
    flags, seconds = (*made.flags, *bundle.flags), round(time.monotonic() - started, 1)
    return Compiled(variants, (), flags, toolchain.version(), seconds, made.flags)


def plain_flag() -> str:
    """The flag that turns off what the pipeline itself asks for, for speed."""
    from pipeline.iree.codegen import convolutions

    return f"{convolutions.FLAG}=false"


def without_optimizations(bundle: Bundle, own_flags: Sequence[str]) -> Bundle | None:
    """`bundle` with the flags that turn off those of `own_flags` that are for speed; None if there are none."""
    from pipeline.iree.codegen import convolutions

    if convolutions.FLAG not in own_flags:
        return None
    return replace(bundle, flags=(*bundle.flags, plain_flag()))


def compiled_plainly(
    source: Path, folder: Path, bundle: Bundle, targets: Sequence[Executable], identity: Identity | None = None
) -> Compiled | None:
    """The bundle once more without the pipeline's own optimizations, if there were any and the compiler takes it so."""
    from pipeline.cache import from_environment
    from pipeline.iree import compiler
    from pipeline.iree.codegen.front import front_flags

    plain = without_optimizations(bundle, front_flags(source, folder, bundle.flags, from_environment().local))
    try:
        return compile_targets(source, folder, plain, targets, identity=identity) if plain else None
    except compiler.RefusedError:
        return None


def _refused(reasons: Mapping[str, str]) -> str:
    """What the compiler says, once where it says the same of several targets."""
    groups: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        groups.setdefault(reason, []).append(name)
    return "\n".join(f"{', '.join(names)}: {what}" for what, names in groups.items())


def _front_half(
    error: PipelineError, origin: Origin, folder: Path, bundle: Bundle, targets: Sequence[Executable]
) -> PipelineError:
    from pipeline.stages import reduction  # which takes time to import

    return reduction.front_half(error, origin, folder, targets, bundle.flags)


def _with_fixed_sizes(
    error: PipelineError, origin: Origin, folder: Path, bundle: Bundle, targets: Sequence[Executable]
) -> PipelineError:
    """An error of a model with open dimensions, which says so if its code is compiled for these targets with fixed ones."""
    names = sorted({d.name for entry in origin.model.entries for d in entry.dimensions if d.min < d.max})
    if not names or not origin.can_be_reduced:
        return error
    from pipeline.importers.draws import at_one_size
    from pipeline.stages.import_ import import_entry

    activity.say("trying it with fixed sizes")
    ((source, entry),) = origin.files.items()
    inline = replace(origin, model=replace(origin.model, parameters="inline"))
    try:
        with fresh_folder(folder / "fixed"):
            fixed = replace(entry, inputs=tuple(at_one_size(entry.inputs, str(source))))
            import_entry(inline, fixed, source, folder / "fixed")
            compile_targets(folder / "fixed" / "model.mlirbc", folder / "fixed", bundle, targets)
    except PipelineError:
        return error
    named = ", ".join(target.name for target in targets)
    what = f"{error.what}\nwith fixed sizes it is compiled for {named}, not with {', '.join(names)} open"
    return PipelineError(what, where=error.where, hint=f"give the open dimensions `buckets`, or fixed sizes; {error.hint}")


def _compile(
    imported: Path, folder: Path, bundle: Bundle, targets: Sequence[Executable], origin: Origin, identity: Identity
) -> tuple[Compiled, list[Dropped]]:
    from pipeline.iree.codegen.front import FrontHalfError
    from pipeline.iree.compiler import RefusedError

    source = imported / "model.mlirbc"
    try:
        return compile_targets(source, folder, bundle, targets, identity=identity), []
    except FrontHalfError as error:
        if slower := _compiled_slower(origin, imported, folder, bundle, targets, identity):
            return slower, []
        told = _front_half(error, origin, folder, bundle, targets)
        raise _with_fixed_sizes(told, origin, folder, bundle, targets[:1]) from error
    except RefusedError as error:
        if plain := compiled_plainly(source, folder, bundle, targets, identity):
            names = ", ".join(error.reasons)
            note = f"convolutions are not compiled as matrix products: so compiled, the compiler refused {names}"
            return replace(plain, notes=(note,)), []
        if slower := _compiled_slower(origin, imported, folder, bundle, targets, identity):
            return slower, []
        stops = bundle.on_failure == "fail" or len(error.reasons) == len(targets)
        from pipeline.stages import reduction  # which takes time to import

        reasons = reduction.kernels(error.reasons, origin, source, folder, targets, bundle.flags, thorough=stops)
        if stops:
            hint = "`on_failure: drop` in the bundle leaves such targets out; " if len(reasons) < len(targets) else ""
            what = f"the compiler refuses it\n{_refused(reasons)}"
            hint += origin.hint(what)
            refused_ = [target for target in targets if target.name in error.reasons]
            told = PipelineError(what, where=str(source), hint=hint + error.hint)
            raise _with_fixed_sizes(told, origin, folder, bundle, refused_[:1]) from error
        left = [target for target in targets if target.name not in error.reasons]
        refused = [Dropped(name, f"does not compile: {reason}") for name, reason in reasons.items()]
        return compile_targets(source, folder, bundle, left, identity=identity), refused


def _compiled_slower(
    origin: Origin, imported: Path, folder: Path, bundle: Bundle, targets: Sequence[Executable], identity: Identity
) -> Compiled | None:
    """The bundle of the model without what was changed in it for speed, if anything was and the compiler takes it so."""
    from pipeline.stages.import_ import plainly

    try:
        if not (slower := plainly(origin, imported, folder / SLOWER)):
            return None
        made = compile_targets(slower / "model.mlirbc", folder, bundle, targets, identity=identity)
    except PipelineError:
        shutil.rmtree(folder / SLOWER, ignore_errors=True)
        return None
    return replace(made, notes=(f"{NOT_FASTER}: so changed, the compiler refused it",))


def imported_for(compiled: Path, imported: Path) -> Path:
    """The imported model that a bundle was compiled of: that of all, or its own."""
    return compiled / SLOWER if (compiled / SLOWER / "model.mlirbc").is_file() else imported


def run(origin: Origin, imported: Path, folder: Path, bundle: Bundle, targets: Sequence[Executable]) -> None:
    """Compile the imported model for `bundle` into `folder`: OUTPUTS and the logs of every tool run.

    `origin` is what it was imported from: what part of that does not compile is searched, for the message.
    """
    record.require_intact(imported)
    source, identity = imported / "model.mlirbc", identities.describe(origin.model, imported)

    def key() -> str:
        said = _tuning(folder, targets)  # of a file without such kernels the key is what it is without a record
        return record.key([source], identity=asdict(identity), **options(bundle, targets), **({"tuning": said} if said else {}))

    if record.is_current(folder, key()):
        return
    with disk_errors(str(folder)), fresh_folder(folder):
        compiled, dropped = _compile(imported, folder, bundle, targets, origin, identity)
        replace(compiled, dropped=tuple(dropped)).write(folder / "compiled.json")
        own = [f"{SLOWER}/{path.name}" for path in sorted((folder / SLOWER).glob("*")) if path.is_file()]
        record.write_record(folder, key(), [*OUTPUTS, *own])
