"""Whether a model's convolutions are compiled as matrix products: IREE 3.13 does that for all of a model's, or for none.

Measured on AVX-512 and on AVX2, against IREE's own code for convolutions: along one dimension, of which IREE makes no
vectors, a matrix product is 2 to 10 times as fast. Along two it is 0.4 to 4.5 times as fast (1.5 in the mean) while the
matrix, every input of every output, has up to 8 MiB. A larger one is slow to make and to read: 0.2 to 2 times as fast, and
its memory may be more than a device has.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from iree.compiler import ir

from pipeline.cache import LocalCache
from pipeline.files import sha256_bytes, sha256_file
from pipeline.iree import mlir, toolchain
from pipeline.iree.mlir import operations

FLAG = "--iree-global-opt-use-im2col-for-convs"
LIMIT = 8 << 20  # bytes
_KINDS = (
    "linalg.conv_1d_ncw_fcw",
    "linalg.conv_1d_nwc_wcf",
    "linalg.conv_2d_nchw_fchw",
    "linalg.conv_2d_nhwc_fhwc",
    "linalg.conv_2d_nhwc_hwcf",
)


def flags_for(source: Path, folder: Path, flags: Sequence[str], cache: LocalCache) -> tuple[str, ...]:
    """The flag, where it makes the model at `source` faster and the bundle's `flags` say nothing about it.

    Raises CompilerRefusedError for a model that IREE does not take; the log of it is in `folder`.
    """
    if any(flag.split("=")[0] == FLAG for flag in flags):
        return ()
    key = ["largest matrix", sha256_file(source), sha256_file(Path(__file__)), toolchain.digest()]
    largest = cache.remember(sha256_bytes(json.dumps(key).encode()), lambda: json.dumps(_largest(source, folder)).encode())
    matrix = json.loads(largest)
    return (FLAG,) if matrix is not None and matrix <= LIMIT else ()


def _largest(source: Path, folder: Path) -> float | None:
    """The bytes of the largest matrix that the flag would make of a convolution along more than one dimension.

    0 if there are only such along one, None if there is no convolution at all.
    """
    read = folder / "read.mlirbc"
    toolchain.iree_compile(source, read, ["--compile-to=input", "--emit-mlir-bytecode"], folder / "read.log")
    with mlir.opened(read) as module:
        found = [_matrix(operation) for kind in _KINDS for operation in operations(module, kind)]
    read.unlink()
    return max(found, default=None)


def _matrix(convolution: ir.Operation) -> float:
    """Bytes, of a convolution whose filter holds inputs × window for each output channel. Infinite if a size is unknown."""
    filter_, output = (ir.RankedTensorType(o.type) for o in (convolution.operands[1], convolution.results[0]))
    if not (filter_.has_static_shape and output.has_static_shape):
        return math.inf
    layout = convolution.name.rpartition("_")[2]
    window = [size for size, letter in zip(filter_.shape, layout, strict=True) if letter not in "fc"]
    channels = filter_.shape[layout.index("f")]
    spatial = [size for size, letter in zip(output.shape, convolution.name.split("_")[2], strict=True) if letter in "hw"]
    along = sum(size > 1 for size in spatial)
    if along <= 1 or math.prod(window) == 1:  # the matrix of a window of one is the input itself
        return 0
    return float(math.prod(filter_.shape) / channels * math.prod(output.shape) / channels * filter_.element_type.width / 8)
