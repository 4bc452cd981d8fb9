"""Convolutions of one window, as those of what a plane has in the mean: products of a row with the weights, turned around.

IREE 3.13 makes products with one column of them, which it computes value by value; of 6 to 24 channels its code for AVX-512 was
refused.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from pipeline.importers.rewrites.convolutions import whatever
from pipeline.importers.rewrites.faster.windows import OF_ONE_SUM
from pipeline.importers.rewrites.graph import Nodes, Scope, attribute
from pipeline.importers.rewrites.pools import axes_of


def change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    """The nodes for a Conv of that kind."""
    if node.op_type != "Conv" or scope.type(node.input[0]) not in OF_ONE_SUM or (attribute(node, "group") or 1) != 1:
        return None
    x, w = scope.shape(node.input[0]), scope.shape(node.input[1])
    if x is None or w is None or len(x) < 3 or 0 in x or x[1:] != w[1:]:
        return None
    weights = scope.constant(node.input[1])
    if weights is None or any(a.windows != 1 or a.before or a.after for a in axes_of(node, whatever(x[2:]), w[2:])):
        return None
    nodes, type_ = Nodes(node, scope), scope.type(node.input[0])
    turned = scope.add(np.ascontiguousarray(weights.reshape(w[0], -1).T), type_)
    found = nodes("MatMul", nodes.shaped(node.input[0], [x[0], weights[0].size]), turned)
    if len(node.input) > 2 and node.input[2]:
        found = nodes("Add", found, node.input[2])
    nodes.shaped(found, [x[0], w[0], *[1] * len(w[2:])], result=node.output[0])
    return nodes
