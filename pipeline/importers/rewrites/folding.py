"""What is known before a model runs, done here: values made of constants and shapes alone, branches and rounds that they choose.

A walk goes through the nodes in order. It knows the shape of every value that it has passed, computes what is made of
constants, and opens nodes that hold graphs or make lists of tensors where what they do is known: other nodes take their place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pipeline.arrays import Array
from pipeline.importers.functions import opset_of, schema_of
from pipeline.importers.rewrites import branches, guards, loops, scans, sequences
from pipeline.importers.rewrites.branches import is_static
from pipeline.importers.rewrites.graph import Scope, graphs, inferred, put, without_dead

_LARGEST = 4096  # values: more are weights, which are the compiler's to fold
_RANDOM = frozenset("Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split())

Step: TypeAlias = "Callable[[], Sequence[Item]]"
Item: TypeAlias = "onnx.NodeProto | Step"


def folded(model: onnx.ModelProto, choosing: bool = False) -> onnx.ModelProto | None:
    """`model`, whose types are inferred, with what is known said by constants; None if nothing is.

    With `choosing`, branches that data decides are both computed, and rounds that data ends all run: see `branches`, `loops`.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    branches.trim(copy.graph)
    scope = Scope(copy.graph)
    walk = Walk(copy, copy.graph, scope, choosing)
    walk.run()
    if not walk.changed:
        return None
    copy.graph.initializer.extend(scope.added)
    for output in copy.graph.output:
        if is_static(type_ := scope.whole_type(output.name)):
            output.type.CopyFrom(type_)
    try:
        return inferred(copy)
    except onnx.shape_inference.InferenceError:
        return None  # ONNX infers something else: then there is nothing to build on


class Walk:
    """One way through a graph; `kept` are the nodes that it is left with."""

    def __init__(self, model: onnx.ModelProto, graph: onnx.GraphProto, scope: Scope, choosing: bool) -> None:
        self.model, self.graph, self.scope, self.choosing = model, graph, scope, choosing
        self.kept: list[onnx.NodeProto] = []
        self.lists: dict[str, list[str]] = {}
        self.guarded = 0  # how many choices by data the nodes stand in, whose results may not count
        self.changed = False
        self._learned: dict[str, onnx.TypeProto] = {}

    def inside(self, graph: onnx.GraphProto, scope: Scope) -> Walk:
        """A walk through a graph inside this one."""
        walk = Walk(self.model, graph, scope, self.choosing)
        walk.lists, walk.guarded = dict(self.lists), self.guarded
        return walk

    def run(self) -> None:
        """Go through the graph and put `kept` in, in place."""
        waiting: list[Item] = [*reversed(self.graph.node)]
        while waiting:
            item = waiting.pop()
            more = self._opened(item) if isinstance(item, onnx.NodeProto) else item()
            if more is not None:
                self.changed = True
                waiting.extend(reversed(more))
            elif isinstance(item, onnx.NodeProto):
                self.settle(item)
        if self.changed:
            put(self.graph, self.kept)
            without_dead(self.graph)
            del self.graph.value_info[:]  # found before more was known, some of it wrongly
            self.graph.value_info.extend(self._found())

    def _opened(self, node: onnx.NodeProto) -> Sequence[Item] | None:
        """What takes the place of a node that is no plain one, where that is known."""
        if node.domain not in ("", "ai.onnx"):
            return None
        if node.op_type == "If":
            return branches.opened(node, self)
        if node.op_type == "Loop":
            return loops.opened(node, self)
        if node.op_type == "Scan":
            return scans.opened(node, self.scope)
        if (found := sequences.opened(node, self.scope, self.lists)) is not None and node.output[0] in self.lists:
            self.keep(node)  # for those that do not know the list
        return found

    def settle(self, node: onnx.NodeProto) -> None:
        """Compute the node, or keep it."""
        if node.op_type == "Constant" or (found := _values(node, self.model, self.scope)) is None:
            self.keep(guards.guarded(node, self) if self.guarded else node)
            return
        self.changed = True
        for name, tensor in zip(node.output, found, strict=True):
            self.keep(helper.make_node("Constant", [], [name], node.name, value=tensor))

    def keep(self, node: onnx.NodeProto, types: Sequence[onnx.TypeProto] = ()) -> None:
        """Leave a node, and in the graphs inside it what is left there; its results have these types, or those that are found."""
        if node.op_type == "Constant":
            self.scope.define_constant(node)
        self.kept.append(node)
        types = types or self._inside(node) or self._inferred(node)
        for name, type_ in zip(node.output, types, strict=False):
            if name and type_.tensor_type.elem_type:
                self.scope.learn(name, type_)
                self._learned[name] = type_

    def _inside(self, node: onnx.NodeProto) -> list[onnx.TypeProto]:
        """Walk through the graphs inside a node; the types of the results of an If."""
        found = []
        for graph in graphs(node):
            scope = Scope(graph, self.scope)
            walk = self.inside(graph, scope)
            walk.run()
            self.changed |= walk.changed
            found.append([scope.whole_type(output.name) for output in graph.output])
        if node.op_type != "If":
            return []
        return [
            a if a == b else helper.make_tensor_type_proto(a.tensor_type.elem_type, None) for a, b in zip(*found, strict=True)
        ]

    def _inferred(self, node: onnx.NodeProto) -> list[onnx.TypeProto]:
        schema = schema_of(node, opset_of(self.model))
        if schema is None or any(graphs(node)):
            return []
        names = [name for name in node.input if name]
        types = {name: type_ for name in names if (type_ := self.scope.whole_type(name)).tensor_type.elem_type}
        few = {n: numpy_helper.from_array(v, n) for n in names if (v := _few(n, self.scope)) is not None}
        try:
            found = onnx.shape_inference.infer_node_outputs(schema, node, types, few, opset_imports=[*self.model.opset_import])
        except Exception:  # it has errors of many kinds: then the type is not known
            return []
        return [found.get(name, onnx.TypeProto()) for name in node.output]

    def _found(self) -> list[onnx.ValueInfoProto]:
        """What was found of the values of `kept`, where it is all of their shape."""
        results = {output.name for output in self.graph.output}
        names = [name for node in self.graph.node for name in node.output if name in self._learned and name not in results]
        return [helper.make_value_info(n, self._learned[n]) for n in names if self.scope.shape(n) is not None]


def _few(name: str, scope: Scope) -> Array | None:
    """The value of a constant of few numbers."""
    shape = scope.shape(name)
    return scope.constant(name) if shape is not None and math.prod(shape) <= _LARGEST else None


def _values(node: onnx.NodeProto, model: onnx.ModelProto, scope: Scope) -> Sequence[onnx.TensorProto] | None:
    """The node's results, where they are known and few."""
    if node.domain not in ("", "ai.onnx") or node.op_type in _RANDOM or any(graphs(node)) or not all(node.output):
        return None
    if node.op_type in ("Shape", "Size"):
        shape = scope.shape(node.input[0])
        given = None if shape is None else [np.broadcast_to(np.uint8(0), shape)]
    else:
        given = [value for name in node.input if name and (value := _few(name, scope)) is not None]
        given = given if len(given) == sum(map(bool, node.input)) else None
    if given is None:
        return None
    names = [name for name in node.input if name]
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for n, v in zip(names, given, strict=True)
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
    alone = helper.make_model(helper.make_graph([node], "node", inputs, outputs), opset_imports=model.opset_import)
    from onnx.reference import ReferenceEvaluator  # takes a tenth of an import's time

    try:
        found = [np.asarray(value) for value in ReferenceEvaluator(alone).run(None, dict(zip(names, given, strict=True)))]
    except Exception:  # whatever an evaluator raises: then the compiler may see to it
        return None
    return [numpy_helper.from_array(value) for value in found] if all(value.size <= _LARGEST for value in found) else None
