"""Operators that IREE lacks give the same as before in the operators that take their place: in many forms, by ONNX Runtime.

Whether the compiler is right then is for `test_rewrites` to say, of one form of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from pipeline.errors import PipelineError
from pipeline.importers import kernels, opsets, rewrites
from pipeline.importers import onnx as importer
from pipeline.importers.onnxruntime import session
from pipeline.importers.rewrites import copies, deformed, fourier, resizes, reversals, samples, scattered, writes
from pipeline.importers.rewrites.graph import inferred
from pipeline.importers.rewrites.proof import without_names
from pipeline.spec.types import Input

Array = np.ndarray
Rewrite = Callable[[onnx.ModelProto], onnx.ModelProto | None]
GENERATOR = np.random.default_rng(5)


class Form:
    """A model of one node; operands that are None are left out, those in `constants` are weights."""

    def __init__(
        self, kind: str, *operands: Array | None, constants: Sequence[int] = (), opset: int = 20, outputs: int = 1, **said: object
    ) -> None:
        self.kind = kind
        names = ["" if operand is None else f"x{number}" for number, operand in enumerate(operands)]
        arrays = {name: array for name, array in zip(names, operands, strict=True) if array is not None}
        self.inputs = {name: array for name, array in arrays.items() if int(name[1:]) not in constants}
        node = helper.make_node(kind, names, [f"y{number}" for number in range(outputs)], **said)
        graph = helper.make_graph(
            [node],
            "g",
            [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in self.inputs.items()],
            [onnx.ValueInfoProto(name=name) for name in node.output],
            [numpy_helper.from_array(array, name) for name, array in arrays.items() if name not in self.inputs],
        )
        opsets = [helper.make_opsetid("", opset)]
        self.raw = helper.make_model(graph, opset_imports=opsets, ir_version=min(onnx.IR_VERSION, 10))

    @property
    def model(self) -> onnx.ModelProto:
        return inferred(self.raw)

    def run(self, model: onnx.ModelProto) -> list[Array]:
        return [np.asarray(array) for array in session(without_names(model)).run(None, self.inputs)]

    def has_the_same(self, rewrite: Rewrite) -> None:
        made = rewrite(self.model)
        assert made is not None
        assert self.kind not in {node.op_type for node in made.graph.node}
        for found, expected in zip(self.run(made), self.run(self.model), strict=True):
            assert found.dtype == expected.dtype
            np.testing.assert_allclose(found, expected, 1e-4, 1e-4)


def floats(*shape: int, dtype: type = np.float32) -> Array:
    return GENERATOR.standard_normal(shape).astype(dtype)


def integers(*values: int) -> Array:
    return np.array(values, np.int64)


def transforms() -> Iterator[Form]:
    for axis, parts, length in product((0, 1, -2), (1, 2), (None, 5, 12)):
        for said in ({}, {"onesided": 1}, {"inverse": 1}):
            if said == {"onesided": 1} and parts == 2:
                continue  # of complex values it is not defined
            given = np.array(length, np.int64) if length else None
            yield Form("DFT", floats(8, 6, 7, parts), given, np.array(axis, np.int64), constants=(1, 2), **said)
            yield Form("DFT", floats(8, 6, 7, parts), given, constants=(1,), opset=17, axis=axis, **said)
    yield Form("DFT", floats(2, 9, 1, dtype=np.float64))


def windows() -> Iterator[Form]:
    for onesided, step in product((0, 1), (3, 8)):
        width = np.array(16, np.int64)
        window = np.hanning(16).astype(np.float32)
        for given in ((window, width), (window, None), (None, width)):
            yield Form("STFT", floats(2, 61, 1), np.array(step), *given, constants=(1, 2, 3), onesided=onesided)


def images() -> Iterator[Form]:
    for pads, strides, dilations in product(([0, 0, 0, 0], [1, 0, 2, 1]), ([1, 1], [2, 3]), ([1, 1], [2, 1])):
        reach = [dilations[0] * 1 + 1, dilations[1] * 2 + 1]
        places = [(size + pads[a] + pads[2 + a] - reach[a]) // strides[a] + 1 for a, size in enumerate((9, 8))]
        columns = floats(2, 3 * 6, places[0] * places[1])
        said = {"pads": pads, "strides": strides, "dilations": dilations}
        yield Form("Col2Im", columns, integers(9, 8), integers(2, 3), constants=(1, 2), **said)
    yield Form("Col2Im", floats(1, 2 * 4, 4), integers(5), integers(2 * 2), constants=(1, 2), strides=[1], pads=[1, 1])


def unpooled() -> Iterator[Form]:
    for window, strides in (([2, 2], [2, 2]), ([3, 2], [3, 2])):
        pooled = Form("MaxPool", floats(2, 3, 6, 6), outputs=2, kernel_shape=window, strides=strides)
        yield Form("MaxUnpool", *pooled.run(pooled.model), kernel_shape=window, strides=strides)
    pooled = Form("MaxPool", floats(2, 3, 8), outputs=2, kernel_shape=[2], strides=[2])
    size = integers(2, 3, 8)
    yield Form("MaxUnpool", *pooled.run(pooled.model), size, constants=(2,), kernel_shape=[2], strides=[2])


def sampled() -> Iterator[Form]:
    for padding, aligned in product(("zeros", "border", "reflection"), (0, 1)):
        said = {"padding_mode": padding, "align_corners": aligned}
        yield Form("GridSample", floats(2, 3, 5, 6), floats(2, 4, 3, 2) * np.float32(2), mode="cubic", **said)
        for mode in ("linear", "nearest"):
            yield Form("GridSample", floats(2, 3, 4, 5, 6), floats(2, 2, 4, 3, 3) * np.float32(2), mode=mode, **said)


def deforming() -> Iterator[Form]:
    for group, several, strides, masked, biased in product((1, 2), (1, 2), ([1, 1], [2, 1]), (0, 1), (0, 1)):
        outputs = [(7 + 1 - 2) // strides[0] + 1, (6 - 3) // strides[1] + 1]
        operands = [floats(2, 4, 7, 6), floats(6, 4 // group, 2, 3), floats(2, several * 12, *outputs)]
        operands += [floats(6) if biased else None, floats(2, several * 6, *outputs) if masked else None]
        said = {"group": group, "offset_group": several, "strides": strides, "pads": [1, 0, 0, 0], "kernel_shape": [2, 3]}
        yield Form("DeformConv", *operands, opset=19, **said)


def regions() -> Iterator[Form]:
    corners = np.sort(GENERATOR.random((5, 2, 2)) * 30 - 4, axis=1).reshape(5, 4).astype(np.float32)
    for mode, scale in product(("half_pixel", "output_half_pixel"), (1.0, 0.25)):
        said = {"coordinate_transformation_mode": mode, "spatial_scale": scale, "output_height": 3, "output_width": 2}
        yield Form("RoiAlign", floats(2, 3, 9, 11), corners, integers(0, 1, 1, 0, 1), opset=16, sampling_ratio=2, **said)


def crops() -> Iterator[Form]:
    for mode, beyond in product(("linear", "nearest"), (0.0, 7.0)):
        region, sizes = np.array([0, 0, -0.2, 0.3, 1, 1, 0.8, 1.4], np.float32), integers(1, 2, 7, 5)
        said = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": beyond, "mode": mode}
        yield Form("Resize", floats(1, 2, 6, 6), region, None, sizes, constants=(1, 3), opset=18, **said)


KINDS: Mapping[str, tuple[Callable[[], Iterator[Form]], Rewrite]] = {
    "DFT": (transforms, fourier.rewrite),
    "STFT": (windows, fourier.rewrite),
    "Col2Im": (images, scattered.rewrite),
    "MaxUnpool": (unpooled, scattered.rewrite),
    "GridSample": (sampled, samples.rewrite),
    "DeformConv": (deforming, deformed.rewrite),
    "RoiAlign": (regions, deformed.rewrite),
    "Resize": (crops, resizes.rewrite),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_takes_an_operators_place_gives_the_same(kind: str) -> None:
    forms, rewrite = KINDS[kind]
    for form in forms():
        form.has_the_same(rewrite)


def test_what_depends_on_data_is_left() -> None:
    corners, owners = floats(2, 4), integers(0, 0)
    adaptive = Form("RoiAlign", floats(1, 3, 9, 11), corners, owners, opset=16, output_height=3)
    assert deformed.rewrite(adaptive.model) is None
    length = Form("DFT", floats(2, 9, 1), np.array(5, np.int64))
    assert fourier.rewrite(length.model) is None
    sized = Form(
        "MaxUnpool",
        floats(1, 1, 2, 2),
        np.arange(4).reshape(1, 1, 2, 2),
        integers(1, 1, 5, 5),
        constants=(2,),
        kernel_shape=[2, 2],
    )
    assert scattered.rewrite(sized.model) is None


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "uint16", "int64", "bool"])
def test_what_only_moves_values_gets_a_kernel(dtype: str) -> None:
    array = GENERATOR.integers(0, 2, (4, 6)).astype(dtype)
    forms = [
        Form("Identity", array),
        Form("Reshape", array, integers(3, 8), constants=(1,)),
        Form("Split", array, integers(1, 3), constants=(1,), outputs=2),
    ]
    if dtype == "float32":
        forms.append(Form("MaxPool", array[None, None], kernel_shape=[1, 1], strides=[2, 3]))
        forms.append(Form("Transpose", array[:, None], perm=[1, 0, 2]))
    for form in forms:
        made = copies.rewrite(form.model)
        assert made is not None
        assert ("Add" if "float" in dtype else "ReduceMax") in {node.op_type for node in made.graph.node}
        for found, expected in zip(form.run(made), form.run(form.model), strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32", "bool"])
def test_what_scatters_into_an_input_does_so_into_a_copy(dtype: str) -> None:
    data, more = (GENERATOR.integers(0, 2, shape).astype(dtype) for shape in ((4, 5), (1, 5)))
    forms = [
        Form("ScatterElements", data, integers(-1, 0, 2, -3, 1)[None], more, axis=0),
        Form("ScatterND", data, integers(-1)[:, None], more),
    ]
    for form in forms:
        made = writes.rewrite(form.model)
        assert made is not None
        (scatter,) = (node for node in made.graph.node if node.op_type == form.kind)
        assert scatter.input[0] not in form.inputs
        np.testing.assert_array_equal(form.run(made)[0], form.run(form.model)[0])
        assert writes.rewrite(made) is None


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool"])
@pytest.mark.parametrize("axes", [{}, {"time_axis": 1, "batch_axis": 0}])
def test_sequences_are_reversed_by_places(dtype: str, axes: dict[str, int]) -> None:
    lengths = integers(1, 4, 3, 2) if not axes else integers(5, 1, 3, 4, 2)[:4]
    for shape in ((5, 4), (5, 4, 3, 2)):
        sizes = shape if not axes else (4, 5, *shape[2:])
        form = Form("ReverseSequence", GENERATOR.integers(0, 9, sizes).astype(dtype), lengths, **axes)
        made = reversals.rewrite(form.model)
        assert made is not None
        np.testing.assert_array_equal(form.run(made)[0], form.run(form.model)[0])


def test_what_computes_or_returns_no_input_is_left() -> None:
    assert copies.rewrite(Form("Neg", floats(2, 3)).model) is None
    assert copies.rewrite(Form("Transpose", floats(2, 3)).model) is None
    assert copies.rewrite(Form("Shape", floats(2, 3)).model) is None


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (Form("Max", floats(3, 4).astype(np.int16), floats(4).astype(np.int16), opset=18), "Max computed in a wider type"),
        (Form("ReduceProd", integers(3, 4, 200).astype(np.uint32), opset=18), "ReduceProd computed in a wider type"),
        (Form("Pow", floats(3), integers(1, 2, 3).astype(np.uint32), opset=18), "Pow computed in a wider type"),
        (Form("LeakyRelu", floats(3, dtype=np.float64), opset=21), "the definition of LeakyRelu"),
        (Form("HardSwish", floats(3, dtype=np.float64), opset=21), "definitions in place of operators"),
        (Form("Add", floats(2, 3), floats(3), opset=6, broadcast=1), "in operator set 17"),
        (Form("RoiAlign", floats(1, 1, 5, 5), np.float32([[0, 0, 3, 3]]), integers(0), opset=22), "in operator set 21"),
    ],
    ids=lambda value: value.kind if isinstance(value, Form) else "",
)
def test_onnx_runtime_runs_what_it_has_no_kernel_for(form: Form, said: str) -> None:
    with pytest.raises(Exception, match="NOT_IMPLEMENTED"):
        session(form.raw)
    found = kernels.supported(form.raw, session)
    assert found is not None
    assert said in found[1]
    (result,) = form.run(found[0])
    expected = {
        "Max": lambda: np.maximum(*form.inputs.values()),
        "ReduceProd": lambda: np.prod(form.inputs["x0"], dtype=np.uint32, keepdims=True),
        "Pow": lambda: np.power(*form.inputs.values()),
        "LeakyRelu": lambda: np.where(form.inputs["x0"] < 0, form.inputs["x0"] * np.float32(0.01), form.inputs["x0"]),
        "HardSwish": lambda: form.inputs["x0"] * np.clip(form.inputs["x0"] / 6 + 0.5, 0, 1),
        "Add": lambda: np.add(*form.inputs.values()),
        "RoiAlign": lambda: Form("RoiAlign", *form.inputs.values(), opset=16).run(
            Form("RoiAlign", *form.inputs.values(), opset=16).model
        )[0],
    }[form.kind]()
    np.testing.assert_allclose(result, expected, 1e-6)


def test_nothing_helps_where_onnx_runtime_lacks_all() -> None:
    assert kernels.supported(Form("Tan", floats(3, dtype=np.float64), opset=22).raw, session) is None


def test_slopes_of_an_old_prelu_are_of_channels() -> None:
    form = Form("PRelu", floats(2, 3, 4, 3), floats(3), opset=6)
    x, slopes = form.inputs.values()
    (found,) = form.run(opsets.upgraded(form.raw, "test"))
    np.testing.assert_array_equal(found, np.where(x < 0, x * slopes[:, None, None], x))


def test_axes_that_are_an_input_are_refused_with_the_remedy(tmp_path: Path) -> None:
    form = Form("ReduceSum", floats(3, 4), integers(1), opset=18)
    onnx.save(form.model, tmp_path / "model.onnx")
    inputs = [Input("x0", (3, 4), "float32", 0, 0.0, 1.0, None), Input("x1", (1,), "int64", 0, 0.0, 2.0, None)]
    with pytest.raises(PipelineError, match="takes its axes from 'x1'") as caught:
        importer.convert(tmp_path / "model.onnx", tmp_path, inputs)
    assert "`value`" in caught.value.hint
    settled = [inputs[0], Input("x1", (1,), "int64", 0, 0.0, 2.0, None, value=[1])]
    importer.convert(tmp_path / "model.onnx", tmp_path, settled)
    assert (tmp_path / "model.mlirbc").exists()


def test_each_has_a_place_among_the_rewrites() -> None:
    assert {"fourier", "scattered", "samples", "deformed", "writes", "copies"} <= rewrites.REWRITES.keys()
