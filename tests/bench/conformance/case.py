"""One test through the whole pipeline, in a process of its own: a fork of `python -m tests.bench.conformance.case`.

The arguments are WHEEL NAME DEVICES FOLDER SHAPES TARGET…; SHAPES is `fixed`, or `open`: see `openings`.

A project with the test's model and inputs is made in FOLDER and taken through every stage up to the package. Then each
published variant that a device here accepts runs on the test's inputs, and is compared with the test's own outputs: not by
the pipeline's comparison, and not with its reference. DEVICES is a file of device facts; the outcome is FOLDER/outcome.json.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import yaml

from pipeline import process
from pipeline.consume.choose import gated
from pipeline.consume.facts import from_json
from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes, write
from pipeline.iree import devices
from pipeline.iree.device import Device
from pipeline.iree.file import choice
from pipeline.iree.gates import Gated, decide, select
from pipeline.manifest.codec import decode
from pipeline.manifest.types import Artifact, Manifest
from pipeline.plan import Target, steps
from pipeline.spec.load import load
from pipeline.spec.types import Dimension
from pipeline.tasks import end_on_signals
from tests.bench.conformance import openings
from tests.bench.conformance.openings import Place
from tests.bench.conformance.suite import Array, Suite, input_names, output_names, settings
from tests.project import ROOT, Project, evidence

MODEL, BUNDLE = "case", "desktop"
STAGES = ("fetch", "import", "reference", "compile", "verify", "package")
# Relative tolerance as in ONNX's own runner; absolute, as a share of the output's largest value.
FUZZ = {"float16": (1e-2, 1e-2)}
DEFAULT_FUZZ = (1e-3, 1e-5)


@dataclass(frozen=True)
class Outcome:
    """What became of a test: `right`, `wrong`, `refused`, `slow` or `crashed`; `closed` if nothing of it can be opened.

    `wrong` are published variants whose outputs are not the test's; `unchecked` are those that no device here runs, with
    their evidence; `dropped` are targets that the file does not hold, and why. `reference` is what the test says of ONNX
    Runtime's outputs, empty where they are right or there are none. `settled` are inputs that have their value in the spec:
    such as are axes, shapes or sizes, where the test as it is was refused. `opened` are the dimensions that were open.
    """

    name: str
    outcome: str
    operators: tuple[str, ...] = ()
    stage: str = ""
    message: str = ""
    right: tuple[str, ...] = ()
    wrong: dict[str, str] = field(default_factory=dict)
    unchecked: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    reference: str = ""
    settled: tuple[str, ...] = ()
    opened: tuple[str, ...] = ()
    seconds: float = 0.0

    def encode(self) -> bytes:
        """As one line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @staticmethod
    def decode(line: bytes) -> Outcome:
        """What `encode` made. Raises ValueError for anything else."""
        data: dict[str, Any] = json.loads(line)
        return Outcome(**data | {key: tuple(data[key]) for key in ("operators", "right", "settled", "opened")})


def difference(found: Sequence[Array], wanted: Sequence[Array]) -> str:
    """How `found` differs from the test's outputs, empty if it does not."""
    if len(found) != len(wanted):
        return f"{len(found)} outputs, not {len(wanted)}"
    problems = (_difference(*pair) for pair in zip(found, wanted, strict=True))
    return next((f"output {number}: {problem}" for number, problem in enumerate(problems) if problem), "")


def _difference(found: Array, wanted: Array) -> str:
    if found.dtype.kind in "iu" and wanted.dtype.kind in "iu" and found.itemsize == wanted.itemsize:
        found = found.view(wanted.dtype)  # code knows no sign: the signature does
    if (found.dtype, found.shape) != (wanted.dtype, wanted.shape):
        return f"{found.dtype}{list(found.shape)}, not {wanted.dtype}{list(wanted.shape)}"
    if wanted.dtype.kind == "f":
        relative, share = FUZZ.get(wanted.dtype.name, DEFAULT_FUZZ)
        largest = np.abs(wanted, where=np.isfinite(wanted), out=np.zeros_like(wanted)).max(initial=0)
        same = np.isclose(found, wanted, relative, 1e-7 + share * float(largest), equal_nan=True)
    else:
        same = found == wanted
    if same.all():
        return ""
    first = np.unravel_index(int(np.argmin(same)), same.shape)
    return f"{(~same).sum()} of {same.size} values differ; at {[int(i) for i in first]} {found[first]!s}, not {wanted[first]!s}"


def make_project(
    root: Path,
    suite: Suite,
    name: str,
    targets: Sequence[str] = (),
    settled: Collection[str] = (),
    opened: Mapping[Place, Dimension] = MappingProxyType({}),
) -> Project:
    """A project whose only model is the test's, for these targets or all of the bundle; one that fails is left out.

    The inputs in `settled` have their `value` in the spec; the dimensions in `opened` are open.
    """
    bundle = yaml.safe_load((ROOT / "targets" / "bundles" / f"{BUNDLE}.yaml").read_text())
    project = Project(root, bundle={"targets": list(targets) or bundle["targets"], "on_failure": "drop"})
    folder, file = project.targets / "models", openings.without_sizes(suite.file(name), opened)
    (folder / "model.onnx").write_bytes(file)
    inputs = []
    for number, (title, array) in enumerate(zip(input_names(file), suite.arrays(name, "input"), strict=True)):
        np.save(folder / f"{number}.npy", array)
        data = {"value": array.tolist()} if title in settled else {"file": f"{number}.npy"}
        sizes = [openings.said(opened[title, axis]) if (title, axis) in opened else n for axis, n in enumerate(array.shape)]
        inputs.append({"name": title, "shape": sizes, "dtype": str(array.dtype), **data})
    spec = {
        "about": f"ONNX's backend test {name}",
        "licence": "Apache-2.0",
        "format": "onnx",
        "source": {"kind": "path", "path": "model.onnx", "sha256": sha256_bytes(file)},
        "inputs": inputs,
        "bundles": [BUNDLE],
        "constant": constant_outputs(suite, name),
    }
    (folder / f"{MODEL}.yaml").write_text(yaml.safe_dump(spec))
    return project


def constant_outputs(suite: Suite, name: str) -> list[str]:
    """The outputs that the test itself says have one value: they are meant so, as whoever writes a spec would say."""
    pairs = zip(output_names(suite.file(name)), suite.arrays(name, "output"), strict=True)
    return [title for title, array in pairs if (array == array.flat[0]).all()]


def build(project: Project, name: str) -> Outcome | None:
    """Take the project's model through all stages. The outcome if one of them refuses it."""
    planned = {step.name.split(":")[0]: step for step in steps(load(project.targets), project.layout, Target("nowhere"))}
    for stage in STAGES:
        print(stage, flush=True)
        try:
            planned[stage].action()
        except PipelineError as error:
            return Outcome(name, "refused", stage=stage, message=said(error))
    return None


def said(error: PipelineError) -> str:
    """An error in one line; of a tool that failed, the last line of its log as well."""
    lines = [line.strip() for line in error.what.splitlines() if line.strip()]
    tool = re.fullmatch(r"\S+: exit code \d+", lines[0])
    return f"{lines[0]} … {lines[-1]}" if tool else lines[0]


@dataclass(frozen=True)
class Published:
    """What the project published, and where to run it."""

    project: Project
    folder: Path

    @cached_property
    def manifest(self) -> Manifest:
        path = self.project.layout.package(MODEL) / "manifest.json"
        return decode(Manifest, path.read_bytes(), str(path))

    @property
    def artifact(self) -> Artifact:
        return self.manifest.artifacts[0]

    def blob(self, sha256: str) -> Path:
        return self.project.layout.package(MODEL) / "blobs" / sha256

    @cached_property
    def variants(self) -> tuple[Gated, ...]:
        return gated(self.artifact, "the manifest")

    def forced(self, variant: str) -> Path:
        """A copy of the published file that runs `variant` whatever the device is."""
        output = self.folder / f"{variant}.vmfb"
        names = [v.name for v in self.variants]
        choice.force(self.blob(self.artifact.blob.sha256), names.index(variant), output)
        return output

    def run(self, module: Path, device: Device, name: str) -> tuple[devices.Run, list[Array]]:
        """How a module ran on the test's inputs, and its outputs."""
        entry = self.manifest.entries[0].function
        ran = devices.run(module, device, entry, [self.folder / "inputs.npz"], self.folder, name)
        if ran.error:
            return ran, []
        with np.load(devices.outputs(self.folder, name)) as arrays:
            return ran, [arrays[key] for key in sorted(arrays, key=int)]


def runs(published: Published, found: Sequence[Device]) -> Iterator[tuple[str, str, list[Array]]]:
    """Every published variant that a device here runs: its name, an error or nothing, and its outputs.

    Each device runs what it selects; a CPU, every level that it has besides.
    """
    names, module = [v.name for v in published.variants], published.blob(published.artifact.blob.sha256)
    seen = set()
    for number, device in enumerate(found):
        if (variant := select(published.variants, device.facts)) is None:
            continue
        seen.add(variant)
        ran, outputs = published.run(module, device, f"device-{number}")
        if not ran.error and ran.selected != names.index(variant):
            raise RuntimeError(f"{device.title} was predicted to run {variant}, the module reports {ran.selected}")
        yield variant, ran.error, outputs
    for device in (device for device in found if device.driver == "local-task"):
        for decision in decide(published.variants, device.facts):
            if decision.accepted and decision.variant not in seen:
                ran, outputs = published.run(published.forced(decision.variant), device, decision.variant)
                yield decision.variant, ran.error, outputs


def judge(published: Published, name: str, found: Sequence[Device], wanted: Sequence[Array]) -> Outcome:
    """Compare every published variant that runs here with the test's outputs."""
    print("check", flush=True)
    problems: dict[str, str] = {}
    for variant, error, outputs in runs(published, found):
        problems[variant] = problems.get(variant) or error or difference(outputs, wanted)
    reference = [np.load(published.blob(blob.sha256)) for blob in published.manifest.entries[0].reference.draws[0].outputs]
    wrong = {variant: problem for variant, problem in problems.items() if problem}
    return Outcome(
        name,
        "wrong" if wrong else "right",
        message=next(iter(wrong.values()), ""),
        right=tuple(variant for variant in problems if variant not in wrong),
        wrong=wrong,
        unchecked={n: proof.kind for n, proof in evidence(published.project, MODEL).items() if n not in problems},
        dropped={d.name: d.reason for d in published.artifact.dropped},
        reference=difference(reference, wanted),
    )


def attempt(
    suite: Suite, name: str, found: Sequence[Device], folder: Path, targets: Sequence[str] = (), is_open: bool = False
) -> Outcome:
    """The outcome of the test. Whatever it raises is a crash."""
    opened = openings.opening(suite, name, folder) if is_open else {}
    if is_open and not opened:
        return Outcome(name, "closed")
    said = tuple(f"{title}[{axis}] is {dimension}" for (title, axis), dimension in opened.items())
    project, settled = make_project(folder / "project", suite, name, targets, opened=opened), list[str]()
    refused = build(project, name)
    if refused and (settled := settings(suite.file(name))):
        print("settled", flush=True)
        project = make_project(folder / "settled", suite, name, targets, settled, opened)
        refused = build(project, name)
    if refused:
        return replace(refused, settled=tuple(settled), opened=said)
    (checks := folder / "check").mkdir()
    given = [
        a for title, a in zip(input_names(suite.file(name)), suite.arrays(name, "input"), strict=True) if title not in settled
    ]
    named: dict[str, Any] = {str(number): array for number, array in enumerate(given)}
    np.savez(checks / "inputs.npz", **named)
    judged = judge(Published(project, checks), name, found, suite.arrays(name, "output"))
    return replace(judged, settled=tuple(settled), opened=said)


def main(arguments: list[str]) -> int:
    """Attempt a test as the command line says."""
    wheel, name, facts, folder, shapes, *targets = arguments
    end_on_signals()
    started = time.monotonic()
    suite = Suite(Path(wheel))
    present = from_json(json.loads(Path(facts).read_text()), facts)
    outcome = attempt(suite, name, present, Path(folder), targets, shapes == "open")
    operators = suite.read(name)[0].operators
    write(
        Path(folder) / "outcome.json",
        replace(outcome, operators=operators, seconds=round(time.monotonic() - started, 1)).encode(),
    )
    return 0


if __name__ == "__main__":
    sys.exit(process.serve(main))
