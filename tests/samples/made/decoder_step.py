"""Writes the decoder's `step` as an ONNX file."""

import sys

import decoder
from onnx import save

save(decoder.step(), sys.argv[1])
