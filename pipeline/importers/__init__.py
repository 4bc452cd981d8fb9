"""Model file → MLIR, in child processes; and the reference outputs of ONNX Runtime."""
