"""Lists of tensors: IREE 3.13 has next to no code for them. What is in a list is mostly known, and then it takes no list."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.importers.rewrites.graph import Nodes, Scope, attribute
from pipeline.importers.rewrites.splicing import constants, others, spliced

KINDS = frozenset(
    """ConcatFromSequence SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength SequenceMap
    SplitToSequence""".split()
)


def opened(node: onnx.NodeProto, scope: Scope, lists: dict[str, list[str]]) -> Sequence[onnx.NodeProto] | None:
    """What takes the place of a node that makes or reads a list; `lists` are those whose tensors are known, by name.

    None for any other node.
    """
    nodes = Nodes(node, scope)
    if node.op_type == "SequenceMap":
        return _mapped(node, scope, lists)
    if node.op_type == "SplitToSequence":
        made = _split(nodes, node, scope)
    elif node.op_type in ("SequenceAt", "SequenceLength", "ConcatFromSequence"):
        return _read(nodes, node, scope, lists)
    else:
        made = _listed(node, scope, lists)
    if made is None:
        return None
    lists[node.output[0]] = made
    return nodes


def _listed(node: onnx.NodeProto, scope: Scope, lists: dict[str, list[str]]) -> list[str] | None:
    """The tensors of the list that a node makes of tensors or another list."""
    if node.op_type == "SequenceEmpty":
        return []
    if node.op_type == "SequenceConstruct":
        return [*node.input]
    known = node.input and node.input[0] in lists
    if node.op_type not in ("Identity", "SequenceInsert", "SequenceErase") or not known:
        return None
    found = [*lists[node.input[0]]]
    if node.op_type == "Identity":
        return found
    place = 1 if node.op_type == "SequenceErase" else 2
    index = None
    if len(node.input) > place and node.input[place]:
        if (array := scope.constant(node.input[place])) is None:
            return None
        index = int(array.item())
    if node.op_type == "SequenceErase":
        del found[-1 if index is None else index]
    elif index is None:
        found.append(node.input[1])
    else:
        found.insert(index, node.input[1])
    return found


def _split(nodes: Nodes, node: onnx.NodeProto, scope: Scope) -> list[str] | None:
    """The tensors that SplitToSequence makes, as slices."""
    shape, sizes = scope.shape(node.input[0]), np.array(1)
    if len(node.input) > 1 and node.input[1]:
        if (given := scope.constant(node.input[1])) is None:
            return None
        sizes = given
    if shape is None:
        return None
    axis = (attribute(node, "axis") or 0) % len(shape)
    starts = np.arange(0, shape[axis], sizes.item()) if sizes.ndim == 0 else np.cumsum([0, *sizes[:-1]])
    drops = len(node.input) < 2 and attribute(node, "keepdims") == 0
    found = []
    for start, end in zip(starts, [*starts[1:], shape[axis]], strict=True):
        bounds = (scope.add(np.array([n]), TensorProto.INT64) for n in (start, end, axis))
        part = nodes("Slice", node.input[0], *bounds)
        found.append(nodes("Squeeze", part, scope.add(np.array([axis]), TensorProto.INT64)) if drops else part)
    return found


def _read(nodes: Nodes, node: onnx.NodeProto, scope: Scope, lists: dict[str, list[str]]) -> Nodes | None:
    """What a node takes from a list that is known."""
    if (found := lists.get(node.input[0])) is None:
        return None
    result = node.output[0]
    if node.op_type == "SequenceLength":
        nodes("Identity", scope.add(np.array(len(found)), TensorProto.INT64), result=result)
        return nodes
    if node.op_type == "SequenceAt":
        if (index := scope.constant(node.input[1])) is None or not -len(found) <= index.item() < len(found):
            return None
        nodes("Identity", found[int(index.item())], result=result)
        return nodes
    axis = attribute(node, "axis")
    if attribute(node, "new_axis"):
        where = scope.add(np.array([axis]), TensorProto.INT64)
        found = [nodes("Unsqueeze", name, where) for name in found]
    nodes("Concat", *found, result=result, axis=axis)
    return nodes


def _mapped(node: onnx.NodeProto, scope: Scope, lists: dict[str, list[str]]) -> list[onnx.NodeProto] | None:
    """The body of a SequenceMap, for each place in the lists that it takes."""
    if node.input[0] not in lists:
        return None
    body, nodes = attribute(node, "body"), list[onnx.NodeProto]()
    found: list[list[str]] = []
    for place in range(len(lists[node.input[0]])):
        taken = [lists[name][place] if name in lists else name for name in node.input]
        given = dict(zip([value.name for value in body.input], taken, strict=True))
        results = [output.name for output in body.output]
        made, values = spliced([*constants(body), *others(body)], results, given, scope)
        nodes.extend(made)
        found.append(values)
    for index, name in enumerate(node.output):
        lists[name] = [values[index] for values in found]
    return nodes
