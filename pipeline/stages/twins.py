"""Twins: a GPU's code lowered the same way for a software device, at several subgroup sizes, and run there.

What is wrong only between the subgroups of a work group is not seen where a work group is one subgroup. So one twin more is
mixed: kernels that do not compute across a subgroup are lowered for the target's own size, the rest for the smallest that
the device has, and both run there.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.iree import backends
from pipeline.iree.device import Device
from pipeline.iree.gates import decide
from pipeline.iree.targets import resolve
from pipeline.spec.types import Executable
from pipeline.stages import compile as compile_stage
from pipeline.stages.checks import Check, Failure, Result, judge, run_once
from pipeline.stages.compiled import Variant
from pipeline.stages.evidence import Evidence, merged

TWIN = "twin"  # what the variant is called in each twin's file: of targets with the same code the files are the same


def hosts(check: Check, target: Executable) -> list[Device]:
    """The software devices that the target's twins run on, by ascending subgroup size."""
    sizes = (target.twin or {}).get("subgroup_size_choices", ())
    driver = backends.named(target.backend).driver
    found = [d for d in check.devices if d.driver == driver and d.software]
    fit = (d for d in found if isinstance(sizes, tuple) and backends.subgroup_size(d) in sizes)
    return sorted(fit, key=backends.subgroup_size)


def matrix_kernels(module: Path, variant: Variant) -> int:
    """How many of the variant's kernels use matrix cores."""
    data, backend = module.read_bytes(), backends.named(variant.backend)
    return sum(backend.uses_matrix_cores(data[p.offset : p.offset + p.length]) for p in variant.code)


def _one(check: Check, variant: Variant, target: Executable, device: Device, lanes: int) -> Result:
    """The twin for `lanes` on `device`; if those are not the device's, kernels that compute across a subgroup are its own."""
    mixed = lanes != backends.subgroup_size(device)
    name = f"twin-{target.name}-{lanes}" + (f"-on-{backends.subgroup_size(device)}" if mixed else "")
    folder = check.folder / name
    folder.mkdir()
    source, narrow = check.imported / "model.mlirbc", backends.subgroup_size(device) if mixed else 0
    try:
        twin = compile_stage.compile_targets(source, folder, check.bundle, [replace(target, name=TWIN)], lanes, narrow)
    except PipelineError as error:
        return Evidence(
            target.name, "untested", reason=f"no device of the build takes it, and its twin does not compile: {error.what}"
        )
    decision = decide([twin.variants[0].gated], device.facts)[0]
    if not decision.accepted:
        return Evidence(target.name, "untested", reason=f"no device of the build takes it, and its twin {decision.reason}")
    result = judge(check, target.name, "twin", device, *run_once(check, folder / "module.vmfb", device, name))
    mine, other = matrix_kernels(check.module, variant), matrix_kernels(folder / "module.vmfb", twin.variants[0])
    if isinstance(result, Evidence) and result.kind == "twin" and mine > other:
        left = f"{mine} of {len(variant.code)} kernels use matrix cores; the twin computes them without"
        return replace(result, reason=left)
    if isinstance(result, Failure) and result.place:
        return replace(result, place=replace(result.place, lanes=lanes, narrow=narrow))
    return result


def verify(check: Check, variant: Variant, devices: Sequence[Device]) -> Result:
    """Run the variant's twins on `devices`, as `hosts` gives them.

    A twin that cannot be run leaves its size out of the evidence.
    """
    target = check.targets[variant.gated.name]
    own = resolve(target).subgroup_size
    planned = [*((d, backends.subgroup_size(d)) for d in devices), *([(devices[0], own)] if own else [])]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:  # most of the time goes into starting small processes
        results = list(pool.map(lambda place: _one(check, variant, target, *place), planned))
    if failed := [result for result in results if isinstance(result, Failure)]:
        return failed[0]
    evidence = [result for result in results if isinstance(result, Evidence)]
    found = [e for e in evidence if e.kind != "untested"]
    return functools.reduce(merged, found) if found else evidence[0]
