"""Functions of negative numbers that IREE 3.13 gets wrong: Asinh.

It computes log(x + √(x² + 1)), a difference of two like numbers where x is negative. Measured: -9077 gives minus infinity in
float32, -4 is off by 5e-3 in float16. From 1e19 on x² is not finite: that stays.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from pipeline.importers.rewrites.graph import Nodes, Scope, replaced


def _change(node: onnx.NodeProto, scope: Scope) -> Sequence[onnx.NodeProto] | None:
    if node.op_type != "Asinh":
        return None
    nodes = Nodes(node, scope)
    magnitude = nodes("Asinh", nodes("Abs", node.input[0]))
    nodes("Mul", magnitude, nodes("Sign", node.input[0]), result=node.output[0])
    return nodes


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Compute them of the magnitude, and give that the sign; None if there are none."""
    return replaced(model, _change)
