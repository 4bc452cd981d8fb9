"""`doit add MODEL.onnx`: begins the spec of a model with what its file says of itself. Builds nothing, and needs no compiler."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.dialogue import Alone
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import sha256_file, staged, write
from pipeline.names import RULE, is_name
from pipeline.plain import plain
from pipeline.spec.types import MLIR_DTYPES
from pipeline.terminal import put, say

TARGETS = Path("targets")
_OPEN = "is open in the file"
_RANGES = {"float": ("-1.0", "1.0"), "int": ("0", "2")}  # of test data: below `high`


def _opened(path: Path) -> Any:
    """The model in an ONNX file, without the weights beside it."""
    import onnx
    from google.protobuf.message import DecodeError

    with disk_errors(str(path)):
        try:
            model = onnx.load(path, load_external_data=False)
        except DecodeError as error:
            raise PipelineError(
                "is no ONNX model, or damaged", where=str(path), hint="of other formats write the spec"
            ) from error
    if not model.graph.output:
        raise PipelineError("is no ONNX model: it has no outputs", where=str(path))
    return model


def _weights(model: Any) -> list[str]:
    """The files beside a model that keep its weights."""
    from pipeline.importers import weights

    tensors = (tensor for tensor in weights.constants(model) if weights.is_outside(tensor))
    found = dict.fromkeys(one.value for tensor in tensors for one in tensor.external_data if one.key == "location")
    for name in found:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise PipelineError(
                f"keeps weights in {name!r}, which is not beside it", hint="save it anew, with its weights beside it"
            )
    return list(found)


def _dtype(name: str) -> str:
    """The type that a spec gives an input of this one: numpy's, or the next that numpy has."""
    wider = {"bfloat16": "float32", "int4": "int8", "uint4": "uint8", "int2": "int8", "uint2": "uint8"}
    return "float32" if name.startswith("float8") else wider.get(name, name)


def _inputs(model: Any, path: Path) -> Iterator[str]:
    """A line of YAML for each input, and a comment where something has to be decided."""
    import onnx

    own = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name in own:
            continue
        tensor, known = value.type.tensor_type, onnx.TensorProto.DataType.values()
        is_known = value.type.HasField("tensor_type") and tensor.elem_type in known
        dtype = _dtype(str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type or onnx.TensorProto.FLOAT))) if is_known else ""
        if dtype not in MLIR_DTYPES:
            raise PipelineError(f"its input {value.name!r} is of a type that no spec can give", where=str(path))
        low, high = next((pair for kind, pair in _RANGES.items() if kind in dtype), ("", ""))
        sizes = [str(d.dim_value) if d.dim_value > 0 else "1" for d in tensor.shape.dim]
        opened = [plain(d.dim_param) or "?" for d in tensor.shape.dim if d.dim_value <= 0]
        drawn = f", low: {low}, high: {high}" if low else ""
        if opened:
            yield f"  # {', '.join(opened)} {_OPEN}: 1, another size, or a range like {{min: 1, max: 512}}"
        yield f"  - {{name: {json.dumps(value.name)}, shape: [{', '.join(sizes)}], dtype: {dtype}{drawn}}}"


def _bundle() -> str:
    """The bundle that a project has of its own, if it is that of `vmfb init`, or the package's."""
    return "release" if (TARGETS / "bundles" / "release.yaml").is_file() else "desktop"


def spec(model: Any, name: str, file: Path, data: dict[str, str]) -> str:
    """The text of a spec for the model in `file`, beside which `data` lie, by name with their digests."""
    beside = f", data: {json.dumps(data)}" if data else ""
    source = f"{{kind: path, path: {json.dumps(file.name)}, sha256: {sha256_file(file)}{beside}}}"
    lines = [
        *(["# yaml-language-server: $schema=../.schemas/model.schema.json"] if (TARGETS / ".schemas").is_dir() else []),
        f"about: {json.dumps(name)} # what it does, in a few words",
        "licence: unknown # as SPDX calls it: MIT, Apache-2.0, …",
        "format: onnx",
        f"source: {source}",
        "inputs: # test data is drawn from low up to high; `file: x.npy` gives other",
        *_inputs(model, file),
        f"bundles: [{_bundle()}]",
    ]
    return "\n".join(lines) + "\n"


def _copy(source: Path, target: Path) -> None:
    with staged(target) as temporary:
        shutil.copyfile(source, temporary)


def add(path: Path, name: str = "") -> list[Path]:
    """Put an ONNX file, and the weights beside it, into the project here, with a spec. Returns what was written.

    Raises PipelineError where it is none, where there is no project here, or something of that name.
    """
    if not TARGETS.is_dir():
        raise PipelineError("there is no targets/ here", hint="run it in a project's folder; `vmfb init` begins one")
    name = name or re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower()).strip("._-")
    if not is_name(name):
        raise PipelineError(f"{name!r} cannot name a model: {RULE}", hint="doit add MODEL.onnx NAME")
    if not path.is_file():
        raise PipelineError("there is no such file", where=str(path))
    model = _opened(path)
    folder = TARGETS / "models"
    said, kept = folder / f"{name}.yaml", folder / path.name
    names = _weights(model)
    files = {kept: path} | {folder / one: path.parent / one for one in names}
    with disk_errors(str(folder)):
        moved = {target: source for target, source in files.items() if target.resolve() != source.resolve()}
        taken = [target for target in moved if target.exists()]
        if said.exists() or said in files or taken:
            hint = "rename your file, and add it again" if taken else f"doit add {shlex.quote(str(path))} NAME, with another name"
            raise PipelineError(
                "is there already", where=", ".join(map(str, [said] * said.exists() + taken)) or str(said), hint=hint
            )
        text = spec(model, name, path, {one: sha256_file(path.parent / one) for one in names})  # reads all before any is copied
        for target, source in moved.items():
            _copy(source, target)
        write(said, text.encode())
    return [*moved, said]


class Add(Alone):
    """The command."""

    name = "add"
    doc_purpose = "begin the spec of a model with what its ONNX file says of itself"
    doc_usage = "MODEL.onnx [NAME]"
    doc_description = "The file goes into targets/models, and what is to be decided stands there as comments."

    def act(self, words: Sequence[str]) -> None:
        """Print what was written, and what to do next."""
        if not 1 <= len(words) <= 2:
            raise PipelineError("say which file: doit add MODEL.onnx [NAME]")
        written = add(Path(words[0]), *words[1:])
        put(*written)
        left = [line for line in written[-1].read_text("utf-8").splitlines() if _OPEN in line]
        for line in left:
            say(f"note: {line.strip(' #').partition(':')[0]}, and 1 in the spec until you say what it is to be")
        say(f"next: look at {written[-1]}, then doit publish:{written[-1].stem}")
