"""The code of a batch of pieces, generated in a folder of its own, on any machine."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from iree.compiler import ir

from pipeline import process
from pipeline.errors import PipelineError
from pipeline.iree import backends, mlir, toolchain
from pipeline.iree.backends.base import Backend
from pipeline.iree.codegen import lowerings
from pipeline.iree.codegen.pieces import Batch, Code
from pipeline.iree.mlir import operations, symbol

_BYTECODE = "--emit-mlir-bytecode"
# A batch has one core. Threads inside it would gain nothing.
_ALONE = "--mlir-disable-threading"
_PIECE_SECONDS = 5  # more patience for each piece of a batch


def parts(batch: Batch, size: int) -> Iterator[Batch]:
    """The pieces of `batch`, in batches of at most `size`."""
    names = list(batch.keys)
    for start in range(0, len(names), size):
        part = names[start : start + size]
        with mlir.parsed(batch.source) as module:
            for kernel in list(module.body.operations):
                if symbol(kernel) not in part:
                    kernel.operation.erase()
            source = mlir.to_bytes(module)
        keys, called = ({name: names_[name] for name in part} for names_ in (batch.keys, batch.names))
        tuned = {name: changes for name, changes in batch.lowerings.items() if name in part}
        yield replace(batch, keys=keys, names=called, source=source, lowerings=tuned)


def _generate_parts(batch: Batch, folder: Path, size: int) -> dict[str, bytes]:
    made: dict[str, bytes] = {}
    for number, part in enumerate(parts(batch, size)):
        made |= generate(part, folder / str(number))
    return made


def generate(batch: Batch, folder: Path) -> dict[str, bytes]:
    """Generate the batch in `folder`, which holds the logs of it: key → encoded `Code`.

    Raises CompilerRefusedError that names the kernel which the compiler refuses, crashes on, or takes longer for than
    `patience`. The compiler does not say which of them it is, so a batch that fails is taken apart. A kernel that it refuses
    only as it is tuned is generated as it is without.
    """
    count = len(batch.keys)
    (kernel, *_) = batch.names.values()
    try:
        return generate_once(batch, folder, patience() + _PIECE_SECONDS * count)
    except process.TimedOutError as error:
        if count > 1:
            return _generate_parts(batch, folder, 1)
        if batch.lowerings:
            return _untuned(batch, folder)
        hint = f"PIPELINE_KERNEL_TIMEOUT=SECONDS gives it longer; its log is {error.where}"
        what = f"{kernel}: the compiler did not end within {patience():.0f} s"
        raise toolchain.CompilerRefusedError(what, where=error.where, hint=hint) from error
    except (toolchain.CompilerRefusedError, toolchain.CompilerCrashedError) as error:
        if count > 1:
            return _generate_parts(batch, folder, -(-count // 2))
        if batch.lowerings:
            return _untuned(batch, folder)
        raise toolchain.CompilerRefusedError(f"{kernel}: {error.what}", where=error.where, hint=error.hint) from error


def _untuned(batch: Batch, folder: Path) -> dict[str, bytes]:
    """The pieces as the compiler itself lowers them: not as they are tuned, for which it has refused them."""
    made = generate(replace(batch, lowerings={}), folder / "untuned")
    return {key: replace(Code.decode(data), tuning=lowerings.REFUSED).encode() for key, data in made.items()}


def patience() -> float:
    """Seconds that the compiler may take for one kernel: PIPELINE_KERNEL_TIMEOUT, or 300."""
    text = os.environ.get("PIPELINE_KERNEL_TIMEOUT") or "300"
    if not text.isdecimal() or not int(text):
        raise PipelineError(f"{text!r} is no number of seconds", where="PIPELINE_KERNEL_TIMEOUT")
    return float(text)


def _flags(batch: Batch, *, linked: bool = False) -> list[str]:
    return [_BYTECODE, _ALONE, *(() if linked else toolchain.CODEGEN_FLAGS), *batch.flags]


def configure(batch: Batch, folder: Path, timeout: float) -> Path:
    """The batch at the `executable-configurations` phase, where it is chosen how kernels are lowered: a file in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    source, output = folder / "kernels.mlirbc", folder / "configured.mlirbc"
    corrections = backends.named(batch.backend).corrections()
    with mlir.parsed(batch.source) as module:
        for variant in operations(module, "hal.executable.variant"):
            corrections.correct_sources(variant)
        mlir.save(module, source)
    step = ["--compile-from=executable-sources", "--compile-to=executable-configurations", *_flags(batch)]
    spec = folder / "spec.mlir"
    if batch.tuning_spec:
        spec.write_text(batch.tuning_spec, "utf-8")
        step.append(f"--iree-codegen-tuning-spec-path={spec}")
    toolchain.iree_compile(source, output, step, folder / "configured.log", timeout)
    source.unlink()
    spec.unlink(missing_ok=True)
    return output


@mlir.one_context()
def generate_once(batch: Batch, folder: Path, timeout: float) -> dict[str, bytes]:
    """Generate the batch, or raise what the compiler does: nothing is tried again. It may take `timeout` seconds."""
    found: dict[str, str] = {}
    started = time.monotonic()
    paths = {name: folder / f"{name}.mlirbc" for name in ("corrected", "translated", "finished", "lean", "generated")}
    backend = backends.named(batch.backend)
    corrections = backend.corrections()

    def left() -> float:
        return max(timeout - (time.monotonic() - started), 1.0)

    def compile_(source: str, from_: str, output: str, to: str, *, linked: bool = False) -> None:
        step = [f"--compile-from={from_}", f"--compile-to={to}", *_flags(batch, linked=linked)]
        toolchain.iree_compile(paths[source], paths[output], step, folder / f"{'together' if linked else output}.log", left())

    configured = configure(batch, folder, timeout)
    with mlir.opened(configured) as module:
        for executable in operations(module, "hal.executable"):
            (variant,) = operations(executable, "hal.executable.variant")
            if changes := batch.lowerings.get(symbol(executable)):
                found[symbol(executable)] = lowerings.apply(variant, changes)
            if not (backend.only_chooses_tiles and found.get(symbol(executable)) == lowerings.USED):
                corrections.correct_configurations(variant, batch.subgroup_size)
        mlir.save(module, paths["corrected"])
    compile_("corrected", "executable-configurations", "translated", "executable-targets")
    with mlir.opened(paths["translated"]) as module:
        for variant in operations(module, "hal.executable.variant"):
            corrections.correct_translated(variant)
        mlir.save(module, paths["finished"])
        stubs = {symbol(e): _stub(e) for e in operations(module, "hal.executable")}

    codes: dict[str, Code] = {}
    if _lean(paths["finished"], paths["lean"], backend):
        # Which way a kernel is made is no matter of the others: where one is refused, the batch is taken apart.
        with suppress(*(() if len(stubs) > 1 else (toolchain.CompilerRefusedError, toolchain.CompilerCrashedError))):
            compile_("lean", "executable-targets", "generated", "hal", linked=True)
            codes = _together(paths["generated"], stubs, backend, folder / "link.log", left())
    if _without(codes, paths["finished"]):
        compile_("finished", "executable-targets", "generated", "hal")
        with mlir.opened(paths["generated"]) as module:
            codes |= {symbol(e): _code(e, stubs[symbol(e)]) for e in operations(module, "hal.executable")}
    for path in (configured, *paths.values()):
        path.unlink(missing_ok=True)
    codes = {name: replace(code, data=backend.trimmed(code.data)) for name, code in codes.items()}
    rate = (time.monotonic() - started) / sum(len(code.data) for code in codes.values())
    made = {n: replace(c, seconds=round(len(c.data) * rate, 3), tuning=found.get(n, "")) for n, c in codes.items()}
    return {key: made[name].encode() for name, key in batch.keys.items()}


def _lean(finished: Path, lean: Path, backend: Backend) -> bool:
    """Write those of the `finished` kernels that can be serialized together; False where none can."""
    with mlir.opened(finished) as module:
        kernels = operations(module, "hal.executable")
        for kernel in kernels:
            (variant,) = operations(kernel, "hal.executable.variant")
            attribute = backend.lean(str(variant.attributes["target"]))
            if attribute and backend.joins(variant):
                variant.attributes["target"] = ir.Attribute.parse(attribute)
            else:
                kernel.erase()
        mlir.save(module, lean)
        return bool(operations(module, "hal.executable"))


def _together(generated: Path, stubs: Mapping[str, str], backend: Backend, log: Path, timeout: float) -> dict[str, Code]:
    """The code of kernels that were serialized together, by their names; without those that need a library."""
    with mlir.opened(generated) as module:
        joined = [_code(executable, "") for executable in operations(module, "hal.executable")]
    found: dict[str, Code] = {}
    for one in joined:
        objects = {name: data for name, data in backend.apart(one.data).items() if name in stubs}
        linked = toolchain.link(objects, log, timeout)
        found |= {name: replace(one, stub=stubs[name], data=data) for name, data in linked.items()}
    return found


def _without(made: Mapping[str, Code], finished: Path) -> bool:
    """Leave the kernels `made` out of those that are `finished`; False where no other is left."""
    with mlir.opened(finished) as module:
        kernels = operations(module, "hal.executable")
        done = [kernel for kernel in kernels if symbol(kernel) in made]
        for kernel in done:
            kernel.erase()
        if done:
            mlir.save(module, finished)
        return len(kernels) > len(done)


def _stub(executable: ir.Operation) -> str:
    (variant,) = operations(executable, "hal.executable.variant")
    for inner in operations(variant, "builtin.module"):
        inner.erase()
    return str(variant.get_asm(use_local_scope=True))


def _code(executable: ir.Operation, stub: str) -> Code:
    (binary,) = operations(executable, "hal.executable.binary")
    strings = {name: ir.StringAttr(binary.attributes[name]).value for name in ("format", "mime_type")}
    return Code(stub, **strings, seconds=0.0, data=memoryview(ir.DenseElementsAttr(binary.attributes["data"])).tobytes())
