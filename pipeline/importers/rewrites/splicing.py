"""The nodes of a graph inside a node, for its place in the graph around it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx
from onnx import helper

from pipeline.importers.rewrites.graph import Scope, graphs


def spliced(
    nodes: Iterable[onnx.NodeProto], results: Iterable[str], given: Mapping[str, str], scope: Scope
) -> tuple[list[onnx.NodeProto], list[str]]:
    """Copies of `nodes` whose values have names of their own, and the names of `results`. `given` says what others are called."""
    names, copies = dict(given), list[onnx.NodeProto]()
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = node.name or next(filter(None, node.output), "")  # which tells copies of one node from others
        names |= {name: scope.fresh(name) for name in node.output if name}
        _rename(copy, names)
        copy.output[:] = [names.get(name, name) for name in node.output]
        copies.append(copy)
    return copies, [names.get(name, name) for name in results]


def constants(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The initializers of a graph as nodes, and its Constant nodes."""
    held = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in graph.initializer]
    return [*held, *(node for node in graph.node if node.op_type == "Constant")]


def others(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes of a graph that are no constants."""
    return [node for node in graph.node if node.op_type != "Constant"]


def _rename(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    node.input[:] = [names.get(name, name) for name in node.input]
    for graph in graphs(node):
        own = {value.name for value in (*graph.input, *graph.initializer)} | {name for n in graph.node for name in n.output}
        outer = {name: new for name, new in names.items() if name not in own}
        for inner in graph.node:
            _rename(inner, outer)
        for output in graph.output:
            output.name = outer.get(output.name, output.name)
