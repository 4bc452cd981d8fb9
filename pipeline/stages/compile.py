"""Compile: `model.mlirbc` → one fat `module.vmfb` for a bundle, every variant gated, read back and reachable."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pipeline.errors import PipelineError, disk_errors
from pipeline.files import fresh_folder
from pipeline.iree import toolchain
from pipeline.spec.types import Bundle, Executable
from pipeline.stages import record
from pipeline.stages.compiled import Compiled, Dropped, Piece, Variant

# linked.mlirbc lets verify make copies of the module that run one variant.
OUTPUTS = ("module.vmfb", "linked.mlirbc", "compiled.json")
# Raise when the way to compile changes: everything is then compiled again.
REVISION = 4


def options(bundle: Bundle, targets: Sequence[Executable]) -> dict[str, object]:
    """Everything but the imported model that a compiled bundle depends on, as JSON values."""
    return {
        "bundle": {"flags": bundle.flags, "on_failure": bundle.on_failure},
        "targets": [asdict(t) | {"path": "", "about": "", "gates": [str(g) for g in t.gates]} for t in targets],
        "compiler": toolchain.version(),
        "revision": REVISION,
    }


def compile_targets(source: Path, folder: Path, bundle: Bundle, targets: Sequence[Executable], twin: bool = False) -> Compiled:
    """Compile `source` for exactly `targets` into `folder`; nothing is dropped. `twin`: for the targets' twins."""
    from pipeline.iree import compiler
    from pipeline.iree.targets import resolve

    started = time.monotonic()
    resolved = [resolve(target, twin) for target in targets]
    declared = {target.name: () if twin else target.gates for target in targets}
    try:
        made = compiler.compile_module(source, folder, resolved, declared, bundle.flags)
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
        )
        for gated, target, attribute in zip(made.variants, targets, resolved, strict=True)
    )
    return Compiled(variants, (), (*made.flags, *bundle.flags), toolchain.version(), round(time.monotonic() - started, 1))


def _compile(source: Path, folder: Path, bundle: Bundle, targets: Sequence[Executable]) -> tuple[Compiled, list[Dropped]]:
    from pipeline.iree.compiler import RefusedError

    try:
        return compile_targets(source, folder, bundle, targets), []
    except RefusedError as error:
        refused = [Dropped(name, f"does not compile: {reason.what} ({reason.hint})") for name, reason in error.reasons.items()]
        if bundle.on_failure == "fail" or len(refused) == len(targets):
            reasons = "\n".join(f"{r.name} {r.reason}" for r in refused)
            hint = "`on_failure: drop` in the bundle leaves such targets out" if len(refused) < len(targets) else ""
            raise PipelineError(reasons, where=str(source), hint=hint) from error
        left = [target for target in targets if target.name not in error.reasons]
        return compile_targets(source, folder, bundle, left), refused


def run(source: Path, folder: Path, bundle: Bundle, targets: Sequence[Executable]) -> None:
    """Compile the imported model at `source` for `bundle` into `folder`: OUTPUTS and the logs of every tool run."""
    record.require_intact(source.parent)
    key = record.key([source], **options(bundle, targets))
    if record.is_current(folder, key):
        return
    with disk_errors(str(folder)), fresh_folder(folder):
        compiled, dropped = _compile(source, folder, bundle, targets)
        Compiled(compiled.variants, tuple(dropped), compiled.flags, compiled.compiler, compiled.seconds).write(
            folder / "compiled.json"
        )
        record.write_record(folder, key, OUTPUTS)
