"""Pieces: the code of one dispatch for one executable target, generated alone, kept by key, put back into its module.

`split` takes a module of the `executable-sources` phase apart. A piece's name and key come from its content: the same
kernel has the same piece in every model. `generation` makes the code of a batch of pieces. What the host needs of one, its
work-group count above all, is its stub: `host` puts these into the module, and then the code.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from iree.compiler import ir, passmanager

from pipeline.files import sha256_bytes, sha256_file
from pipeline.iree import backends, mlir, toolchain
from pipeline.iree.codegen import lowerings
from pipeline.iree.mlir import body, operations, symbol
from pipeline.iree.targets import Target
from pipeline.iree.tuning import Lowering, kernel_of


@dataclass(frozen=True)
class Piece:
    """What is to be generated: the kernel named `symbol`, a name made of its content, for `target`.

    `changes`: what the target's tuning record says of how it is lowered.
    """

    key: str
    symbol: str
    target: Target
    changes: Lowering = ()


@dataclass(frozen=True)
class Batch:
    """Pieces of one target that are generated together: `source` holds their kernels. Can be sent to another machine.

    By the kernels' symbols: `keys` of the pieces, `names` of the dispatches for people, and `lowerings` of those that are tuned.
    """

    target: str
    backend: str
    subgroup_size: int
    keys: Mapping[str, str]
    names: Mapping[str, str]
    source: bytes
    flags: tuple[str, ...]
    generator: str
    lowerings: Mapping[str, Lowering] = field(default_factory=dict)
    tuning_spec: str = ""


@dataclass(frozen=True)
class Code:
    """A piece's code, a HAL executable of the given format, and its stub: the MLIR of the variant without code.

    `tuning`: what became of the changes that it was to be lowered by, one of `lowerings`' words; empty where there were none.
    """

    stub: str
    format: str
    mime_type: str
    seconds: float  # what it took to generate, roughly: of what its batch took, the part that its bytes are of the batch's
    data: bytes
    tuning: str = ""

    def encode(self) -> bytes:
        """As bytes, for a cache."""
        head = {"stub": self.stub, "format": self.format, "mime_type": self.mime_type, "seconds": self.seconds}
        head |= {"tuning": self.tuning} if self.tuning else {}
        return json.dumps(head, sort_keys=True).encode() + b"\n" + self.data

    @staticmethod
    def decode(data: bytes) -> Code:
        """What `encode` made."""
        head, _, code = data.partition(b"\n")
        return Code(**json.loads(head), data=code)


@functools.cache
def generator(backend: str) -> str:
    """A digest of everything but its key that makes a piece: the compiler, the backend's corrections and this code."""
    here = Path(__file__)
    files = (here, here.with_name("generation.py"), Path(mlir.__file__), Path(lowerings.__file__))
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
        entry = target.tuning.get(kernel_of(name))
        made_of = [name, target.attribute, target.subgroup_size, self._flags, generator(target.backend)]
        made_of += [target.tuning_spec] if target.tuning_spec else []
        made_of += [asdict(change) for change in entry.changes] if entry else []
        return Piece(sha256_bytes(json.dumps(made_of).encode()), name, target, entry.changes if entry else ())

    def _add(self, variant: ir.Operation) -> str:
        """Copy the kernel, named by the digest of its generic form, and return that name."""
        snippet = ir.Module.parse("hal.executable public @kernel { }")  # held: an operation does not keep its module
        with ir.InsertionPoint(self._kernels.body):
            kernel = snippet.body.operations[0].operation.clone()
        with ir.InsertionPoint(body(kernel).operations[-1]):
            copy = variant.clone()
        copy.attributes["sym_name"] = ir.StringAttr.get("code")
        called = symbol(exports_of(variant)[0])
        rename_exports(copy, "")
        text = _text(copy)
        # Half a SHA-256 is 128 bits: no two kernels that anybody writes share it.
        name = f"kernel_{sha256_bytes(text.encode())[:32]}"
        count = self._copies[name] = self._copies.get(name, -1) + 1
        if count:  # Code is told apart by its bytes, and its name is in them.
            name = f"{name}_{count}"
        kernel.attributes["sym_name"] = ir.StringAttr.get(name)
        rename_exports(copy, name)
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
        tuned = {piece.symbol: piece.changes for piece in pieces if piece.changes}
        made_by, source = generator(target.backend), mlir.to_bytes(module)
        made = (keys, names, source, self._flags, made_by, tuned, target.tuning_spec)
        return Batch(target.name, target.backend, target.subgroup_size, *made)


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


def exports_of(variant: ir.Operation) -> list[ir.Operation]:
    """The variant's functions that can be dispatched, in their order."""
    return [o.operation for o in body(variant).operations if o.operation.name == "hal.executable.export"]


def canonical(name: str, index: int) -> str:
    """What the function at this place in the kernel `name` is called."""
    return f"{name}_{index}" if index else name


def rename_exports(variant: ir.Operation, name: str) -> None:
    """Call the variant's functions `name`, `name_1`, …: their names are in the generated code."""
    for index, export in enumerate(exports_of(variant)):
        old, new = symbol(export), ir.StringAttr.get(canonical(name or "kernel", index))
        export.attributes["sym_name"] = new
        for module in operations(variant, "builtin.module"):
            for function in body(module).operations:
                if "sym_name" in function.operation.attributes and symbol(function) == old:
                    ir.SymbolTable.replace_all_symbol_uses(old, new.value, module)
                    function.operation.attributes["sym_name"] = new
