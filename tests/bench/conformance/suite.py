"""ONNX's backend tests, from a wheel of `onnx`: which there are, their models and data, and which of them a spec can express."""

from __future__ import annotations

import random
import re
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from pipeline import wheels
from pipeline.files import copy, sha256_file
from pipeline.spec.types import MLIR_DTYPES

# Later wheels ship the tests of single operators no more. They are the same in the wheel of every Python and platform, but the
# wheels' digests are not: it is always this one, which is only read.
REQUIREMENT = "onnx==1.17.0"
WHEEL = "onnx-1.17.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"
SHA256 = "4a183c6178be001bf398260e5ac2c927dc43e7746e8638d6c05c20e321f8c949"
_THIS_ONE = ("--python-version=3.11", "--implementation=cp", "--abi=cp311", "--platform=manylinux2014_x86_64")

FOLDER = "onnx/backend/test/data"
KINDS = ("node", "pytorch-converted", "pytorch-operator", "simple")
# Their outputs are integers that were wrapped around, -236 to 20 for one; QLinearMatMul saturates, by its definition.
MISTAKEN = re.compile("node/test_qlinearmatmul_[23]D_int8_float(16|32)")
RANDOM = frozenset("Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split())

# Operands that say axes, shapes and sizes: most compilers must know them. Those of operators that begin with Reduce are axes.
_SETTINGS = {
    "AffineGrid": (1,), "CenterCropPad": (1,), "Col2Im": (1, 2), "ConstantOfShape": (0,), "CumSum": (1,), "DFT": (1, 2),
    "Expand": (1,), "MaxUnpool": (2,), "MelWeightMatrix": (0, 1, 2, 3, 4), "OneHot": (1,), "Pad": (1, 3), "Range": (0, 1, 2),
    "Reshape": (1,), "Resize": (1, 2, 3), "STFT": (1, 3), "Slice": (1, 2, 3, 4), "Split": (1,), "Squeeze": (1,), "Tile": (1,),
    "TopK": (1,), "Trilu": (1,), "Unsqueeze": (1,), "Upsample": (1,), "HannWindow": (0,), "HammingWindow": (0,),
    "BlackmanWindow": (0,), "SequenceAt": (1,), "SplitToSequence": (1,),
}  # fmt: skip

Array = np.ndarray[Any, Any]


def download(folder: Path) -> Path:
    """The wheel in `folder`, by pip if it is not there. Raises PipelineError if its digest is another one."""
    path = folder / WHEEL
    if path.is_file() and sha256_file(path) == SHA256:
        return path
    with tempfile.TemporaryDirectory() as name:
        wheel = wheels.download(REQUIREMENT, Path(name), folder / "download.log", _THIS_ONE)
        with wheel.open("rb") as stream:
            copy(stream, path, SHA256, WHEEL)
    return path


@dataclass(frozen=True)
class Case:
    """A test: `node/test_abs`, say. `operators` are those of its graph, without domains."""

    name: str
    operators: tuple[str, ...]


class Suite:
    """The tests in the wheel at `path`."""

    def __init__(self, path: Path) -> None:
        self._archive = zipfile.ZipFile(path)

    @cached_property
    def _members(self) -> dict[str, list[str]]:
        """The files of each test."""
        found: dict[str, list[str]] = {}
        pattern = re.compile(rf"{FOLDER}/((?:{'|'.join(KINDS)})/[^/]+)/.+")
        for member in self._archive.namelist():
            if match := pattern.fullmatch(member):
                found.setdefault(match[1], []).append(member)
        return found

    @property
    def names(self) -> list[str]:
        """All tests, in alphabetical order."""
        return sorted(self._members)

    def file(self, name: str) -> bytes:
        """The test's model, as it is."""
        return self._archive.read(f"{FOLDER}/{name}/model.onnx")

    def _protos(self, name: str, kind: str) -> Iterator[onnx.TensorProto]:
        count = sum(f"/test_data_set_0/{kind}_" in member for member in self._members[name])
        for number in range(count):
            yield onnx.TensorProto.FromString(self._archive.read(f"{FOLDER}/{name}/test_data_set_0/{kind}_{number}.pb"))

    def arrays(self, name: str, kind: str) -> list[Array]:
        """The test's data, `input` or `output`, by position."""
        return [onnx.numpy_helper.to_array(proto) for proto in self._protos(name, kind)]

    def read(self, name: str) -> tuple[Case, str]:
        """The test, and why a spec cannot express it or its outputs are nobody's to predict; empty if it can."""
        model = onnx.ModelProto.FromString(self.file(name))
        nodes = list(_nodes(model))
        case = Case(name, tuple(sorted({node.op_type for node in nodes})))
        mistaken = "outputs that are not what the operator's definition says" if MISTAKEN.fullmatch(name) else ""
        return case, mistaken or _randomness(nodes) or _types(model) or self._sizes(name, model)

    def _sizes(self, name: str, model: onnx.ModelProto) -> str:
        inputs, outputs = (list(self._protos(name, kind)) for kind in ("input", "output"))
        if (len(inputs), len(outputs)) != (len(inputs_of(model)), len(model.graph.output)):
            return "data for other inputs or outputs than the graph's"
        return "a tensor without elements" if any(0 in proto.dims for proto in (*inputs, *outputs)) else ""


def inputs_of(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """What a model takes, by position: weights may stand among the graph's inputs, and are none."""
    weights = {weight.name for weight in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def input_names(file: bytes) -> list[str]:
    """The names of what a model takes, by position."""
    return [value.name for value in inputs_of(onnx.ModelProto.FromString(file))]


def settings(file: bytes) -> list[str]:
    """The names of the inputs that are nothing but axes, shapes or sizes for the model's operators."""
    model = onnx.ModelProto.FromString(file)
    roles: dict[str, set[bool]] = {}
    for node in _nodes(model):
        places = (1,) if node.op_type.startswith("Reduce") else _SETTINGS.get(node.op_type, ())
        for place, name in enumerate(node.input):
            roles.setdefault(name, set()).add(place in places)
    return [value.name for value in inputs_of(model) if roles.get(value.name) == {True}]


def output_names(file: bytes) -> list[str]:
    """The names of what a model returns, by position."""
    return [value.name for value in onnx.ModelProto.FromString(file).graph.output]


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """All nodes: of the graph, of the graphs in their attributes, and of functions."""
    yield from _within(model.graph.node)
    for function in model.functions:
        yield from _within(function.node)


def _within(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _within(graph.node)


def _randomness(nodes: Sequence[onnx.NodeProto]) -> str:
    for node in nodes:
        if node.op_type in RANDOM:
            return f"random numbers: {node.op_type}"
        if node.op_type == "Dropout" and len(node.input) > 2:
            return "random numbers: Dropout that may train"
    return ""


def _types(model: onnx.ModelProto) -> str:
    inputs = inputs_of(model)
    for value in (*inputs, *model.graph.output):
        if (kind := value.type.WhichOneof("value")) != "tensor_type":
            return f"takes or returns a {str(kind).removesuffix('_type')}"
        code = value.type.tensor_type.elem_type
        if str(onnx.helper.tensor_dtype_to_np_dtype(code)) not in MLIR_DTYPES:
            return f"takes or returns {onnx.TensorProto.DataType.Name(code)}"
    return "" if inputs else "takes nothing"


def select(suite: Suite, names: str = "", sample: int = 0, seed: int = 0) -> tuple[list[Case], dict[str, str]]:
    """The tests whose name the pattern `names` finds, a `sample` of them if that is not 0; and the unfit ones with reasons."""
    read = [suite.read(name) for name in suite.names if re.search(names, name)]
    cases = [case for case, reason in read if not reason]
    if 0 < sample < len(cases):
        cases = random.Random(seed).sample(cases, sample)
    return cases, {case.name: reason for case, reason in read if reason}
