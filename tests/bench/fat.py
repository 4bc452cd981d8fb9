"""A fat vmfb against the thin ones it replaces, on this machine: `python -m tests.bench.fat [--rounds N] [MODEL…]`.

Needs the imported models and their test inputs in `out/`, which it only reads; what it makes goes into a temporary folder.
It judges nothing: it prints what it measured and the ratios fat / thin.

Fat is `compile_module` for all targets of the bundle `desktop`. Thin is one plain `iree-compile` for each of those
targets, of the same model for the same target attribute: that is set in the module, because some specs override
parameters for which iree-compile has no flag. Both strip the source map. Only the fat way has the pipeline's corrections
of Vulkan code. Finding the attributes, which both need, is not counted.

* compile: wall time, and CPU time of the child processes; thin is the sum over the targets. Every compilation has a fresh
  parent process, and the fat way an empty cache of code; fat and thin alternate; medians.
* peak: the largest resident set of one child process (which counts its parent's until it starts its own program).
* size: the fat file against the sum of the thin ones, and against the largest.
* inference, load: the fat file on local-task against the thin file of the target that the fat file chooses there. Fat
  files are unlinked by design, one executable a dispatch, where plain iree-compile links all into one. So the second line
  compares with a thin file made with the fat one's code generation flags: what is left is the cost of being fat.
  Inference is the median of the medians of alternated runs of iree-benchmark-module. Load is from mapping the file to a
  usable context, executables created, in fresh processes, with the file in the page cache; median.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from pipeline import process
from pipeline.cache import Cache, LocalCache, local
from pipeline.errors import PipelineError
from pipeline.importers.signature import read_all
from pipeline.iree import devices, mlir
from pipeline.iree.codegen.front import front_flags
from pipeline.iree.compiler import compile_module
from pipeline.iree.gates import Gate
from pipeline.iree.targets import Target, device, resolve
from pipeline.iree.toolchain import CODEGEN_FLAGS, LINK_FLAGS, iree_compile
from pipeline.layout import Layout
from pipeline.spec.load import load

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = "desktop"
ALTERNATIONS, LOADS = 3, 5
BENCHMARK_FLAGS = ("--benchmark_min_time=0.1s", "--benchmark_repetitions=11", "--benchmark_report_aggregates_only=true")


@dataclass(frozen=True)
class Job:
    """What to compile, for which targets, with the gates their specs declare and the bundle's flags."""

    source: Path
    targets: Sequence[Target]
    declared: Mapping[str, Sequence[Gate]]
    flags: Sequence[str]


def compile_fat(job: Job, folder: Path) -> Callable[[], object]:
    """Ready to make `folder/module.vmfb`."""
    cache = Cache(LocalCache(Path(tempfile.mkdtemp(dir=folder)), 1 << 32))
    return lambda: compile_module(job.source, folder, job.targets, job.declared, job.flags, cache)


def compile_thin(job: Job, folder: Path, extra: Sequence[str] = ()) -> Callable[[], object]:
    """Ready to make `folder/<target>.vmfb` for every target of the job."""
    for target in job.targets:
        with mlir.opened(job.source) as module:
            mlir.set_targets(module, device([target]))
            mlir.save(module, folder / f"{target.name}.mlirbc")

    front = front_flags(job.source, folder, job.flags, local())

    def compile_all() -> None:
        for target in job.targets:
            path = folder / f"{target.name}.vmfb"
            flags = [*front, *LINK_FLAGS, *extra, *job.flags]
            iree_compile(path.with_suffix(".mlirbc"), path, flags, path.with_suffix(".log"))

    return compile_all


def _cost(prepare: Callable[[Job, Path], Callable[[], object]], job: Job, folder: Path) -> dict[str, float]:
    folder.mkdir(parents=True, exist_ok=True)
    action = prepare(job, folder)
    whose = {"tools": resource.RUSAGE_CHILDREN, "python": resource.RUSAGE_SELF}
    started, before = time.monotonic(), {name: resource.getrusage(who) for name, who in whose.items()}
    action()
    costs = {"wall": time.monotonic() - started}
    for name, who in whose.items():
        usage = resource.getrusage(who)
        costs[f"{name} CPU"] = usage.ru_utime + usage.ru_stime - before[name].ru_utime - before[name].ru_stime
        costs[f"{name} peak"] = usage.ru_maxrss / 1024
    return costs


def cost(prepare: Callable[[Job, Path], Callable[[], object]], job: Job, folder: Path) -> dict[str, float]:
    """Seconds and MiB it takes to do what `prepare` makes ready, in a fresh process, whose children are only its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_cost, prepare, job, folder).result()


def latency(module: Path, entry: str, inputs: Sequence[Path], folder: Path, device: str = "local-task") -> float:
    """The median milliseconds that iree-benchmark-module measures for one invocation on `device`."""
    tool, result = Path(sys.executable).with_name("iree-benchmark-module"), folder / "benchmark.json"
    flags = [f"--module={module}", f"--function={entry}", f"--device={device}", *(f"--input=@{path}" for path in inputs)]
    process.run([tool, *flags, *BENCHMARK_FLAGS, f"--benchmark_out={result}"], folder / "benchmark.log")
    row = next(r for r in json.loads(result.read_text())["benchmarks"] if r.get("aggregate_name") == "median")
    return float(row["real_time"]) / {"ns": 1e6, "us": 1e3, "ms": 1, "s": 1e-3}[row["time_unit"]]


def _line(what: str, fat: float, thin: float, note: str) -> None:
    print(f"  {what:<15} {fat:10.3f} {thin:10.3f} {fat / thin:8.2f}  {note}", flush=True)


def _measure_compile(job: Job, folder: Path, rounds: int) -> None:
    pairs = [(cost(compile_fat, job, folder / "fat"), cost(compile_thin, job, folder / "thin")) for _ in range(rounds)]
    fat, thin = ({key: median(c[key] for c in costs) for key in costs[0]} for costs in zip(*pairs, strict=True))
    total = f"the sum of {len(job.targets)}"
    _line("compile, wall s", fat["wall"], thin["wall"], total)
    _line("compile, CPU s", fat["tools CPU"], thin["tools CPU"], f"{total}; fat needs {fat['python CPU']:.1f} in Python besides")
    _line("peak, MiB", fat["tools peak"], thin["tools peak"], f"the largest; the fat one's Python has {fat['python peak']:.0f}")
    size = (folder / "fat" / "module.vmfb").stat().st_size / 1024
    sizes = {t.name: (folder / "thin" / f"{t.name}.vmfb").stat().st_size / 1024 for t in job.targets}
    largest = max(sizes, key=lambda name: sizes[name])
    _line("size, KiB", size, sum(sizes.values()), total)
    _line("size, KiB", size, sizes[largest], f"the largest, {largest}")


def _measure_runs(job: Job, entry: str, inputs: Path, folder: Path) -> None:
    local = next(d for d in devices.find(folder) if d.uri == "local-task")
    fat = folder / "fat" / "module.vmfb"
    first = devices.run(fat, local, entry, [inputs], folder, "first")
    if first.error or first.selected is None or first.selected < 0:
        print(f"  not run: {first.error or 'no variant for this CPU'}")
        return
    chosen = job.targets[first.selected]
    (unlinked := folder / "unlinked").mkdir()
    compile_thin(Job(job.source, [chosen], {}, job.flags), unlinked, CODEGEN_FLAGS)()
    thin = {chosen.name: folder / "thin" / f"{chosen.name}.vmfb"}
    thin[f"{chosen.name}, unlinked"] = unlinked / f"{chosen.name}.vmfb"
    with np.load(inputs) as arrays:
        for file in (files := [folder / f"{key}.npy" for key in sorted(arrays, key=int)]):
            np.save(file, arrays[file.stem])

    def compare(what: str, measure: Callable[[Path], float], times: int) -> None:
        values = [[measure(module) for module in (fat, *thin.values())] for _ in range(times + 1)]
        of_fat, *of_thin = (median(column) for column in zip(*values[1:], strict=True))  # the first fills the page cache
        for note, value in zip(thin, of_thin, strict=True):
            _line(what, of_fat, value, note)

    def load_time(module: Path) -> float:
        ran = devices.run(module, local, entry, [inputs], folder, "load")
        if ran.error:
            raise PipelineError(ran.error, where=str(module))
        return ran.load_s * 1000

    compare("inference, ms", lambda module: latency(module, entry, files, folder), ALTERNATIONS)
    compare("load, ms", load_time, LOADS)


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), "unknown CPU")
    packages = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("iree-base-compiler", "iree-base-runtime"))
    return f"{cpu}, {os.cpu_count()} cores, {platform.system()}; Python {platform.python_version()}, {packages}"


def main() -> None:
    """Measure and print, model by model."""
    spec, layout = load(ROOT / "targets"), Layout(ROOT / "out")
    ready = [name for name in spec.models if (layout.imported(name) / "model.mlirbc").exists()]
    parser = argparse.ArgumentParser(description="Measure a fat vmfb against the thin ones it replaces.")
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"one or more of {', '.join(ready)} (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="how often to compile each way (default: 3)")
    arguments = parser.parse_args()
    if not ready or set(arguments.models) - set(ready):
        parser.error(f"imported are: {', '.join(ready) or 'no models'}; run `doit import reference` for others")
    executables = [spec.executables[name] for name in spec.bundles[BUNDLE].targets]
    targets, declared = [resolve(e) for e in executables], {e.name: e.gates for e in executables}
    print(f"{_machine()}\nbundle {BUNDLE}: {', '.join(declared)}")
    for model in arguments.models or ready:
        print(f"\n{model}, load average {os.getloadavg()[0]:.1f}\n  {'':<15} {'fat':>10} {'thin':>10} {'fat/thin':>8}")
        imported = layout.imported(model)
        job = Job(imported / "model.mlirbc", targets, declared, spec.bundles[BUNDLE].flags)
        with tempfile.TemporaryDirectory() as name:
            _measure_compile(job, Path(name), arguments.rounds)
            entry = read_all(imported / "signature.json")[0].entry
            _measure_runs(job, entry, layout.reference(model) / "0" / "given.inputs.npz", Path(name))


if __name__ == "__main__":
    main()
