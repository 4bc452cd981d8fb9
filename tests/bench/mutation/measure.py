"""One model through the pipeline's own stages, its faults planted, and what the verifier says of each."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import yaml

from pipeline import arrays
from pipeline.arrays import Array
from pipeline.compare import noise
from pipeline.errors import PipelineError
from pipeline.files import sha256_file
from pipeline.importers.draws import moved
from pipeline.importers.onnxruntime import session, with_moved_weights
from pipeline.iree import devices
from pipeline.iree.device import Device
from pipeline.iree.devices import Run
from pipeline.iree.file import choice
from pipeline.iree.toolchain import iree_compile
from pipeline.layout import Layout
from pipeline.spec.types import Bundle, Executable, Model, PathSource
from pipeline.stages import checks, import_, reference, source
from pipeline.stages import compile as compile_stage
from pipeline.stages import identity as identities
from pipeline.stages.checks import Check, Failure
from pipeline.stages.origin import Origin
from pipeline.stages.testdata import TestData, read_all
from tests.bench.mutation import faults

TARGETS = ("x86-64-v3", "x86-64")


@dataclass(frozen=True)
class Finding:
    """A planted fault. `verdict`: caught, missed, no effect, or impossible (the importer or the compiler refuses it).

    `of_tolerance`: the part of its tolerance that a missed fault used.
    """

    model: str
    kind: str
    variant: str
    verdict: str
    of_tolerance: float = 0.0


@dataclass(frozen=True)
class Measured:
    """What became of a model's faults, and what the verifier has against its intact variants: nothing, if it is right."""

    model: str
    findings: tuple[Finding, ...]
    refused: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """An intact model, ready to be judged: `check` has its test data, `right` what each variant gives."""

    check: Check
    onnx: Path
    device: Device
    targets: tuple[Executable, ...]
    right: dict[str, list[list[Array]]]
    noise: list[list[tuple[float, float]]]
    random: np.random.Generator


def write_spec(models: Path, name: str, made: onnx.ModelProto, limits: dict[str, float]) -> None:
    """A model of this name in the folder of specs."""
    path = models / f"{name}.onnx"
    onnx.save(made, path)
    value = made.graph.input[0]
    shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
    dtype = str(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
    spec = {
        "about": f"{name}, to plant faults in",
        "licence": "Apache-2.0",
        "format": "onnx",
        "source": {"kind": "path", "path": path.name, "sha256": sha256_file(path)},
        "inputs": [{"name": value.name, "shape": shape, "dtype": dtype, **limits}],
        "bundles": ["desktop"],
    }
    path.with_suffix(".yaml").write_text(yaml.safe_dump(spec))


def _noise(model: Path, data: TestData) -> list[list[tuple[float, float]]]:
    """How far the reference moves, for each draw and output, when inputs and weights move by one unit in the last place."""
    whole = onnx.load(model)
    beside, names = session(with_moved_weights(whole)), [i.name for i in session(whole).get_inputs()]
    found = []
    for draw in data.draws:
        inputs = moved(arrays.read(data.inputs_of(draw)), 0)
        other = beside.run(None, dict(zip(names, inputs, strict=True)))
        right = arrays.read(data.outputs_of(draw))
        found.append([noise(a, [b]) for a, b in zip(right, other, strict=True)])
    return found


def _has_effect(got: Sequence[Array], right: Sequence[Array], limits: Sequence[tuple[float, float]]) -> bool:
    """Whether outputs differ by more than the reference itself moves. No tolerance has a say in this."""
    for a, b, (each, together) in zip(got, right, limits, strict=True):
        if a.tobytes() == b.tobytes():
            continue
        if a.shape != b.shape or a.dtype != b.dtype or not np.array_equal(np.isfinite(a), np.isfinite(b)):
            return True
        if not b.any() and a.any():
            return True
        far, all_far = noise(b, [a])
        if far > each or all_far > together:
            return True
    return False


def prepare(model: Model, bundle: Bundle, targets: Sequence[Executable], device: Device, folder: Path, seed: int) -> Case:
    """Fetch, import, make test data, compile, and run each variant."""
    layout = Layout(folder)
    origin = Origin.of(model, layout)
    (file,) = origin.sources
    imported, data_folder = layout.imported(model.name), layout.reference(model.name)
    source.run(origin)
    import_.run(origin, imported)
    reference.run(origin, imported, data_folder)
    bundle = replace(bundle, targets=tuple(t.name for t in targets))
    module_folder, logs = layout.compiled(model.name, bundle.name), layout.verified(model.name, bundle.name)
    for made in (module_folder, logs):
        made.mkdir(parents=True)
    compiled = compile_stage.compile_targets(imported / "model.mlirbc", module_folder, bundle, targets)
    (data,) = read_all(data_folder)
    by_name = {t.name: t for t in targets}
    check = Check(
        model, bundle, by_name, compiled, module_folder, imported, (data,), logs, [device], identities.describe(model, imported)
    )
    random = np.random.default_rng([zlib.crc32(model.name.encode()), seed])
    return Case(check, file, device, tuple(targets), {}, _noise(file, data), random)


def run_intact(case: Case) -> list[str]:
    """Run the variants as they are; what the verifier has against them."""
    refused = []
    for index, target in enumerate(case.targets):
        name = f"intact-{target.name}"
        module = case.check.folder / f"{name}.vmfb"
        choice.force(case.check.module, index, module)
        ran = checks.run(case.check, module, case.device, name)
        result = checks.judge(case.check, target.name, "device", case.device, ran, name)
        if isinstance(result, Failure):
            refused.append(f"{target.name}: {result.what}")
        case.right[target.name] = _outputs(case.check, name, ran.done)
    return refused


def _outputs(check: Check, name: str, done: int) -> list[list[Array]]:
    return [arrays.read(devices.outputs(check.folder, name, number)) for number in range(done)]


def _judged(case: Case, kind: str, variant: str, ran: Run, name: str) -> Finding:
    """The finding on outputs that lie where a run called `name` puts them."""
    got, right = _outputs(case.check, name, ran.done), case.right[variant]
    effect = bool(ran.error) or any(map(_has_effect, got, right, case.noise))
    model = case.check.model.name
    if not effect:
        return Finding(model, kind, variant, "no effect")
    result = checks.judge(case.check, variant, "device", case.device, ran, name)
    if isinstance(result, Failure):
        return Finding(model, kind, variant, "caught")
    return Finding(model, kind, variant, "missed", result.of_tolerance or 0.0)


def _built(case: Case, kind: str, target: Executable, mlir: Path, folder: Path) -> Finding:
    """Compile what was changed for one target, run it, judge it."""
    name = folder.name
    compile_stage.compile_targets(mlir, folder, case.check.bundle, [target])
    ran = checks.run(case.check, folder / "module.vmfb", case.device, name)
    return _judged(case, kind, target.name, ran, name)


def _in_model(case: Case, kind: str, target: Executable, folder: Path) -> Finding | None:
    model, spec = onnx.load(case.onnx), case.check.model.entries[0].inputs[0]
    # Of an open range: within what `large` draws, beyond all else.
    high = 128.0 if spec.is_open else spec.low + 0.9 * (spec.high - spec.low)
    changed = faults.of_models(high)[kind](model, case.random)
    if changed is None:
        return None
    path = folder / "model.onnx"
    onnx.save(changed, path)
    (entry,) = case.check.model.entries
    changed_model = replace(case.check.model, entries=(replace(entry, source=PathSource(path, sha256_file(path))),))
    import_.run(Origin(changed_model, (path,)), folder / "import")
    return _built(case, kind, target, folder / "import" / "model.mlirbc", folder)


def _in_ir(case: Case, kind: str, target: Executable, folder: Path) -> Finding | None:
    path = folder / "input.mlir"
    flags = ["--compile-to=input", "--iree-hal-target-device=local"]
    iree_compile(case.check.imported / "model.mlirbc", path, flags, folder / "input.log")
    changed = faults.of_ir(kind, path.read_text(), case.random)
    if changed is None:
        return None
    path.write_text(changed)
    return _built(case, kind, target, path, folder)


def _in_outputs(case: Case, kind: str, target: Executable, name: str) -> Finding | None:
    right = case.right[target.name]
    index = int(case.random.integers(len(right[0])))
    changed = faults.OF_OUTPUTS[kind]([outputs[index] for outputs in right], case.random)
    if changed is None:
        return None
    for number, (outputs, wrong) in enumerate(zip(right, changed, strict=True)):
        arrays.write(devices.outputs(case.check.folder, name, number), [*outputs[:index], wrong, *outputs[index + 1 :]])
    return _judged(case, kind, target.name, Run("", done=len(right)), name)


def _plant(case: Case, kind: str, target: Executable, number: int) -> Finding | None:
    name = f"fault-{number}"
    if kind in faults.OF_OUTPUTS:
        return _in_outputs(case, kind, target, name)
    folder = case.check.folder / name
    folder.mkdir()
    try:
        return (_in_ir if kind in faults.IR_KINDS else _in_model)(case, kind, target, folder)
    except PipelineError:
        return Finding(case.check.model.name, kind, target.name, "impossible")


def _findings(case: Case, kinds: Sequence[str], rounds: int) -> Iterator[Finding]:
    """Each kind in turn: in outputs of every variant, in a module for one variant, the next one in the next round."""
    number = 0
    for turn in range(rounds):
        for position, kind in enumerate(kinds):
            one = case.targets[(turn + position) % len(case.targets)]
            for target in case.targets if kind in faults.OF_OUTPUTS else [one]:
                number += 1
                if (finding := _plant(case, kind, target, number)) is not None:
                    yield finding


def measure(case: Case, kinds: Sequence[str], rounds: int) -> Measured:
    """Plant faults of these kinds in the model, `rounds` times at other places."""
    refused = run_intact(case)
    return Measured(case.check.model.name, tuple(_findings(case, kinds, rounds)), tuple(refused))
