"""Weights in an imported module: constants of it, mapped from their files, or parameters, which are in a file beside the vmfb.

A parameter is named by its content: equal bytes are one, whatever a model calls them, and whatever their type and shape.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from iree.compiler import ir
from iree.compiler.extras import onnx_importer

from pipeline.arrays import Array
from pipeline.importers import weights
from pipeline.iree import mlir

SCOPE = "model"  # what plain tools call the archive: --parameters=model=FILE
FILE = "parameters.json"
_DIGITS = 32
_PIECE = 1 << 20  # elements that are compared at a time


@dataclass(frozen=True)
class Parameter:
    """Where the bytes of a parameter are: `length` of them in `file`, from `offset` on. `key` is made of their SHA-256."""

    key: str
    file: str
    offset: int
    length: int


def wanted(model: onnx.ModelProto, said: str) -> bool:
    """Whether large weights are to be parameters: as the spec says, `inline` or `external`, or else if they are many bytes."""
    large = (n for t in weights.constants(model) if weights.is_whole(t) and (n := weights.length(t)) >= weights.SMALLEST)
    return said == "external" or (not said and sum(large) > weights.LIMIT)


def _are_same(elements: Array) -> bool:
    return not any(np.any(elements[at : at + _PIECE] != elements[0]) for at in range(0, len(elements), _PIECE))


class Constants(onnx_importer.ContextCache):  # type: ignore[misc]  # IREE's has no types
    """Makes attributes of tensors for IREE's importer; of large ones that are to be `outside` names, which `load` replaces."""

    def __init__(self, context: ir.Context, outside: bool) -> None:
        super().__init__(context)
        self._outside = outside
        self.globals: dict[str, tuple[str, ir.Type]] = {}
        self.parameters: dict[str, Parameter] = {}

    def tensor_proto_to_attr(self, tensor: onnx.TensorProto) -> ir.Attribute:
        """What stands for the tensor's values in the module."""
        if not weights.is_outside(tensor):
            return super().tensor_proto_to_attr(tensor)
        type_, data = self.tensor_proto_to_builtin_type(tensor), weights.raw(tensor)
        if self._outside and weights.is_whole(tensor):
            elements = data.reshape(int(np.prod(tensor.dims)), -1)
            if _are_same(elements):
                return ir.DenseElementsAttr.get(np.array(elements[0]), type=type_.element_type, shape=list(tensor.dims))
            return ir.StringAttr.get(self._parameter(tensor, data, type_))
        return ir.DenseResourceElementsAttr.get_from_buffer(data.data, self._sanitize_name(tensor.name), type_, alignment=1)

    def _parameter(self, tensor: onnx.TensorProto, data: Array, type_: ir.Type) -> str:
        key = hashlib.sha256(data.data).hexdigest()[:_DIGITS]
        path, offset = weights.place(tensor)
        self.parameters.setdefault(key, Parameter(key, str(path), offset, len(data)))
        element = str(type_.element_type)
        signless = ir.Type.parse(element.lstrip("su") if element.startswith(("si", "ui")) else element)
        with ir.Location.unknown():
            builtin = ir.RankedTensorType.get(list(tensor.dims), signless)
        name = f"{SCOPE}.{key}.{str(builtin).removeprefix('tensor<').removesuffix('>')}"
        self.globals[name] = (key, builtin)
        return name

    def load(self, module: ir.Module) -> None:
        """Let the module take its parameters, where it has only their names."""
        with module.context, ir.Location.unknown():
            self._declare(module)
            for operation in mlir.operations(module, "torch.operator"):
                held = operation.attributes.get("torch.onnx.value", None)
                if isinstance(held, ir.StringAttr) and held.value in self.globals:
                    self._replace(operation, held.value)

    def _declare(self, module: ir.Module) -> None:
        with ir.InsertionPoint.at_block_begin(module.body):
            for name, (key, type_) in sorted(self.globals.items()):
                value = ir.Attribute.parse(f'#stream.parameter.named<"{SCOPE}"::"{key}"> : {type_}')
                said = {"sym_name": name, "sym_visibility": "private"}
                attributes = {key: ir.StringAttr.get(text) for key, text in said.items()}
                attributes |= {"type": ir.TypeAttr.get(type_), "initial_value": value}
                ir.Operation.create("util.global", attributes=attributes)

    def _replace(self, operation: ir.Operation, name: str) -> None:
        (result,) = operation.results
        with ir.InsertionPoint(operation), operation.location:
            taken = {"global": ir.FlatSymbolRefAttr.get(name)}
            loaded = ir.Operation.create("util.global.load", [self.globals[name][1]], attributes=taken).result
            value = ir.Operation.create("torch_c.from_builtin_tensor", [result.type], [loaded]).result
        result.replace_all_uses_with(value)
        operation.erase()


def is_one(operation: ir.Operation) -> bool:
    """Whether the operation of a module is a parameter of it, as `Constants` writes them."""
    value = operation.attributes.get("initial_value", None) if operation.name == "util.global" else None
    return value is not None and mlir.symbol(operation).startswith(f"{SCOPE}.") and "#stream.parameter" in str(value)


def write(parameters: dict[str, Parameter], path: Path) -> None:
    """Write as JSON. (Callers stage the path.)"""
    path.write_text(json.dumps([asdict(parameters[key]) for key in sorted(parameters)], indent=1))


def read(path: Path) -> list[Parameter]:
    """What `write` wrote; none if there is no file."""
    return [Parameter(**said) for said in json.loads(path.read_text())] if path.exists() else []
