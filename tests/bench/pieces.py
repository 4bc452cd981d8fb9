"""What the piece cache and a cluster save, on this machine: `python -m tests.bench.pieces [--rounds N] [MODEL…]`.

Needs the imported models in `out/`, which it only reads; what it makes goes into a temporary folder, caches included. It
judges nothing: it prints medians of wall and CPU time and their ratios, beside what is wanted of these. (Where other work
runs on the same cores, CPU time is the better witness.)

* cold: the bundle `desktop` with an empty cache. thin: the sum of one plain `iree-compile` from source for each target,
  with the same flags; defaults: with iree-compile's own, which leave convolutions as they are.
* hits: the same again, everything in the cache. constant: one small constant changed, one that is folded into a kernel.
  weights: every constant of 4096 elements and more changed, and no other.
* + TARGET: everything but that target's pieces in the cache, against what `iree-compile` takes to generate the same code
  alone, on all cores, from the dispatches on. What is above that is the host's part of the file for all targets.
* dask: cold, with one worker of one thread and with two. Both include the client's own work on the same cores.
* growth: chains of N matrix products, each with another constant, for vulkan-any and x86-64.

Every measurement has a fresh process.
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from pipeline.cache import LocalCache, local
from pipeline.iree import mlir
from pipeline.iree.codegen import convolutions
from pipeline.iree.codegen.front import front_flags, front_half
from pipeline.iree.codegen.pieces import Dispatches
from pipeline.iree.compiler import compile_module
from pipeline.iree.mlir import ir
from pipeline.iree.targets import device, resolve
from pipeline.iree.toolchain import CODEGEN_FLAGS, iree_compile
from pipeline.layout import Layout
from pipeline.spec.load import load
from tests.bench.fat import BUNDLE, ROOT, Job, _machine, compile_thin, cost
from tests.cluster import Dask

GROWTH = ("vulkan-any", "x86-64")


def compile_split(cache: Path, scheduler: str, job: Job, folder: Path) -> Callable[[], object]:
    """Ready to compile the job with the cache in the folder `cache`."""
    os.environ["PIPELINE_CACHE_DIR"] = str(cache)
    os.environ["PIPELINE_SCHEDULER"] = scheduler
    return lambda: compile_module(job.source, folder, job.targets, job.declared, job.flags)


def generate_alone(job: Job, folder: Path) -> Callable[[], object]:
    """Ready to generate all code of the job's only target in one process, from `executable-sources` on."""
    with mlir.opened(job.source) as module:
        mlir.set_targets(module, device(job.targets))
        mlir.save(module, folder / "in.mlirbc")
    iree_compile(
        folder / "in.mlirbc",
        folder / "sources.mlirbc",
        ["--compile-to=executable-sources", *front_flags(job.source, folder, job.flags, local())],
        folder / "log",
    )
    step = ["--compile-from=executable-sources", "--compile-to=hal", *CODEGEN_FLAGS, *job.flags]
    return lambda: iree_compile(folder / "sources.mlirbc", folder / "hal.mlir", step, folder / "log")


@dataclass(frozen=True)
class Cost:
    """Seconds of wall time, and of CPU time of this machine's processes."""

    wall: float
    cpu: float


def measure(prepare: Callable[[Job, Path], Callable[[], object]], job: Job, folder: Path) -> Cost:
    costs = cost(prepare, job, folder)
    return Cost(costs["wall"], costs["tools CPU"] + costs["python CPU"])


def middle(costs: Sequence[Cost]) -> Cost:
    return Cost(median(c.wall for c in costs), median(c.cpu for c in costs))


def changed(source: Path, output: Path, least: int, most: int, count: int) -> Path:
    """A copy of the model with `count` of its float constants of `least` to `most` elements a little larger."""
    with mlir.opened(source) as module:
        for operation in mlir.operations(module, "torch.operator"):
            value = operation.attributes.get("torch.onnx.value", None)
            if count and isinstance(value, ir.DenseFPElementsAttr) and not value.is_splat:
                array = np.array(value)
                if array.dtype == np.float32 and least <= array.size <= most:
                    operation.attributes["torch.onnx.value"] = ir.DenseElementsAttr.get(array * np.float32(1.01))
                    count -= 1
        mlir.save(module, output)
    return output


def chain(length: int, path: Path) -> Path:
    """A model of `length` dispatches, each a matrix product and the addition of another constant."""
    layers = [
        f"""  %c{n} = arith.constant dense<{n + 1}.5> : tensor<8x16xf32>
  %m{n} = linalg.matmul ins(%v{n}, %w : tensor<8x16xf32>, tensor<16x16xf32>) outs(%z : tensor<8x16xf32>) -> tensor<8x16xf32>
  %v{n + 1} = arith.addf %m{n}, %c{n} : tensor<8x16xf32>
"""
        for n in range(length)
    ]
    path.write_text(
        f"""func.func @chain(%v0: tensor<8x16xf32>, %w: tensor<16x16xf32>) -> tensor<8x16xf32> {{
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<8x16xf32>
  %z = linalg.fill ins(%zero : f32) outs(%e : tensor<8x16xf32>) -> tensor<8x16xf32>
{"".join(layers)}  return %v{length} : tensor<8x16xf32>
}}"""
    )
    return path


class Bench:
    """The measurements of one model in the folder `root`."""

    def __init__(self, job: Job, root: Path, rounds: int) -> None:
        self.job, self.root, self.rounds = job, root, rounds
        self.cache = root / "cache"

    def split(self, name: str, job: Job, cache: Path | None, scheduler: str = "", without: Sequence[str] = ()) -> Cost:
        """What it costs to compile `job` with a copy of the folder `cache`, less the entries `without`; None: empty."""
        costs = []
        for number in range(self.rounds):
            mine = self.root / f"cache-{name}-{number}"
            if cache:
                shutil.copytree(cache, mine)
            for key in without:
                (mine / key[:2] / key).unlink()
            costs.append(measure(functools.partial(compile_split, mine, scheduler), job, self.root / f"{name}-{number}"))
            if name == "cold" and not self.cache.exists():
                mine.rename(self.cache)
            shutil.rmtree(mine, ignore_errors=True)
        return middle(costs)

    def keys(self, target: str) -> list[str]:
        (folder := self.root / "keys").mkdir(exist_ok=True)
        made = front_half(self.job.source, folder, self.job.targets, self.job.flags, LocalCache(self.cache, 1 << 32))
        with mlir.opened(made.sources) as module:
            pieces = Dispatches(module, self.job.targets, self.job.flags).pieces
        return sorted({piece.key for (_, name), piece in pieces.items() if name == target})

    def run(self) -> None:
        job, root = self.job, self.root
        cold = self.split("cold", job, None)
        thin = middle([measure(compile_thin, job, root / f"thin-{n}") for n in range(self.rounds)])
        _line("cold / thin", cold, thin, 0.75)
        plain = Job(job.source, job.targets, job.declared, [f"{convolutions.FLAG}=false", *job.flags])
        thin = middle([measure(compile_thin, plain, root / f"plain-{n}") for n in range(self.rounds)])
        _line("cold / thin, defaults", cold, thin, 0.75)
        _line("hits / cold", self.split("hits", job, self.cache), cold, 0.12)
        small = Job(changed(job.source, root / "small.mlirbc", 2, 64, 1), job.targets, job.declared, job.flags)
        _line("constant / cold", self.split("constant", small, self.cache), cold, 0.25)
        large = Job(changed(job.source, root / "large.mlirbc", 4096, 1 << 40, -1), job.targets, job.declared, job.flags)
        _line("weights / cold", self.split("weights", large, self.cache), cold, 0.2)
        for target in job.targets:
            alone = Job(job.source, [target], job.declared, job.flags)
            own = middle([measure(generate_alone, alone, root / f"own-{target.name}-{n}") for n in range(self.rounds)])
            more = self.split(f"more-{target.name}", job, self.cache, without=self.keys(target.name))
            _line(f"+ {target.name} / its own", more, own, 1.3)
        one, two = (self.clustered(workers, root).wall for workers in (1, 2))
        print(
            f"  {'dask 1 / 2 workers':<24} wall {one:6.2f} / {two:6.2f} s = {one / two:4.2f}   wanted: 1.60 or more", flush=True
        )

    def clustered(self, workers: int, root: Path) -> Cost:
        (folder := root / f"dask-{workers}").mkdir()
        dask = Dask(folder)
        try:
            dask.scheduler()
            for number in range(workers):
                dask.worker(f"worker-{number}", PIPELINE_CACHE_DIR=str(self.cache / "of-workers"))
            # The workers' first batch imports the compiler: not measured.
            self.split(
                f"warm-{workers}", Job(chain(3, root / "warm.mlir"), self.job.targets, self.job.declared, ()), None, dask.address
            )
            return self.split(f"dask-{workers}", self.job, None, dask.address)
        finally:
            dask.close()


def _line(what: str, value: Cost, base: Cost, wanted: float) -> None:
    wall, cpu = value.wall / base.wall, value.cpu / base.cpu
    print(
        f"  {what:<24} wall {value.wall:6.2f} / {base.wall:6.2f} s = {wall:4.2f}   "
        f"CPU {value.cpu:6.2f} / {base.cpu:6.2f} s = {cpu:4.2f}   wanted: {wanted:.2f}",
        flush=True,
    )


def growth(targets: Job, root: Path, largest: int) -> None:
    """Print what chains of more and more dispatches cost."""
    print(f"\ngrowth, {', '.join(GROWTH)}, load average {os.getloadavg()[0]:.1f}")
    print("  dispatches     cold   a piece     hits   a piece")
    for length in (n for n in (10, 30, 100, 300, 1000) if n <= largest):
        folder = root / f"chain-{length}"
        folder.mkdir()
        job = Job(chain(length, folder / "chain.mlir"), targets.targets, targets.declared, ())
        prepare = functools.partial(compile_split, folder / "cache", "")
        cold, hits = (measure(prepare, job, folder / name).wall for name in ("cold", "hits"))
        each = 1000 / (length * len(GROWTH))
        print(f"  {length:>10} {cold:>6.1f} s {cold * each:>6.0f} ms {hits:>6.2f} s {hits * each:>6.1f} ms", flush=True)


def main() -> None:
    """Measure and print, model by model."""
    spec, layout = load(ROOT / "targets"), Layout(ROOT / "out")
    ready = [name for name in spec.models if (layout.imported(name) / "model.mlirbc").exists()]
    parser = argparse.ArgumentParser(description="Measure what cached pieces save.")
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(ready)} (default: attacut)")
    parser.add_argument("--rounds", type=int, default=3, help="how often to measure each (default: 3)")
    parser.add_argument("--largest", type=int, default=300, help="the most dispatches of a chain (default: 300)")
    arguments = parser.parse_args()
    models = arguments.models or ["attacut"][: len(ready)]
    if set(models) - set(ready):
        parser.error(f"imported are: {', '.join(ready) or 'no models'}; run `doit import` for others")
    executables = [spec.executables[name] for name in spec.bundles[BUNDLE].targets]
    job = Job(Path(), [resolve(e) for e in executables], {e.name: e.gates for e in executables}, spec.bundles[BUNDLE].flags)
    print(f"{_machine()}\nbundle {BUNDLE}: {', '.join(job.declared)}; {arguments.rounds} rounds, medians")
    with tempfile.TemporaryDirectory() as name:
        for model in models:
            print(f"\n{model}, load average {os.getloadavg()[0]:.1f}", flush=True)
            (root := Path(name) / model).mkdir()
            source = layout.imported(model) / "model.mlirbc"
            Bench(Job(source, job.targets, job.declared, job.flags), root, arguments.rounds).run()
        few = Job(Path(), [t for t in job.targets if t.name in GROWTH], {n: job.declared[n] for n in GROWTH}, ())
        growth(few, Path(name), arguments.largest)


if __name__ == "__main__":
    main()
