"""What compile flags do to a model's speed on this CPU: `python -m tests.bench.tune [--rounds N] [MODEL…]`.

Needs the imported models and their test data in `out/`, which it only reads. Every setting is compiled for the highest
x86-64 level that this CPU has, run on the test inputs and compared with the reference as `verify` does; then all settings
and ONNX Runtime, with one thread a core, are measured in turn, `--rounds` times. It judges nothing: it prints the median
latency of each in its best round (other work on the machine only adds), and the speed relative to the pipeline's own setting
(above 1: faster than that).

A setting is flags of iree-compile, a change of the target attribute, or one of the pipeline's own steps left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import onnxruntime

from pipeline import arrays
from pipeline.cache import Cache, LocalCache
from pipeline.compare import compare
from pipeline.errors import PipelineError
from pipeline.importers.signature import read_all
from pipeline.iree import backends, devices
from pipeline.iree.backends.cpu import corrections
from pipeline.iree.compiler import compile_module
from pipeline.iree.device import Device
from pipeline.iree.gates import Gated, decide
from pipeline.iree.targets import Target, resolve
from pipeline.layout import Layout
from pipeline.spec.load import load
from pipeline.spec.types import Model
from pipeline.stages.testdata import TestData
from tests.bench.comparison import of_onnxruntime
from tests.bench.fat import BUNDLE, ROOT, _machine, latency

SECONDS = 0.5  # of runs of ONNX Runtime a round


@dataclass(frozen=True)
class Setting:
    """Something to try. `attribute`: a replacement in the target's attribute; `corrected`: with the pipeline's wide tiles."""

    name: str
    flags: tuple[str, ...] = ()
    attribute: tuple[str, str] = ("", "")
    corrected: bool = True


_DIRECT = "--iree-global-opt-use-im2col-for-convs=false"
SETTINGS = (
    Setting("the pipeline's"),
    Setting("convolutions as such", (_DIRECT,)),
    Setting("IREE's tiles for odd widths", corrected=False),
    Setting("both: IREE's defaults", (_DIRECT,), corrected=False),
    Setting("opt level O2", ("--iree-opt-level=O2",)),
    Setting("opt level O3", ("--iree-opt-level=O3",)),
    Setting("data tiling", ("--iree-opt-data-tiling",)),
    Setting("data tiling, ukernels", ("--iree-opt-data-tiling",), ("{cpu =", '{ukernels = "all", cpu =')),
    Setting("vectors of 32 bytes", (), ("native_vector_size = 64", "native_vector_size = 32")),
    Setting("peeled loops", ("--iree-llvmcpu-vector-pproc-strategy=peel",)),
    Setting("masked loops", ("--iree-llvmcpu-vector-pproc-strategy=mask",)),
    Setting("workgroups of at most 32", ("--iree-llvmcpu-distribution-size=32",)),
    Setting("workgroups of at most 128", ("--iree-llvmcpu-distribution-size=128",)),
    Setting("workgroups for 2 threads", ("--iree-llvmcpu-number-of-threads=2",)),
    Setting("aggressive fusion", ("--iree-dispatch-creation-enable-aggressive-fusion",)),
    Setting("LLVM unrolls, vectorizes", ("--iree-llvmcpu-loop-unrolling", "--iree-llvmcpu-loop-vectorization")),
)


@dataclass(frozen=True)
class Bench:
    """One model on this machine's local-task device, for `target`; what it makes goes into `root`."""

    model: Model
    layout: Layout
    target: Target
    device: devices.Device
    root: Path

    def compiled(self, number: int, setting: Setting) -> Path:
        """The setting's module, checked. Raises PipelineError if it cannot be compiled or its outputs are off."""
        (folder := self.root / str(number)).mkdir()
        target = dataclasses.replace(self.target, attribute=self.target.attribute.replace(*setting.attribute))
        step = corrections.widen_product if setting.corrected else lambda _function: None
        # A cache of its own: a step left out is no part of the key.
        cache = Cache(LocalCache(folder / "cache", 1 << 32))
        with mock.patch.object(corrections, "widen_product", step):
            source = self.layout.imported(self.model.name) / "model.mlirbc"
            compile_module(source, folder, [target], {target.name: ()}, setting.flags, cache)
        ran = devices.run(folder / "module.vmfb", self.device, self.entry, [self.reference / "given.inputs.npz"], folder, "run")
        if ran.error:
            raise PipelineError(ran.error)
        if problem := self._problem(devices.outputs(folder, "run")):
            raise PipelineError(problem)
        return folder / "module.vmfb"

    def _problem(self, found: Path) -> str:
        data = TestData.read(self.reference)
        given = data.draws[0]
        return compare(arrays.read(found), arrays.read(data.outputs_of(given)), given.tolerances).problem

    @property
    def entry(self) -> str:
        return read_all(self.layout.imported(self.model.name) / "signature.json")[0].entry

    @property
    def reference(self) -> Path:
        return self.layout.reference(self.model.name) / "0"

    def inputs(self) -> list[Path]:
        given = arrays.read(self.reference / "given.inputs.npz")
        files = [self.root / f"{number}.npy" for number in range(len(given))]
        for file, array in zip(files, given, strict=True):
            np.save(file, array)
        return files


def runs_on(target: Target, device: Device) -> bool:
    """Whether the device has every CPU feature that `target`'s code may use."""
    gates = backends.named(target.backend).gates(target.attribute, [], [])
    return decide([Gated(target.name, target.format, gates)], device.facts)[0].accepted


def measure(bench: Bench, rounds: int) -> None:
    """Print the table of one model."""
    modules, inputs = {}, bench.inputs()
    for number, setting in enumerate(SETTINGS):
        try:
            modules[setting.name] = bench.compiled(number, setting)
        except PipelineError as error:
            print(f"  {setting.name:<28} no: {error.what[:100]}", flush=True)
    ways: dict[str, Callable[[], float]] = {
        name: lambda path=path, name=name: latency(path, bench.entry, inputs, bench.root)  # type: ignore[misc]
        for name, path in modules.items()
    }
    ways["ONNX Runtime"] = of_onnxruntime(
        bench.layout.source(bench.model.name, 0, bench.model.format), [np.load(file) for file in inputs], SECONDS
    )
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(way())
    best = {name: min(values) for name, values in times.items()}
    for name, value in best.items():
        size = f"{modules[name].stat().st_size / 1024:8.0f} KiB" if name in modules else ""
        print(f"  {name:<28} {value:9.3f} ms {best[SETTINGS[0].name] / value:6.2f} {size}", flush=True)


def main() -> None:
    """Measure and print, model by model."""
    spec, layout = load(ROOT / "targets"), Layout(ROOT / "out")
    ready = [name for name in spec.models if (layout.reference(name) / "given.outputs.npz").exists()]
    parser = argparse.ArgumentParser(description="Measure what compile flags do to the speed on this CPU.")
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"one or more of {', '.join(ready)} (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="how often to measure each setting (default: 5)")
    arguments = parser.parse_args()
    if not ready or set(arguments.models) - set(ready):
        parser.error(f"there is test data for: {', '.join(ready) or 'no models'}; run `doit import reference` for others")
    with tempfile.TemporaryDirectory() as name:
        device = next(d for d in devices.find(Path(name)) if d.uri == "local-task")
        levels = [spec.executables[t] for t in spec.bundles[BUNDLE].targets if spec.executables[t].backend == "llvm-cpu"]
        target = next(t for t in map(resolve, levels) if runs_on(t, device))
        print(f"{_machine()}, onnxruntime {onnxruntime.__version__}; {target.name}; the best of {arguments.rounds} rounds")
        for model in arguments.models or ready:
            print(f"\n{model}, load average {os.getloadavg()[0]:.1f}", flush=True)
            (root := Path(name) / model).mkdir()
            measure(Bench(spec.models[model], layout, target, device, root), arguments.rounds)


if __name__ == "__main__":
    main()
