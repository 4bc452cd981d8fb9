"""A fat vmfb against the thin ones it replaces, on this machine: `python -m tests.bench.fat [--rounds N] [MODEL…]`.

Needs the imported models and their test inputs in `out/` (`doit import reference`), which it only reads; everything it
makes goes into a temporary folder. It judges nothing: it prints what it measured and the ratios fat / thin.

Fat is `compile_module` for all targets of the bundle `desktop`. Thin is one plain `iree-compile` for each of those
targets, of the same model for the same target attribute: that is set in the module, because some specs override
parameters for which iree-compile has no flag. Both strip the source map. Only the fat way has the pipeline's corrections
of Vulkan code. Finding the attributes, equally needed by both, is not counted.

* compile: wall time, CPU time of the iree-compile processes, and of the Python process, which reads and writes the IR;
  thin is the sum over the targets. Every compilation has a fresh parent process; fat and thin alternate; medians.
* peak: the largest resident set of a single child process (a child also counts its parent's until it starts its program).
* size: the fat file against the sum of the thin ones, and against the largest.
* inference, load: the fat file on local-task against the thin file of the target that the fat file chooses there. Fat
  files are unlinked by design, one executable a dispatch, where plain iree-compile links all into one. So a second
  comparison is with a thin file compiled with the fat one's code generation flags: what is left is the cost of being fat.
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
from pipeline.importers.signature import Signature
from pipeline.iree import devices, link
from pipeline.iree.compiler import CODEGEN_FLAGS, LINK_FLAGS, compile_module
from pipeline.iree.gates import Gate
from pipeline.iree.targets import Target, device, resolve
from pipeline.iree.toolchain import iree_compile
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


@dataclass(frozen=True)
class Cost:
    """Seconds and MB of a compilation: `tools` are its child processes, `own` is the process that starts them."""

    wall: float
    tools: float
    own: float
    peak: float
    own_peak: float


def compile_fat(job: Job, folder: Path) -> Callable[[], object]:
    """Ready to make `folder/module.vmfb`."""
    return lambda: compile_module(job.source, folder, job.targets, job.declared, job.flags)


def compile_thin(job: Job, folder: Path, extra: Sequence[str] = ()) -> Callable[[], object]:
    """Ready to make `folder/<target>.vmfb` for every target of the job."""
    for target in job.targets:
        with link.opened(job.source) as module:
            link.set_targets(module, device([target]))
            link.save(module, folder / f"{target.name}.mlirbc")

    def compile_all() -> None:
        for target in job.targets:
            path = folder / f"{target.name}.vmfb"
            flags = [*LINK_FLAGS, *extra, *job.flags]
            iree_compile(path.with_suffix(".mlirbc"), path, flags, path.with_suffix(".log"))

    return compile_all


def _seconds(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def _cost(prepare: Callable[[Job, Path], Callable[[], object]], job: Job, folder: Path) -> Cost:
    folder.mkdir(parents=True, exist_ok=True)
    action = prepare(job, folder)
    started, tools, own = time.monotonic(), _seconds(resource.RUSAGE_CHILDREN), _seconds(resource.RUSAGE_SELF)
    action()
    wall = time.monotonic() - started
    tools, own = _seconds(resource.RUSAGE_CHILDREN) - tools, _seconds(resource.RUSAGE_SELF) - own
    peaks = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF))
    return Cost(wall, tools, own, *peaks)


def cost(prepare: Callable[[Job, Path], Callable[[], object]], job: Job, folder: Path) -> Cost:
    """What it costs to do what `prepare` makes ready, in a fresh process, whose children are then only its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_cost, prepare, job, folder).result()


def latency(module: Path, entry: str, inputs: Sequence[Path], folder: Path) -> float:
    """The median milliseconds that iree-benchmark-module measures for one invocation on local-task."""
    tool, result = Path(sys.executable).with_name("iree-benchmark-module"), folder / "benchmark.json"
    flags = [f"--module={module}", f"--function={entry}", "--device=local-task", *(f"--input=@{path}" for path in inputs)]
    process.run([tool, *flags, *BENCHMARK_FLAGS, f"--benchmark_out={result}"], folder / "benchmark.log")
    row = next(r for r in json.loads(result.read_text())["benchmarks"] if r.get("aggregate_name") == "median")
    return float(row["real_time"]) / {"ns": 1e6, "us": 1e3, "ms": 1, "s": 1e-3}[row["time_unit"]]


def _line(what: str, fat: float, thin: float | None, note: str = "") -> None:
    right = " " * 19 if thin is None else f"{thin:10.2f} {fat / thin:8.2f}"
    print(f"  {what:<24} {fat:10.2f} {right}  {note}".rstrip(), flush=True)


def _measure_compile(job: Job, folder: Path, rounds: int) -> None:
    fat, thin = [], []
    for _ in range(rounds):
        fat.append(cost(compile_fat, job, folder / "fat"))
        thin.append(cost(compile_thin, job, folder / "thin"))

    def line(what: str, name: str, note: str) -> None:
        _line(what, median(getattr(c, name) for c in fat), median(getattr(c, name) for c in thin), note)

    line("compile, wall s", "wall", f"sum of {len(job.targets)} thin; fat {'/'.join(f'{c.wall:.1f}' for c in fat)}")
    line("compile, CPU s of tools", "tools", "sum")
    _line("compile, CPU s of Python", median(c.own for c in fat), None)
    line("peak of a tool, MB", "peak", "the largest")
    _line("peak of Python, MB", median(c.own_peak for c in fat), None)
    size = (folder / "fat" / "module.vmfb").stat().st_size / 1024
    sizes = {t.name: (folder / "thin" / f"{t.name}.vmfb").stat().st_size / 1024 for t in job.targets}
    largest = max(sizes, key=lambda name: sizes[name])
    _line("size, KiB", size, sum(sizes.values()), "sum")
    _line("size, KiB", size, sizes[largest], f"the largest, {largest}")


def _measure_runs(job: Job, entry: str, inputs: Path, folder: Path) -> None:
    local = next(d for d in devices.find(folder) if d.uri == "local-task")
    first = devices.run(folder / "fat" / "module.vmfb", local, entry, inputs, folder, "first")
    if first.error or first.selected is None or first.selected < 0:
        print(f"  not run: {first.error or 'no variant for this CPU'}")
        return
    chosen = job.targets[first.selected]
    unlinked = folder / "unlinked"
    unlinked.mkdir()
    compile_thin(Job(job.source, [chosen], {}, job.flags), unlinked, CODEGEN_FLAGS)()
    fat, name = folder / "fat" / "module.vmfb", f"{chosen.name}.vmfb"
    thin = {chosen.name: folder / "thin" / name, f"{chosen.name}, unlinked": unlinked / name}
    with np.load(inputs) as arrays:
        files = [folder / f"{key}.npy" for key in sorted(arrays, key=int)]
        for file in files:
            np.save(file, arrays[file.stem])

    def compare(what: str, measure: Callable[[Path], float], times: int) -> None:
        modules = (fat, *thin.values())
        for module in modules:
            measure(module)  # into the page cache; not counted
        values = [[measure(module) for module in modules] for _ in range(times)]
        of_fat, *of_thin = (median(column) for column in zip(*values, strict=True))
        for note, value in zip(thin, of_thin, strict=True):
            _line(what, of_fat, value, note)

    def loading(module: Path) -> float:
        ran = devices.run(module, local, entry, inputs, folder, "load")
        if ran.error:
            raise RuntimeError(f"{module}: {ran.error}")
        return ran.load_s * 1000

    compare("inference, ms", lambda module: latency(module, entry, files, folder), ALTERNATIONS)
    compare("load, ms", loading, LOADS)


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    cpu = next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.processor())
    packages = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("iree-base-compiler", "iree-base-runtime"))
    return f"{cpu}, {os.cpu_count()} cores, {platform.system()} {platform.release()}; Python {platform.python_version()}, {packages}"


def main() -> None:
    """Measure and print, model by model."""
    spec, layout = load(ROOT / "targets"), Layout(ROOT / "out")
    ready = [name for name in spec.models if (layout.imported(name) / "model.mlirbc").exists()]
    parser = argparse.ArgumentParser(description="Measure a fat vmfb against the thin ones it replaces.")
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"one or more of {', '.join(ready)} (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="how often to compile each way (default: 3)")
    arguments = parser.parse_args()
    if unknown := set(arguments.models) - set(ready):
        parser.error(f"not imported: {', '.join(sorted(unknown))}")
    executables = [spec.executables[name] for name in spec.bundles[BUNDLE].targets]
    targets, declared = [resolve(e) for e in executables], {e.name: e.gates for e in executables}
    print(f"{_machine()}\nbundle {BUNDLE}: {', '.join(declared)}")
    for model in arguments.models or ready:
        print(f"\n{model}, load average {os.getloadavg()[0]:.1f}\n  {'':<24} {'fat':>10} {'thin':>10} {'fat/thin':>8}")
        imported = layout.imported(model)
        job = Job(imported / "model.mlirbc", targets, declared, spec.bundles[BUNDLE].flags)
        with tempfile.TemporaryDirectory() as name:
            _measure_compile(job, Path(name), arguments.rounds)
            entry = Signature.read(imported / "signature.json").entry
            _measure_runs(job, entry, layout.reference(model) / "inputs.npz", Path(name))


if __name__ == "__main__":
    main()
