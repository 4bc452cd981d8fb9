"""openWakeWord's speech embedding, a CNN, quantized dynamically by ONNX Runtime's own tool: ConvInteger."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from onnxruntime.quantization import QuantType, quantize_dynamic
from unpack import unpacked

MEMBER = "openwakeword/resources/models/embedding_model.onnx"


def main(path: str) -> None:
    """Write the ONNX file to `path`."""
    model = unpacked("openwakeword==0.4.0", MEMBER)[MEMBER]
    with tempfile.TemporaryDirectory() as name:
        plain = Path(name) / "plain.onnx"
        plain.write_bytes(model)
        quantize_dynamic(plain, path, weight_type=QuantType.QUInt8)


if __name__ == "__main__":
    main(sys.argv[1])
