"""ONNX's own backend tests through the pipeline: is what it publishes right by the outputs that ONNX itself gives?"""
