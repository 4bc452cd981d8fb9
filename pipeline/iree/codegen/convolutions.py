"""Whether a model's convolutions are compiled as matrix products: IREE 3.13 does that for all of a model's, or for none.

Measured on AVX-512 and on AVX2, against IREE's own code for convolutions: along one dimension, of which IREE makes no
vectors, a matrix product is 2 to 10 times as fast. Along two it is 0.4 to 4.5 times as fast (1.5 in the mean) while the
matrix, every input of every output, has up to 8 MiB. A larger one is slow to make and to read: 0.2 to 2 times as fast, and
its memory may be more than a device has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from iree.compiler import ir

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


def flags(matrix: float | None, given: Sequence[str]) -> tuple[str, ...]:
    """The flag, where a model whose `largest_matrix` is this is faster with it and the flags `given` say nothing about it."""
    if any(flag.split("=")[0] == FLAG for flag in given):
        return ()
    return (FLAG,) if matrix is not None and matrix <= LIMIT else ()


def largest_matrix(module: ir.Module) -> float | None:
    """The bytes of the largest matrix that the flag would make of a convolution along more than one dimension.

    0 if there are only such along one, None if there is no convolution at all. `module` is of the `input` phase.
    """
    found = [_matrix(operation) for kind in _KINDS for operation in operations(module, kind)]
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
