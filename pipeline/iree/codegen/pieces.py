"""Pieces: the code of one dispatch for one executable target, generated alone, kept by key, put back into its module.

`split` takes a module of the `executable-sources` phase apart. A piece's name and key come from its content: the same
kernel has the same piece in every model. `generate` makes the code of a batch of pieces in a folder of its own, on any
machine. `assemble` gives each dispatch of the module a variant without code for each target; what the host needs of it,
its work-group count above all, is the piece's stub. `insert` puts the code in when the host's part is compiled.
"""

from __future__ import annotations

import functools
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from iree.compiler import ir, passmanager

from pipeline import process
from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes, sha256_file
from pipeline.iree import backends, mlir, toolchain
from pipeline.iree.backends.base import Backend
from pipeline.iree.linking import link
from pipeline.iree.mlir import body, operations, symbol
from pipeline.iree.targets import Target, device

_BYTECODE = "--emit-mlir-bytecode"
# A batch has one core. Threads inside it would gain nothing.
_ALONE = "--mlir-disable-threading"
_PIECE_SECONDS = 5  # more patience for each piece of a batch


@dataclass(frozen=True)
class Piece:
    """What is to be generated: the kernel named `symbol`, a name made of its content, for `target`."""

    key: str
    symbol: str
    target: Target


@dataclass(frozen=True)
class Batch:
    """Pieces of one target that are generated together: `source` holds their kernels. Can be sent to another machine.

    By the kernels' symbols: `keys` of the pieces, and `names` of the dispatches for people.
    """

    target: str
    backend: str
    subgroup_size: int
    keys: Mapping[str, str]
    names: Mapping[str, str]
    source: bytes
    flags: tuple[str, ...]
    generator: str


@dataclass(frozen=True)
class Code:
    """A piece's code, a HAL executable of the given format, and its stub: the MLIR of the variant without code."""

    stub: str
    format: str
    mime_type: str
    seconds: float  # what it took to generate, roughly: of what its batch took, the part that its bytes are of the batch's
    data: bytes

    def encode(self) -> bytes:
        """As bytes, for a cache."""
        head = {"stub": self.stub, "format": self.format, "mime_type": self.mime_type, "seconds": self.seconds}
        return json.dumps(head, sort_keys=True).encode() + b"\n" + self.data

    @staticmethod
    def decode(data: bytes) -> Code:
        """What `encode` made."""
        head, _, code = data.partition(b"\n")
        return Code(**json.loads(head), data=code)


@functools.cache
def generator(backend: str) -> str:
    """A digest of everything but its key that makes a piece: the compiler, the backend's corrections and this file."""
    files = (Path(__file__), Path(mlir.__file__))
    made_of = [toolchain.digest(), backends.digest(backends.named(backend)), *map(sha256_file, files)]
    return sha256_bytes("".join(made_of).encode())


class Dispatches:
    """The dispatches of an `executable-sources` module, and their kernels under canonical names, in a module of their own."""

    def __init__(self, module: ir.Module, targets: Sequence[Target], flags: Sequence[str]) -> None:
        self._kernels = ir.Module.create()
        self._flags = tuple(flags)
        self._copies: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._names: dict[str, str] = {}
        self._doubles: set[str] = set()
        self.pieces: dict[tuple[str, str], Piece] = {}
        for executable in operations(module, "hal.executable"):
            variants = operations(executable, "hal.executable.variant")
            symbols: dict[int, str] = {}
            for target in targets:
                index = _variant_for(variants, target)
                if index not in symbols:
                    symbols[index] = self._add(variants[index])
                self.pieces[symbol(executable), target.name] = self._piece(symbols[index], target)
        passmanager.PassManager.parse("builtin.module(strip-debuginfo)").run(self._kernels.operation)

    def _piece(self, name: str, target: Target) -> Piece:
        made_of = [name, target.attribute, target.subgroup_size, self._flags, generator(target.backend)]
        return Piece(sha256_bytes(json.dumps(made_of).encode()), name, target)

    def _add(self, variant: ir.Operation) -> str:
        """Copy the kernel, named by the digest of its generic form, and return that name."""
        snippet = ir.Module.parse("hal.executable public @kernel { }")  # held: an operation does not keep its module
        with ir.InsertionPoint(self._kernels.body):
            kernel = snippet.body.operations[0].operation.clone()
        with ir.InsertionPoint(body(kernel).operations[-1]):
            copy = variant.clone()
        copy.attributes["sym_name"] = ir.StringAttr.get("code")
        called = symbol(_exports(variant)[0])
        _rename_exports(copy, "")
        text = _text(copy)
        # Half a SHA-256 is 128 bits: no two kernels that anybody writes share it.
        name = f"kernel_{sha256_bytes(text.encode())[:32]}"
        count = self._copies[name] = self._copies.get(name, -1) + 1
        if count:  # Code is told apart by its bytes, and its name is in them.
            name = f"{name}_{count}"
        kernel.attributes["sym_name"] = ir.StringAttr.get(name)
        _rename_exports(copy, name)
        self._sizes[name], self._names[name] = len(text), called
        if re.search(r"(\b|x)f64\b", text):  # and not the name of a constant, which may be a digest
            self._doubles.add(name)
        return name

    def size(self, name: str) -> int:
        """How long the kernel's text is: about in proportion to what its code takes to generate."""
        return self._sizes[name]

    def name(self, name: str) -> str:
        """What the model calls the kernel: the name of a dispatch that it is the code of."""
        return self._names[name]

    def uses_float64(self, name: str) -> bool:
        """Whether the kernel computes in float64."""
        return name in self._doubles

    def batch(self, pieces: Sequence[Piece]) -> Batch:
        """The kernels of `pieces`, which are of one target, ready to be generated anywhere."""
        target = pieces[0].target
        attribute = ir.Attribute.parse(target.attribute)
        wanted = {piece.symbol for piece in pieces}
        module = ir.Module.create()
        with ir.InsertionPoint(module.body):
            for kernel in self._kernels.body.operations:
                if symbol(kernel) in wanted:
                    (variant,) = operations(kernel.operation.clone(), "hal.executable.variant")
                    variant.attributes["target"] = attribute
        keys = {piece.symbol: piece.key for piece in pieces}
        names = {piece.symbol: self._names[piece.symbol] for piece in pieces}
        made_by = generator(target.backend)
        return Batch(target.name, target.backend, target.subgroup_size, keys, names, mlir.to_bytes(module), self._flags, made_by)


def _text(variant: ir.Operation) -> str:
    """Everything of the variant but its target: its exports and its kernels, constants included."""
    whole = {"print_generic_op_form": True, "large_elements_limit": None, "large_resource_limit": None}
    text = "".join(o.operation.get_asm(use_local_scope=True, **whole) for o in body(variant).operations)
    if "dense_resource<" in text:  # such a constant is only named there: its bytes are printed at the end of a module
        module = ir.Module.create()
        with ir.InsertionPoint(module.body):
            for inner in operations(variant, "builtin.module"):
                inner.clone()
        text += module.operation.get_asm(**whole)
    return text


def _variant_for(variants: Sequence[ir.Operation], target: Target) -> int:
    """The index of the target's own variant, or of the one that a front half for all targets made."""
    attribute = ir.Attribute.parse(target.attribute)
    return next((i for i, v in enumerate(variants) if v.attributes["target"] == attribute), 0)


def _exports(variant: ir.Operation) -> list[ir.Operation]:
    return [o.operation for o in body(variant).operations if o.operation.name == "hal.executable.export"]


def _canonical(name: str, index: int) -> str:
    return f"{name}_{index}" if index else name


def _rename_exports(variant: ir.Operation, name: str) -> None:
    """Call the variant's functions `name`, `name_1`, …: their names are in the generated code."""
    for index, export in enumerate(_exports(variant)):
        old, new = symbol(export), ir.StringAttr.get(_canonical(name or "kernel", index))
        export.attributes["sym_name"] = new
        for module in operations(variant, "builtin.module"):
            for function in body(module).operations:
                if "sym_name" in function.operation.attributes and symbol(function) == old:
                    ir.SymbolTable.replace_all_symbol_uses(old, new.value, module)
                    function.operation.attributes["sym_name"] = new


def _parts(batch: Batch, size: int) -> Iterator[Batch]:
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
        yield replace(batch, keys=keys, names=called, source=source)


def _generate_parts(batch: Batch, folder: Path, size: int) -> dict[str, bytes]:
    made: dict[str, bytes] = {}
    for number, part in enumerate(_parts(batch, size)):
        made |= generate(part, folder / str(number))
    return made


def generate(batch: Batch, folder: Path) -> dict[str, bytes]:
    """Generate the batch in `folder`, which holds the logs of it: key → encoded `Code`.

    Raises CompilerRefusedError that names the kernel which the compiler refuses, crashes on, or takes longer for than
    `patience`. The compiler does not say which of them it is, so a batch that fails is taken apart.
    """
    count = len(batch.keys)
    (kernel, *_) = batch.names.values()
    try:
        return _generate(batch, folder, patience() + _PIECE_SECONDS * count)
    except process.TimedOutError as error:
        if count > 1:
            return _generate_parts(batch, folder, 1)
        hint = f"PIPELINE_KERNEL_TIMEOUT=SECONDS gives it longer; its log is {error.where}"
        what = f"{kernel}: the compiler did not end within {patience():.0f} s"
        raise toolchain.CompilerRefusedError(what, where=error.where, hint=hint) from error
    except (toolchain.CompilerRefusedError, toolchain.CompilerCrashedError) as error:
        if count > 1:
            return _generate_parts(batch, folder, -(-count // 2))
        raise toolchain.CompilerRefusedError(f"{kernel}: {error.what}", where=error.where, hint=error.hint) from error


def patience() -> float:
    """Seconds that the compiler may take for one kernel: PIPELINE_KERNEL_TIMEOUT, or 300."""
    text = os.environ.get("PIPELINE_KERNEL_TIMEOUT") or "300"
    if not text.isdecimal() or not int(text):
        raise PipelineError(f"PIPELINE_KERNEL_TIMEOUT={text} is no number of seconds")
    return float(text)


def _generate(batch: Batch, folder: Path, timeout: float) -> dict[str, bytes]:
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    names = ("kernels", "configured", "corrected", "translated", "finished", "lean", "generated")
    paths = {name: folder / f"{name}.mlirbc" for name in names}
    flags = [_BYTECODE, _ALONE, *toolchain.CODEGEN_FLAGS, *batch.flags]

    backend = backends.named(batch.backend)
    corrections = backend.corrections()

    def compile_(source: str, from_: str, output: str, to: str) -> None:
        step = [f"--compile-from={from_}", f"--compile-to={to}", *flags]
        left = timeout - (time.monotonic() - started)
        toolchain.iree_compile(paths[source], paths[output], step, folder / f"{output}.log", max(left, 1.0))

    with mlir.parsed(batch.source) as module:
        for variant in operations(module, "hal.executable.variant"):
            corrections.correct_sources(variant)
        mlir.save(module, paths["kernels"])
    compile_("kernels", "executable-sources", "configured", "executable-configurations")
    with mlir.opened(paths["configured"]) as module:
        for variant in operations(module, "hal.executable.variant"):
            corrections.correct_configurations(variant, batch.subgroup_size)
        mlir.save(module, paths["corrected"])
    compile_("corrected", "executable-configurations", "translated", "executable-targets")
    with mlir.opened(paths["translated"]) as module:
        for variant in operations(module, "hal.executable.variant"):
            corrections.correct_translated(variant)
        mlir.save(module, paths["finished"])
        stubs = {symbol(e): _stub(e) for e in operations(module, "hal.executable")}

    def serialized(source: str) -> dict[str, Code]:
        compile_(source, "executable-targets", "generated", "hal")
        with mlir.opened(paths["generated"]) as module:
            return {symbol(e): _code(e, stubs[symbol(e)]) for e in operations(module, "hal.executable")}

    codes: dict[str, Code] = {}
    if _lean(paths["finished"], paths["lean"], backend):
        with suppress(toolchain.CompilerRefusedError, toolchain.CompilerCrashedError):  # what is wrong, the other way says
            codes = {name: code for name, code in serialized("lean").items() if backend.recognize(code.data[:64])}
    if _without(codes, paths["finished"]):
        codes |= serialized("finished")
    for path in paths.values():
        path.unlink(missing_ok=True)
    codes = {name: replace(code, data=backend.trimmed(code.data)) for name, code in codes.items()}
    rate = (time.monotonic() - started) / sum(len(code.data) for code in codes.values())
    return {key: replace(codes[n], seconds=round(len(codes[n].data) * rate, 3)).encode() for n, key in batch.keys.items()}


def _lean(finished: Path, lean: Path, backend: Backend) -> bool:
    """Write the `finished` kernels so that they are serialized lean; False where the backend has no such way."""
    with mlir.opened(finished) as module:
        for variant in (v for e in operations(module, "hal.executable") for v in operations(e, "hal.executable.variant")):
            attribute = backend.lean(str(variant.attributes["target"]))
            if not attribute:
                return False
            variant.attributes["target"] = ir.Attribute.parse(attribute)
        mlir.save(module, lean)
    return True


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


def _stubs(executable: ir.Operation, found: Mapping[str, Code], targets: Sequence[Target]) -> None:
    """Replace the executable's variants by the stubs of the code `found`, by target, each with its condition."""
    variants = ir.Module.parse(
        "".join(f'hal.executable private @"{i}" {{ {found[t.name].stub} }}' for i, t in enumerate(targets))
    )
    old = operations(executable, "hal.executable.variant")
    for target, holder in zip(targets, variants.body.operations, strict=True):
        with ir.InsertionPoint(old[0]):
            variant = operations(holder, "hal.executable.variant")[0].clone()
        variant.attributes["sym_name"] = ir.StringAttr.get(target.name)
        link.add_condition(variant, target.name)
    for variant in old:
        variant.erase()


def assemble(
    module: ir.Module, targets: Sequence[Target], pieces: Mapping[tuple[str, str], Piece], code: Mapping[str, Code]
) -> None:
    """Make the `executable-sources` module one for `targets`, with stubs for all code."""
    targets = sorted(targets, key=lambda target: target.format)
    exports: dict[str, dict[str, int]] = {}
    for executable in operations(module, "hal.executable"):
        name = symbol(executable)
        variant = operations(executable, "hal.executable.variant")[0]
        exports[name] = {symbol(export): index for index, export in enumerate(_exports(variant))}
        _stubs(executable, {t.name: code[pieces[name, t.name].key] for t in targets}, targets)
    for dispatch in operations(module, "stream.cmd.dispatch"):
        points = {(path[0], path[2]): None for path in map(_path, ir.ArrayAttr(dispatch.attributes["entry_points"]))}
        dispatch.attributes["entry_points"] = ir.ArrayAttr.get(
            [
                ir.SymbolRefAttr.get([name, target.name, _canonical(pieces[name, target.name].symbol, exports[name][export])])
                for name, export in points
                for target in targets
            ]
        )
    for variable in operations(module, "util.global"):
        if symbol(variable) == "__device_0":
            variable.attributes["initial_value"] = ir.Attribute.parse(device(targets))


def _path(reference: Any) -> list[str]:
    return list(ir.SymbolRefAttr(reference).value)


def insert(module: ir.Module, pieces: Mapping[tuple[str, str], Piece], code: Mapping[str, Code]) -> None:
    """Replace every stub in a `hal` phase module by its code: a `hal.executable.binary` named as its target."""
    for executable in operations(module, "hal.executable"):
        for stub in operations(executable, "hal.executable.variant"):
            found = code[pieces[symbol(executable), symbol(stub)].key]
            attributes = {
                "sym_name": ir.StringAttr.get(symbol(stub)),
                "sym_visibility": ir.StringAttr.get("public"),
                "format": ir.StringAttr.get(found.format),
                "mime_type": ir.StringAttr.get(found.mime_type),
                "data": ir.Attribute.parse(f'dense<"0x{found.data.hex()}"> : vector<{len(found.data)}xi8>'),
            }
            with ir.InsertionPoint(stub):
                ir.Operation.create("hal.executable.binary", attributes=attributes)
            stub.erase()
