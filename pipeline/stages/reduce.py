"""Reduce: of a model that does not compile or is not verified, the smallest part that fails: `NAME.onnx`, for a bug report.

Beside it `report.txt`, which says what fails and the commands that show it; for wrong numbers also what the part takes and must
give. Whether IREE's own tools show the fault, without anything of this project, is tried, and said.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline import activity, arrays, cache, process
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import fresh_folder, staged, write
from pipeline.iree import targets as iree_targets
from pipeline.iree import toolchain
from pipeline.iree.codegen.front import FrontHalfError, front_flags
from pipeline.iree.compiler import RefusedError
from pipeline.reduction.job import Found, Job
from pipeline.reduction.subgraph import FUNCTION
from pipeline.spec.types import Bundle, Executable
from pipeline.stages import compile as compile_stage
from pipeline.stages import record, reduction, reference, verify
from pipeline.stages.origin import Origin

REPORT = "report.txt"
_LIMITS = "only what the compiler refuses or crashes at is reduced, and wrong numbers that are the same each time"


@dataclass(frozen=True)
class Fault:
    """What fails, in a line, and the search for the smallest part of it."""

    what: str
    job: Job


def _fault(
    origin: Origin, bundle: Bundle, targets: Sequence[Executable], imported: Path, data: Path, folder: Path
) -> Fault | None:
    """The first fault of the model in this bundle, if it has one. Raises PipelineError for one that no part can show."""
    source, compiled = imported / "model.mlirbc", folder / "compile"
    compiled.mkdir()
    try:
        made = compile_stage.compile_targets(source, compiled, bundle, targets)
    except FrontHalfError as error:
        return Fault(error.what, reduction.refusal(origin, targets, bundle.flags, code=False))
    except RefusedError as error:
        plain = compile_stage.compiled_plainly(source, compiled, bundle, targets)
        if plain is None:
            return _refused(origin, bundle, targets, source, compiled, error)
        made, bundle = plain, replace(bundle, flags=plain.flags)
    made.write(compiled / "compiled.json")
    activity.say("running every variant")
    reference.run(origin, imported, data)
    tried, failures = verify.failures(origin, bundle, targets, compiled, imported, data, folder / "verify")
    if not failures:
        return None
    failure = next((failure for failure in failures if failure.place), failures[0])
    what = f"{failure.variant} ({failure.where}): {failure.what}"
    if failure.place is None:
        raise PipelineError(what, where=origin.model.name, hint=_LIMITS)
    (target,) = [target for target in targets if target.name == failure.variant]
    return Fault(what, replace(reduction.wrongness(origin, target, tried.flags, failure.place), whole=True))


def _refused(
    origin: Origin, bundle: Bundle, targets: Sequence[Executable], source: Path, folder: Path, error: RefusedError
) -> Fault:
    """The first target that there is no code for, and why."""
    name, reason = next(iter(error.reasons.items()))
    refused = [target for target in targets if target.name == name]
    suspects = reduction.Kernels(source, folder, refused, bundle.flags).nodes(reason.what)
    return Fault(f"{name}: {reason.what}", reduction.refusal(origin, refused, bundle.flags, code=True, suspects=suspects))


def run(
    origin: Origin,
    bundle: Bundle,
    targets: Sequence[Executable],
    imported: Path,
    data: Path,
    folder: Path,
    seconds: int,
) -> None:
    """Reduce the model in `bundle` within `seconds`: `report.txt` in `folder`, and the files that it names.

    `imported` and `data` are what the stages import and reference make. Raises PipelineError where no smaller part fails.
    """
    name = origin.model.name
    if not origin.can_be_reduced:
        raise PipelineError("only ONNX models are reduced", where=str(origin.model.path), hint="cut the MLIR by hand")
    record.require_intact(imported)
    with disk_errors(str(folder)), fresh_folder(folder):
        fault = _fault(origin, bundle, targets, imported, data, folder)
        if fault and reduction.is_costly(fault.what):
            raise PipelineError(fault.what, where=name, hint=_LIMITS)
        if fault is None:
            write(folder / REPORT, f"nothing to reduce: {name} compiles for {bundle.name} and is verified\n".encode())
            return
        found = reduction.search(folder / "search", replace(fault.job, seconds=float(seconds)))
        part = folder / "search" / "part.onnx"
        if found is None or not part.exists():
            what = f"the fault was not found again when the model was compiled for it alone: {fault.what}"
            hint = f"`seconds={seconds * 2}` looks longer; the search's log is {folder / 'search' / 'search.log'}"
            raise PipelineError(what, where=name, hint=hint)
        write(folder / f"{name}.onnx", part.read_bytes())
        lines = _report(fault, found, folder, name, _flags(fault.job, imported, folder))
        write(folder / REPORT, "".join(f"{line}\n" for line in lines).encode())


def _flags(job: Job, imported: Path, folder: Path) -> list[str]:
    """iree-compile's flags for the last target of the job, as the pipeline compiles for it."""
    try:
        own = front_flags(imported / "model.mlirbc", folder, job.flags, cache.local())
    except PipelineError:
        own = ()
    device = iree_targets.device(job.targets[-1:])
    return [f"--iree-hal-target-device={device}", *own, *job.flags]


def _commands(fault: Fault, base: str, name: str, flags: Sequence[str], outputs: int, inputs: int) -> list[list[str]]:
    """What shows the fault of `name`.onnx by IREE's own tools, with `base` before the names of files."""
    commands = [
        ["iree-import-onnx", f"{base}{name}.onnx", "-o", f"{base}{name}.mlir"],
        ["iree-compile", f"{base}{name}.mlir", "-o", f"{base}{name}.vmfb", *flags],
    ]
    if fault.job.run:
        given = [f"--input=@{base}{name}.input{number}.npy" for number in range(inputs)]
        wanted = [f"--expected_output=@{base}{name}.output{number}.npy" for number in range(outputs)]
        device = fault.job.run.device
        settings = ["env", *(f"{key}={value}" for key, value in device.environment.items())] if device.environment else []
        runs = ["iree-run-module", f"--module={base}{name}.vmfb", f"--device={device.uri}", f"--function={FUNCTION}"]
        commands.append([*settings, *runs, *given, *wanted])
    return commands


def _shown(commands: Sequence[Sequence[str]], folder: Path) -> str:
    """How IREE's own tools show the fault; empty if they do not. Each command needs what the one before it makes."""
    (_, onnx, *_, mlir), (_, _, _, vmfb, *flags), *runs = commands
    try:
        process.run([sys.executable, "-m", "iree.compiler.tools.import_onnx", onnx, "-o", mlir], folder / "import.log")
        toolchain.iree_compile(Path(mlir), Path(vmfb), flags, folder / "compile.log")
        for command in runs:
            start = command.index("iree-run-module")
            variables = dict(word.split("=", 1) for word in command[1:start])
            words = [sys.executable, "-m", "iree._runtime.scripts.iree_run_module", *command[start + 1 :]]
            process.run(words, folder / "run.log", env=variables)
    except PipelineError as error:
        said = [line.strip() for line in error.what.splitlines()]
        return next((line for line in said if "FAILED" in line), said[0])
    return ""


def _save(folder: Path, name: str) -> tuple[int, int]:
    """The part's data as .npy files, which IREE's tools read; how many outputs and inputs it has."""
    counts = []
    for kind in ("output", "input"):
        found = arrays.read(folder / "search" / f"{kind}s.npz")
        for number, array in enumerate(found):
            with staged(folder / f"{name}.{kind}{number}.npy") as path, path.open("wb") as file:
                np.save(file, array)
        counts.append(len(found))
    return counts[0], counts[1]


def _report(fault: Fault, found: Found, folder: Path, name: str, flags: Sequence[str]) -> list[str]:
    """What was found, for people, and how IREE's own tools show it."""
    size = f"{len(found.nodes)} of {found.count} nodes" + ("" if found.is_smallest else ", perhaps not the fewest")
    counts = _save(folder, name) if fault.job.run else (0, 0)
    shown = _shown(_commands(fault, f"{folder}/", name, flags, *counts), folder)
    verdict = f"end so: {shown}" if shown else "show no fault: it is in what this project adds to IREE's own way"
    nodes = reduction.together(found.nodes, found.is_smallest)
    why = found.why.removeprefix(f"{fault.job.targets[0].name}: ")
    return [
        f"{folder / name}.onnx: {size}",
        f"  {f'{nodes}: {why}' if fault.job.run else reduction.of_kernel(nodes, why)}",
        f"  IREE's own tools, in that folder, {verdict}",
        *(f"    {shlex.join(command)}" for command in _commands(fault, "", name, flags, *counts)),
    ]
