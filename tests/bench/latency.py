"""How fast the pipeline's CPU code is beside ONNX Runtime: `python -m tests.bench.latency [--names REGEX] [--target NAME] …`.

Real models of the sweep, and some with random weights (`latency_models`), are imported and compiled for one target of this
CPU; the outputs must be ONNX Runtime's within the tolerances of verification. Then the code in each way of the driver (see
`pipeline.iree.devices.ways`) and ONNX Runtime with one thread and with one a core, its optimizations on, are measured in turn.
A measurement is many short runs of 5 ms; what is printed are milliseconds in the best of all, of the best way: other
work on the machine only adds. `--plain`: the model without the rewrites for speed beside it. It judges nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import yaml

from pipeline import arrays, process
from pipeline.compare import compare, tolerances_for
from pipeline.errors import PipelineError
from pipeline.files import sha256_file
from pipeline.importers.baked import bake
from pipeline.importers.draws import GIVEN, draws
from pipeline.importers.onnxruntime import precisions
from pipeline.iree import devices
from pipeline.iree.device import Device
from pipeline.iree.devices import ways
from pipeline.layout import Layout
from pipeline.plan import Target, steps
from pipeline.spec.load import load
from pipeline.spec.types import Executable
from pipeline.stages import compile as compile_stage
from pipeline.stages import import_, parameters
from pipeline.stages.origin import Origin
from tests.bench.fat import _machine
from tests.bench.latency_models import MADE
from tests.bench.sweep.case import make_project, swept
from tests.project import Project

REAL = (
    "attacut-c", "attention-f16", "khmersm", "pp-ocr-rec", "silero-vad-fixed", "wake-alexa", "wake-embedding",
    "wake-melspectrogram",
)  # fmt: skip
SECONDS, BATCH = 0.5, 0.005  # of one measurement, and of the runs in it of which the mean counts
Measure = Callable[[], float]


@dataclass(frozen=True)
class Compiled:
    """A model's code, and the file of its large weights if there is one."""

    module: Path
    weights: Path | None
    function: str


def project_of(name: str, folder: Path, target: str) -> Project:
    """A project with the one model: of the sweep, of the package, or a made one."""
    if name not in MADE:
        return make_project(folder, name, [target])
    project = Project(folder, bundle={"targets": [target]})
    models = project.targets / "models"
    MADE[name].build(models / "made.onnx")
    source = {"kind": "path", "path": "made.onnx", "sha256": sha256_file(models / "made.onnx")}
    spec = {"about": name, "licence": "none", "format": "onnx", "source": source, "inputs": list(MADE[name].inputs)}
    (models / f"{name}.yaml").write_text(yaml.safe_dump({**spec, "bundles": ["desktop"]}))
    return project


def compiled(origin: Origin, imported: Path, folder: Path, target: Executable, project: Project) -> Compiled:
    """The imported model's code for `target`. Raises PipelineError if it is refused."""
    folder.mkdir()
    compile_stage.compile_targets(imported / "model.mlirbc", folder, load(project.targets).bundles["desktop"], [target])
    weights = imported / parameters.ARCHIVE
    return Compiled(folder / "module.vmfb", weights if weights.is_file() else None, origin.model.entries[0].function)


def of_onnxruntime(model: bytes, feed: Mapping[str, arrays.Array], threads: int) -> Measure:
    """Measures ONNX Runtime in this process."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def batch(count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            session.run(None, feed)
        return (time.perf_counter() - started) / count

    def measure() -> float:
        until, found = time.monotonic() + SECONDS, batch(1)
        while time.monotonic() < until:
            found = min(found, batch(max(1, int(BATCH / found))))
        return found * 1000

    return measure


def of_iree(code: Compiled, way: Device, inputs: Sequence[Path], folder: Path) -> Measure:
    """Measures the code by iree-benchmark-module."""
    result = folder / "benchmark.json"
    flags = [f"--module={code.module}", f"--function={code.function}", f"--device={way.uri}"]
    flags += [f"--task_topology_group_count={way.threads}"] if way.threads else []
    flags += [f"--parameters={devices.SCOPE}={code.weights}"] if code.weights else []
    flags += [f"--input=@{path}" for path in inputs]
    flags += [f"--benchmark_min_time={BATCH}s", f"--benchmark_out={result}"]

    def measure() -> float:
        found, until, count = math.inf, time.monotonic() + SECONDS, 5
        while time.monotonic() < until:
            more = f"--benchmark_repetitions={count}"
            process.run([Path(sys.executable).with_name("iree-benchmark-module"), *flags, more], folder / "benchmark.log")
            rows = [r for r in json.loads(result.read_text())["benchmarks"] if r["run_type"] == "iteration"]
            units = {"ns": 1e6, "us": 1e3, "ms": 1, "s": 1e-3}
            found = min(found, *(r["real_time"] / units[r["time_unit"]] for r in rows))
            count = int(min(80, max(5, SECONDS * 1000 / max(found, BATCH * 2000))))
        return found

    return measure


def problem_of(code: Compiled, device: Device, given: Path, expected: Sequence[arrays.Array], model: bytes, folder: Path) -> str:
    """How the code's outputs differ from ONNX Runtime's; empty where they do not."""
    ran = devices.run(code.module, device, code.function, [given], folder, "run", parameters=code.weights)
    if ran.error:
        return ran.error
    coarsest = precisions(onnx.load_from_string(model))
    return compare(arrays.read(devices.outputs(folder, "run")), list(expected), tolerances_for(expected, coarsest)).problem


def measured(name: str, root: Path, device: Device, target: str, rounds: int, plain: bool) -> dict[str, float]:
    """Milliseconds of `pipeline`, `onnxruntime` and perhaps `plain` for one model."""
    project = project_of(name, root / "project", target)
    spec, layout = load(project.targets), Layout(project.root / "out")
    {step.name.split(":")[0]: step for step in steps(spec, layout, Target(str(layout.store)))}["fetch"].action()
    origin = Origin.of(spec.models[name], layout)
    import_.run(origin, root / "imported")
    ((source, entry),) = origin.files.items()
    codes = {"pipeline": compiled(origin, root / "imported", root / "pipeline", spec.executables[target], project)}
    if plain and (slower := import_.plainly(origin, root / "imported", root / "slower")):
        codes["plain"] = compiled(origin, slower, root / "plain", spec.executables[target], project)
    model = onnx.load(source)
    bake(model, entry.inputs)
    content, given = model.SerializeToString(), draws(entry.inputs, name)[GIVEN]
    files = [root / f"{number}.npy" for number in range(len(given))]
    for file, array in zip(files, given, strict=True):
        np.save(file, array)
    arrays.write(root / "given.npz", given)
    taken = {value.name for value in model.graph.input}  # an input whose value the spec gives is none any more
    feed = {i.name: array for i, array in zip(entry.inputs, given, strict=True) if i.name in taken}
    expected = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, feed)
    measures: dict[tuple[str, str], Measure] = {}
    for kind, code in codes.items():
        if problem := problem_of(code, device, root / "given.npz", expected, content, root):
            print(f"{name}: {kind} is wrong: {problem.splitlines()[0]}", flush=True)
        for way in ways.of(device):
            measures[kind, f"{way.uri} {way.threads or ''}"] = of_iree(code, way, files, root)
    for threads in sorted({1, ways.cores()}):
        measures["onnxruntime", f"{threads}"] = of_onnxruntime(content, feed, threads)
    times = dict.fromkeys(measures, math.inf)
    for _ in range(rounds):
        for key, measure in measures.items():
            times[key] = min(times[key], measure())
    print(f"{name}: {', '.join(f'{kind} {way.strip()} {value:.3f}' for (kind, way), value in times.items())}", flush=True)
    return {kind: min(value for (k, _), value in times.items() if k == kind) for kind in (*codes, "onnxruntime")}


def mean(ratios: Sequence[float]) -> float:
    """The geometric one."""
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def main() -> None:
    """Measure and print, model by model; a table at the end."""
    parser = argparse.ArgumentParser(description="Measure the pipeline's CPU code against ONNX Runtime.")
    parser.add_argument("--names", default="", metavar="REGEX", help="only models whose name has this")
    parser.add_argument("--sweep", action="store_true", help="all models of the sweep instead of the table's")
    parser.add_argument("--target", default="x86-64-v3", help="what the code is for (default: x86-64-v3)")
    parser.add_argument("--rounds", type=int, default=5, help="how often to measure each in turn (default: 5)")
    parser.add_argument("--plain", action="store_true", help="measure also what is not rewritten for speed")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep what is made in this folder")
    arguments = parser.parse_args()
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = arguments.keep or Path(place)
        device = next(d for d in devices.find(Path(place)) if d.uri == "local-task")
        print(f"{_machine()}, onnxruntime {onnxruntime.__version__}; {arguments.target}", flush=True)
        for name in sorted(swept() if arguments.sweep else (*REAL, *MADE)):
            if not re.search(arguments.names, name):
                continue
            root = folder / name
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir(parents=True)
            try:
                rows[name] = measured(name, root, device, arguments.target, arguments.rounds, arguments.plain)
            except PipelineError as error:
                print(f"{name}: {error}", flush=True)
    print(f"\nload average {os.getloadavg()[0]:.1f}\n\n| model | pipeline, ms | not rewritten, ms | ONNX Runtime, ms | ratio |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, row in rows.items():
        before = f"{row['plain']:.3f}" if "plain" in row else ""
        ratio = row["pipeline"] / row["onnxruntime"]
        print(f"| {name} | {row['pipeline']:.3f} | {before} | {row['onnxruntime']:.3f} | {ratio:.2f} |")
    if rows:
        print(f"\ngeometric mean {mean([row['pipeline'] / row['onnxruntime'] for row in rows.values()]):.2f}")


if __name__ == "__main__":
    main()
