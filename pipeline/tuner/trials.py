"""A kernel lowered in several ways: the code of each, and one module that calls any of them on the same buffers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from iree.compiler import ir

from pipeline.files import sha256_bytes
from pipeline.iree import mlir
from pipeline.iree.codegen import host, pieces
from pipeline.iree.codegen.pieces import Batch, Code, Piece
from pipeline.iree.compiler import HOST_PASSES
from pipeline.iree.mlir import operations, symbol
from pipeline.iree.targets import Target, device
from pipeline.iree.toolchain import iree_compile, iree_opt
from pipeline.iree.tuning import Lowering
from pipeline.tuner.calls import Call
from pipeline.tuner.deadline import Deadline
from pipeline.tuner.makers import Makers

_STUB = "code"  # the name of a kernel's variant


@dataclass(frozen=True)
class Trials:
    """A kernel for one target, and how it is called. `source` is a module with it alone, in a batch of its own."""

    batch: Batch
    target: Target
    call: Call

    @property
    def kernel(self) -> str:
        """The kernel's symbol."""
        return next(iter(self.batch.keys))

    def generate(self, lowerings: Sequence[Lowering], folder: Path, makers: Makers, deadline: Deadline) -> list[Code | None]:
        """The code by each of `lowerings` (an empty one: the compiler's own); None where it does not make it in time."""
        cores = min(makers.cores, len(lowerings))
        batches = [self._copies(lowerings[start::cores], start) for start in range(cores)]
        found: list[Code | None] = [None] * len(lowerings)
        for start, (batch, made) in enumerate(zip(batches, makers.make(batches, folder, deadline), strict=True)):
            for number, key in enumerate(batch.keys.values()):
                found[start + number * cores] = Code.decode(made[key]) if key in made else None
        return found

    def _copies(self, lowerings: Sequence[Lowering], number: int) -> Batch:
        """A batch of the same kernel as often as there are `lowerings`."""
        names = [f"{self.kernel}_{number}_{index}" for index in range(len(lowerings))]
        with mlir.parsed(self.batch.source) as module:
            (kernel,) = operations(module, "hal.executable")
            for name in names:
                with ir.InsertionPoint(module.body):
                    copy = kernel.clone()
                copy.attributes["sym_name"] = ir.StringAttr.get(name)
                (variant,) = operations(copy, "hal.executable.variant")
                pieces.rename_exports(variant, name)
            kernel.erase()
            source = mlir.to_bytes(module)
        changed = {name: changes for name, changes in zip(names, lowerings, strict=True) if changes}
        keys = {name: _key(self.batch, name, changes) for name, changes in zip(names, lowerings, strict=True)}
        return replace(self.batch, keys=keys, names={name: name for name in names}, source=source, lowerings=changed)

    def module(self, codes: Sequence[Code], folder: Path) -> Path:
        """A vmfb with a function for each of `codes`, `run_0` and so on: it calls the kernel so often, with the buffers given."""
        paths = {name: folder / f"{name}.mlirbc" for name in ("calls", "host", "whole")}
        found: dict[tuple[str, str], Piece] = {}
        by_key = {}
        text = [f"util.global private @__device_0 = {device([self.target])}"]
        for number, code in enumerate(codes):
            name, key = f"trial_{number}", str(number)
            found[name, _STUB], by_key[key] = Piece(key, name, self.target), code
            text += [f"hal.executable private @{name} {{ {code.stub} }}", _function(number, name, code.stub, self.call)]
        with mlir.parsed("\n".join(text).encode()) as module:
            mlir.save(module, paths["calls"])
        iree_opt(paths["calls"], paths["host"], HOST_PASSES, (), folder / "host.log")
        with mlir.opened(paths["host"]) as module:
            host.insert(module, found, by_key)
            mlir.save(module, paths["whole"])
        iree_compile(paths["whole"], folder / "trials.vmfb", ["--compile-from=hal"], folder / "vm.log")
        for path in paths.values():
            path.unlink()
        return folder / "trials.vmfb"


def _key(batch: Batch, name: str, changes: Lowering) -> str:
    """A key of the code that a kernel has under this name, lowered so: a worker of a cluster gives code back by it."""
    made_of = ["trial", *batch.keys.values(), name, *(asdict(change) for change in changes)]
    return sha256_bytes(json.dumps(made_of).encode())


def _function(number: int, executable: str, stub: str, call: Call) -> str:
    """A function that calls the kernel `%n` times, one after the other, with the buffers of the views that it is given."""
    export = _export(stub)
    views = "".join(f", %view{i}: !hal.buffer_view" for i in range(len(call.buffers)))
    lines = [f"util.func public @run_{number}(%n: i32{views}) attributes {{iree.abi.stub}} {{"]
    lines += [f"%buffer{i} = hal.buffer_view.buffer<%view{i} : !hal.buffer_view> : !hal.buffer" for i in range(len(call.buffers))]
    lines += [f"%length{i} = arith.constant {buffer.length} : index" for i, buffer in enumerate(call.buffers)]
    lines += [f"%constant{i} = arith.constant {_signed(value)} : i32" for i, value in enumerate(call.constants)]
    lines += [f"%size{i} = arith.constant {value} : index" for i, value in enumerate(call.workload)]
    workload = f" workload([{', '.join(f'%size{i}' for i in range(len(call.workload)))}])" if call.workload else ""
    constants = f" constants([{', '.join(f'%constant{i}' for i in range(len(call.constants)))}])" if call.constants else ""
    buffers = ", ".join(f"(%buffer{i} : !hal.buffer)[%c0, %length{i}]" for i in range(len(call.buffers)))
    target = f"@{executable}::@{_STUB}::@{export}"
    lines.append(
        f"""%c0 = arith.constant 0 : index
%c1 = arith.constant 1 : index
%count = arith.index_cast %n : i32 to index
%device, %queue = hal.device.resolve on(#hal.device.affinity<@__device_0>) : !hal.device, i64
%cmd = hal.command_buffer.create device(%device : !hal.device) mode("OneShot") categories(Dispatch)
  affinity(%queue) : !hal.command_buffer
%x, %y, %z = hal.executable.calculate_workgroups device(%device : !hal.device) target({target}){workload} : index, index, index
%exe = hal.executable.lookup device(%device : !hal.device) executable(@{executable}) : !hal.executable
%function = hal.executable.lookup.function target(%exe : !hal.executable) function({target}) : i64
scf.for %i = %c0 to %count step %c1 {{
  hal.command_buffer.dispatch<%cmd : !hal.command_buffer> target(%exe : !hal.executable)[%function] workgroups([%x, %y, %z])
    {constants} bindings([{buffers}]) flags("None")
  hal.command_buffer.execution_barrier<%cmd : !hal.command_buffer> source("Dispatch|CommandRetire")
    target("CommandIssue|Dispatch") flags("None")
}}
hal.command_buffer.finalize<%cmd : !hal.command_buffer>
%none = util.null : !hal.fence
%fence = hal.fence.create device(%device : !hal.device) flags("None") : !hal.fence
hal.device.queue.execute<%device : !hal.device> affinity(%queue) wait(%none) signal(%fence) commands(%cmd) flags("None")
%forever = arith.constant -1 : i32
%status = hal.fence.await until([%fence]) timeout_millis(%forever) flags("None") : i32
util.status.check_ok %status, "the kernel failed"
util.return
}}"""
    )
    return "\n".join(lines)


def _signed(value: int) -> int:
    value &= (1 << 32) - 1
    return value - (1 << 32) if value >> 31 else value


def _export(stub: str) -> str:
    """The name of the only function of a kernel's stub."""
    with mlir.parsed(f"hal.executable private @kernel {{ {stub} }}".encode()) as module:
        (export,) = operations(module, "hal.executable.export")
        return symbol(export)
