"""ONNX → MLIR: fix the input dimensions, rewrite what IREE gets wrong, import, name the entry function.

Run as a child process (`python -m pipeline.importers.onnx MODEL FOLDER INPUTS OPTIONS`): the protobuf of a model is held
several times in memory, but for large weights, and what a broken file does to a parser must not reach the pipeline.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from iree.compiler import ir
from iree.compiler.extras import onnx_importer

from pipeline.errors import PipelineError
from pipeline.files import staged
from pipeline.importers import boundary, decisions, foreign, functions, narrow, parameters, part, rewrites, weights
from pipeline.importers.baked import bake
from pipeline.importers.child import FASTER, Options, main
from pipeline.importers.draws import at_one_size
from pipeline.importers.opsets import upgraded
from pipeline.importers.rewrites import flow
from pipeline.importers.rewrites.graph import inferred, without_unused
from pipeline.importers.signature import Signature, Tensor
from pipeline.iree import entry
from pipeline.names import did_you_mean
from pipeline.spec.types import MLIR_DTYPES, Dimension, Input

_PLAIN = Options()
_INLINE = Options(parameters="inline")
_WEIGHTS = "weights.bin"
CUT = "compute this part outside the model: cut the graph before it and name what it takes as outputs"
OPEN = "give the open dimensions `buckets`, or fixed sizes"
_LISTED = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.UINT16, onnx.TensorProto.UINT64)


def _dtype(value: onnx.ValueInfoProto) -> str:
    return str(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))


def _tensor(value: onnx.ValueInfoProto, dimensions: Mapping[str, Dimension]) -> Tensor:
    dims = value.type.tensor_type.shape.dim
    shape = (d.dim_value if d.HasField("dim_value") else dimensions.get(d.dim_param) for d in dims)
    return Tensor(value.name, _dtype(value), tuple(shape))


def _real_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    weights = {w.name for w in model.graph.initializer}
    return [i for i in model.graph.input if i.name not in weights]


def _fix(wanted: Input, dims: Sequence[onnx.TensorShapeProto.Dimension], where: str) -> None:
    """Set the dimensions of one of the graph's inputs; those that stay open get the spec's name."""
    given, in_graph = (
        Tensor(wanted.name, wanted.dtype, wanted.shape).fixed,
        [d.dim_value if d.dim_value > 0 else None for d in dims],
    )
    if len(in_graph) != len(given) or any(g not in (None, w) for g, w in zip(in_graph, given, strict=False)):
        shape = [d.dim_param or (d.dim_value if d.dim_value > 0 else "?") for d in dims]
        said = ", ".join(str(size) for size in wanted.shape)
        is_open = len(in_graph) == len(given) and any(w is None and g for g, w in zip(in_graph, given, strict=True))
        hint = "export the model with that dimension open, or give it its size" if is_open else ""
        raise PipelineError(f"input {wanted.name!r} has shape {shape}, not [{said}]", where=where, hint=hint)
    for dim, size, fixed in zip(dims, wanted.shape, given, strict=True):
        dim.Clear()
        if fixed is None and isinstance(size, Dimension):
            dim.dim_param = size.name
        else:
            dim.dim_value = fixed or 0


def fix_inputs(model: onnx.ModelProto, inputs: Sequence[Input], where: str) -> None:
    """Set the dimensions of the graph's inputs to those of `inputs`. Raises PipelineError where they do not fit."""
    real = {i.name: i for i in _real_inputs(model)}
    for wanted in inputs:
        value = real.get(wanted.name)
        if value is None:
            raise PipelineError(f"the graph has no input {wanted.name!r}: {did_you_mean(wanted.name, real)}", where=where)
        if _dtype(value) != wanted.dtype:
            raise PipelineError(f"input {wanted.name!r} is {_dtype(value)}, not {wanted.dtype}", where=where)
        _fix(wanted, value.type.tensor_type.shape.dim, where)
    if missing := real.keys() - {i.name for i in inputs}:
        raise PipelineError(f"the spec does not give the input {sorted(missing)[0]!r}", where=where)
    if [i.name for i in inputs] != list(real):
        raise PipelineError(f"the inputs must stand in the graph's order: {', '.join(real)}", where=where)
    # What the file says of shapes that depend on the inputs' is now for shape inference to find.
    del model.graph.value_info[:]
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")


def declared_shapes(model: onnx.ModelProto) -> dict[str, onnx.TensorShapeProto]:
    """The shapes that the file itself gives for outputs, where every dimension is fixed."""
    found = {}
    for output in model.graph.output:
        type_ = output.type.tensor_type
        if type_.HasField("shape") and all(dim.dim_value > 0 for dim in type_.shape.dim):
            found[output.name] = onnx.TensorShapeProto()
            found[output.name].CopyFrom(type_.shape)
    return found


def _keep_shapes(model: onnx.ModelProto, declared: Mapping[str, onnx.TensorShapeProto]) -> None:
    """Give outputs the shapes that the file declared or an input or initializer of that name has, where inference finds none."""
    known = {w.name: list(w.dims) for w in model.graph.initializer}
    known |= {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
    for output in model.graph.output:
        type_ = output.type.tensor_type
        if type_.HasField("shape"):
            continue
        if output.name in known:
            type_.shape.dim.extend(onnx.TensorShapeProto.Dimension(dim_value=size) for size in known[output.name])
        elif output.name in declared:
            type_.shape.CopyFrom(declared[output.name])


def _require_tensors(model: onnx.ModelProto, where: str) -> None:
    """Raise PipelineError for inputs and outputs that are no tensors, or of a type that IREE does not have."""
    for kind, values in (("input", _real_inputs(model)), ("output", model.graph.output)):
        for value in values:
            if (is_a := value.type.WhichOneof("value")) != "tensor_type":
                is_a = (is_a or "value of unknown type").removesuffix("_type")
                what = f"{kind} {value.name!r} is {'an' if is_a == 'optional' else 'a'} {is_a}, no tensor"
                raise PipelineError(what, where=where, hint="cut the graph before it: name the tensors that it is made of")
            element = value.type.tensor_type.elem_type
            name = onnx.TensorProto.DataType.Name(element).lower() if element else "of no type"
            if element and element not in boundary.WIDER and _dtype(value) not in MLIR_DTYPES:
                hint = "cut the graph there: name tensors of numbers as its inputs and outputs"
                raise PipelineError(f"{kind} {value.name!r} is {name}, which IREE does not compute with", where=where, hint=hint)


def _for_the_checker(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model`, or a copy whose outputs have shapes, whatever they are: the checker wants some, and many converters write none."""
    model = weights.hollow(model)
    if all(o.type.tensor_type.HasField("shape") for o in model.graph.output if o.type.HasField("tensor_type")):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for output in copy.graph.output:
        if output.type.HasField("tensor_type"):
            output.type.tensor_type.shape.SetInParent()
    return copy


def _invalid(said: str) -> str:
    """Why ONNX's checker refuses a file, in one line with operator and node."""
    lines = said.splitlines()
    if not lines:
        return "the file ends early"
    node = re.search(r"name: (?P<name>\S*) OpType: (?P<type>\S+)", said, re.IGNORECASE)
    called = f"onnx.{node['type']} (node {node['name']!r})" if node else "a node"
    if missing := re.match(r"Nodes in a graph must be topologically sorted, however input '(.*?)' of node", said):
        return f"{called} takes {missing[1]!r}, which nothing before it makes"
    if unknown := re.match(r"No Op registered for \S+ with domain_version of (\d+)", said):
        return f"{called} is no operator of set {unknown[1]}"
    return lines[0].rstrip(": ") + (f" ({called})" if node else "")


def load(path: Path) -> onnx.ModelProto:
    """The ONNX model at `path`, checked, with nodes set apart: see `foreign`. Raises PipelineError for anything else."""
    try:
        model = weights.load(path)
        foreign.set_apart(model)
        onnx.checker.check_model(_for_the_checker(model))
    except (DecodeError, onnx.checker.ValidationError, OSError) as error:
        reason = _invalid(str(error).strip())
        hint = "export it again, and try the file with `onnx.checker.check_model`"
        raise PipelineError(f"is no valid ONNX file: {reason}", where=str(path), hint=hint) from error
    if not model.graph.node:
        raise PipelineError("is no valid ONNX file: it has no graph", where=str(path))
    return model


def _pack(graph: onnx.GraphProto) -> None:
    """Write constants as bytes where the file lists their numbers, which IREE's importer does not read of every type."""
    held = [a.t for node in graph.node for a in node.attribute if a.HasField("t")]
    for tensor in (*graph.initializer, *held):
        if tensor.data_type in _LISTED and not tensor.HasField("raw_data") and not weights.is_outside(tensor):
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name))
    for node in graph.node:
        for inner in decisions.inside(node):
            _pack(inner)


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Give every node without a name that of its first result: the compiler names nodes in its messages."""
    for node in graph.node:
        node.name = node.name or next(filter(None, node.output), "")


class _NodeImporter(onnx_importer.NodeImporter):  # type: ignore[misc]  # IREE's has no types
    """IREE's importer, which says of what it does not import only why."""

    __slots__ = ()  # as it has them, for one to take the place of the other

    def import_node(self, node: onnx.NodeProto) -> None:
        try:
            super().import_node(node)
        except Exception as error:  # it raises its own, KeyError, TypeError and ValueError
            raise PipelineError(f"IREE does not import {_called(node)}: {_first_line(error)}", hint=CUT) from error

    def import_initializer(self, initializer: onnx.TensorProto, extern_name: str | None = None) -> object:
        try:
            return super().import_initializer(initializer, extern_name)
        except Exception as error:
            type_ = onnx.TensorProto.DataType.Name(initializer.data_type).lower()
            takers = [_called(node) for node in self._gi.graph_proto.node if initializer.name in node.input]
            what = f"IREE does not import the {type_} constant {initializer.name!r} of {', '.join(takers) or 'the graph'}"
            raise PipelineError(what, hint=f"give it another type, or {CUT}") from error


def _called(node: onnx.NodeProto) -> str:
    return f"{node.domain or 'onnx'}.{node.op_type} (node {node.name or next(filter(None, node.output), '')!r})"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), repr(error))[:200]


def _require_known_axes(model: onnx.ModelProto, where: str) -> None:
    """Raise PipelineError for axes that depend on data: of the result's shape nothing is known then."""
    alive, inputs = decisions.alive(model.graph), {value.name for value in _real_inputs(model)}
    for node in model.graph.node:
        takes_axes = node.op_type in ("Squeeze", "Unsqueeze") or node.op_type.startswith("Reduce")
        if takes_axes and not node.domain and len(node.input) > 1 and node.input[1] in alive:
            axes = node.input[1]
            hint = f"give the input {axes!r} its `value` in the spec" if axes in inputs else CUT
            raise PipelineError(f"{_called(node)} takes its axes from {axes!r}, and IREE must know them", where=where, hint=hint)


def _require_lowering(model: onnx.ModelProto, where: str) -> None:
    """Raise PipelineError for what the compiler crashes at, or compiles to something else."""
    _require_known_axes(model, where)
    for node in decisions.nodes(model.graph):
        if node.op_type == "Unique" and not node.domain:
            what = f"{_called(node)} makes a result whose size depends on data, and IREE has no code for it"
            raise PipelineError(what, where=where, hint=CUT)
    for output in model.graph.output:
        if not output.type.tensor_type.HasField("shape"):
            maker = next((f" of {_called(node)}" for node in model.graph.node if output.name in node.output), "")
            what = f"nothing tells how many dimensions the output {output.name!r}{maker} has"
            raise PipelineError(what, where=where, hint="give the output its shape in the ONNX file")


def _imported(model: onnx.ModelProto, where: str, outside: bool) -> tuple[ir.Module, dict[str, parameters.Parameter]]:
    """`model` as IREE's importer reads it, and its parameters if its weights are to be `outside`. The nodes' names are the
    locations. Raises PipelineError for what it refuses.
    """
    with ir.Context() as context:
        try:
            info = onnx_importer.ModelInfo(model)
            module = info.create_module(context=context)
            constants = parameters.Constants(context, outside)
            importer = onnx_importer.NodeImporter.define_function(info.main_graph, module.operation, constants)
            importer.__class__ = _NodeImporter  # define_function makes its own kind, whatever it is called on
            importer.import_all()
            constants.load(module)
        except onnx_importer.OnnxImportError as error:
            raise PipelineError(f"IREE does not import it: {_first_line(error)}", where=where, hint=CUT) from error
        except PipelineError as error:
            raise PipelineError(error.what, where=where, hint=error.hint) from error
        return module, constants.parameters


def _misfit(said: str) -> str:
    """What shape inference says, in one line with operator and node."""
    found = re.search(r"\(op_type:(\w+)(?:, node name: (.*?))?\): (.*)", said)
    if not found:
        return said.splitlines()[0]
    why = re.sub(r"\[\w+Error\] ", "", found[3]).rstrip(".")
    return f"onnx.{found[1]}" + (f" (node {found[2]!r})" if found[2] else "") + f": {why}"


def fixed(source: Path, inputs: Sequence[Input]) -> onnx.ModelProto:
    """The model that rewrites begin with: of a recent operator set, its shapes fixed and known. Raises PipelineError."""
    model = load(source)
    _require_tensors(model, str(source))
    model = upgraded(functions.inlined(model), str(source))
    foreign.put_back(model)
    foreign.be_exact(model)
    boundary.widen(model)
    functions.complete(model)
    declared = declared_shapes(model)
    fix_inputs(model, inputs, str(source))
    bake(model, inputs)
    try:
        model = inferred(model)
    except onnx.shape_inference.InferenceError as error:
        raise PipelineError(
            f"the shapes do not fit together: {_misfit(str(error))}", where=str(source), hint="check the inputs' shapes"
        ) from error
    _keep_shapes(model, declared)
    return model


def prepared(
    source: Path, inputs: Sequence[Input], without: Collection[str] = ()
) -> tuple[onnx.ModelProto, list[rewrites.Tried]]:
    """The model at `source` as IREE's importer gets it, and which rewrites were tried: see `rewrites.apply`."""
    model = fixed(source, inputs)
    inputs = [spec for spec in inputs if spec.value is None]
    model, tried = rewrites.apply(model, inputs, str(source), without)
    for rewrite in tried:
        how = ("used in part" if rewrite.problem else "used") if rewrite.used else "not used"
        print(f"rewrite {rewrite.name}: {how}" + (f": {rewrite.problem}" if rewrite.problem else ""))
    model = without_unused(model)
    _name_nodes(model.graph)
    wrong = {rewrite.name: rewrite.problem for rewrite in tried}
    flow.require_none(model, wrong, str(source))
    foreign.require_none(model, wrong, str(source))
    _require_lowering(model, str(source))
    _pack(model.graph)
    return model, tried


def translate(model: onnx.ModelProto, folder: Path, where: str, inputs: Sequence[Input] = (), options: Options = _INLINE) -> None:
    """Write a `prepared` model as `model.mlirbc`, its `signature.json`, and `parameters.json` if it has any, into `folder`.

    `inputs` are those of the spec, which knows their open dimensions. `options`: see `convert`; without, weights are constants.
    """
    dimensions = {d.name: d for spec in inputs for d in spec.dimensions}
    given = {spec.name: Tensor(spec.name, spec.dtype, spec.shape) for spec in inputs}
    taken = tuple(given.get(i.name) or _tensor(i, dimensions) for i in _real_inputs(model))
    signature = Signature(options.function, taken, tuple(_tensor(o, dimensions) for o in model.graph.output))
    if outside := parameters.wanted(model, options.parameters):
        weights.put_all_out(model)
    module, found = _imported(model, where, outside)
    with module.context:
        narrow.lower_casts(module)
        part.save(module, entry.entry_function(module, None, where), signature, folder)
    if found:
        with staged(folder / parameters.FILE) as path:
            parameters.write(found, path)


def _with_fixed_sizes(error: PipelineError, source: Path, inputs: Sequence[Input]) -> PipelineError:
    """An error of a model with open dimensions, which says so if there is none with fixed ones."""
    open_ = sorted({d.name for spec in inputs for d in spec.dimensions if d.min < d.max})
    if not open_:
        return error
    try:
        _imported(prepared(source, at_one_size(inputs, str(source)))[0], str(source), outside=False)
    except Exception:  # whatever it is: then nothing is known of it
        return error
    what = f"{error.what}; with fixed sizes it is imported, not with {', '.join(open_)} open"
    return PipelineError(what, where=error.where, hint=OPEN)


def convert(source: Path, folder: Path, inputs: Sequence[Input], options: Options = _PLAIN, limit: int = weights.LIMIT) -> None:
    """Write `model.mlirbc`, `signature.json` and `rewrites.json`, the names of the rewrites that were used, into `folder`.

    `options` say the function's name in the module, and whether weights are `inline`, constants of the
    module, or `external`: then `parameters.json` says where each is, in `source`'s data or in `folder/weights.bin`. Models of
    more than `limit` bytes are converted without their weights in memory.
    """
    (folder / parameters.FILE).unlink(missing_ok=True)
    with weights.beside(folder / _WEIGHTS, limit) as store:
        try:
            model, tried = prepared(source, inputs, () if options.faster else FASTER)
            translate(model, folder, str(source), inputs, options)
        except PipelineError as error:
            raise _with_fixed_sizes(error, source, inputs) from error
        part.save_rewrites([rewrite.name for rewrite in tried if rewrite.used], folder)
        store.is_kept = str(store.path) in {parameter.file for parameter in parameters.read(folder / parameters.FILE)}


if __name__ == "__main__":
    sys.exit(main(convert))
