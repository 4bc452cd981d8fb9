"""What part of an ONNX model a fault is in: the smallest that the compiler refuses, or the first value that is wrong."""
