"""What a model decides by its data, and test data that leaves decisions open."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.arrays import Array
from pipeline.importers import decisions
from pipeline.importers.onnxruntime import session


def value(name: str, type_: int = TensorProto.FLOAT, shape: Sequence[int] | None = (3,)) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, type_, shape)


def model(nodes: Sequence[onnx.NodeProto], opset: int = 17, **constants: Array) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "graph", [value("x")], [value("y")], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def branch(operator: str, inner: Sequence[onnx.NodeProto] = ()) -> onnx.GraphProto:
    return helper.make_graph(
        [*inner, helper.make_node(operator, ["x"], [f"of_{operator}"])], operator, [], [value(f"of_{operator}")]
    )


def chooses(condition: str = "large") -> list[onnx.NodeProto]:
    return [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "limit"], ["large"]),
        helper.make_node("If", [condition], ["y"], name="choose", then_branch=branch("Neg"), else_branch=branch("Exp")),
    ]


def loops(stops: bool, count: str = "count") -> list[onnx.NodeProto]:
    """Doubles x until its sum reaches a limit, or only as often as `count` says."""
    nodes = [
        helper.make_node("Add", ["v", "v"], ["twice"]),
        helper.make_node("ReduceSum", ["twice"], ["sum"], keepdims=0),
        helper.make_node("Less", ["sum", "limit"], ["below"]),
        helper.make_node("Identity", ["below" if stops else "c"], ["goes_on"]),
    ]
    body = helper.make_graph(
        nodes,
        "body",
        [value("i", TensorProto.INT64, ()), value("c", TensorProto.BOOL, ()), value("v")],
        [value("goes_on", TensorProto.BOOL, ()), value("twice")],
    )
    return [helper.make_node("Loop", [count, "true", "x"], ["y"], name="double", body=body)]


LIMIT = {"limit": np.float32(0.9), "true": np.bool_(True), "count": np.int64(4)}
LOW, HIGH = np.full(3, 0.1, np.float32), np.full(3, 0.95, np.float32)


def left_open(nodes: Sequence[onnx.NodeProto], draws: Sequence[Array], opset: int = 17) -> list[str]:
    whole = model(nodes, opset, **{name: np.asarray(v) for name, v in LIMIT.items()})
    copy, made = decisions.exposed(whole)
    running, plain = session(copy), session(whole)
    found = {}
    for number, x in enumerate(draws):
        (wanted,), (got, *values) = plain.run(None, {"x": x}), running.run(None, {"x": x})
        assert np.array_equal(wanted, got)
        found[str(number)] = values
    return decisions.unsettled(made, found)


def test_a_branch_that_no_test_data_takes_is_left_open() -> None:
    (said,) = left_open(chooses(), [LOW, LOW / 2])
    assert said.startswith("onnx.If (node 'choose') takes the same branch for all test data")
    assert not left_open(chooses(), [LOW, HIGH])


def test_a_loop_that_always_runs_as_often_is_left_open() -> None:
    (said,) = left_open(loops(stops=True), [LOW, LOW / 1.1])
    assert said.startswith("onnx.Loop (node 'double') runs as often for all test data")
    assert not left_open(loops(stops=True), [LOW, HIGH])


def test_what_is_the_same_for_all_data_is_no_decision() -> None:
    assert not left_open(loops(stops=False), [LOW])
    assert not left_open(chooses("true"), [LOW])


def nested(condition: str, limit: float) -> list[onnx.NodeProto]:
    """A choice in one branch of another, by the second value of x."""
    inner = [
        helper.make_node("ReduceMin", ["x"], ["least"], keepdims=0),
        helper.make_node("Constant", [], ["small"], value_float=limit),
        helper.make_node("Less", ["least", "small"], ["low"]),
        helper.make_node("If", [condition], ["z"], name="inner", then_branch=branch("Abs"), else_branch=branch("Tan")),
    ]
    nodes = chooses()
    nodes[2].attribute[0].g.CopyFrom(branch("Neg", inner))
    return nodes


def test_a_choice_inside_another_is_seen_where_it_is_reached() -> None:
    middle = np.full(3, 0.7, np.float32)
    assert not left_open(nested("low", 0.5), [LOW, HIGH, middle])
    (said,) = left_open(nested("low", 0.5), [LOW, HIGH])
    assert said.startswith("onnx.If (node 'inner') takes the same branch")
    (said,) = left_open(nested("large", 0.5), [LOW, HIGH])
    assert said.startswith("onnx.If (node 'inner') takes the same branch")
    inner, outer = left_open(nested("low", 0.5), [HIGH])
    assert inner.startswith("onnx.If (node 'inner') is reached by no test data")
    assert outer.startswith("onnx.If (node 'choose') takes the same branch")


def test_two_choices_of_one_name_are_two() -> None:
    """In different graphs that is allowed."""
    made = model(nested("low", 0.5), **LIMIT)
    for node in decisions.nodes(made.graph):
        node.name = node.name and "choose"
    decisions.number_nodes(made)
    exposed, found = decisions.exposed(made)
    running = session(exposed)
    (said,) = decisions.unsettled(found, {str(i): running.run(None, {"x": x})[1:] for i, x in enumerate([LOW, HIGH])})
    assert said.startswith("onnx.If (node 'choose') takes the same branch")


def test_how_many_of_a_constant_there_are_may_be_data() -> None:
    count = [helper.make_node("Cast", ["x"], ["n"], to=TensorProto.INT64), helper.make_node("ConstantOfShape", ["n"], ["zeros"])]
    size = [helper.make_node("ReduceSum", ["zeros"], ["most"], keepdims=0), *chooses()[1:]]
    assert left_open([*count, *size], [LOW])


@pytest.mark.parametrize("opset", [17, 18])
def test_a_choice_inside_a_loop_is_seen_in_all_its_rounds(opset: int) -> None:
    nodes = loops(stops=False)
    body = nodes[0].attribute[0].g
    body.node[1].CopyFrom(helper.make_node("ReduceMax", ["twice"], ["sum"], keepdims=0))
    chosen = helper.make_node("If", ["below"], ["z"], name="inner", then_branch=branch("Abs"), else_branch=branch("Tan"))
    body.node.append(chosen)
    assert not left_open(nodes, [LOW], opset)
    (said,) = left_open(nodes, [HIGH], opset)
    assert said.startswith("onnx.If (node 'inner') takes the same branch")
