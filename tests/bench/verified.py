"""Where the time of verification goes: `python -m tests.bench.verified [--root FOLDER] [--each] [MODEL…]`.

In the project at FOLDER, whose models are compiled, each is verified once more, into a folder of its own. It prints the seconds
of the whole, those in which twins were compiled, code was loaded, run and run again, and outputs were compared (each added up
over what ran side by side), how many runs there were, and how many of different files on a device. `--each`: every run. It
judges nothing.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from pipeline.consume.render import columns
from pipeline.files import sha256_file
from pipeline.iree import devices
from pipeline.iree.device import Device
from pipeline.iree.devices import Run
from pipeline.layout import Layout
from pipeline.spec.load import load
from pipeline.spec.types import Spec
from pipeline.stages import checks, twins, verify
from pipeline.stages import compile as compile_stage
from pipeline.stages.origin import Origin
from tests.bench.fat import _machine


@dataclass(frozen=True)
class Seen:
    """A run: its name, the digest of the file, the device, the seconds it took, and how it ended."""

    name: str
    file: str
    device: str
    seconds: float
    ran: Run


@dataclass
class Spent:
    """What a verification took: `runs`, and seconds by what was done; both of all threads together."""

    runs: list[Seen] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    lock: Any = field(default_factory=threading.Lock)

    def timed(self, what: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, whose seconds are added."""

        def wrapper(*arguments: Any, **options: Any) -> Any:
            started = time.monotonic()
            try:
                return call(*arguments, **options)
            finally:
                with self.lock:
                    self.seconds[what] = self.seconds.get(what, 0.0) + time.monotonic() - started

        return wrapper

    def noted(self, call: Callable[..., Run]) -> Callable[..., Run]:
        """`devices.run`, of which each call is noted."""

        def run(module: Path, device: Device, entry: Any, inputs: Any, folder: Path, name: str, **options: Any) -> Run:
            started = time.monotonic()
            ran = call(module, device, entry, inputs, folder, name, **options)
            lanes = device.facts.answers.get("vulkan.device::subgroup_size", "")
            title = f"{device.uri} {lanes}".strip()
            with self.lock:
                self.runs.append(Seen(name, sha256_file(module), title, time.monotonic() - started, ran))
            return ran

        return run


def spent(spec: Spec, layout: Layout, name: str, bundle_name: str, folder: Path) -> tuple[float, Spent]:
    """The seconds of verifying a bundle of a model, and what they went to."""
    model, bundle, found = spec.models[name], spec.bundles[bundle_name], Spent()
    targets = [spec.executables[target] for target in bundle.targets]
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(devices, "run", found.noted(devices.run)))
        for where, word, what in (
            (compile_stage, "compile_targets", "compiling twins"),
            (checks, "_compared", "comparing"),
            (twins, "verify", "twins"),
            (verify.tried, "runtimes", "other runtimes"),
            (checks, "in_all_ways", "ways of CPUs"),
        ):
            stack.enter_context(mock.patch.object(where, word, found.timed(what, getattr(where, word))))
        started = time.monotonic()
        imported, compiled = layout.imported(name), layout.compiled(name, bundle_name)
        reference, scores = layout.reference(name), layout.scored(name)
        verify.run(Origin.of(model, layout), bundle, targets, compiled, imported, reference, scores, folder / "verify")
        return time.monotonic() - started, found


def _row(name: str, seconds: float, found: Spent) -> str:
    runs = [seen.ran for seen in found.runs]
    computed, loaded = sum(sum(ran.runs_s) for ran in runs), sum(ran.load_s for ran in runs)
    once = len({(seen.file, seen.device) for seen in found.runs})
    said = [f"{found.seconds.get(what, 0):.1f}" for what in ("compiling twins", "comparing", "other runtimes", "ways of CPUs")]
    cells = [f"{seconds:.1f}", *said, f"{loaded:.1f}", f"{computed:.1f}", str(len(runs)), str(once), f"{os.getloadavg()[0]:.1f}"]
    return f"| {name} | {' | '.join(cells)} |"


def _each(runs: Sequence[Seen]) -> list[str]:
    rows = [("run", "device", "file", "wall s", "load s", "first runs s", "draws")]
    for seen in runs:
        numbers = (seen.seconds, seen.ran.load_s, sum(seen.ran.runs_s))
        rows.append((seen.name, seen.device, seen.file[:8], *(f"{number:.2f}" for number in numbers), str(seen.ran.done)))
    return columns(rows, right=(3, 4, 5, 6))


def main() -> None:
    """Measure and print, bundle by bundle."""
    parser = argparse.ArgumentParser(description="Measure what verification spends its time on.")
    parser.add_argument("models", nargs="*", metavar="MODEL", help="default: all that are compiled")
    parser.add_argument("--root", type=Path, default=Path(), help="the project's folder (default: this one)")
    parser.add_argument("--each", action="store_true", help="print every run")
    arguments = parser.parse_args()
    spec, layout = load(arguments.root / "targets"), Layout(arguments.root / "out")
    print(f"{_machine()}; seconds\n")
    heads = ("model / bundle", "wall", "twins' code", "comparing", "other runtimes", "ways of CPUs", "loading", "first runs")
    print(f"| {' | '.join((*heads, 'runs', 'of different bytes', 'load'))} |")
    print(f"| --- |{' ---: |' * (len(heads) + 2)}")
    for name in arguments.models or spec.models:
        for bundle in spec.models[name].bundles:
            if (layout.compiled(name, bundle) / "record.json").exists():
                with tempfile.TemporaryDirectory() as folder:
                    seconds, found = spent(spec, layout, name, bundle, Path(folder))
                    print(_row(f"{name} / {bundle}", seconds, found), flush=True)
                if arguments.each:
                    print("\n".join(_each(found.runs)), flush=True)


if __name__ == "__main__":
    main()
