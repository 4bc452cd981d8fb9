"""Replacing nodes of an ONNX model by others, in its graph and in the graphs inside its nodes."""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pipeline.arrays import Array
from pipeline.importers import decisions, weights

graphs = decisions.inside
_LEFT = "left as it is"
_CONVOLUTIONS = {"Conv": 0, "ConvTranspose": 0, "ConvInteger": onnx.TensorProto.INT32}
_ON_NUMBERS: Mapping[str, Callable[[int, int], int]] = {
    "Add": operator.add, "Sub": operator.sub, "Mul": operator.mul, "Div": operator.floordiv, "Max": max, "Min": min,
}  # fmt: skip
_NUMBERS = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}


def inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with the types and shapes of all values. Raises onnx.shape_inference.InferenceError."""
    while True:
        model = _inferred(model)
        if not (_carried(model.graph) | _ranked(model.graph)):
            return model


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    infer = functools.partial(onnx.shape_inference.infer_shapes, check_type=True, strict_mode=True)
    try:
        return infer(model, data_prop=True)
    except onnx.shape_inference.InferenceError:
        # Where graphs beside each other have values of one name, it takes what it found of one for the other.
        with suppress(onnx.shape_inference.InferenceError):
            return infer(model)
        raise


def _carried(graph: onnx.GraphProto) -> bool:
    """Say the shapes of what Loops carry where all rounds keep them, which ONNX does not infer; whether there were any."""
    known = {value.name for value in (*graph.value_info, *graph.output) if value.type.tensor_type.HasField("shape")}
    found = False
    for node in graph.node:
        for inner in graphs(node):
            found |= _carried(inner)
        body = attribute(node, "body") if node.op_type == "Loop" else None
        for name, before, after in zip(node.output, body.input[2:], body.output[1:], strict=False) if body else ():
            if name and name not in known and is_kept(before.type, after.type):
                graph.value_info.add(name=name).type.CopyFrom(before.type)
                found = True
    return found


def is_kept(a: onnx.TypeProto, b: onnx.TypeProto) -> bool:
    """Whether two types are one tensor's, of sizes that are numbers or have names."""
    tensor = a.tensor_type
    named = tensor.HasField("shape") and all(dim.HasField("dim_value") or dim.dim_param for dim in tensor.shape.dim)
    return bool(tensor.elem_type) and named and a == b


def _ranked(graph: onnx.GraphProto) -> bool:
    """Say how many dimensions convolutions of open sizes make, of which ONNX infers nothing; whether there were any."""
    types = {v.name: v.type.tensor_type for v in (*graph.input, *graph.value_info, *graph.output)}
    types |= {w.name: helper.make_tensor_type_proto(w.data_type, w.dims).tensor_type for w in graph.initializer}
    found = False
    for node in graph.node:
        for inner in graphs(node):
            found |= _ranked(inner)
        if node.op_type not in _CONVOLUTIONS or node.domain not in ("", "ai.onnx"):
            continue
        taken, made = types.get(node.input[0]), types.get(node.output[0])
        if taken is None or not taken.HasField("shape") or (made is not None and made.HasField("shape")):
            continue
        element = _CONVOLUTIONS[node.op_type] or taken.elem_type
        type_ = helper.make_tensor_type_proto(element, [None] * len(taken.shape.dim))
        type_.tensor_type.shape.dim[0].CopyFrom(taken.shape.dim[0])
        weights = types.get(node.input[1])
        if weights is not None and all(dim.dim_value for dim in weights.shape.dim[:2]):
            channels = weights.shape.dim[1].dim_value * (attribute(node, "group") or 1)
            channels = channels if node.op_type == "ConvTranspose" else weights.shape.dim[0].dim_value
            type_.tensor_type.shape.dim[1].dim_value = channels
        own = next((o for o in graph.output if o.name == node.output[0]), None)
        (own if own is not None else graph.value_info.add(name=node.output[0])).type.CopyFrom(type_)
        types[node.output[0]] = type_.tensor_type
        found = True
    return found


def attribute(node: onnx.NodeProto, name: str) -> Any:
    """An attribute's value, None where the node does not have it."""
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), None)


def leaving(model: onnx.ModelProto, those: Collection[int]) -> onnx.ModelProto:
    """A copy of `model` in which rewrites pass by these nodes, counted as `decisions.nodes` gives them, and by no others."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for number, node in enumerate(decisions.nodes(copy.graph)):
        del node.metadata_props[:]
        if number in those:
            node.metadata_props.add(key=_LEFT)
    return copy


def is_left(node: onnx.NodeProto) -> bool:
    """Whether rewrites are to pass by the node."""
    return any(held.key == _LEFT for held in node.metadata_props)


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (value.name for value in (*graph.input, *graph.initializer))
    for node in graph.node:
        yield from node.output
        for inner in graphs(node):
            yield from _names(inner)


def _value(constant: onnx.NodeProto) -> onnx.TensorProto | None:
    """What a Constant node holds, where that is a tensor or numbers."""
    (held,) = constant.attribute
    if held.name in _NUMBERS:
        return numpy_helper.from_array(np.array(helper.get_attribute_value(held), _NUMBERS[held.name]))
    return held.t if held.name == "value" else None


class Scope:
    """What a node can see: the values of its graph and of those around it. New values get their names here."""

    def __init__(self, graph: onnx.GraphProto, outer: Scope | None = None) -> None:
        self.added: list[onnx.TensorProto] = outer.added if outer else []
        self._graph, self._outer = graph, outer

    # Most rewrites find nothing to do in most models: what they might ask for is made when they do.

    @cached_property
    def _taken(self) -> set[str]:
        return self._outer._taken if self._outer else set(_names(self._graph))

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return self._outer._numbers if self._outer else {}

    @cached_property
    def _own(self) -> set[str]:
        return {name for node in self._graph.node for name in node.output} | {value.name for value in self._graph.input}

    @cached_property
    def _values(self) -> dict[str, onnx.TypeProto.Tensor]:
        graph = self._graph
        return {v.name: v.type.tensor_type for v in (*graph.value_info, *graph.output, *graph.input)}

    @cached_property
    def _weights(self) -> dict[str, onnx.TensorProto]:
        made = {n.output[0]: t for n in self._graph.node if n.op_type == "Constant" and (t := _value(n)) is not None}
        return {w.name: w for w in self._graph.initializer} | made

    def type(self, name: str) -> int:
        """The element type of a value, 0 if it is not known."""
        return int(self.whole_type(name).tensor_type.elem_type)

    def whole_type(self, name: str) -> onnx.TypeProto:
        """Type and shape of a value, as far as they are known."""
        if name in self._weights:
            return helper.make_tensor_type_proto(self._weights[name].data_type, self._weights[name].dims)
        if name in self._values:
            return onnx.TypeProto(tensor_type=self._values[name])
        return self._outer.whole_type(name) if self._outer and name not in self._own else onnx.TypeProto()

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a value, None if it or a dimension of it is not known."""
        type_ = self.whole_type(name).tensor_type
        if not type_.HasField("shape") or not all(dim.HasField("dim_value") for dim in type_.shape.dim):
            return None
        return tuple(dim.dim_value for dim in type_.shape.dim)

    def sizes(self, name: str) -> tuple[int | None, ...] | None:
        """The shape of a value, with None for dimensions that are open; None if not even their number is known."""
        type_ = self.whole_type(name).tensor_type
        if not type_.HasField("shape"):
            return None
        return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in type_.shape.dim)

    def rank(self, name: str) -> int | None:
        """The number of a value's dimensions, None if it is not known."""
        sizes = self.sizes(name)
        return None if sizes is None else len(sizes)

    def constant(self, name: str) -> Array | None:
        """The value of a constant, None for anything else."""
        if name in self._weights:
            return weights.values(self._weights[name])
        return self._outer.constant(name) if self._outer and name not in self._own else None

    def define(self, constant: onnx.TensorProto) -> None:
        """Say that a value is this constant."""
        self._weights[constant.name] = constant

    def define_constant(self, node: onnx.NodeProto) -> None:
        """Say that a value is what a Constant node holds, where that is a tensor or numbers."""
        if (value := _value(node)) is not None:
            self._weights[node.output[0]] = value

    def learn(self, name: str, type_: onnx.TypeProto) -> None:
        """Say what type and shape a value has."""
        self._values[name] = type_.tensor_type

    def fresh(self, like: str) -> str:
        """A name that nothing has."""
        for number in itertools.count(self._numbers.get(like, 0)):
            if (name := f"{like}/{number}") not in self._taken:
                break
        self._numbers[like] = number + 1
        self._taken.add(name)
        return name

    def add(self, array: Array, type_: int) -> str:
        """The name of a new constant with elements of `type_`."""
        name = self.fresh("constant")
        self.added.append(weights.tensor(array.astype(helper.tensor_dtype_to_np_dtype(type_), copy=False), name))
        self.define(self.added[-1])
        return name


# A size: a number, or the name of a list of one integer that is known when the model runs.
Size = int | str
# The nodes that take a node's place; None leaves it.
Change = Callable[[onnx.NodeProto, Scope], Sequence[onnx.NodeProto] | None]


class Nodes(list[onnx.NodeProto]):
    """Nodes in the making, for the place of `node`: `nodes("Abs", x)` adds one and returns the name of its result."""

    def __init__(self, node: onnx.NodeProto, scope: Scope) -> None:
        super().__init__()
        self._node, self._scope = node, scope

    def __call__(self, kind: str, *inputs: str, result: str = "", **attributes: object) -> str:
        """Add a node of `kind` with one result, called `result` or by a fresh name."""
        result = result or self._scope.fresh(self._node.output[0])
        self.append(helper.make_node(kind, inputs, [result], self._node.name, **attributes))
        return result

    def integers(self, *values: int) -> str:
        """A constant list: axes, or a shape."""
        return self._scope.add(np.array(values, np.int64), onnx.TensorProto.INT64)

    def sizes(self, value: str, known: Sequence[int | None] | None = None) -> list[Size]:
        """The sizes of a value's dimensions; `known` are those that are numbers, if the scope does not have them."""
        known = known if known is not None else self._scope.sizes(value) or ()
        return [self("Shape", value, start=a, end=a + 1) if n is None else n for a, n in enumerate(known)]

    def reckoned(self, kind: str, a: Size, b: Size) -> Size:
        """Add, Sub, Mul, Div, Max or Min of sizes that are not negative."""
        if isinstance(a, int) and isinstance(b, int):
            return _ON_NUMBERS[kind](a, b)
        return self(kind, *(n if isinstance(n, str) else self.integers(n) for n in (a, b)))

    def product(self, sizes: Sequence[Size]) -> Size:
        """All of them multiplied."""
        found: Size = math.prod(n for n in sizes if isinstance(n, int))
        for size in (n for n in sizes if isinstance(n, str)):
            found = size if found == 1 else self.reckoned("Mul", found, size)
        return found

    def listed(self, sizes: Sequence[Size]) -> str:
        """A list of sizes: a constant, if they are numbers."""
        numbers = [n for n in sizes if isinstance(n, int)]
        if len(numbers) == len(sizes):
            return self.integers(*numbers)
        parts = [n if isinstance(n, str) else self.integers(n) for n in sizes]
        return self("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]

    def shaped(self, value: str, sizes: Sequence[Size], result: str = "") -> str:
        """The value in another shape. IREE sees through it where at most one size is not a number."""
        unknown = [n for n in sizes if isinstance(n, str)]
        if len(unknown) == 1 and 0 not in sizes:
            sizes = [-1 if isinstance(n, str) else n for n in sizes]
        return self("Reshape", value, self.listed(sizes), result=result)

    def counted(self, size: Size, type_: int = onnx.TensorProto.INT32, first: int = 0) -> str:
        """The list of as many integers, from `first` on."""
        if isinstance(size, int):
            return self._scope.add(np.arange(first, first + size), type_)
        scalar = self("Squeeze", self("Cast", size, to=type_), self.integers(0))
        numbers = [self._scope.add(np.array(n), type_) for n in (0, 1, first)]
        found = self("Range", numbers[0], scalar, numbers[1])
        return self("Add", found, numbers[2]) if first else found


def replaced(model: onnx.ModelProto, change: Change, foreign: str | None = None) -> onnx.ModelProto | None:
    """`model` with nodes replaced and its types inferred again; None if `change` leaves all.

    `change` sees the nodes of ONNX's own domain, and those of the domain `foreign`, but for those that are to be left.
    """
    domains = {"", "ai.onnx", foreign}
    if not _replace(model.graph, Scope(model.graph), change, domains, write=False):
        return None
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    scope = Scope(copy.graph)
    _replace(copy.graph, scope, change, domains, write=True)
    copy.graph.initializer.extend(scope.added)
    try:
        return inferred(copy)
    except onnx.shape_inference.InferenceError:
        # What was inferred of the model before is not always what its operators make of it.
        del copy.graph.value_info[:]
        for output in copy.graph.output:
            output.type.tensor_type.ClearField("shape")
        return inferred(copy)


def _replace(graph: onnx.GraphProto, scope: Scope, change: Change, domains: Collection[str | None], write: bool) -> bool:
    nodes: list[onnx.NodeProto] = []
    changed = False
    for node in graph.node:
        for inner in graphs(node):
            changed |= _replace(inner, Scope(inner, scope), change, domains, write)
        new = change(node, scope) if node.domain in domains and not is_left(node) else None
        changed |= new is not None
        nodes.extend([node] if new is None else new)
    if write and changed:
        put(graph, nodes)
    return changed


def without_unused(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` without initializers that nothing reads: IREE's importer refuses types that it does not know even there."""
    read = {name for node in decisions.nodes(model.graph) for name in node.input} | {o.name for o in model.graph.output}
    read |= {o.name for node in decisions.nodes(model.graph) for graph in graphs(node) for o in graph.output}
    if all(w.name in read for w in model.graph.initializer):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(w for w in model.graph.initializer if w.name in read)
    return copy


def without_dead(graph: onnx.GraphProto) -> None:
    """Take away the nodes of a graph whose results nothing reads, in place."""
    read, kept = {output.name for output in graph.output}, list[onnx.NodeProto]()
    for node in reversed(graph.node):
        if read & {*node.output}:
            kept.append(node)
            read |= {*node.input, *captured(node)}
    put(graph, kept[::-1])


def captured(node: onnx.NodeProto) -> set[str]:
    """The values that graphs inside a node name; what they take from outside is among them."""
    inner = list(graphs(node))
    return {name for graph in inner for n in decisions.nodes(graph) for name in n.input} | {
        output.name for n in (node, *(n for g in inner for n in decisions.nodes(g))) for g in graphs(n) for output in g.output
    }


def put(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Make these, which may be the graph's own, its nodes."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def widened(node: onnx.NodeProto, scope: Scope, wider: Mapping[int, int]) -> list[onnx.NodeProto] | None:
    """The node between casts: computed in the type that `wider` has for that of an input. None if it has no such input."""
    wide = {name: scope.fresh(name) for name in node.input if name and scope.type(name) in wider}
    if not wide:
        return None
    narrow = {name: scope.fresh(name) for name in node.output if name and scope.type(name) in wider}
    inner = onnx.NodeProto()
    inner.CopyFrom(node)
    inner.input[:] = [wide.get(name, name) for name in node.input]
    inner.output[:] = [narrow.get(name, name) for name in node.output]
    return [
        *(_cast(node, old, new, wider[scope.type(old)]) for old, new in wide.items()),
        inner,
        *(_cast(node, new, old, scope.type(old)) for old, new in narrow.items()),
    ]


def _cast(node: onnx.NodeProto, source: str, result: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [result], node.name, to=to)
