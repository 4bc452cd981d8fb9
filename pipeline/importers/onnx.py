"""ONNX → MLIR: fix the input dimensions, import with IREE's importer, name the entry function `main`.

Run as a child process (`python -m pipeline.importers.onnx MODEL FOLDER INPUTS ''`): the protobuf of a model is held
several times in memory, and what a broken file does to a parser must not reach the pipeline.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import onnx.version_converter
from google.protobuf.message import DecodeError

from pipeline.errors import PipelineError
from pipeline.files import staged
from pipeline.importers.child import main
from pipeline.importers.signature import Signature, Tensor
from pipeline.iree import entry, mlir
from pipeline.names import did_you_mean

ENTRY = "main"
# IREE's ONNX front end lowers the operators of recent sets only (BatchNormalization from 15 on, for one).
MINIMUM_OPSET = 17


def _dtype(value: onnx.ValueInfoProto) -> str:
    return str(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    dims = value.type.tensor_type.shape.dim
    return Tensor(value.name, _dtype(value), tuple(d.dim_value if d.dim_value > 0 else None for d in dims))


def _real_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    weights = {w.name for w in model.graph.initializer}
    return [i for i in model.graph.input if i.name not in weights]


def fix_inputs(model: onnx.ModelProto, inputs: list[Tensor], where: str) -> None:
    """Set the dimensions of the graph's inputs to those of `inputs`. Raises PipelineError where they do not fit."""
    real = {i.name: i for i in _real_inputs(model)}
    for wanted in inputs:
        value = real.get(wanted.name)
        if value is None:
            raise PipelineError(f"the graph has no input {wanted.name!r}: {did_you_mean(wanted.name, real)}", where=where)
        if _dtype(value) != wanted.dtype:
            raise PipelineError(f"input {wanted.name!r} is {_dtype(value)}, not {wanted.dtype}", where=where)
        dims = value.type.tensor_type.shape.dim
        fixed = [d.dim_value if d.dim_value > 0 else None for d in dims]
        if len(fixed) != len(wanted.shape) or any(f not in (None, w) for f, w in zip(fixed, wanted.shape, strict=False)):
            shape = [d.dim_param or (d.dim_value if d.dim_value > 0 else "?") for d in dims]
            raise PipelineError(f"input {wanted.name!r} has shape {shape}, not {list(wanted.shape)}", where=where)
        for dim, size in zip(dims, wanted.shape, strict=True):
            dim.ClearField("dim_param")
            dim.dim_value = size or 0
    if missing := real.keys() - {i.name for i in inputs}:
        raise PipelineError(f"the spec does not give the input {sorted(missing)[0]!r}", where=where)
    if [i.name for i in inputs] != list(real):
        raise PipelineError(f"the inputs must stand in the graph's order: {', '.join(real)}", where=where)
    # What the file says of shapes that depend on the inputs' is now for shape inference to find.
    del model.graph.value_info[:]
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")


def load(path: Path) -> onnx.ModelProto:
    """The ONNX model at `path`, checked. Raises PipelineError for anything else."""
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "the file ends early"
        raise PipelineError(f"not a valid ONNX file: {reason}", where=str(path)) from error
    if not model.graph.node:
        raise PipelineError("not a valid ONNX file: it has no graph", where=str(path))
    return model


def upgraded(model: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """`model` in at least operator set MINIMUM_OPSET."""
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), MINIMUM_OPSET)
    if version >= MINIMUM_OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, MINIMUM_OPSET)
    except (RuntimeError, onnx.version_converter.ConvertError) as error:
        raise PipelineError(f"cannot be raised from operator set {version} to {MINIMUM_OPSET}: {error}", where=where) from error


def convert(source: Path, folder: Path, inputs: list[Tensor], name: str | None) -> None:
    """Write `model.mlirbc` and `signature.json` into `folder`."""
    model = upgraded(load(source), str(source))
    fix_inputs(model, inputs, str(source))
    try:
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise PipelineError(
            f"the shapes do not fit together: {str(error).splitlines()[0]}", where=str(source), hint="check the inputs' shapes"
        ) from error
    fixed, text = folder / "fixed.onnx", folder / "model.mlir"
    onnx.save(model, fixed)
    subprocess.run(
        [sys.executable, "-m", "iree.compiler.tools.import_onnx", str(fixed), "-o", str(text)], check=True
    )  # inside the importer's own child process and group
    signature = Signature(ENTRY, tuple(_tensor(i) for i in _real_inputs(model)), tuple(_tensor(o) for o in model.graph.output))
    with mlir.opened(text) as module:
        entry.finish(module, entry.entry_function(module, None, str(text)), signature)
        with staged(folder / "model.mlirbc") as path:
            mlir.save(module, path)
    with staged(folder / "signature.json") as path:
        signature.write(path)


if __name__ == "__main__":
    sys.exit(main(convert))
