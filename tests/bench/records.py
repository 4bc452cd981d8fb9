"""The package's own tuning records: `python -m tests.bench.records [--names REGEX] [--seconds N] [--targets NAME…] [--drop]`.

The models of the package and of `tests.bench.latency` are imported, each in a project of its own below `out/records`, and tuned
for each target for so many seconds, into the package's records in `targets/tuning`. `--drop`: then entries of kernels that none
of these models has are removed, for which all of them must be among the names.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.cache import local
from pipeline.errors import PipelineError
from pipeline.files import fresh_folder
from pipeline.iree import mlir, tuning
from pipeline.iree.codegen.front import front_half
from pipeline.iree.codegen.pieces import Dispatches
from pipeline.iree.targets import resolve
from pipeline.layout import Layout
from pipeline.plan import Target, steps
from pipeline.spec.load import load
from pipeline.spec.types import Bundle, Executable
from pipeline.stages import tune
from pipeline.stages.origin import Origin
from tests.bench.latency import REAL, project_of
from tests.bench.latency_models import MADE
from tests.project import ROOT

FOLDER = ROOT / "out" / "records"
STAGES = ("fetch", "import", "reference")


@dataclass(frozen=True)
class Case:
    """A model that is imported and has test data, with the bundle that says how it is compiled."""

    origin: Origin
    bundle: Bundle
    layout: Layout

    @property
    def imported(self) -> Path:
        return self.layout.imported(self.origin.model.name)

    def kernels(self, target: Executable) -> set[str]:
        """The kernels that the model has for a target, as records name them."""
        with fresh_folder(self.layout.tuned(self.origin.model.name)) as folder:
            of = [resolve(target)]
            front = front_half(self.imported / "model.mlirbc", folder, of, self.bundle.flags, local())
            with mlir.opened(front.sources) as module:
                mlir.strip_locations(module)
                pieces = Dispatches(module, of, self.bundle.flags).pieces.values()
                return {tuning.kernel_of(piece.symbol) for piece in pieces}

    def tune(self, target: Executable, seconds: int) -> str:
        """Tune it, into the record that the target names; what the report says."""
        name = self.origin.model.name
        reference, folder = self.layout.reference(name), self.layout.tuned(name)
        tune.run(self.origin, [(self.bundle, (target,))], self.imported, reference, folder, [target.name], seconds)
        return (folder / tune.REPORT).read_text()


def case_of(name: str, own: Sequence[str], target: str) -> Case:
    """The model of the package, of the sweep, or a made one."""
    if name in own:
        targets, layout = ROOT / "targets", Layout(ROOT / "out")
    else:
        root = FOLDER / name
        project = project_of(name, root, target) if not (root / "targets").exists() else None
        targets, layout = root / "targets", project.layout if project else Layout(root / "out")
    spec = load(targets)
    planned = {step.name: step for step in steps(spec, layout, Target(str(layout.store)))}
    for stage in STAGES:
        planned[f"{stage}:{name}"].action()
    model = spec.models[name]
    return Case(Origin.of(model, layout), spec.bundles[model.bundles[0]], layout)


def main() -> int:
    """Tune, model by model, and drop what none has."""
    parser = argparse.ArgumentParser(description="Make the package's tuning records.")
    parser.add_argument("--names", default="", metavar="REGEX", help="only models whose name has this")
    parser.add_argument("--seconds", type=int, default=0, help="for each model and target; 0: none are tuned (default)")
    parser.add_argument("--targets", nargs="+", default=["x86-64-v3", "x86-64"], metavar="NAME")
    parser.add_argument("--drop", action="store_true", help="remove entries of kernels that none of the models has")
    arguments = parser.parse_args()
    own = list(load(ROOT / "targets").models)
    every = [*own, *(name for name in (*REAL, *MADE) if name not in own)]
    names = [name for name in every if re.search(arguments.names, name)]
    if arguments.drop and names != every:
        parser.error("--drop needs all models")
    seen: set[str] = set()
    for name in names:
        case = case_of(name, own, arguments.targets[0])
        for target_name in arguments.targets:
            target = load(ROOT / "targets").executables[target_name]  # with what the models before brought
            seen |= case.kernels(target)
            if arguments.seconds:
                try:
                    print(
                        case.tune(target, arguments.seconds), f"load {os.getloadavg()[0]:.1f}", time.strftime("%H:%M"), flush=True
                    )
                except PipelineError as error:
                    print(f"{name} for {target_name}: {error}", flush=True)
    for target_name in arguments.targets if arguments.drop else ():
        target = load(ROOT / "targets").executables[target_name]
        kept = {kernel: entry for kernel, entry in target.tuning.items() if kernel in seen}
        print(f"{target_name}: {len(target.tuning) - len(kept)} of {len(target.tuning)} entries are of kernels that no model has")
        tuning.save(target.record, kept)
    return 0


if __name__ == "__main__":
    sys.exit(main())
