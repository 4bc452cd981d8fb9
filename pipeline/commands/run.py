"""`vmfb run`: a file or a release on the best device for it, checked or measured."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.commands.release import Release, here, names_file, refuse_archive
from pipeline.consume import choose
from pipeline.consume.entries import asked, fitting
from pipeline.errors import PipelineError
from pipeline.manifest.types import EntryInfo, TensorInfo
from pipeline.terminal import put, say

if TYPE_CHECKING:  # numpy may not be installed: what is missing is said first
    import numpy as np

    from pipeline.consume.inspect import Contents


@dataclass(frozen=True)
class _Job:
    """A function to run on arrays; what its outputs are, where that is known, and what they must be, where it is compared."""

    function: str
    given: Sequence[np.ndarray[Any, Any]]
    outputs: Sequence[TensorInfo] | None
    entry: EntryInfo | None = None
    wanted: Sequence[Path] = ()


def _jobs(release: Release, arguments: argparse.Namespace, given: Sequence[np.ndarray[Any, Any]]) -> list[_Job]:
    """What to run of a release: on the arrays given, or on the reference data of all that `--function` leaves."""
    from pipeline.consume import inputs

    entries = release.manifest.entries
    if given or not (arguments.check or arguments.benchmark):
        entry = fitting(asked(entries, arguments.function, release.text), given)
        return [_Job(entry.function, given, entry.outputs, entry)]
    jobs = []
    for entry in asked(entries, arguments.function, release.text) if arguments.function else entries:
        taken, wanted = release.reference(entry)
        jobs.append(_Job(entry.function, [inputs.load(path) for path in taken], entry.outputs, entry, wanted))
    return jobs


def run(arguments: argparse.Namespace) -> None:
    """Run what the arguments name, once or to measure. PipelineError where it cannot run, or is wrong."""
    found = here(arguments.device)  # says what to install where the runtime is not, and numpy neither
    from pipeline.consume import inputs, inspect, run, runtimes, weights

    given = [inputs.parse(text) for text in arguments.input]
    if arguments.check and (given or names_file(arguments.what)):
        raise PipelineError("--check compares with the reference data of a release: give a MODEL, and no --input")
    if arguments.require and names_file(arguments.what):
        raise PipelineError("--require is for a MODEL: a file does not tell how it was verified", where=arguments.what)
    if names_file(arguments.what):
        contents = inspect.inspect(Path(arguments.what), digests=False)
        runtimes.require_of_file(contents, say)
        good = run.runnable(contents, found)
        jobs = [_Job(function, given, outputs) for function, outputs in [run.entry_of(contents, given, arguments.function)]]
        archive = weights.of_file(contents, arguments.parameters)
    else:
        refuse_archive(arguments)
        release = Release(arguments, arguments.what)
        release.require_runtime()
        good = run.good(choose.choices(release.variants, found), release.text)
        _require(release, good[0].variant or "", arguments.require)
        jobs = _jobs(release, arguments, given)
        archive = release.weights()
        fetched = release.fetch([c.variant for c in good[: None if arguments.benchmark else 1] if c.variant])
        inspect.require_release(fetched.path, release.manifest)
        contents = inspect.inspect(fetched.path, digests=False)
    for job in jobs:
        _do(job, contents, good, archive, arguments, f"{job.function}: " if len(jobs) > 1 else "")


def _require(release: Release, variant: str, kind: str) -> None:
    """Say how what will run was verified. Raises PipelineError if that is less than `kind`, where one is asked for."""
    from pipeline.consume import evidence, render

    testimony = release.testimony(asks=True if kind else None)
    standing = release.standings(testimony)[variant]
    evidence.require(standing, kind, release.text, variant)
    for line in render.contradiction_lines(testimony):
        say(line)
    say(f"{variant}: {render.standing_line(standing)}")


def _do(
    job: _Job, contents: Contents, good: Sequence[choose.Choice], archive: Path | None, arguments: argparse.Namespace, name: str
) -> None:
    """Run one function, as the command says: `name` tells it from others."""
    from pipeline.consume import inputs, run

    if arguments.check or arguments.output or not arguments.benchmark:
        ran = run.run(contents, good[0], job.function, job.given, archive)
        say(f"{name}{ran.choice.variant} on {ran.choice.device.title}: loaded in {ran.run.load_s * 1000:.1f} ms")
        if job.entry and arguments.check:
            wanted = [inputs.load(path) for path in job.wanted]
            put(f"{name}{run.check(ran, wanted, job.entry.reference.draws[0].tolerances)}")
        told = job.outputs or [TensorInfo(f"output{i}", str(array.dtype), array.shape) for i, array in enumerate(ran.outputs)]
        if len(told) != len(ran.outputs):
            raise PipelineError(f"gives {len(ran.outputs)} outputs, but it says {len(told)}", where=str(contents.path))
        outputs = {tensor.name: inputs.as_said(array, tensor) for tensor, array in zip(told, ran.outputs, strict=True)}
        _put_out(outputs, arguments, job.function if name else "")
    if arguments.benchmark:
        lines, count = run.benchmark(contents, good, job.function, job.given, archive)
        put("\n".join([*([name.rstrip(": ")] if name else []), *lines]))
        if not count:
            raise PipelineError("no device ran it", where=str(contents.path), hint="`vmfb explain` tells more")


def _put_out(outputs: dict[str, Any], arguments: argparse.Namespace, folder: str) -> None:
    """Write outputs as .npy into `folder` below that of --output, or print them; nothing after a check without one."""
    from pipeline.consume import inputs, render

    if arguments.output:
        for path in inputs.save(outputs, arguments.output / folder):
            put(path)
    elif not arguments.check:
        for name, array in outputs.items():
            put("\n".join(render.array_lines(name, array)))
