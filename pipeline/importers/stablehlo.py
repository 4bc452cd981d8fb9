"""StableHLO → MLIR as IREE reads it: MLIR text, the portable bytecode, or what `jax.export` wrote.

Run as a child process, see `child`. IREE reads the text itself; the portable bytecode and what JAX serialized take JAX, which the
extra `stablehlo` brings, and so does a program whose dimensions are open and fixed by the spec.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from iree.compiler import ir, passmanager
from iree.compiler.dialects import func

from pipeline.errors import PipelineError
from pipeline.importers import part
from pipeline.importers.child import Options, main
from pipeline.importers.mlir import named
from pipeline.importers.signature import Tensor, shapes_of
from pipeline.iree import entry, mlir
from pipeline.spec.types import Input

_PLAIN = Options()
_BYTECODE = b"ML\xefR"
_PRODUCER = b"StableHLO_v"  # of the portable bytecode, behind the magic number
_PLATFORM = "cpu"
# What numpy lacks has another type at the boundary: see `boundary`.
_WIDER = {"bf16": "f32", "f8E4M3FN": "f32", "f8E4M3FNUZ": "f32", "f8E5M2": "f32", "f8E5M2FNUZ": "f32", "i4": "i8", "ui4": "ui8"}
FLOATS = (
    "bfloat16",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
)  # the same as numpy's extensions call them


def require_jax(why: str) -> None:
    """Raise PipelineError where JAX is not installed."""
    try:
        import jax.export  # noqa: F401
    except ImportError as error:
        hint = "pip install 'vmfb-pipeline[stablehlo]', or export the text of `Exported.mlir_module()`"
        raise PipelineError(f"{why} needs JAX: {error}", hint=hint) from error


def is_serialized(data: bytes) -> bool:
    """Whether a file that begins with `data` is what `jax.export.Exported.serialize` gave."""
    return not data.startswith(_BYTECODE) and b"\0" in data[:1024]


def exported(path: Path) -> Any:
    """What `jax.export` wrote at `path`. Raises PipelineError where it is nothing of the kind, or not for one CPU."""
    require_jax("what jax.export serialized")
    import jax.export

    try:
        found = jax.export.deserialize(bytearray(path.read_bytes()))
    except Exception as error:  # of any kind: it is a FlatBuffer that nobody checks
        what = "neither MLIR text, nor StableHLO's portable bytecode, nor what jax.export serialized by this version of JAX"
        raise PipelineError(what, where=str(path), hint="write `jax.export.export(jax.jit(f))(*args).serialize()`") from error
    if found.nr_devices != 1:
        raise PipelineError(f"it is for {found.nr_devices} devices", where=str(path), hint="export it for one")
    if found.ordered_effects or found.unordered_effects:
        raise PipelineError("it has effects, such as prints and callbacks", where=str(path), hint="export it without them")
    if _PLATFORM not in found.platforms:
        hint = f"export it with `platforms=['{_PLATFORM}']`: that is no less right for other devices"
        raise PipelineError(f"it was exported for {', '.join(found.platforms)}", where=str(path), hint=hint)
    if len(found.platforms) > 1:
        avals = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in found.in_avals]
        args, kwargs = jax.tree_util.tree_unflatten(found.in_tree, avals)
        found = jax.export.export(jax.jit(found.call), platforms=[_PLATFORM])(*args, **kwargs)
    return found


def _text(path: Path) -> tuple[bytes, str]:
    """The file as MLIR that IREE parses; and what to say where its inputs are not the spec's."""
    data = path.read_bytes()
    if is_serialized(data):
        found = exported(path)
        dropped = [n for n in range(len(found.in_avals)) if n not in found.module_kept_var_idx]
        said = f"JAX left out what nothing uses, arguments {dropped}: `jax.jit(f, keep_unused=True)`" if dropped else ""
        return found.mlir_module().encode(), said
    if data.startswith(_BYTECODE) and _PRODUCER in data[:64]:
        return _portable(data, path), ""
    return data, ""


def _portable(data: bytes, path: Path) -> bytes:
    require_jax("StableHLO's portable bytecode")
    from jax.extend.mlir import deserialize_portable_artifact
    from jaxlib.mlir import ir as jax_ir

    try:
        with jax_ir.Context():
            return str(deserialize_portable_artifact(data)).encode()
    except Exception as error:  # XLA's own, and the bindings'
        what = f"not StableHLO's portable bytecode: {next(iter(str(error).splitlines()), '')[:300]}"
        raise PipelineError(what, where=str(path), hint="export it again") from error


def _converted(value: ir.Value, type_: ir.Type) -> ir.Value:
    return ir.Operation.create("stablehlo.convert", [type_], [value]).result if value.type != type_ else value


def _fixed(module: ir.Module, function: ir.Operation, inputs: Sequence[Input], where: str) -> bytes | None:
    """The module for the shapes that the spec fixes, where the function leaves them open; None where it leaves none."""
    types = entry.function_type(function)
    shapes = [Tensor(spec.name, spec.dtype, spec.shape).fixed for spec in inputs]
    wanted = []
    for type_, shape in zip(types.inputs, shapes, strict=True):
        sizes = [ir.ShapedType.get_dynamic_size() if size is None else size for size in shape]
        wanted.append(ir.RankedTensorType.get(sizes, type_.element_type))
    if wanted == list(types.inputs):
        return None
    require_jax("a program whose dimensions are open and fixed by the spec")
    from jax.extend.mlir import refine_polymorphic_shapes

    name = mlir.symbol(function)
    entry.wrap(function, wanted, types.results, _converted, "open")
    is_static = not any(None in shape for shape in shapes)
    try:
        return bytes(
            refine_polymorphic_shapes(str(module).encode(), enable_shape_assertions=is_static, validate_static_shapes=is_static)
        )
    except Exception as error:
        said = next(iter(str(error).splitlines()), "")[:500]
        raise PipelineError(f"@{name} does not take {shapes_of(inputs)}: {said}", where=where) from error


def _wide(type_: ir.RankedTensorType) -> ir.RankedTensorType:
    wider = _WIDER.get(str(type_.element_type))
    return ir.RankedTensorType.get(type_.shape, ir.Type.parse(wider)) if wider else type_


def _widen(function: ir.Operation) -> ir.Operation:
    """Let inputs and outputs of types that numpy lacks be of wider ones."""
    types = entry.function_type(function)
    if not all(isinstance(t, ir.RankedTensorType) for t in (*types.inputs, *types.results)):
        return function  # whoever reads the signature says so

    inputs, results = [_wide(t) for t in types.inputs], [_wide(t) for t in types.results]
    if (inputs, results) == (list(types.inputs), list(types.results)):
        return function
    return entry.wrap(function, inputs, results, _converted, "narrow")


def _open(module: ir.Module) -> None:
    """Let IREE take dimensions that stay open: inline functions, write out checks of sizes, broadcasts and reshapes.

    IREE takes no broadcast of a size that might be 1; JAX repeats none but those that are 1 for ever.
    """
    passmanager.PassManager.parse("builtin.module(inline)").run(module.operation)
    for operation in mlir.operations(module, "stablehlo.custom_call"):
        if ir.StringAttr(operation.attributes["call_target_name"]).value == "shape_assertion":
            _assert(operation)
            operation.erase()
    for name, written in (("dynamic_broadcast_in_dim", _broadcast), ("dynamic_reshape", _reshape)):
        for number, operation in enumerate(mlir.operations(module, f"stablehlo.{name}")):
            called = f"{name}${number}"
            value, sizes, result = (v.type for v in (*operation.operands, operation.result))
            text = written(operation, value, result)
            head = f"func.func private @{called}(%value: {value}, %sizes: {sizes}) -> {result}"
            helper = ir.Module.parse(f"{head} {{\n{_extents(sizes, result)}\n{text}\nreturn %made : {result}\n}}")
            helper.body.operations[0].operation.clone(ir.InsertionPoint(module.body))
            with ir.InsertionPoint(operation), operation.location:
                call = func.CallOp([result], called, list(operation.operands))
            operation.result.replace_all_uses_with(call.results[0])
            operation.erase()
    passmanager.PassManager.parse("builtin.module(inline,symbol-dce)").run(module.operation)


def _assert(operation: ir.Operation) -> None:
    """Let the module check what JAX's custom call before `operation` checks: how sizes of inputs depend on each other."""
    said = re.sub(r" \(= \{\d+\}\)", "", ir.StringAttr(operation.attributes["error_message"]).value)
    message = {"msg": ir.StringAttr.get(said.partition(" Using the following")[0])}
    with ir.InsertionPoint(operation), operation.location:
        ir.Operation.create("cf.assert", [], [_scalar(operation.operands[0])], message)


_ARITHMETIC = {"add": "addi", "subtract": "subi", "multiply": "muli", "divide": "divsi", "remainder": "remsi", "and": "andi"}
_COMPARISONS = {"EQ": 0, "NE": 1, "LT": 2, "LE": 3, "GT": 4, "GE": 5}  # arith's numbers for those with sign


def _scalar(value: ir.Value) -> ir.Value:
    """The element of a tensor without dimensions that is computed of sizes: on the host, which would wait for a device else."""
    element, by = value.type.element_type, value.owner
    name = "" if isinstance(by, ir.Block) else by.operation.name.removeprefix("stablehlo.")
    if name == "get_dimension_size":
        axis = ir.IntegerAttr.get(ir.IndexType.get(), ir.IntegerAttr(by.attributes["dimension"]).value)
        number = _made("arith.constant", axis.type, value=axis)
        return _made("arith.index_cast", element, _made("tensor.dim", axis.type, by.operands[0], number))
    if name == "constant":
        return _made("arith.constant", element, value=ir.DenseElementsAttr(by.attributes["value"]).get_splat_value())
    if name in _ARITHMETIC:
        return _made(f"arith.{_ARITHMETIC[name]}", element, *map(_scalar, by.operands))
    if name == "compare" and " SIGNED>" in str(by.attributes["compare_type"]):
        how = next(n for key, n in _COMPARISONS.items() if f" {key}>" in str(by.attributes["comparison_direction"]))
        predicate = ir.IntegerAttr.get(ir.IntegerType.get_signless(64), how)
        return _made("arith.cmpi", element, *map(_scalar, by.operands), predicate=predicate)
    return _made("tensor.extract", element, value)


def _made(name: str, result: ir.Type, *operands: ir.Value, **attributes: ir.Attribute) -> ir.Value:
    return ir.Operation.create(name, [result], list(operands), attributes).result


def _extents(sizes: ir.RankedTensorType, result: ir.RankedTensorType) -> str:
    """The open sizes of `result`, %s0 and so on, by `%sizes`."""
    is_index = str(sizes.element_type) == "index"
    lines = []
    for n in _open_axes(result):
        lines.append(f"%c{n} = arith.constant {n} : index")
        lines.append(f"%{'s' if is_index else 'e'}{n} = tensor.extract %sizes[%c{n}] : {sizes}")
        if not is_index:
            lines.append(f"%s{n} = arith.index_cast %e{n} : {sizes.element_type} to index")
    return "\n".join(lines)


def _open_axes(type_: ir.RankedTensorType) -> list[int]:
    return [n for n in range(type_.rank) if type_.is_dynamic_dim(n)]


def _broadcast(operation: ir.Operation, value: ir.RankedTensorType, result: ir.RankedTensorType) -> str:
    element, dims = result.element_type, ir.DenseI64ArrayAttr(operation.attributes["broadcast_dimensions"])
    loops = ", ".join(f"d{n}" for n in range(result.rank))
    taken = ", ".join(f"d{d}" if value.is_dynamic_dim(n) or value.get_dim_size(n) != 1 else "0" for n, d in enumerate(dims))
    given = ", ".join(f"%s{n}" for n in _open_axes(result))
    return f"""
      %empty = tensor.empty({given}) : {result}
      %made = linalg.generic {{
        indexing_maps = [affine_map<({loops}) -> ({taken})>, affine_map<({loops}) -> ({loops})>],
        iterator_types = [{", ".join(['"parallel"'] * result.rank)}]
      }} ins(%value : {value}) outs(%empty : {result}) {{
      ^bb0(%in: {element}, %out: {element}):
        linalg.yield %in : {element}
      }} -> {result}"""


def _reshape(operation: ir.Operation, value: ir.RankedTensorType, result: ir.RankedTensorType) -> str:
    return f"%made = tensor.reshape %value(%sizes) : ({value}, {operation.operands[1].type}) -> {result}"


def output_names(function: ir.Operation) -> list[str]:
    """Names of the results: the keys of the dicts that JAX says they are in, else `output0`, … by position."""
    count = len(entry.function_type(function).results)
    attributes = list(ir.ArrayAttr(function.attributes["res_attrs"])) if "res_attrs" in function.attributes else [{}] * count
    names = []
    for position, found in enumerate(attributes):
        said = ir.StringAttr(found["jax.result_info"]).value if "jax.result_info" in found else ""
        keys = ["".join(key) for key in re.findall(r"\['([^']*)'\]|\[(\d+)\]|\.(\w+)", said)]
        names.append(".".join(keys) if any(not key.isdigit() for key in keys) else f"output{position}")
    return names if len(set(names)) == count else [f"output{position}" for position in range(count)]


def convert(source: Path, folder: Path, inputs: Sequence[Input], options: Options = _PLAIN) -> None:
    """Write `model.mlirbc`, `signature.json` and `rewrites.json` (there are none) into `folder`."""
    text, hint = _text(source)
    with mlir.parsed(text, str(source)) as module:
        function = entry.entry_function(module, options.entry or None, str(source))
        name, outputs = mlir.symbol(function), output_names(function)
        function = _widen(function)
        try:
            named(entry.read_signature(function, str(source)), inputs, str(source))
        except PipelineError as error:
            raise PipelineError(error.what, where=error.where, hint=error.hint or hint) from error
        text = _fixed(module, function, inputs, str(source)) or mlir.to_bytes(module)
    with mlir.parsed(text, str(source)) as module:
        function = entry.entry_function(module, name, str(source))
        found = named(entry.read_signature(function, str(source)), inputs, str(source))
        if any(None in tensor.fixed for tensor in found.inputs):
            _open(module)
            function = entry.entry_function(module, name, str(source))
        called = tuple(replace(tensor, name=output) for tensor, output in zip(found.outputs, outputs, strict=True))
        signature = replace(found, entry=options.function or name, outputs=called)
        entry.hide_others(module, function)
        mlir.strip_locations(module)
        part.save(module, function, signature, folder)
    part.save_rewrites([], folder)


if __name__ == "__main__":
    sys.exit(main(convert))
