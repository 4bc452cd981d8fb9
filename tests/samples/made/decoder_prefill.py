"""Writes the decoder's `prefill` as an ONNX file."""

import sys

import decoder
from onnx import save

save(decoder.prefill(), sys.argv[1])
