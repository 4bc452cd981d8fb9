"""Casts between integers that IREE 3.13 does not lower, in an imported module: to int16, uint16, uint32 and uint64.

Its ONNX front end maps the number of the type that a Cast is to, and knows these not; the types themselves it knows. So such a
Cast becomes arith's own conversion, between the front end's two views of a tensor.
"""

from __future__ import annotations

from iree.compiler import ir

from pipeline.iree.mlir import operations

_TYPES = ("si16", "ui16", "ui32", "ui64")


def _parts(type_: ir.Type) -> tuple[str, str]:
    """The dimensions (`[2,?]`) and the element type of a `!torch.vtensor`."""
    sizes, _, element = str(type_).removeprefix("!torch.vtensor<").removesuffix(">").rpartition(",")
    return sizes, element


def _builtin(sizes: str, width: int) -> ir.Type:
    dims = "".join(f"{size}x" for size in sizes.strip("[]").split(",") if size)
    return ir.Type.parse(f"tensor<{dims}i{width}>")


def _width(element: str) -> int:
    return int(element.lstrip("sui"))


def lower_casts(module: ir.Module) -> None:
    """Replace such casts. Those of floats, and of tensors whose number of dimensions is unknown, stay as they are."""
    for operation in operations(module, "torch.operator"):
        if ir.StringAttr(operation.attributes["name"]).value != "onnx.Cast":
            continue
        source, result = operation.operands[0], operation.results[0]
        (sizes, from_), (_, to) = _parts(source.type), _parts(result.type)
        if to not in _TYPES or not sizes.startswith("[") or from_.lstrip("su") not in ("i1", "i8", "i16", "i32", "i64"):
            continue
        with ir.InsertionPoint(operation), operation.location:
            value = ir.Operation.create("torch_c.to_builtin_tensor", [_builtin(sizes, _width(from_))], [source]).result
            if (kind := _conversion(from_, to)) is not None:
                value = ir.Operation.create(kind, [_builtin(sizes, _width(to))], [value]).result
            new = ir.Operation.create("torch_c.from_builtin_tensor", [result.type], [value]).result
        result.replace_all_uses_with(new)
        operation.erase()


def _conversion(from_: str, to: str) -> str | None:
    if _width(from_) == _width(to):
        return None
    if _width(from_) > _width(to):
        return "arith.trunci"
    return "arith.extsi" if from_.startswith("s") else "arith.extui"
