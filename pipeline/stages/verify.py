"""Verify: run every variant that this machine can run, compare with the reference, say for the rest why not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.errors import PipelineError, disk_errors
from pipeline.files import fresh_folder
from pipeline.importers.signature import Signature
from pipeline.iree import devices, spirv, vmfb
from pipeline.iree.devices import Device
from pipeline.iree.gates import decide, select
from pipeline.spec.types import Bundle, Executable, Model
from pipeline.stages import compile as compile_stage
from pipeline.stages import record
from pipeline.stages.compiled import Compiled, Dropped, Variant
from pipeline.stages.evidence import Evidence, compare, write_evidence

OUTPUTS = ("module.vmfb", "compiled.json", "evidence.json", "inputs.npz", "outputs.npz")
REVISION = 1


@dataclass(frozen=True)
class Failure:
    """A variant that did not give the reference's numbers, and what happened."""

    variant: str
    what: str


@dataclass(frozen=True)
class Check:
    """Everything a verification needs: the compiled module in `module_folder`, test data, devices, a folder for logs."""

    model: Model
    bundle: Bundle
    targets: dict[str, Executable]
    compiled: Compiled
    module_folder: Path
    imported: Path
    reference: Path
    folder: Path
    entry: str
    devices: Sequence[Device]
    baseline: str = ""  # the variant whose outputs are the reference, if one's are

    @property
    def module(self) -> Path:
        """The fat vmfb under test."""
        return self.module_folder / "module.vmfb"

    @property
    def inputs(self) -> Path:
        """The model's test inputs."""
        return self.reference.parent / "inputs.npz"


def _judge(check: Check, variant: str, kind: str, device: Device, run: devices.Run, name: str) -> Evidence | Failure:
    where = f"{kind} {device.title}"
    if run.error:
        return Failure(variant, f"on {where}: {run.error}")
    itself = kind == "device" and variant == check.baseline
    result = compare(devices.outputs(check.folder, name), check.reference, check.model)
    if result.problem:
        return Failure(variant, f"on {where}: {result.problem}; its outputs are in {devices.outputs(check.folder, name)}")
    return Evidence(
        variant,
        kind,
        reason="its own outputs are the reference" if itself else "",
        device=device.name,
        driver=device.driver_info,
        runtime=devices.runtime_version(),
        max_abs_error=result.max_abs,
        max_rel_error=result.max_rel,
        seconds=round(run.run_s, 6),
    )


def _chosen(check: Check, device: Device, number: int) -> Evidence | Failure | None:
    """Run the file itself on `device`: the variant that the device chooses, which must be the one predicted."""
    gated = [v.gated for v in check.compiled.variants]
    predicted = select(gated, device.facts)
    if predicted is None:
        return None
    name = f"device-{number}"
    run = devices.run(check.module, device, check.entry, check.inputs, check.folder, name)
    if not run.error and (run.selected is None or run.selected < 0 or gated[run.selected].name != predicted):
        reported = None if run.selected is None else run.selected
        raise PipelineError(
            f"{device.title} was predicted to run {predicted}, but the module reports variant number {reported}",
            where=str(check.module),
            hint="this is a bug in the gates: please report it with this file",
        )
    return _judge(check, predicted, "device", device, run, name)


def _forced(check: Check, device: Device, index: int) -> Evidence | Failure:
    """Run a copy of the module that takes variant `index`, whose code has the same bytes."""
    from pipeline.iree.compiler import force_variant

    variant = check.compiled.variants[index].gated.name
    name = f"forced-{variant}"
    module = check.folder / f"{name}.vmfb"
    force_variant(check.module_folder / "linked.mlirbc", index, module)
    held = {segment.sha256 for segment in vmfb.read(module).segments}
    if not {piece.sha256 for piece in check.compiled.variants[index].code} <= held:
        raise PipelineError(
            f"the copy that runs {variant} does not hold the same code", where=str(module), hint="please report it"
        )
    run = devices.run(module, device, check.entry, check.inputs, check.folder, name)
    if not run.error and run.selected != index:
        raise PipelineError(
            f"the copy that runs {variant} reports number {run.selected}", where=str(module), hint="please report it"
        )
    return _judge(check, variant, "device", device, run, name)


def _twin(check: Check, variant: Variant, device: Device) -> Evidence | Failure:
    """Compile the variant's twin and run it on the software device `device`; untested where there can be none."""
    target = check.targets[variant.gated.name]
    name = f"twin-{target.name}"
    folder = check.folder / name
    folder.mkdir()
    try:
        twin = compile_stage.compile_targets(check.imported / "model.mlirbc", folder, check.bundle, [target], twin=True)
    except PipelineError as error:
        return Evidence(target.name, "untested", reason=f"no device here takes it, and its twin does not compile: {error.what}")
    decision = decide([twin.variants[0].gated], device.facts)[0]
    if not decision.accepted:
        return Evidence(target.name, "untested", reason=f"no device here takes it, and its twin {decision.reason}")
    run = devices.run(folder / "module.vmfb", device, check.entry, check.inputs, check.folder, name)
    result = _judge(check, target.name, "twin", device, run, name)
    mine, other = _matrix_kernels(check.module, variant), _matrix_kernels(folder / "module.vmfb", twin.variants[0])
    if isinstance(result, Evidence) and mine > other:
        left = f"{mine} of {len(variant.code)} kernels use matrix cores; the twin computes them without"
        return replace(result, reason=left)
    return result


def _matrix_kernels(module: Path, variant: Variant) -> int:
    """How many of the variant's kernels use matrix cores."""
    data = module.read_bytes()
    declared = [spirv.demands(data[p.offset : p.offset + p.length]).capabilities for p in variant.code]
    return sum("CooperativeMatrixKHR" in capabilities for capabilities in declared)


def _twin_device(check: Check, target: Executable) -> Device | None:
    sizes = (target.twin or {}).get("subgroup_size_choices", ())
    for device in check.devices:
        size = device.facts.answers.get("vulkan.device::subgroup_size")
        if device.driver == "vulkan" and device.software and isinstance(sizes, tuple) and size in sizes:
            return device
    return None


def _untested(check: Check, variant: Variant) -> Evidence:
    """Why nothing here could run the variant."""
    same_format = [d for d in check.devices if variant.gated.format in d.facts.formats]
    if not same_format:
        reason = "this machine has no Vulkan device; lavapipe is one (Debian: apt-get install mesa-vulkan-drivers libvulkan1)"
    else:
        refusals = [f"{d.title}: {decide([variant.gated], d.facts)[0].reason}" for d in same_format]
        twin = check.targets[variant.gated.name].twin
        lack = "; its twin is for software devices of another subgroup size" if twin else "; its target has no twin"
        reason = f"no device here takes it: {'; '.join(refusals)}{lack if variant.backend == 'vulkan-spirv' else ''}"
    return Evidence(variant.gated.name, "untested", reason=reason)


def _run_all(check: Check) -> list[Evidence | Failure]:
    results: list[Evidence | Failure] = []
    for number, device in enumerate(sorted(check.devices, key=lambda device: device.software)):
        if (result := _chosen(check, device, number)) is not None:
            results.append(result)
    for device in (d for d in check.devices if d.driver == "local-task"):
        for index, variant in enumerate(check.compiled.variants):
            seen = {r.variant for r in results}
            if variant.gated.name not in seen and decide([variant.gated], device.facts)[0].accepted:
                results.append(_forced(check, device, index))
    for variant in check.compiled.variants:
        if variant.gated.name in {r.variant for r in results}:
            continue
        target = check.targets[variant.gated.name]
        twin_device = _twin_device(check, target) if target.twin else None
        results.append(_twin(check, variant, twin_device) if twin_device else _untested(check, variant))
    return results


def _baseline(check: Check) -> Check:
    """Make the reference outputs with the weakest CPU variant, for a model that has no other reference."""
    from pipeline.iree.compiler import force_variant

    cpu = next((d for d in check.devices if d.driver == "local-task"), None)
    indices = [i for i, v in enumerate(check.compiled.variants) if v.backend == "llvm-cpu"]
    if cpu is None or not indices:
        raise PipelineError(
            "the reference is `baseline`, but the bundle has no CPU target", where=str(check.model.path), hint="give .npy files"
        )
    module = check.folder / "baseline.vmfb"
    force_variant(check.module_folder / "linked.mlirbc", indices[-1], module)
    run = devices.run(module, cpu, check.entry, check.inputs, check.folder, "baseline")
    if run.error:
        raise PipelineError(f"the baseline variant cannot make the reference: {run.error}", where=str(check.folder))
    os.replace(devices.outputs(check.folder, "baseline"), check.reference)
    return replace(check, baseline=check.compiled.variants[indices[-1]].gated.name)


def _drop(check: Check, failures: Sequence[Failure]) -> Check:
    """Compile again without the failed variants."""
    failed = {f.variant for f in failures}
    left = [check.targets[v.gated.name] for v in check.compiled.variants if v.gated.name not in failed]
    folder = check.folder / f"without-{len(check.targets) - len(left)}"
    folder.mkdir()
    made = compile_stage.compile_targets(check.imported / "model.mlirbc", folder, check.bundle, left)
    dropped = (*check.compiled.dropped, *(Dropped(f.variant, f"failed verification {f.what}") for f in failures))
    logs = check.folder / f"after-{folder.name}"
    logs.mkdir()
    return replace(check, compiled=replace(made, dropped=dropped), module_folder=folder, folder=logs)


def _verify(check: Check) -> tuple[Check, list[Evidence]]:
    while True:
        results = _run_all(check)
        failures = [r for r in results if isinstance(r, Failure)]
        if not failures:
            # Where two devices chose one variant, the first speaks for it: real GPUs come before software ones.
            found = {r.variant: r for r in reversed(results) if isinstance(r, Evidence)}
            return check, [found[v.gated.name] for v in check.compiled.variants]
        if check.bundle.on_failure == "fail" or len({f.variant for f in failures}) == len(check.compiled.variants):
            raise PipelineError(
                "\n".join(f"{f.variant} failed verification {f.what}" for f in failures),
                where=f"{check.model.name}, bundle {check.bundle.name}",
                hint="`on_failure: drop` in the bundle leaves failing variants out; `tolerance` in the model allows more",
            )
        check = _drop(check, failures)


def _prepare(
    model: Model,
    bundle: Bundle,
    targets: Sequence[Executable],
    compiled_folder: Path,
    imported: Path,
    reference: Path,
    folder: Path,
    present: Sequence[Device],
) -> Check:
    """Copy the test data into `folder`, or make the reference there, and gather what the checks need."""
    outputs = folder / "outputs.npz"
    (folder / "inputs.npz").write_bytes((reference / "inputs.npz").read_bytes())
    if given := (reference / "outputs.npz").exists():
        outputs.write_bytes((reference / "outputs.npz").read_bytes())
    check = Check(
        model,
        bundle,
        {t.name: t for t in targets},
        Compiled.read(compiled_folder / "compiled.json"),
        compiled_folder,
        imported,
        outputs,
        folder,
        Signature.read(imported / "signature.json").entry,
        present,
    )
    return check if given else _baseline(check)


def run(
    model: Model,
    bundle: Bundle,
    targets: Sequence[Executable],
    compiled_folder: Path,
    imported: Path,
    reference: Path,
    folder: Path,
) -> None:
    """Verify the compiled bundle; OUTPUTS into `folder`: the module to release, what it holds and its evidence."""
    record.require_intact(compiled_folder)
    record.require_intact(reference)
    with disk_errors(str(folder)):
        present = devices.find(folder.parent / "devices")
    files = [compiled_folder / name for name in compile_stage.OUTPUTS]
    files += [path for path in (reference / "inputs.npz", reference / "outputs.npz") if path.exists()]
    seen = [[d.title, sorted(d.facts.answers.items())] for d in present]
    tolerance = model.tolerance and [model.tolerance.absolute, model.tolerance.relative]
    key = record.key(
        files,
        made=compile_stage.options(bundle, targets),
        tolerance=tolerance,
        devices=seen,
        runtime=devices.runtime_version(),
        revision=REVISION,
        bundle=bundle.on_failure,
    )
    if record.is_current(folder, key):
        return
    with disk_errors(str(folder)), fresh_folder(folder):
        check = _prepare(model, bundle, targets, compiled_folder, imported, reference, folder, present)
        check, evidence = _verify(check)
        (folder / "module.vmfb").write_bytes(check.module.read_bytes())
        check.compiled.write(folder / "compiled.json")
        write_evidence(folder / "evidence.json", evidence)
        record.write_record(folder, key, OUTPUTS)
