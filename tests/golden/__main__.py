"""The golden manifest: `python -m tests.golden` checks it against a fresh build, `--write` makes it again.

It changes when the manifest's format, the compiler, or the code generated for tests/data/small.mlir does. Evidence is not
part of it: that belongs to the machine.
"""

from __future__ import annotations

import difflib
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from pipeline import arrays
from pipeline.compare import Tolerance
from pipeline.manifest.evidence import Witness
from pipeline.stages import compile as compile_stage
from pipeline.stages import import_, package, source
from pipeline.stages.compiled import Compiled
from pipeline.stages.evidence import Evidence, write_evidence, write_runtimes, write_witness
from pipeline.stages.origin import Origin, Recipe
from pipeline.stages.testdata import Draw, TestData
from pipeline.stages.witnesses import answers
from tests.project import Project

GOLDEN = Path(__file__).with_name("manifest.json")


def build(folder: Path) -> bytes:
    """The manifest of the small model, built in `folder`."""
    project = Project(folder / "project", "small")
    model, bundle, targets = project.spec("small")
    layout = project.layout
    origin, imported, compiled = Origin.of(model, layout), layout.imported("small"), layout.compiled("small", "desktop")
    source.run(origin)
    import_.run(origin, imported)
    compile_stage.run(origin, imported, compiled, bundle, targets)
    variants = Compiled.read(compiled / "compiled.json").variants
    write_evidence(compiled / "evidence.json", [Evidence(v.gated.name, "untested", "not part of this test") for v in variants])
    write_witness(compiled / "witness.json", "2026-01-31T12:00:00Z", Witness("a test", "3.13.0", "a system", "a CPU"))
    write_runtimes(compiled / "runtimes.json", [])
    answers.keep([], compiled)
    (entry,) = model.entries
    ones = [np.ones(i.fixed, i.dtype) for i in entry.inputs]
    (compiled / "0").mkdir()
    data = TestData(compiled / "0", "small", (Draw("given", (Tolerance(0.0, 1e-4),)),), ("result",), (True,), {})
    arrays.write(data.inputs_of(data.draws[0]), ones)
    arrays.write(data.outputs_of(data.draws[0]), [(ones[0] @ ones[1]).sum(axis=1)])
    data.write()
    package.run(model, imported, {"desktop": compiled}, layout.package("small"), Recipe((), {}, "urn:test"))
    return (layout.package("small") / "manifest.json").read_bytes()


def main(arguments: list[str]) -> int:
    """Check, or with `--write` replace, the golden file."""
    with tempfile.TemporaryDirectory() as name:
        os.environ["PIPELINE_CACHE_DIR"] = str(Path(name) / "cache")
        os.environ.pop("PIPELINE_CACHE", None)
        data = build(Path(name))
    if arguments == ["--write"]:
        GOLDEN.write_bytes(data)
    if data == GOLDEN.read_bytes():
        return 0
    sys.stdout.writelines(
        difflib.unified_diff(GOLDEN.read_text().splitlines(True), data.decode().splitlines(True), "golden", "built")
    )
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
