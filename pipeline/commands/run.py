"""`vmfb run`: a file or a release on the best device for it, checked or measured."""

from __future__ import annotations

import argparse
from typing import Any

from pipeline.commands.jobs import Job, Work, prepare
from pipeline.commands.release import names_file
from pipeline.errors import PipelineError
from pipeline.manifest.types import TensorInfo
from pipeline.terminal import put, say


def run(arguments: argparse.Namespace) -> None:
    """Run what the arguments name, once or to measure. PipelineError where it cannot run, or is wrong."""
    if arguments.check and (arguments.input or names_file(arguments.what)):
        raise PipelineError("--check compares with the reference data of a release: give a MODEL, and no --input")
    if arguments.require and names_file(arguments.what):
        raise PipelineError("--require is for a MODEL: a file does not tell how it was verified", where=arguments.what)
    measured = arguments.benchmark
    work = prepare(arguments, on_reference=arguments.check or measured, on_all=measured, require=arguments.require)
    for job in work.jobs:
        _do(job, work, arguments, f"{job.function}: " if len(work.jobs) > 1 else "")


def _do(job: Job, work: Work, arguments: argparse.Namespace, name: str) -> None:
    """Run one function, as the command says: `name` tells it from others."""
    from pipeline.consume import inputs, run, ways

    contents, good, archive = work.contents, work.good, work.archive
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
        lines, count = run.benchmark(contents, ways.in_every(good, arguments.device), job.function, job.given, archive)
        put(*([name.rstrip(": ")] if name else []), *lines)
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
            put(*render.array_lines(name, array))
