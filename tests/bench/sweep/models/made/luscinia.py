"""Unpacks the model of luscinia, a .gz file in its wheel, and cuts off the ZipMap that makes dictionaries of its tensor."""

from __future__ import annotations

import gzip
import sys

import onnx
from unpack import unpacked

MEMBER = "luscinia/data/P3_0017_full.onnx.gz"


def main(path: str) -> None:
    """Write the ONNX file to `path`."""
    model = onnx.load_model_from_string(gzip.decompress(unpacked("luscinia==1.0.0", MEMBER)[MEMBER]))
    (last,) = (node for node in model.graph.node if node.op_type == "ZipMap")
    model.graph.node.remove(last)
    (output,) = (output for output in model.graph.output if output.name in last.output)
    output.CopyFrom(onnx.helper.make_tensor_value_info(last.input[0], onnx.TensorProto.FLOAT, [None, None]))
    onnx.save(model, path)


if __name__ == "__main__":
    main(sys.argv[1])
