"""What is told of a model that does not go through: operator, node, why, what to do; and the smallest part that fails."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from pipeline import activity, arrays
from pipeline.importers import onnx as importer
from pipeline.importers import rewrites
from pipeline.importers.child import inputs_as_text
from pipeline.iree.backends.vulkan import barriers
from pipeline.iree.backends.vulkan import corrections as vulkan
from pipeline.iree.device import Device
from pipeline.iree.targets import resolve
from pipeline.reduction import refusal, wrong
from pipeline.reduction.job import Found, Job, Run
from pipeline.reduction.search import Search
from pipeline.reduction.subgraph import Graph, presentable
from pipeline.spec.types import Input
from pipeline.stages import reduction, reference
from tests.project import Project
from tests.test_compile import compiler, executables, on, present  # noqa: F401  # a fixture
from tests.test_workarounds import CONVOLUTIONS, SHAPE, mobile_block, nothing

LATER = 1e9


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, ...]],
    outputs: Sequence[str],
    constants: Mapping[str, object] | None = None,
) -> Path:
    """A model of these nodes whose inputs are float32."""
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", given, results, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def tensors(**shapes: tuple[int, ...]) -> list[Input]:
    return [Input(name, shape, "float32", 0, -1.0, 1.0, None) for name, shape in shapes.items()]


def project_of(
    root: Path, nodes: Sequence[onnx.NodeProto], shape: tuple[int, ...], outputs: Sequence[str], **constants: object
) -> Project:
    """A project whose only model is `faulty`, for one level of CPUs."""
    project = Project(root, bundle={"targets": ["x86-64"]})
    path = save(project.targets / "models/faulty.onnx", nodes, {"x": shape}, outputs, constants)
    spec = {
        "about": "a model that does not go through",
        "licence": "MIT",
        "format": "onnx",
        "source": {"kind": "path", "path": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()},
        "inputs": [{"name": "x", "shape": list(shape), "dtype": "float32", "low": -1, "high": 1}],
        "bundles": ["desktop"],
    }
    (project.targets / "models/faulty.yaml").write_text(yaml.safe_dump(spec))
    return project


def reduced(project: Project) -> tuple[onnx.ModelProto, str]:
    """What `doit reduce` writes: a valid model that ONNX Runtime loads and IREE's own importer takes; and what it prints."""
    result = project.doit("reduce", "model=faulty", "seconds=120")
    assert result.returncode == 0, result.stdout + result.stderr
    path = project.layout.reduced("faulty", "desktop") / "faulty.onnx"
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    imports = [sys.executable, "-m", "iree.compiler.tools.import_onnx", str(path), "-o", str(path.with_suffix(".again"))]
    subprocess.run(imports, check=True)
    assert not list(project.root.rglob("*.part"))
    return model, result.stdout


CHAIN = [helper.make_node("Relu", ["x"], ["r"], "first"), helper.make_node("Sigmoid", ["r"], ["s"], "second")]


@pytest.mark.thorough
def test_a_crash_of_the_compiler_is_told_by_operator_and_node_and_written_as_its_smallest_part(tmp_path: Path) -> None:
    pick = helper.make_node("GatherND", ["s", "none"], ["g"], "pick")  # no indices at all
    nodes = [*CHAIN, pick, helper.make_node("Tanh", ["s"], ["y"], "last")]
    project = project_of(tmp_path, nodes, (4, 8), ["y", "g"], none=np.zeros((0, 2), np.int64))
    result = project.doit("build")
    assert "onnx.GatherND (node 'pick'): iree-compile crashes at it (killed by SIG" in result.stdout
    assert "`doit reduce model=faulty` writes" in result.stdout
    assert "Traceback" not in result.stdout
    model, said = reduced(project)
    assert [node.op_type for node in model.graph.node if node.op_type != "Constant"] == ["GatherND"]
    assert "1 of 4 nodes" in said
    assert "IREE's own tools, in that folder, end so: iree-compile crashed" in said
    assert "iree-compile faulty.mlir" in said


@pytest.mark.thorough
def test_the_first_wrong_value_is_told_and_its_node_written_with_its_data(tmp_path: Path) -> None:
    """IREE 3.13 divides by the pivots of a determinant, of which one may be 0: here a whole row is."""
    nodes = [
        *CHAIN[:1],
        helper.make_node("Det", ["r"], ["d"], "determinant"),
        helper.make_node("ReduceMean", ["x"], ["m"], "mean", axes=[1, 2], keepdims=0),
        helper.make_node("Add", ["d", "m"], ["a"], "sum"),
        helper.make_node("Tanh", ["a"], ["y"], "last"),
    ]
    project = project_of(tmp_path, nodes, (6, 3, 3), ["y"])
    result = project.doit("verify")
    assert result.returncode in (1, 2)
    assert "x86-64: first wrong: onnx.Det (node 'determinant'), which takes what is right: value 'd':" in result.stdout
    model, said = reduced(project)
    assert [node.op_type for node in model.graph.node] == ["Det"]
    assert "end so: [FAILED] result[0]" in said
    folder = project.layout.reduced("faulty", "desktop")
    given, wanted = (np.load(folder / f"faulty.{kind}0.npy") for kind in ("input", "output"))
    np.testing.assert_allclose(np.linalg.det(given), wanted, atol=1e-5)


@pytest.mark.thorough
def test_what_goes_through_leaves_nothing_to_reduce(tmp_path: Path) -> None:
    project = project_of(tmp_path, CHAIN, (4, 8), ["s"])
    result = project.doit("reduce", "model=faulty")
    assert "nothing to reduce: faulty compiles for desktop and is verified" in result.stdout
    assert not list(project.root.rglob("reduce/*.onnx"))
    result = project.doit("reduce", "model=fualty")
    assert result.returncode == 3
    assert "there is no such model\n  → did you mean 'faulty'?" in result.stderr


@pytest.mark.thorough
def test_code_that_a_target_has_none_for_is_told_by_the_nodes_of_its_kernel(tmp_path: Path) -> None:
    """IREE 3.13 has no remainder of 64 bits for Vulkan, of which it makes NonZero."""
    nodes = [
        *CHAIN,
        helper.make_node("Greater", ["s", "half"], ["g"], "above"),
        helper.make_node("Compress", ["s", "g"], ["y"], "kept"),
    ]
    path = save(tmp_path / "m.onnx", nodes, {"x": (7,)}, ["y"], {"half": np.float32(0.6)})
    inputs, targets, found = tensors(x=(7,)), executables("vulkan-any"), list[tuple[Found, onnx.ModelProto]]()
    importer.convert(path, tmp_path, inputs)
    with pytest.raises(compiler.RefusedError) as caught:
        compiler.compile_module(tmp_path / "model.mlirbc", tmp_path, [resolve(*targets)], {"vulkan-any": ()})
    what = caught.value.what.removeprefix("vulkan-any: ")
    kernels = reduction.Kernels(tmp_path / "model.mlirbc", tmp_path, targets, ())
    assert list(kernels.nodes(what)) == ["kept"]
    assert "node 'kept'" in reduction.together(kernels.called(what))
    job = Job(str(path), inputs_as_text(inputs), (resolve(*targets),), (), 120, suspects=("kept",))
    refusal.smallest(job, tmp_path, lambda *both: found.append(both))
    last, model = found[-1]
    assert (last.names, last.is_smallest) == (("kept",), True)
    assert last.nodes == ("onnx.NonZero (in place of onnx.Compress, node 'kept')",)
    assert "needs arith.remsi of i64, for which IREE has no code here" in last.why
    assert [i.name for i in model.graph.input] == ["g"]


def run_of_block(folder: Path, device: Device) -> Job:
    mobile_block(folder / "block.onnx")
    arrays.write(folder / "given.npz", [np.random.default_rng(6).random(SHAPE, dtype=np.float32)])
    inputs, target = inputs_as_text(tensors(x=SHAPE)), resolve(*executables("vulkan-any"))
    return Job(str(folder / "block.onnx"), inputs, (target,), CONVOLUTIONS, 300, run=Run(device, str(folder / "given.npz")))


@pytest.mark.thorough
def test_code_for_a_gpu_that_is_wrong_is_traced_to_its_node(
    tmp_path: Path,
    present: list[Device],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The lowering of padded depthwise convolutions, as it is without its correction: wrong only where they are fused."""
    monkeypatch.setattr(vulkan, "align_loops", nothing)
    monkeypatch.setattr(barriers, "synchronize", nothing)
    monkeypatch.setenv("PIPELINE_CACHE_DIR", str(tmp_path / "cache"))  # the wrong code must not stay anywhere
    found: list[Found] = []
    wrong.first(run_of_block(tmp_path, on(present, "vulkan")), tmp_path, lambda what, _: found.append(what))
    assert found[-1].nodes == ("onnx.Conv (node 'c2')",)
    assert found[-1].is_smallest
    assert found[-1].why.startswith("value 'c2':")


@pytest.mark.parametrize(
    ("visible", "names", "ends"),
    [
        ({"y", "c2", "r1"}, ("r1",), {"is_smallest": True, "hides": False}),
        ({"y", "c2"}, ("c2",), {"is_smallest": True, "hides": False}),
        ({"y"}, ("y",), {"is_smallest": False, "hides": True}),
        (set(), (), {}),
    ],
)
def test_the_walk_back_ends_at_a_value_made_of_right_ones_or_says_that_the_fault_hides(
    visible: set[str],
    names: tuple[str, ...],
    ends: dict[str, bool],
    tmp_path: Path,
    present: list[Device],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def looked_at(_device: object, model: onnx.ModelProto) -> dict[str, str]:
        outputs = {o.name for o in model.graph.output}
        shows = "y" in visible and (len(visible) > 1 or outputs == {"y"})
        return {name: "wrong" if shows and name in visible else "" for name in outputs}

    monkeypatch.setattr(wrong.Device, "wrong", looked_at)
    monkeypatch.delitem(rewrites.REWRITES, "sums")  # type: ignore[arg-type]  # its values are those of the file
    found: list[Found] = []
    wrong.first(run_of_block(tmp_path, on(present, "vulkan")), tmp_path, lambda what, _: found.append(what))
    assert tuple(name for what in found[-1:] for name in what.names) == names
    assert all(getattr(found[-1], key) is value for key, value in ends.items())


@pytest.mark.parametrize("culprits", [{3}, {0, 9}, {2, 3, 4}, set(range(10))])
@pytest.mark.parametrize("suspects", [[], [[3]], [[1, 2, 3, 4]]])
def test_the_search_finds_the_smallest_part(culprits: set[int], suspects: list[list[int]]) -> None:
    said: list[tuple[int, ...]] = []
    search = Search(10, lambda part: culprits <= {*part}, time.monotonic() + LATER, said.append)
    search.run(suspects)
    assert set(search.best) == culprits
    assert search.is_smallest
    assert [len(part) for part in said] == sorted((len(part) for part in said), reverse=True)


def test_a_search_without_time_keeps_what_it_has() -> None:
    search = Search(10, lambda part: 3 in part, time.monotonic() - 1, lambda _: None)
    search.run([[3]])
    assert search.best == tuple(range(10))
    assert not search.is_smallest


def test_a_part_takes_what_others_make_and_computes_the_same(tmp_path: Path) -> None:
    branches = []
    for kind in ("Neg", "Abs"):
        result = helper.make_tensor_value_info(f"{kind}_of_s", TensorProto.FLOAT, [4])
        branches.append(helper.make_graph([helper.make_node(kind, ["s"], [f"{kind}_of_s"], "twice")], kind, [], [result]))
    nodes = [
        *CHAIN,
        helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.float32(0.5))),
        helper.make_node("ReduceMax", ["s"], ["top"], "top", keepdims=0),
        helper.make_node("Greater", ["top", "k"], ["c"], "asks"),
        helper.make_node("If", ["c"], ["y"], "chooses", then_branch=branches[0], else_branch=branches[1]),
    ]
    path = save(tmp_path / "m.onnx", nodes, {"x": (4,)}, ["y"])
    model = importer.fixed(path, tensors(x=(4,)))
    graph = Graph(model)
    part = graph.part([3, 4])
    assert part is not None
    copy = presentable(part)
    onnx.checker.check_model(copy, full_check=True)
    assert [i.name for i in copy.graph.input] == ["top", "s"]  # which only the branches take
    session = onnxruntime.InferenceSession(copy.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"top": np.array(0.9, np.float32), "s": np.arange(4, dtype=np.float32)})
    np.testing.assert_array_equal(y, -np.arange(4, dtype=np.float32))


@pytest.mark.parametrize(
    ("nodes", "smallest", "said"),
    [
        (["a"], True, "a"),
        (["a", "b"], True, "a and b together"),
        (list("abcdef"), True, "a, b, c and 3 more nodes together"),
        (list("abcdef"), False, "one or more of the 6 nodes from a to f"),
    ],
)
def test_nodes_in_words(nodes: list[str], smallest: bool, said: str) -> None:
    assert reduction.together(nodes, smallest) == said


def test_a_search_that_fails_says_nothing(tmp_path: Path) -> None:
    spec = Project(tmp_path / "project", "small").spec("small")[0]
    job = Job(str(tmp_path / "nowhere.onnx"), inputs_as_text(spec.entries[0].inputs), (resolve(*executables("x86-64")),), (), 20)
    assert reduction.search(tmp_path / "search", job) is None
    assert "nowhere.onnx" in (tmp_path / "search/search.log").read_text()


def test_an_estimate_counts_down_and_then_up() -> None:
    with activity.step("compile:x"):
        activity.say("3 of 4 pieces", 19)
        assert activity.text("compile:x") == "3 of 4 pieces, about 19 s left"
        activity.say("3 of 4 pieces", 1)
        time.sleep(2.1)
        assert activity.text("compile:x") == "3 of 4 pieces, 1 s longer than estimated"
        activity.say("4 of 4 pieces")
        assert activity.text("compile:x") == "4 of 4 pieces"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "Fail: [ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Reshape node. Name:'rs' Status "
            "Message: /src/reshape_helper.h:91 Helper::Helper(const Shape&, bool) sizes were false. It cannot be reshaped\n",
            "onnx.Reshape (node 'rs'): sizes were false. It cannot be reshaped",
        ),
        (
            "a.b.NotImplemented: [ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Could not find an implementation for Erf(13) node "
            "with name 'erf'",
            "onnx.Erf (node 'erf'): it has no implementation of it for these types",
        ),
        ("ValueError: something else", "something else"),
    ],
)
def test_what_onnx_runtime_says_is_told_by_operator_and_node(line: str, told: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(f"Traceback (most recent call last):\n  File x\n{line}\n")
    assert reference._refusal(log) == told
