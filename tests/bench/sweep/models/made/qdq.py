"""PP-OCR's classifier, quantized statically by ONNX Runtime's own tool: every operator between dequantized and quantized."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from unpack import unpacked

MEMBER = "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"


class Noise(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime's has no types
    """Eight images of noise."""

    def __init__(self) -> None:
        generator = np.random.default_rng(7)
        self._images = iter([generator.random((1, 3, 48, 192), dtype=np.float32) for _ in range(8)])

    def get_next(self) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]] | None:
        """The next image, or None."""
        image = next(self._images, None)
        return None if image is None else {"x": image}


def main(path: str) -> None:
    """Write the ONNX file to `path`."""
    model = onnx.load_model_from_string(unpacked("rapidocr-onnxruntime==1.4.4", MEMBER)[MEMBER])
    with tempfile.TemporaryDirectory() as name:
        plain, ready = Path(name) / "plain.onnx", Path(name) / "ready.onnx"
        onnx.save(onnx.version_converter.convert_version(model, 17), plain)  # scales of channels need set 13
        quant_pre_process(plain, ready, skip_symbolic_shape=True)
        quantize_static(
            ready, path, Noise(), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])
