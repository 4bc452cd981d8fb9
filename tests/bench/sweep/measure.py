"""One model: build it in a child process, and say what that took and how fast the result is.

`python -m tests.bench.sweep.measure MODEL FOLDER TARGET…`. The outcome is FOLDER/outcome.json. This process has no other
children, so what the kernel tells of the largest of them is the build's peak.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from pipeline import arrays, process
from pipeline.consume.choose import gated
from pipeline.errors import PipelineError
from pipeline.files import write
from pipeline.importers.baked import bake
from pipeline.iree import devices
from pipeline.iree.gates import select
from pipeline.manifest.codec import decode
from pipeline.manifest.evidence import VariantProof
from pipeline.manifest.types import Artifact, Manifest
from pipeline.spec.load import load
from pipeline.tasks import end_on_signals
from tests.bench import comparison
from tests.bench.fat import latency
from tests.bench.sweep.case import Built
from tests.project import Project, evidence

LIMIT = 900.0  # seconds for one model
ROUNDS, SECONDS = 3, 0.5  # of measuring, and of ONNX Runtime's runs in one of them


@dataclass(frozen=True)
class Variant:
    """One target's code: the kind of its evidence, its largest error, and what part of the allowed that is."""

    kind: str
    error: float | None
    of_allowed: float | None


@dataclass(frozen=True)
class Outcome:
    """What became of a model: `published`, `refused` (by the last stage in `seconds`), `slow` or `crashed`.

    `peak` is the memory of the largest process, `source` and `vmfb` are sizes of files, all in bytes. `dropped` are targets that
    the file does not hold, with the reason. `latency` and `onnxruntime` are milliseconds of an inference by `chosen`, the CPU
    code that runs here, and by ONNX Runtime.
    """

    name: str
    outcome: str
    message: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    peak: int = 0
    source: int = 0
    vmfb: int = 0
    variants: dict[str, Variant] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    rewrites: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    chosen: str = ""
    latency: float = 0.0
    onnxruntime: float = 0.0

    @property
    def stage(self) -> str:
        """The last stage that was begun."""
        return list(self.seconds)[-1] if self.seconds else ""

    def encode(self) -> bytes:
        """As one line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @staticmethod
    def decode(line: bytes) -> Outcome:
        """What `encode` made. Raises ValueError, KeyError or TypeError for anything else."""
        data: dict[str, Any] = json.loads(line)
        lists = {key: tuple(data[key]) for key in ("rewrites", "notes")}
        return Outcome(**data | lists | {"variants": {name: Variant(**said) for name, said in data["variants"].items()}})


def built(name: str, folder: Path, targets: Sequence[str]) -> Outcome:
    """Build the model in a child process. The outcome, without its speed, however that process ends."""
    log = folder / "case.log"
    kind = message = ""
    try:
        ended = process.execute([sys.executable, "-m", "tests.bench.sweep.case", name, folder, *targets], log, timeout=LIMIT)
    except process.TimedOutError as error:
        kind, message = "slow", error.what
    else:
        if ended.returncode:
            kind, message = "crashed", f"{ended.ending}: {process.tail(log, 1).strip()}"
    said = Built.read(folder / "built.json")
    project = Project.at(folder / "project")
    source = project.layout.source(name, 0, "onnx")
    return Outcome(
        name,
        kind or ("published" if said.done else "refused"),
        message or said.refusal,
        said.seconds,
        resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
        source.stat().st_size if source.exists() else 0,
    )


def _published(project: Project, name: str) -> Manifest:
    path = project.layout.package(name) / "manifest.json"
    return decode(Manifest, path.read_bytes(), str(path))


def _variant(proof: VariantProof) -> Variant:
    worst = max(proof.functions, key=lambda f: f.of_tolerance, default=None)
    return Variant(proof.kind, worst.max_abs_error if worst else None, worst.of_tolerance if worst else None)


def described(outcome: Outcome, artifact: Artifact, proofs: Mapping[str, VariantProof]) -> Outcome:
    """`outcome` with what the manifest says of the file, and the evidence of its variants."""
    return replace(
        outcome,
        vmfb=artifact.blob.size,
        variants={name: _variant(proof) for name, proof in proofs.items()},
        dropped={d.name: d.reason for d in artifact.dropped},
        notes=artifact.notes,
    )


def of_onnxruntime(project: Project, name: str, given: Sequence[arrays.Array]) -> Callable[[], float]:
    """Measures ONNX Runtime with the model, whose inputs with a `value` are constants."""
    model = onnx.load(project.layout.source(name, 0, "onnx"))
    bake(model, load(project.targets).models[name].entries[0].inputs)
    return comparison.of_onnxruntime(model.SerializeToString(), given, SECONDS)


def timed(outcome: Outcome, project: Project, manifest: Manifest, folder: Path) -> Outcome:
    """`outcome` with the speed of the CPU code that is chosen here, and ONNX Runtime's, in turn: the best round of each."""
    name, artifact = outcome.name, manifest.artifacts[0]
    (folder / "latency").mkdir()
    cpu = devices.find(folder / "latency", ("local-task",))[0]
    if (chosen := select(gated(artifact, "the manifest"), cpu.facts)) is None:
        return outcome
    given = arrays.read(project.layout.reference(name) / "0" / "given.inputs.npz")
    files = [folder / "latency" / f"{number}.npy" for number in range(len(given))]
    for file, array in zip(files, given, strict=True):
        np.save(file, array)
    module = project.layout.package(name) / "blobs" / artifact.blob.sha256
    reference = of_onnxruntime(project, name, given)
    pairs = [(latency(module, manifest.entries[0].function, files, folder / "latency"), reference()) for _ in range(ROUNDS)]
    mine, other = (min(times) for times in zip(*pairs, strict=True))
    return replace(outcome, chosen=chosen, latency=mine, onnxruntime=other)


def main(arguments: list[str]) -> int:
    """Measure a model as the command line says."""
    name, place, *targets = arguments
    end_on_signals()
    folder = Path(place)
    project = Project.at(folder / "project")
    outcome = built(name, folder, targets)
    if outcome.outcome == "published":
        manifest = _published(project, name)
        outcome = replace(
            described(outcome, manifest.artifacts[0], evidence(project, name)), rewrites=manifest.entries[0].rewrites
        )
        try:
            outcome = timed(outcome, project, manifest, folder)
        except PipelineError as error:
            outcome = replace(outcome, message=f"not measured: {error.what.splitlines()[0]}")
    write(folder / "outcome.json", outcome.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
