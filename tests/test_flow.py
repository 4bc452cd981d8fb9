"""Branches, loops and lists of tensors in models: what takes their place gives the same, or they are refused with the reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import PipelineError
from pipeline.importers import decisions, rewrites
from pipeline.importers import onnx as importer
from pipeline.importers.onnxruntime import session
from pipeline.importers.rewrites import flow, splicing
from pipeline.importers.rewrites.graph import Scope
from pipeline.importers.rewrites.proof import without_names
from pipeline.importers.signature import Signature
from pipeline.iree import compiler, devices
from pipeline.iree.device import Device
from pipeline.iree.file import choice
from pipeline.iree.targets import resolve
from pipeline.spec.types import Input, PathSource
from pipeline.stages import import_, reference
from pipeline.stages.origin import Origin
from tests.project import model_of
from tests.test_compile import executables, on, present  # noqa: F401  # a fixture
from tests.test_import import digest

Array = np.ndarray
Nodes = list[onnx.NodeProto]
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
node = helper.make_node
GENERATOR = np.random.default_rng(5)
LENGTH = 3
CONSTANTS: Mapping[str, Array] = {
    "true": np.array(True),
    "half": np.array(0.5, np.float32),
    "near_one": np.array(0.99, np.float32),
    "ones": np.ones(LENGTH, np.float32),
    "axis": np.array([0]),
    "i0": np.array(0, np.int32),
    **{f"n{n}": np.array(n) for n in (-1, 0, 1, 2, 3, 4, 6, 9, 30, 120, 500, 1 << 62)},
}


def value(name: str, type_: int = FLOAT, shape: Sequence[int | None] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, type_, shape)


def graph(nodes: Nodes, inputs: Sequence[onnx.ValueInfoProto], *outputs: str | onnx.ValueInfoProto) -> onnx.GraphProto:
    return helper.make_graph(nodes, "inner", inputs, [value(o) if isinstance(o, str) else o for o in outputs])


def model(nodes: Nodes, inputs: Mapping[str, Array], outputs: Sequence[str], opset: int = 17) -> onnx.ModelProto:
    values = [value(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in inputs.items()]
    read = {name for n in decisions.nodes(helper.make_graph(nodes, "g", [], [])) for name in n.input}
    weights = [numpy_helper.from_array(a, n) for n, a in CONSTANTS.items() if n in read]
    made = helper.make_graph(nodes, "g", values, [onnx.ValueInfoProto(name=name) for name in outputs], weights)
    whole = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=10 if opset > 20 else 8)
    for output, found in zip(made.output, session(whole).get_outputs(), strict=True):
        type_ = {"float": "float32", "double": "float64"}.get(kind := found.type[7:-1], kind)
        whole.graph.output[[*outputs].index(output.name)].CopyFrom(
            value(output.name, helper.np_dtype_to_tensor_dtype(np.dtype(type_)))
        )
    return whole


LARGE = [node("ReduceMax", ["x"], ["most"], keepdims=0), node("Greater", ["most", "half"], ["large"])]


def branch(*nodes: onnx.NodeProto) -> onnx.GraphProto:
    return graph([*nodes], [], *(onnx.ValueInfoProto(name=name) for name in nodes[-1].output))


def chosen(condition: str, then: onnx.GraphProto, other: onnx.GraphProto, result: str = "y") -> onnx.NodeProto:
    return node("If", [condition], [result], name=f"choose_{result}", then_branch=then, else_branch=other)


def simple(kind: str) -> onnx.GraphProto:
    return branch(node(kind, ["x"], ["of_branch"]))


def loop(
    body: Nodes,
    carried: Mapping[str, str] | None = None,
    stacked: Sequence[str] = (),
    count: str = "n4",
    first: str = "true",
    types: Mapping[str, int] | None = None,
    inits: Sequence[str] = ("x",),
    inner: str = "",
) -> onnx.NodeProto:
    """A Loop over a body that makes `goes_on` or leaves the condition as it is; no shape of what it carries is said."""
    carried, kinds = carried or {"v": "w"}, types or {}
    makes = any("goes_on" in n.output for n in body)
    goes_on = f"{inner}goes_on"
    nodes = body if makes else [*body, node("Identity", [f"{inner}c"], [goes_on])]
    ins = [
        value(f"{inner}i", INT64, []),
        value(f"{inner}c", BOOL, []),
        *(value(name, kinds.get(name, FLOAT)) for name in carried),
    ]
    outs = [value(goes_on, BOOL), *(value(o, kinds.get(i, FLOAT)) for i, o in carried.items())]
    outs += [value(name, kinds.get(name, FLOAT)) for name in stacked]
    results = [f"y{n}" if n else "y" for n in range(len(carried))] + [f"s{n}" if n else "s" for n in range(len(stacked))]
    return node("Loop", [count, first, *inits], results, name="round", body=graph(nodes, ins, *outs))


TWICE = [node("Tanh", ["v"], ["t"]), node("Add", ["t", "x"], ["w"])]
GROWS = [node("Add", ["v", "ones"], ["w"]), node("ReduceMax", ["w"], ["m"], keepdims=0)]
ENDS = [*GROWS, node("Less", ["m", "n3f"], ["goes_on"])]
COUNTS = [node("Add", ["k", "n1"], ["k2"]), node("Less", ["k2", "n9"], ["goes_on"])]
X = {"x": GENERATOR.uniform(-1, 1, LENGTH).astype(np.float32)}


def ends(count: str = "n6", **changes: object) -> Nodes:
    """A Loop that data ends."""
    return [node("Cast", ["n3"], ["n3f"], to=FLOAT), loop(ENDS, count=count, **changes)]  # type: ignore[arg-type]


def nested() -> Nodes:
    inner = chosen("low", simple("Abs"), simple("Tan"), "z")
    return [*LARGE, node("Less", ["most", "near_one"], ["low"]), chosen("large", branch(inner), simple("Exp"))]


def same_names() -> Nodes:
    """Two Ifs whose branches call their values alike."""
    first = chosen("large", branch(node("Neg", ["x"], ["a"])), branch(node("Exp", ["x"], ["a"])), "between")
    return [*LARGE, first, chosen("large", branch(node("Abs", ["between"], ["a"])), branch(node("Neg", ["between"], ["a"])))]


def by_shape() -> Nodes:
    inner = chosen("one", branch(node("Neg", ["x"], ["a"])), branch(node("ReduceSum", ["x"], ["a"], keepdims=0)), "z")
    shape = [node("Shape", ["x"], ["shape"]), node("Size", ["shape"], ["rank"]), node("Equal", ["rank", "n1"], ["one"])]
    return [*LARGE, chosen("large", branch(*shape, inner), branch(node("Identity", ["ones"], ["o"])))]


def inside(count: str, condition: str) -> Nodes:
    """An If in a Loop."""
    decides = [
        node("Equal", ["i", "n1"], ["now"]),
        node("ReduceMax", ["t"], ["m"], keepdims=0),
        node("Less", ["m", "half"], ["low"]),
    ]
    choice = chosen(condition, branch(node("Neg", ["t"], ["b"])), branch(node("Add", ["t", "x"], ["b"])), "w")
    return [loop([TWICE[0], *decides, choice], count=count)]


def loops(count: str) -> Nodes:
    """A Loop in a Loop."""
    inner = loop(
        [node("Add", ["u", "w0"], ["u2"]), node("Tanh", ["u2"], ["u3"])], {"u": "u3"}, ["u2"], count, inits=["w0"], inner="inner_"
    )
    inner.output[:] = ["w", "us"]
    sums = node("ReduceSum", ["us", "axis"], ["sums"], keepdims=0)
    return [loop([node("Mul", ["v", "near_one"], ["w0"]), inner, sums], stacked=["sums", "w0"], count=count)]


def walks() -> Nodes:
    """A Loop that looks where it must not once it has ended: the condition asks for the length first."""
    body = [
        node("Gather", ["x", "k"], ["element"]),
        node("Add", ["v", "element"], ["w"]),
        node("Add", ["k", "n1"], ["k2"]),
        node("Less", ["k2", "n3"], ["inside"]),
        node("Less", ["element", "half"], ["low"]),
        node("And", ["inside", "low"], ["goes_on"]),
    ]
    return [loop(body, {"v": "w", "k": "k2"}, count="n30", inits=["half", "n0"], types={"k": INT64})]


def scan(count: int, **attributes: object) -> tuple[Nodes, dict[str, Array], list[str]]:
    body = graph(
        [
            node("Add", ["h", "a"], ["h1"]),
            node("Mul", ["h1", "b"], ["h2"]),
            node("Greater", ["h2", "a"], ["more"]),
            node("Sub", ["h2", "g"], ["g2"]),
        ],
        [value(name) for name in "hgab"],
        *("h2", "g2", "h1", value("more", BOOL)),
    )
    axes = attributes.get("scan_input_axes", [0, 0])
    slices = [np.moveaxis(GENERATOR.random((count, 2), np.float32), 0, axis) for axis in axes]  # type: ignore[attr-defined]
    inputs = {"h0": np.ones(2, np.float32), "g0": np.zeros(2, np.float32), "a0": slices[0], "b0": slices[1]}
    return [node("Scan", [*inputs], [*"yzpq"], name="scan", body=body, num_scan_inputs=2, **attributes)], inputs, [*"yzpq"]


def collects() -> Nodes:
    """A list of tensors that a Loop fills."""
    body = [
        node("Gather", ["x", "i"], ["e"]),
        node("Unsqueeze", ["e", "axis"], ["e1"]),
        node("SequenceInsert", ["l", "e1"], ["l2"]),
    ]
    kinds = [helper.make_tensor_sequence_value_info(name, FLOAT, None) for name in ("l", "l2")]
    inner = graph(
        [*body, node("Identity", ["c"], ["goes_on"])],
        [value("i", INT64, []), value("c", BOOL, []), kinds[0]],
        value("goes_on", BOOL),
        kinds[1],
    )
    full = node("Loop", ["n3", "true", "empty"], ["full"], body=inner)
    read = [node("ConcatFromSequence", ["full"], ["y"], axis=0), node("SequenceLength", ["full"], ["z"])]
    return [node("SequenceEmpty", [], ["empty"]), full, *read]


def splits() -> Nodes:
    double = graph([node("Neg", ["e"], ["of_e"])], [value("e")], "of_e")
    return [
        node("SplitToSequence", ["t"], ["rows"], axis=0, keepdims=0),
        node("SequenceErase", ["rows", "n0"], ["fewer"]),
        node("SequenceAt", ["rows", "n-1"], ["last"]),
        node("SequenceInsert", ["fewer", "last", "n0"], ["more"]),
        node("SequenceMap", ["more"], ["mapped"], body=double),
        node("ConcatFromSequence", ["mapped"], ["y"], axis=-1, new_axis=1),
        node("SplitToSequence", ["t", "n4"], ["columns"], axis=-1),
        node("SequenceAt", ["columns", "n1"], ["z"]),
    ]


def divides() -> Nodes:
    quotient = branch(node("Div", ["a", "b"], ["q"]))
    return [node("Greater", ["b", "i0"], ["more"]), chosen("more", quotient, branch(node("Neg", ["a"], ["q"])))]


TABLE = {"t": GENERATOR.random((3, 6), np.float32)}
AXES = {
    "scan_input_axes": [1, -2],
    "scan_input_directions": [1, 0],
    "scan_output_axes": [-1, 0],
    "scan_output_directions": [0, 1],
}
BY_DATA: Mapping[str, Callable[[], onnx.ModelProto]] = {
    "branches": lambda: model([*LARGE, chosen("large", simple("Neg"), simple("Exp"))], X, "y"),
    "outer": lambda: model([*LARGE, chosen("large", simple("Identity"), branch(node("Identity", ["ones"], ["o"])))], X, "y"),
    "booleans": lambda: model(
        [
            *LARGE,
            chosen("large", branch(node("Less", ["x", "half"], ["o"])), branch(node("Less", ["half", "x"], ["o"]))),
        ],
        X,
        "y",
    ),
    "one_value": lambda: model(
        [node("Greater", ["x", "half"], ["p"]), chosen("p", simple("Neg"), simple("Exp"))], {"x": X["x"][:1]}, "y"
    ),
    "nested": lambda: model(nested(), X, "y"),
    "same_names": lambda: model(same_names(), X, "y"),
    "by_shape_inside": lambda: model(by_shape(), X, "y"),
    "quotients": lambda: model(divides(), {"a": np.array([7, -3], np.int32), "b": np.array(2, np.int32)}, "y"),
    "loop_inside": lambda: model(
        [*LARGE, chosen("large", graph([loop(TWICE, count="n120")], [], "y"), simple("Exp"), "z")], X, "z"
    ),
    "inside_loop": lambda: model(inside("n3", "low"), X, "y"),
    "inside_long_loop": lambda: model(inside("n120", "low"), X, "y"),
    "ends": lambda: model(ends(), X, "y"),
    "ends_late": lambda: model(ends("n500"), X, "y"),
    "ends_first": lambda: model([*LARGE, *ends(first="large")], X, "y"),
    "walks": lambda: model(walks(), X, ["y", "y1"]),
}
KNOWN: Mapping[str, Callable[[], onnx.ModelProto]] = {
    "if": lambda: model(
        [node("Equal", ["n1", "n2"], ["p"]), chosen("p", simple("Neg"), branch(node("ReduceSum", ["x"], ["o"])))], X, "y"
    ),
    "inside_loop": lambda: model(inside("n3", "now"), X, "y"),
    "loop": lambda: model([loop(TWICE, stacked=["t"])], X, "ys"),
    "loop_11": lambda: model([loop(TWICE, stacked=["t"])], X, "ys", 11),
    "long_loop": lambda: model([loop(TWICE, stacked=["t"], count="n120")], X, "ys", 21),
    "none": lambda: model([loop(TWICE, count="n0")], X, "y"),
    "loops": lambda: model(loops("n3"), X, ["y", "s", "s1"]),
    "long_loops": lambda: model(loops("n30"), X, ["y", "s", "s1"]),
    "counts": lambda: model(
        [loop([*COUNTS, *TWICE], {"v": "w", "k": "k2"}, count="", inits=["x", "n0"], types={"k": INT64})], X, ["y", "y1"]
    ),
    "larger": lambda: model([loop([node("Concat", ["v", "x"], ["w"], axis=0)])], X, "y"),
    "count_by_data": lambda: model([loop(TWICE, count="n")], {**X, "n": np.array([5])}, "y"),
    "scan": lambda: model(*scan(4)),
    "scan_axes": lambda: model(*scan(4, **AXES), opset=11),
    "long_scan": lambda: model(*scan(120, **AXES), opset=21),
    "list": lambda: model(collects(), X, "yz"),
    "lists": lambda: model(splits(), TABLE, "yz"),
    **{f"long_{t.__name__}": lambda t=t: of_type(t) for t in (np.float16, np.float64, np.int32, np.int64)},  # type: ignore[misc]
}


def of_type(dtype: type) -> onnx.ModelProto:
    kinds = {"v": helper.np_dtype_to_tensor_dtype(np.dtype(dtype))}
    return model([loop([node("Add", ["v", "x"], ["w"])], count="n120", types=kinds)], {"x": np.array([1, 2, 3], dtype)}, "y")


def specs(made: onnx.ModelProto) -> list[Input]:
    found = []
    for i in made.graph.input:
        dtype = str(helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type))
        low, high = (-1.0, 1.0) if "float" in dtype else (-1.0, 6.0)
        found.append(Input(i.name, tuple(d.dim_value for d in i.type.tensor_type.shape.dim), dtype, 0, low, high, None))
    return found


def rewritten(made: onnx.ModelProto, folder: Path) -> tuple[onnx.ModelProto, dict[str, str]]:
    onnx.save(made, folder / "model.onnx")
    found, tried = rewrites.apply(importer.fixed(folder / "model.onnx", specs(made)), specs(made), "model.onnx")
    problems = {rewrite.name: rewrite.problem for rewrite in tried}
    flow.require_none(found, problems, "model.onnx")
    return found, problems


def require_same(found: onnx.ModelProto, made: onnx.ModelProto) -> None:
    generator = np.random.default_rng(1)
    running, plain = session(without_names(found)), session(made)
    for _ in range(6):
        feeds = {s.name: np.asarray(generator.uniform(s.low, s.high, s.shape)).astype(s.dtype) for s in specs(made)}
        for one, other in zip(running.run(None, feeds), plain.run(None, feeds), strict=True):
            np.testing.assert_allclose(one, other, *((1e-2, 1e-2) if one.dtype == np.float16 else (1e-5, 1e-5)))
            assert (one.shape, one.dtype) == (other.shape, other.dtype)


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_known_is_done_before_the_model_runs(name: str, tmp_path: Path) -> None:
    found, tried = rewritten(made := KNOWN[name](), tmp_path)
    assert not any(tried.values())
    assert "known" in tried
    kept = {n.op_type for n in decisions.nodes(found.graph)} & {"If", "Loop", "Scan", "SequenceInsert", "SequenceAt"}
    assert kept == ({"Loop"} if "long" in name or name == "count_by_data" else set())
    require_same(found, made)


@pytest.mark.parametrize("name", BY_DATA)
def test_what_data_decides_is_computed_both_ways(name: str, tmp_path: Path) -> None:
    found, tried = rewritten(made := BY_DATA[name](), tmp_path)
    assert not tried["choices"]
    assert "If" not in {n.op_type for n in decisions.nodes(found.graph)}
    require_same(found, made)


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        (
            [*LARGE, chosen("large", simple("Neg"), branch(node("ReduceSum", ["x"], ["o"], keepdims=0)))],
            "onnx.If (node 'choose_y') chooses between results of different shapes, [3] and []",
        ),
        (ends("n"), "onnx.Loop (node 'round') ends when data says, and how often it may run is data too"),
        (
            ends("n9", stacked=["m"]),
            "onnx.Loop (node 'round') runs as often as data says, which what its rounds stack is as long as",
        ),
        (ends(f"n{1 << 62}"), "onnx.Loop (node 'round') ends when data says, and nothing else bounds its rounds"),
        (
            [loop([node("Concat", ["v", "x"], ["w"], axis=0)], count="n"), node("ReduceSum", ["x"], ["z"])],
            "onnx.Loop (node 'round') runs as often as data says, and carries values whose types change",
        ),
    ],
)
def test_the_rest_is_refused_in_one_line(nodes: Nodes, said: str, tmp_path: Path) -> None:
    inputs = {**X, "n": np.array(3)} if any("n" in n.input for n in nodes) else X
    with pytest.raises(PipelineError) as caught:
        rewritten(model(nodes, inputs, "y"), tmp_path)
    assert said in caught.value.what
    assert "\n" not in caught.value.what
    assert caught.value.hint


def test_branches_of_other_lengths_are_left_to_iree(tmp_path: Path) -> None:
    longer = branch(node("Concat", ["x", "x"], ["o"], axis=0))
    found, _ = rewritten(model([*LARGE, chosen("large", simple("Neg"), longer)], X, "y"), tmp_path)
    assert "If" in {n.op_type for n in found.graph.node}


def test_a_model_without_control_flow_stays_as_it_is() -> None:
    """However its shapes are computed, unless that is what a compiler must know."""
    shape = [node("Shape", ["x"], ["s"]), node("Mul", ["s", "n2"], ["s2"]), node("Concat", ["n1s", "s"], ["s3"], axis=0)]
    one = node("Unsqueeze", ["n1", "axis"], ["n1s"])
    made = model([*shape[:2], one, shape[2], node("Reshape", ["x", "s3"], ["y"])], X, "y")
    assert flow.settled(onnx.shape_inference.infer_shapes(made, data_prop=True)) is None
    tiled = flow.settled(onnx.shape_inference.infer_shapes(model([*shape[:1], node("Tile", ["x", "s"], ["y"])], X, "y")))
    assert tiled is not None
    assert [dim.dim_value for dim in tiled.graph.output[0].type.tensor_type.shape.dim] == [9]


@pytest.mark.thorough
def test_iree_compiles_them(tmp_path: Path, present: list[Device]) -> None:  # noqa: F811
    """In one model, for time."""
    parts = [
        KNOWN["long_loops"],
        BY_DATA["ends_late"],
        BY_DATA["walks"],
        BY_DATA["nested"],
        lambda: model(*scan(90, **AXES)),
        KNOWN["lists"],
    ]
    parts += [BY_DATA["quotients"], KNOWN["count_by_data"]]
    whole = helper.make_model(graph([], []), opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    scope = Scope(whole.graph)
    for part in (part().graph for part in parts):
        given = {i.name: scope.fresh(i.name) for i in part.input}
        nodes = [*splicing.constants(part), *splicing.others(part)]
        nodes, results = splicing.spliced(nodes, [o.name for o in part.output], given, scope)
        whole.graph.node.extend(nodes)
        for value_, name in zip((*part.input, *part.output), (*given.values(), *results), strict=True):
            value_.name = name
        whole.graph.input.extend(part.input)
        whole.graph.output.extend(part.output)
    inputs, generator = specs(whole), np.random.default_rng(2)
    feeds = {s.name: np.asarray(generator.uniform(s.low, s.high, s.shape)).astype(s.dtype) for s in inputs}
    onnx.save(whole, tmp_path / "model.onnx")
    importer.convert(tmp_path / "model.onnx", tmp_path, inputs)
    targets = executables("vulkan-any", "x86-64")
    compiler.compile_module(tmp_path / "model.mlirbc", tmp_path, [resolve(e) for e in targets], {e.name: () for e in targets})
    np.savez(tmp_path / "inputs.npz", **{str(i): array for i, array in enumerate(feeds.values())})
    names = [t.name for t in Signature.read(tmp_path / "signature.json").outputs]
    expected = session(without_names(whole)).run(names, feeds)
    for index, driver in enumerate(("vulkan", "local-task")):
        choice.force(tmp_path / "module.vmfb", index, tmp_path / f"{driver}.vmfb")
        ran = devices.run(tmp_path / f"{driver}.vmfb", on(present, driver), "main", [tmp_path / "inputs.npz"], tmp_path, driver)
        assert not ran.error
        with np.load(devices.outputs(tmp_path, driver)) as arrays:
            for number, (name, wanted) in enumerate(zip(names, expected, strict=True)):
                np.testing.assert_allclose(
                    arrays[str(number)].astype(wanted.dtype), wanted, 1e-4, 1e-5, err_msg=f"{driver} {name}"
                )


def rate(by_value: bool) -> Nodes:
    """A choice by an input, and one by data."""
    first = [node("Equal", ["r", "n2"], ["two"]), chosen("two", simple("Neg"), simple("Exp"), "z")]
    second = chosen("large", branch(node("Abs", ["z"], ["o"])), branch(node("Neg", ["z"], ["o"])))
    return [*first, *LARGE, second] if by_value else [*first, node("Identity", ["z"], ["y"])]


@pytest.mark.parametrize(("high", "left"), [(1.0, ""), (0.4, "(node 'choose_y') takes the same branch for all test data")])
def test_what_a_value_in_the_spec_decides_is_no_decision(high: float, left: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(model(rate(True), {**X, "r": np.array(2)}, "y"), path)
    inputs = (Input("x", (LENGTH,), "float32", 0, -1.0, high, None), Input("r", (), "int64", 0, 0.0, 9.0, None, value=2))
    origin = Origin(model_of(PathSource(path, digest(path)), *inputs), (path,))
    import_.run(origin, tmp_path / "import")
    if not left:
        reference.run(origin, tmp_path / "import", tmp_path / "reference")
        return
    with pytest.raises(PipelineError) as caught:
        reference.run(origin, tmp_path / "import", tmp_path / "reference")
    assert left in caught.value.what
    assert caught.value.what.count("takes the same branch") == 1
