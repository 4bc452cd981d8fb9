"""Preparing an imported module: its entry function found, named, described."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from iree.compiler import ir
from iree.compiler.dialects import func

from pipeline.errors import PipelineError
from pipeline.importers.signature import Signature, Tensor
from pipeline.names import did_you_mean
from pipeline.spec.types import MLIR_DTYPES

_NUMPY = {mlir.removeprefix("s"): numpy for numpy, mlir in MLIR_DTYPES.items()}


def functions(module: ir.Module) -> dict[str, ir.Operation]:
    """The public functions of `module` by name."""
    found = {}
    for operation in module.body.operations:
        op = operation.operation
        private = "sym_visibility" in op.attributes and ir.StringAttr(op.attributes["sym_visibility"]).value == "private"
        if op.name in ("func.func", "util.func") and not private:
            found[ir.StringAttr(op.attributes["sym_name"]).value] = op
    return found


def entry_function(module: ir.Module, name: str | None, where: str) -> ir.Operation:
    """The function `name`, or the only public one. Raises PipelineError where there is none or no single one."""
    found = functions(module)
    if name is not None and name not in found:
        raise PipelineError(f"there is no public function {name!r}: {did_you_mean(name, found)}", where=where)
    if name is None and len(found) != 1:
        raise PipelineError(
            f"there are {len(found)} public functions: {', '.join(found) or 'none'}",
            where=where,
            hint="name one in the model's spec: `entry: NAME`",
        )
    return found[name] if name is not None else next(iter(found.values()))


def _tensor(name: str, type_: ir.Type, where: str) -> Tensor:
    if not isinstance(type_, ir.RankedTensorType):
        raise PipelineError(f"{name} is {type_}, but only ranked tensors can be inputs and outputs", where=where)
    element = str(type_.element_type)
    dtype = _NUMPY.get(element) or _NUMPY.get(element.removeprefix("s"))
    if dtype is None:
        raise PipelineError(f"{name} has elements of type {element}, which numpy does not know", where=where)
    shape = tuple(None if type_.is_dynamic_dim(i) else type_.get_dim_size(i) for i in range(type_.rank))
    return Tensor(name, dtype, shape)


def function_type(function: ir.Operation) -> ir.FunctionType:
    """What the function takes and returns."""
    return ir.FunctionType(ir.TypeAttr(function.attributes["function_type"]).value)


def wrap(
    function: ir.Operation,
    inputs: Sequence[ir.Type],
    results: Sequence[ir.Type],
    converted: Callable[[ir.Value, ir.Type], ir.Value],
    inside: str,
) -> ir.Operation:
    """Make a `func.func` of the same name that takes `inputs`, calls `function`, and returns `results`; it is returned.

    `converted(value, type)` makes values of other types in it. `function` is private then, and its name ends in `inside`.
    """
    name, inner = ir.StringAttr(function.attributes["sym_name"]).value, function_type(function)
    with ir.InsertionPoint(function), function.location:
        outer = func.FuncOp(name, (list(inputs), list(results)), visibility="public")
        with ir.InsertionPoint(outer.add_entry_block()):
            taken = [converted(value, type_) for value, type_ in zip(outer.arguments, inner.inputs, strict=True)]
            call = func.CallOp(list(inner.results), f"{name}${inside}", taken)
            func.ReturnOp([converted(value, type_) for value, type_ in zip(call.results, results, strict=True)])
    function.attributes["sym_name"] = ir.StringAttr.get(f"{name}${inside}")
    function.attributes["sym_visibility"] = ir.StringAttr.get("private")
    found: ir.Operation = outer.operation
    return found


def read_signature(function: ir.Operation, where: str) -> Signature:
    """The signature of a `func.func` over tensors; inputs and outputs are named `input0`, `output0`, … by position."""
    type_ = function_type(function)
    return Signature(
        ir.StringAttr(function.attributes["sym_name"]).value,
        tuple(_tensor(f"input{i}", t, where) for i, t in enumerate(type_.inputs)),
        tuple(_tensor(f"output{i}", t, where) for i, t in enumerate(type_.results)),
    )


def hide_others(module: ir.Module, function: ir.Operation) -> None:
    """Let the compiled module export no other function: nobody verifies those."""
    kept = ir.StringAttr(function.attributes["sym_name"]).value
    for name, other in functions(module).items():
        if name != kept:
            other.attributes["sym_visibility"] = ir.StringAttr.get("private")


def finish(function: ir.Operation, signature: Signature) -> None:
    """Name `function` as the signature says, export it, let the compiled module show the signature."""
    function.attributes["sym_name"] = ir.StringAttr.get(signature.entry)
    if "sym_visibility" in function.attributes:
        del function.attributes["sym_visibility"]
    declaration = {"iree.abi.declaration": ir.StringAttr.get(signature.declaration)}
    function.attributes["iree.reflection"] = ir.DictAttr.get(declaration)
