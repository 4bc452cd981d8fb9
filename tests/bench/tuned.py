"""What tuning records bring: `python -m tests.bench.tuned [--root FOLDER] TARGET [MODEL…] [--search SECONDS:SEED …]`.

In the project at FOLDER, whose models are imported and have test data, each model is compiled for the target without and with
its record. Both, and ONNX Runtime, by all threads and by one, are measured in turn, `--rounds` times.
It prints the best round's median latency of each in its fastest way (other work on the machine only adds), and judges nothing.

`--search 120:1 120:2 600:1`: not with the project's record, but with what is found from none in so many seconds, by a search
that goes the way of that seed; what each says is printed, too. Caches that machines share are left alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest import mock

import onnxruntime

from pipeline import arrays
from pipeline.iree import devices, tuning
from pipeline.iree.device import Device
from pipeline.iree.devices import ways
from pipeline.iree.gates import decide
from pipeline.iree.tuning import Record
from pipeline.layout import Layout
from pipeline.spec.load import load
from pipeline.spec.types import Executable, Spec
from pipeline.stages import compile as compile_stage
from pipeline.stages import parameters, testdata, tune
from pipeline.stages.compiled import Compiled
from pipeline.stages.origin import Origin
from pipeline.tuner import search
from tests.bench.comparison import of_onnxruntime
from tests.bench.fat import _machine

SECONDS = 0.5  # of runs a round
WITHOUT, WITH, OTHER = "without", "with", "ONNX Runtime"


def _device(compiled: Compiled, folder: Path) -> Device:
    """The device here that runs the code, a real one before software."""
    gated = [compiled.variants[0].gated]
    able = [device for device in devices.find(folder) if decide(gated, device.facts)[0].accepted]
    return sorted(able, key=lambda device: device.software)[0]


def measure(
    spec: Spec, layout: Layout, name: str, target: Executable, records: Mapping[str, Record], rounds: int, folder: Path
) -> dict[str, tuple[float, str]]:
    """Milliseconds of the model by each of `records`, and by ONNX Runtime, with how many of its kernels are tuned."""
    model = spec.models[name]
    imported, data = layout.imported(name), testdata.read_all(layout.reference(name))[0]
    bundle, inputs = spec.bundles[model.bundles[0]], data.inputs_of(data.draws[0])
    measured: dict[tuple[str, str], Callable[[], float]] = {}
    tuned: dict[str, str] = {}
    for number, (kind, record) in enumerate(records.items()):
        (made := folder / str(number)).mkdir()
        own = dataclasses.replace(target, tuning=record)
        compiled = compile_stage.compile_targets(imported / "model.mlirbc", made, bundle, [own])
        applied = compiled.variants[0].tuning
        tuned[kind] = f"{applied.tuned} of {applied.kernels}" if applied else "0"
        for way in ways.of(_device(compiled, folder))[:2]:

            def once(made: Path = made, way: devices.Device = way) -> float:
                called = (made / "module.vmfb", way, data.function, [inputs], folder, "run")
                ran = devices.run(*called, parameters=parameters.archive(imported), seconds=SECONDS)
                return (ran.latency_s or float("inf")) * 1000

            measured[kind, way.uri] = once
    for threads in (0, 1):
        source = layout.source(name, 0, model.format)
        measured[OTHER, str(threads)] = of_onnxruntime(source, arrays.read(inputs), SECONDS, threads)
    times: dict[tuple[str, str], list[float]] = {key: [] for key in measured}
    for _ in range(rounds):
        for key, once in measured.items():
            times[key].append(once())
    best = {kind: min(min(found) for key, found in times.items() if key[0] == kind) for kind in (*records, OTHER)}
    return {kind: (milliseconds, tuned.get(kind, "")) for kind, milliseconds in best.items()}


def searched(spec: Spec, layout: Layout, name: str, target: Executable, budget: int, seed: int, folder: Path) -> Record:
    """What a search of so many seconds finds that knows of no record, and goes the way of the seed."""
    record = folder / "tuning" / f"{target.name}.json"
    model = spec.models[name]
    bundles = [(spec.bundles[model.bundles[0]], (dataclasses.replace(target, tuning={}, record=record),))]
    started = time.monotonic()
    with mock.patch.object(search, "_SEED", seed), mock.patch.object(tune, "shared", lambda: None):
        places = (layout.imported(name), layout.reference(name), folder / "tune")
        tune.run(Origin.of(model, layout), bundles, *places, [target.name], budget)
    print(f"\n{budget} s, seed {seed}, took {time.monotonic() - started:.0f} s, load {os.getloadavg()[0]:.1f}")
    print((folder / "tune" / tune.REPORT).read_text(), flush=True)
    return tuning.read(record)


def _lines(name: str, found: Mapping[str, tuple[float, str]]) -> list[str]:
    """A line for each record."""
    (before, _), (theirs, _) = found[WITHOUT], found[OTHER]
    return [
        f"| {name} | {kind} | {tuned} | {before:.3f} | {after:.3f} | {before / after:.2f} | {theirs:.3f} "
        f"| {before / theirs:.2f} | {after / theirs:.2f} | {os.getloadavg()[0]:.1f} |"
        for kind, (after, tuned) in found.items()
        if kind not in (WITHOUT, OTHER)
    ]


def main() -> None:
    """Measure and print, model by model."""
    parser = argparse.ArgumentParser(description="Measure what tuning records bring on this machine.")
    parser.add_argument("target", help="an executable target that a device here runs")
    parser.add_argument("models", nargs="*", metavar="MODEL", help="default: all that have test data")
    parser.add_argument("--root", type=Path, default=Path(), help="the project's folder (default: this one)")
    parser.add_argument("--rounds", type=int, default=5, help="how often to measure each (default: 5)")
    parser.add_argument("--search", nargs="+", default=[], metavar="SECONDS:SEED", help="with what such searches find, instead")
    arguments = parser.parse_args()
    spec, layout = load(arguments.root / "targets"), Layout(arguments.root / "out")
    target = spec.executables[arguments.target]
    ready = [name for name in spec.models if (layout.reference(name) / "record.json").exists()]
    lines = []
    for name in arguments.models or ready:
        with tempfile.TemporaryDirectory() as place:
            records: dict[str, Record] = {WITHOUT: {}, **({} if arguments.search else {WITH: target.tuning})}
            for number, text in enumerate(arguments.search):
                (own := Path(place) / f"search-{number}").mkdir()
                seconds, _, seed = text.partition(":")
                records[text] = searched(spec, layout, name, target, int(seconds), int(seed or 0), own)
            lines += _lines(name, measure(spec, layout, name, target, records, arguments.rounds, Path(place)))
            print("\n".join(lines[-len(records) + 1 :]), flush=True)
    print(
        f"\n{_machine()}, onnxruntime {onnxruntime.__version__}; {arguments.target}; the best of {arguments.rounds} rounds, ms\n"
    )
    print("| model | record | tuned kernels | without | with | times as fast | ONNX Runtime | without / it | with / it | load |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
