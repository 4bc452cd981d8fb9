"""Unpacks the model of luscinia, which its wheel has as a .gz file."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

from unpack import unpacked

MEMBER = "luscinia/data/P3_0017_full.onnx.gz"


def main(path: str) -> None:
    """Write the ONNX file to `path`."""
    Path(path).write_bytes(gzip.decompress(unpacked("luscinia==1.0.0", MEMBER)[MEMBER]))


if __name__ == "__main__":
    main(sys.argv[1])
