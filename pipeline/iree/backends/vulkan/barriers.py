"""Barriers in Vulkan code: threads that read what others of their work group wrote must wait for them.

IREE 3.13 tiles every operation of a kernel for the threads by its own loops. What one operation hands to the next goes
through work-group memory if both do not give the same elements to the same threads, and no barrier is put between them.
Measured: a softmax along any but the last axis, a normalization, and a reduction whose result is used by what has more
dimensions read values that were not there yet, on every device whose subgroups are narrower than a work group.

The code is looked at as SPIR-V, where each access to memory is seen. Barriers can only stand where all threads come by: at
the top level of a kernel, and in loops and branches there whose conditions are the same for all threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from iree.compiler import ir

from pipeline.iree.mlir import operations, symbol

_SCOPE = "#spirv.scope<Workgroup>"
_SEMANTICS = "#spirv.memory_semantics<AcquireRelease|UniformMemory|WorkgroupMemory>"
_NESTED = ("spirv.mlir.loop", "spirv.mlir.selection")
# What is the same for all threads of a work group; everything else that is read from memory may differ.
_SHARED_INPUTS = ("WorkgroupId", "NumWorkgroups", "WorkgroupSize")
_CONSTANT_MEMORY = ("PushConstant", "Uniform")


@dataclass(frozen=True)
class _Access:
    """One access to the memory named `root`. `own`: by an address that each thread has for itself."""

    root: str
    pointer: ir.Value
    writes: bool
    own: bool

    def conflicts(self, later: _Access) -> bool:
        """Whether `later` of one thread may need what this of another did, or spoil it."""
        if self.root != later.root or not (self.writes or later.writes):
            return False
        return not (self.own and self.pointer == later.pointer)


@dataclass
class _Kernel:
    """A function: which of its values may differ from thread to thread, and the memory that it reads and writes."""

    function: ir.Operation
    differing: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        size = -1
        while size != len(self.differing):  # values come back around loops
            size = len(self.differing)
            for operation in _inside(self.function):
                self._spread(operation)

    def _spread(self, operation: ir.Operation) -> None:
        if operation.name == "spirv.Load":
            differs = not _is_shared(operation.operands[0])
        else:
            differs = operation.name.startswith("spirv.Group") or any(hash(o) in self.differing for o in operation.operands)
        if differs:
            self.differing.update(map(hash, operation.results))
        for value, argument in _passed(operation):
            if hash(value) in self.differing:
                self.differing.add(hash(argument))

    def is_uniform(self, nested: ir.Operation) -> bool:
        """Whether all threads take the same way through this loop or branch."""
        branches = [o.operation for block in nested.regions[0] for o in block if o.operation.name == "spirv.BranchConditional"]
        return not any(hash(branch.operands[0]) in self.differing for branch in branches)

    def access(self, operation: ir.Operation) -> _Access | None:
        """What `operation` itself does with memory that other threads see too."""
        if operation.name in ("spirv.AccessChain", "spirv.mlir.addressof"):
            return None
        pointer = next((o for o in operation.operands if _is_memory(o)), None)
        if pointer is None:
            return None
        own = any(hash(index) in self.differing for index in _indices(pointer))
        return _Access(_variable(pointer), pointer, "Load" not in operation.name, own)

    def hands_over(self) -> bool:
        """Whether anything is read that was written before: most kernels only read here and write there."""
        accesses = self.accesses(self.function)
        return bool({a.root for a in accesses if a.writes} & {a.root for a in accesses if not a.writes})

    def accesses(self, operation: ir.Operation) -> list[_Access]:
        """All that `operation` and what is nested in it does."""
        return [found for inner in _inside(operation) if (found := self.access(inner)) is not None]


def _inside(operation: ir.Operation) -> Iterator[ir.Operation]:
    """`operation` and everything in it, in order."""
    yield operation
    for region in operation.regions:
        for block in region:
            for inner in block:
                yield from _inside(inner.operation)


def _passed(branch: ir.Operation) -> Iterator[tuple[ir.Value, ir.Value]]:
    """The values that a branch passes on, each with the block argument that it becomes."""
    if branch.name == "spirv.Branch":
        yield from zip(branch.operands, branch.successors[0].arguments, strict=True)
    elif branch.name == "spirv.BranchConditional":
        arguments = [a for block in branch.successors for a in block.arguments]
        yield from zip(list(branch.operands)[1:], arguments, strict=True)


def _owner(value: ir.Value) -> ir.Operation | None:
    return None if isinstance(value.owner, ir.Block) else value.owner.operation


def _is_memory(value: ir.Value) -> bool:
    text = str(value.type)
    return text.startswith("!spirv.ptr") and text.endswith((", Workgroup>", ", StorageBuffer>"))


def _indices(pointer: ir.Value) -> list[ir.Value]:
    chain = _owner(pointer)
    return list(chain.operands)[1:] if chain is not None and chain.name == "spirv.AccessChain" else []


def _variable(pointer: ir.Value) -> str:
    owner = _owner(pointer)
    while owner is not None and owner.name == "spirv.AccessChain":
        owner = _owner(owner.operands[0])
    return str(owner.attributes["variable"]) if owner is not None and "variable" in owner.attributes else ""


def _is_shared(pointer: ir.Value) -> bool:
    kind = str(pointer.type).rpartition(", ")[2].rstrip(">")
    return kind in _CONSTANT_MEMORY or (kind == "Input" and any(name in _variable(pointer) for name in _SHARED_INPUTS))


def _wait(before: ir.Operation) -> None:
    attributes = {
        "execution_scope": ir.Attribute.parse(_SCOPE),
        "memory_scope": ir.Attribute.parse(_SCOPE),
        "memory_semantics": ir.Attribute.parse(_SEMANTICS),
    }
    with ir.InsertionPoint(before), before.location:
        ir.Operation.create("spirv.ControlBarrier", attributes=attributes)


def _synchronize(kernel: _Kernel, region: ir.Region, pending: list[_Access]) -> list[_Access]:
    """Put barriers into a region that all threads go through together; what was done since the last one, before and after."""
    for block in region:
        for operation in [o.operation for o in block]:
            if operation.name == "spirv.ControlBarrier":
                pending = []
            elif operation.name in _NESTED and kernel.is_uniform(operation):
                pending = _nested(kernel, operation, pending)
            elif accesses := kernel.accesses(operation):
                if any(earlier.conflicts(later) for earlier in pending for later in accesses):
                    _wait(operation)
                    pending = []
                pending = [*pending, *accesses]
    return pending


def _nested(kernel: _Kernel, operation: ir.Operation, pending: list[_Access]) -> list[_Access]:
    after = _synchronize(kernel, operation.regions[0], pending)
    if operation.name == "spirv.mlir.loop":  # the end of one round comes before the next
        after = _synchronize(kernel, operation.regions[0], after)
    return [*pending, *after]


def _guarded(selection: ir.Operation) -> list[ir.Operation]:
    """What only the threads do for which a condition holds, in order, if `selection` is no more than that."""
    blocks = list(selection.regions[0])
    return [o.operation for o in blocks[1]][:-1] if len(blocks) == 3 and not list(selection.results) else []


def _first_conflict(kernel: _Kernel, guarded: list[ir.Operation]) -> int:
    """The index of the first of these that must wait for one before it; 0 if none must."""
    before: list[_Access] = []
    for index, operation in enumerate(guarded):
        accesses = kernel.accesses(operation)
        if any(earlier.conflicts(later) for earlier in before for later in accesses):
            return index
        before += accesses
    return 0


def _is_spoiled(kernel: _Kernel, read: ir.Operation, done: list[ir.Operation]) -> bool:
    """Whether `read`, done once more after `done`, may give another value."""
    written = {access.root for operation in done for access in kernel.accesses(operation) if access.writes}
    return any(access.root in written for access in kernel.accesses(read))


def _split(kernel: _Kernel) -> bool:
    """Make two of the first branch in which threads must wait for others, which may not be there; whether there was one.

    What only reads or computes before the barrier is done again after it, where its values may be needed.
    """
    for selection in operations(kernel.function, "spirv.mlir.selection"):
        guarded = [] if kernel.is_uniform(selection) else _guarded(selection)
        index = _first_conflict(kernel, guarded)
        done = [operation for operation in guarded[:index] if not list(operation.results)]
        again = [operation for operation in guarded[:index] if list(operation.results)]
        if done and not any(_is_spoiled(kernel, operation, done) for operation in again):
            with ir.InsertionPoint(selection):
                first = selection.clone()
            for operation in reversed(_guarded(first)[index:]):
                operation.erase()
            for operation in done:
                operation.erase()
            return True
    return False


def _used_dimensions(function: ir.Operation) -> set[int]:
    """The dimensions of a work group by which its threads differ."""
    used: set[int] = set()
    for load in operations(function, "spirv.Load"):
        name = _variable(load.operands[0])
        if str(load.operands[0].type).endswith(", Input>") and not _is_shared(load.operands[0]):
            users = [use.owner.operation for use in load.results[0].uses]
            if "LocalInvocationId" not in name or any(user.name != "spirv.CompositeExtract" for user in users):
                return {0, 1, 2}
            used |= {ir.IntegerAttr(ir.ArrayAttr(user.attributes["indices"])[0]).value for user in users}
    return used


def leave_out_idle_threads(variant: ir.Operation) -> None:
    """Make a work group 1 wide in every dimension that its code does not look at: all threads along it do the same.

    IREE 3.13 counts the loops of a tile with and without those of one round, so the threads of the third dimension may
    get nothing of their own. Measured: two threads added each product of a batch to the same sum.
    """
    for function in operations(variant, "spirv.func"):
        used = _used_dimensions(function)
        for mode in operations(variant, "spirv.ExecutionMode"):
            mine = ir.FlatSymbolRefAttr(mode.attributes["fn"]).value == symbol(function)
            if mine and str(mode.attributes["execution_mode"]).endswith("LocalSize>"):
                i32 = ir.IntegerType.get_signless(32)
                sizes = [ir.IntegerAttr(size).value for size in ir.ArrayAttr(mode.attributes["values"])]
                sizes = [size if dimension in used else 1 for dimension, size in enumerate(sizes)]
                mode.attributes["values"] = ir.ArrayAttr.get([ir.IntegerAttr.get(i32, size) for size in sizes])


def synchronize(variant: ir.Operation) -> None:
    """Put the missing barriers into all kernels of `variant`.

    A kernel with any has them all: IREE forgets them only where it does not mean to share memory. (Accesses that such a
    kernel keeps apart look alike here. Measured: float16 attention for matrix cores had 4 barriers, and would have got 15.)
    """
    for function in operations(variant, "spirv.func"):
        if not operations(function, "spirv.ControlBarrier") and _Kernel(function).hands_over():
            while _split(_Kernel(function)):  # a new one each time: none may outlive the operations that it knows
                pass
            _synchronize(_Kernel(function), function.regions[0], [])
