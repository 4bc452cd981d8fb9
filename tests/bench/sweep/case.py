"""One model through every stage, in a process of its own: `python -m tests.bench.sweep.case MODEL FOLDER TARGET…`.

A project with the model's spec alone is made in FOLDER and taken from fetch to publish. After each stage FOLDER/built.json says
what is known, so that a process that is stopped leaves that.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipeline import process
from pipeline.errors import PipelineError
from pipeline.files import sha256_file, write
from pipeline.plan import Target, steps
from pipeline.spec.load import load
from pipeline.tasks import end_on_signals
from tests.project import ROOT, Project

MODELS = Path(__file__).with_name("models")
OWN = ROOT / "targets" / "models"
BUNDLE = "desktop"
STAGES = ("fetch", "import", "reference", "compile", "verify", "package", "publish")


@dataclass(frozen=True)
class Built:
    """How far a model came: seconds by stage, the last of them is the one that refused it or was stopped; and what it said."""

    seconds: dict[str, float] = field(default_factory=dict)
    refusal: str = ""
    done: bool = False

    @staticmethod
    def read(path: Path) -> Built:
        """What the process of a model left at `path`."""
        return Built(**json.loads(path.read_bytes())) if path.exists() else Built()


def swept(pattern: str = "") -> list[str]:
    """The names of the sweep's models that have `pattern`, a regular expression."""
    return sorted(path.stem for path in MODELS.glob("*.yaml") if re.search(pattern, path.stem))


def make_project(root: Path, name: str, targets: Sequence[str]) -> Project:
    """A project whose only model is `name` of the sweep, or of the package, for these targets. One that fails is left out.

    What a script makes depends on tools and perhaps on the CPU: it is made here, and its digest is no part of the spec.
    """
    project = Project(root, bundle={"targets": list(targets), "on_failure": "drop"})
    folder = project.targets / "models"
    models = MODELS if name in swept() else OWN
    spec = yaml.safe_load((models / f"{name}.yaml").read_text())
    if "script" in spec["source"]:
        file = folder / "made.onnx"
        process.run([sys.executable, models / spec["source"]["script"], file], root / "script.log")
        spec["source"] = {"kind": "path", "path": file.name, "sha256": sha256_file(file)}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    return project


def _said(error: PipelineError) -> str:
    """The first two lines of an error: of a verification that failed, the second says what is off."""
    return " ".join(line.strip() for line in error.what.strip().splitlines()[:2])


def build(project: Project, tell: Callable[[Built], None]) -> Built:
    """Take the project's model through all stages, and tell before and after each how far it came."""
    store = str(project.layout.store)
    planned = {step.name.split(":")[0]: step for step in steps(load(project.targets), project.layout, Target(store))}
    seconds: dict[str, float] = {}
    for stage in STAGES:
        started = time.monotonic()
        seconds[stage] = 0.0
        tell(Built(seconds))
        try:
            planned[stage].action()
        except PipelineError as error:
            return Built(seconds, _said(error))
        finally:
            seconds[stage] = round(time.monotonic() - started, 1)
    return Built(seconds, done=True)


def main(arguments: list[str]) -> int:
    """Build a model as the command line says."""
    name, folder, *targets = arguments
    end_on_signals()

    def tell(built: Built) -> None:
        known: dict[str, Any] = asdict(built)
        write(Path(folder) / "built.json", json.dumps(known).encode())

    try:
        tell(build(make_project(Path(folder) / "project", name, targets), tell))
    except PipelineError as error:  # a script's
        tell(Built({STAGES[0]: 0.0}, _said(error)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
