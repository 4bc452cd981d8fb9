"""Device facts: a module that asks any device every query that the runtime answers; this builds it, once a compiler release.

The module travels in the package, so that facts can be had without a compiler. It holds no code but what some backends need
before they answer, so that it loads on every device. `python -m pipeline.iree.linking.facts` makes it again; a test checks
that it would come out the same.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from pipeline import cache
from pipeline.iree import backends
from pipeline.iree.devices.session import FACTS
from pipeline.iree.linking import warm_up
from pipeline.iree.linking.link import render
from pipeline.iree.toolchain import LINK_FLAGS, iree_compile


def build(output: Path) -> None:
    """Write the module to `output`."""
    formats = [format_ for backend in backends.every() for format_ in backend.warm_ups]
    warm_ups = [(format_, warm_up.code(format_, cache.local())) for format_ in formats]
    queries = [query.split("::") for query in backends.queries()]
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "facts.mlir"
        source.write_text(render("facts.mlir.j2", queries=queries, warm_ups=warm_ups))
        iree_compile(source, output, ["--compile-from=hal", *LINK_FLAGS], Path(name) / "log")


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else FACTS)
