"""Wrong lowerings of the pinned compiler that `corrections` works around: right with the work-around, wrong without.

When one of these fails because the code is right without its work-around, the compiler was mended: remove both.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from pipeline.importers.signature import Tensor
from pipeline.iree import corrections, devices
from pipeline.iree.devices import Device
from pipeline.iree.targets import resolve
from tests.test_compile import compiler, executables, on, outputs, present  # noqa: F401  # a fixture

SHAPE = (1, 8, 6, 96)


def mobile_block(path: Path) -> None:
    """What mobile networks are made of: a pointwise convolution, then a padded depthwise one, each with an activation."""
    generator = np.random.default_rng(5)

    def weight(name: str, *shape: int) -> object:
        return numpy_helper.from_array((generator.standard_normal(shape) / 4).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], kernel_shape=[1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], group=32),
        helper.make_node("Relu", ["c2"], ["y"]),
    ]
    weights = [weight("w1", 32, 8, 1, 1), weight("b1", 32), weight("w2", 32, 1, 3, 3), weight("b2", 32)]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 32, 6, 96])
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def error(folder: Path, present: list[Device], twin: bool, target: str) -> float:  # noqa: F811
    """The largest error of the block on the Vulkan device."""
    from pipeline.importers import onnx as importer

    mobile_block(folder / "block.onnx")
    importer.convert(folder / "block.onnx", folder, [Tensor("x", "float32", SHAPE)], None)
    resolved = resolve(*executables(target), twin=twin)
    compiler.compile_module(folder / "model.mlirbc", folder, [resolved], {target: ()})
    x = np.random.default_rng(6).random(SHAPE, dtype=np.float32)
    np.savez(folder / "inputs.npz", **{"0": x})
    run = devices.run(folder / "module.vmfb", on(present, "vulkan"), "main", folder / "inputs.npz", folder, "run")
    assert not run.error
    session = onnxruntime.InferenceSession(folder / "block.onnx", providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": x})
    return float(np.abs(outputs(folder, "run") - expected).max())


@pytest.mark.parametrize(("target", "twin"), [("vulkan-any", False), ("amd-rdna3", True), ("nvidia-ampere", True)])
def test_padded_depthwise_convolutions_are_right(
    tmp_path: Path,
    present: list[Device],  # noqa: F811
    target: str,
    twin: bool,
) -> None:
    assert error(tmp_path, present, twin, target) < 1e-4


def nothing(_module: object) -> None:
    """Leave the module as it is."""


def aligned(_function: object) -> bool:
    """Claim that a kernel's accesses are aligned."""
    return False


@pytest.mark.parametrize(("name", "replacement"), [("align_loops", nothing), ("_stores_unaligned", aligned)])
def test_they_would_be_wrong_without_the_workaround(
    tmp_path: Path,
    present: list[Device],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    replacement: Callable[..., object],
) -> None:
    monkeypatch.setattr(corrections, name, replacement)
    monkeypatch.setenv("PIPELINE_CACHE_DIR", str(tmp_path / "cache"))  # the wrong code must not stay anywhere
    assert not error(tmp_path, present, False, "vulkan-any") < 1e-2
