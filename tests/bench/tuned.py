"""What tuning records bring: `python -m tests.bench.tuned [--root FOLDER] [--rounds N] TARGET [MODEL…]`.

In the project at FOLDER, whose models are imported and have test data, each model is compiled for the CPU target without and with
its record. Both, and ONNX Runtime, by all threads and by one, are measured in turn, `--rounds` times.
It prints the best round's median latency of each in its fastest way (other work on the machine only adds), and judges nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import onnxruntime

from pipeline import arrays
from pipeline.iree import devices
from pipeline.iree.devices import ways
from pipeline.layout import Layout
from pipeline.spec.load import load
from pipeline.spec.types import Spec
from pipeline.stages import compile as compile_stage
from pipeline.stages import parameters, testdata
from tests.bench.comparison import of_onnxruntime
from tests.bench.fat import _machine

SECONDS = 0.5  # of runs a round


def measure(spec: Spec, layout: Layout, name: str, target_name: str, rounds: int, folder: Path) -> str:
    """The line of a model: tuned kernels, milliseconds without, with, by ONNX Runtime, and how they compare."""
    model, target = spec.models[name], spec.executables[target_name]
    imported, data = layout.imported(name), testdata.read_all(layout.reference(name))[0]
    bundle, inputs = spec.bundles[model.bundles[0]], data.inputs_of(data.draws[0])
    cpu = next(device for device in devices.find(folder) if device.uri == "local-task")
    measured: dict[str, Callable[[], float]] = {}
    tuned = ""
    for kind, own in (("without", dataclasses.replace(target, tuning={})), ("with", target)):
        (made := folder / kind).mkdir()
        compiled = compile_stage.compile_targets(imported / "model.mlirbc", made, bundle, [own])
        tuned = compiled.variants[0].tuning.partition(" tuned")[0]
        for way in ways.of(cpu)[:2]:

            def once(made: Path = made, way: devices.Device = way) -> float:
                weights = parameters.archive(imported)
                ran = devices.run(
                    made / "module.vmfb", way, data.function, [inputs], folder, "run", parameters=weights, seconds=SECONDS
                )
                return (ran.latency_s or float("inf")) * 1000

            measured[f"{kind} {way.uri}"] = once
    for threads in (0, 1):
        source = layout.source(name, 0, model.format)
        measured[f"ONNX Runtime {threads}"] = of_onnxruntime(source, arrays.read(inputs), SECONDS, threads)
    times: dict[str, list[float]] = {key: [] for key in measured}
    for _ in range(rounds):
        for key, once in measured.items():
            times[key].append(once())
    best = {
        kind: min(min(found) for key, found in times.items() if key.startswith(kind)) for kind in ("without", "with ", "ONNX")
    }
    before, after, theirs = best.values()
    load_average = os.getloadavg()[0]
    return (
        f"| {name} | {tuned.split()[0] if tuned else 0} | {before:.3f} | {after:.3f} | {before / after:.2f} | {theirs:.3f} "
        f"| {before / theirs:.2f} | {after / theirs:.2f} | {load_average:.1f} |"
    )


def main() -> None:
    """Measure and print, model by model."""
    parser = argparse.ArgumentParser(description="Measure what tuning records bring on this CPU.")
    parser.add_argument("target", help="an executable target that this CPU runs")
    parser.add_argument("models", nargs="*", metavar="MODEL", help="default: all that have test data")
    parser.add_argument("--root", type=Path, default=Path(), help="the project's folder (default: this one)")
    parser.add_argument("--rounds", type=int, default=5, help="how often to measure each (default: 5)")
    arguments = parser.parse_args()
    spec, layout = load(arguments.root / "targets"), Layout(arguments.root / "out")
    ready = [name for name in spec.models if (layout.reference(name) / "record.json").exists()]
    print(f"{_machine()}, onnxruntime {onnxruntime.__version__}; {arguments.target}; the best of {arguments.rounds} rounds, ms\n")
    print("| model | tuned kernels | without | with | times as fast | ONNX Runtime | without / it | with / it | load |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in arguments.models or ready:
        with tempfile.TemporaryDirectory() as folder:
            print(measure(spec, layout, name, arguments.target, arguments.rounds, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
