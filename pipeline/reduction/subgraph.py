"""Parts of an ONNX model: some of its nodes as a model of their own, which takes what the others make as inputs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import onnx
from onnx import helper

from pipeline.importers import decisions, weights
from pipeline.importers.rewrites.graph import Scope

# The shapes that test data gives values of which nothing else tells a shape.
Shapes = Callable[[], Mapping[str, Sequence[int]]]

FUNCTION = "part"  # the name of every part


def read_by(node: onnx.NodeProto) -> list[str]:
    """What a node takes, and what graphs inside it take: names of their own values are among these too."""
    inner = (n for graph in decisions.inside(node) for n in decisions.nodes(graph))
    results = (o.name for graph in decisions.inside(node) for o in graph.output)
    return [name for name in (*node.input, *(name for n in inner for name in n.input), *results) if name]


def called(node: onnx.NodeProto) -> str:
    """A node for people."""
    return f"{node.domain or 'onnx'}.{node.op_type} (node {node.name or next(filter(None, node.output), '')!r})"


def presentable(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy for others: each node has a name of its own, which ONNX Runtime demands, and all weights are in it."""
    copy, taken = onnx.ModelProto(), set[str]()
    copy.CopyFrom(weights.inside(model))
    for node in (node for node in decisions.nodes(copy.graph) if node.name):
        numbered = (f"{node.name}_{number}" for number in itertools.count(2))
        node.name = next(name for name in itertools.chain([node.name], numbered) if name not in taken)
        taken.add(node.name)
    return copy


class Graph:
    """A model whose types are inferred, to cut parts from. `nodes` are those that compute, in order: constants go with parts."""

    def __init__(self, model: onnx.ModelProto, shapes: Shapes = dict) -> None:
        self.model = model
        self.nodes = [node for node in model.graph.node if node.op_type != "Constant"]
        self._constants = {n.output[0]: n for n in model.graph.node if n.op_type == "Constant"}
        self._weights = {w.name: w for w in model.graph.initializer}
        self._scope, self._shapes = Scope(model.graph), shapes
        self._results = {o.name for o in model.graph.output}
        self._readers: dict[str, set[int]] = {}
        for index, node in enumerate(self.nodes):
            for name in read_by(node):
                self._readers.setdefault(name, set()).add(index)
        self._makers = {name: index for index, node in enumerate(self.nodes) for name in node.output if name}

    def values(self) -> Iterator[tuple[str, int]]:
        """Every value that a node computes, and the number of the node, in order."""
        yield from self._makers.items()

    def type(self, name: str, fixed: bool = True) -> onnx.TypeProto | None:
        """The type of a value with a shape, all dimensions of which are known if it is to be `fixed`; None if there is none."""
        found = self._scope.whole_type(name)
        if found.WhichOneof("value") != "tensor_type" or not found.tensor_type.elem_type:
            return None
        if self._scope.shape(name) is not None or (not fixed and found.tensor_type.HasField("shape")):
            return found
        shape = self._shapes().get(name)
        return None if shape is None else helper.make_tensor_type_proto(found.tensor_type.elem_type, shape)

    def around(self, part: Collection[int]) -> list[int]:
        """The part with the nodes that make what it reads or read what it makes."""
        made = {name for index in part for name in self.nodes[index].output}
        before = {self._makers[name] for index in part for name in read_by(self.nodes[index]) if name in self._makers}
        return sorted({*part, *before, *(reader for name in made for reader in self._readers.get(name, ()))})

    def part(self, indices: Collection[int], watched: Sequence[str] = ()) -> onnx.ModelProto | None:
        """The model of these nodes; None where what it would take or give has no shape or is no tensor.

        It gives what others of the model take from it, and what the model gives; besides those, `watched`.
        """
        nodes = [self.nodes[index] for index in sorted(indices)]
        made = {name: None for node in nodes for name in node.output if name}
        read = dict.fromkeys(name for node in nodes for name in read_by(node) if name not in made)
        constants = [self._constants[name] for name in read if name in self._constants]
        weights = [self._weights[name] for name in read if name in self._weights]
        known = {i.name for i in self.model.graph.input} | self._makers.keys()
        inputs = [name for name in read if name in known and name not in self._weights]
        outputs = [name for name in made if name in self._results or self._readers.get(name, set()) - set(indices)]
        outputs += [name for name in watched if name not in outputs]
        types = {name: self.type(name, fixed=name in inputs) for name in (*inputs, *(outputs or made))}
        if not types or not all(types.values()):
            return None
        values = {name: helper.make_value_info(name, type_) for name, type_ in types.items()}
        graph = helper.make_graph(
            [*constants, *nodes],
            FUNCTION,
            [values[name] for name in inputs],
            [values[name] for name in (outputs or made)],
            weights,
            value_info=[v for v in self.model.graph.value_info if v.name in made and v.name not in values],
        )
        return helper.make_model(graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version)
