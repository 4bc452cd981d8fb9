"""What commands run: functions of a file or a release, each on its arrays, and the devices for them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.commands.release import Release, here, names_file, refuse_archive
from pipeline.consume import choose
from pipeline.consume.entries import asked, fitting, require_given
from pipeline.manifest.types import EntryInfo, TensorInfo
from pipeline.terminal import say

if TYPE_CHECKING:  # numpy may not be installed: what is missing is said first
    import numpy as np

    from pipeline.consume.evidence import Standing
    from pipeline.consume.inspect import Contents


@dataclass(frozen=True)
class Job:
    """A function to run on arrays; what its outputs are, where that is known, and what they must be, where it is compared."""

    function: str
    given: Sequence[np.ndarray[Any, Any]]
    outputs: Sequence[TensorInfo] | None
    entry: EntryInfo | None = None
    wanted: Sequence[Path] = ()


@dataclass(frozen=True)
class Work:
    """The jobs of a command, the file that they are for, the devices that may run it, the best first, and the file's weights."""

    jobs: Sequence[Job]
    contents: Contents
    good: Sequence[choose.Choice]
    archive: Path | None


def prepare(arguments: argparse.Namespace, on_reference: bool, on_all: bool = False, require: str = "") -> Work:
    """What the arguments of `vmfb run` and its like name. A release is fetched, with code for the best device, or `on_all`.

    Without `--input` a release's functions run on its reference data, if `on_reference`. Raises PipelineError where no device
    here may run it, or there is less evidence for what runs than `require`.
    """
    found = here(arguments.device)  # says what to install where the runtime is not, and numpy neither
    from pipeline.consume import inputs, inspect, run, runtimes, ways, weights

    given = [inputs.parse(text) for text in arguments.input]
    if names_file(arguments.what):
        contents = inspect.inspect(Path(arguments.what), digests=False)
        runtimes.require_of_file(contents, say)
        good = run.runnable(contents, found)
        function, outputs = run.entry_of(contents, given, arguments.function)
        return Work([Job(function, given, outputs)], contents, good, weights.of_file(contents, arguments.parameters))
    refuse_archive(arguments)
    release = Release(arguments, arguments.what)
    release.require_runtime()
    good = run.good(choose.choices(release.variants, found), release.text)
    chosen = list(dict.fromkeys(c.variant for c in good[: None if on_all else 1] if c.variant))
    standings = _require(release, chosen, require)
    good = [replace(c, device=ways.suited(c.device, arguments.device, standings.get(c.variant or ""))) for c in good]
    jobs = _jobs(release, arguments.function, given, on_reference)
    archive = release.weights()
    fetched = release.fetch(chosen)
    inspect.require_release(fetched.path, release.manifest)
    return Work(jobs, inspect.inspect(fetched.path, digests=False), good, archive)


def _require(release: Release, variants: Sequence[str], kind: str) -> Mapping[str, Standing]:
    """Say how what will run was verified. Returns what is known of all variants.

    Raises PipelineError if that is less than `kind` for any that will run, where one is asked for.
    """
    from pipeline.consume import evidence, render

    testimony = release.testimony(asks=True if kind else None)
    standings = release.standings(testimony)
    for variant in variants:
        evidence.require(standings[variant], kind, release.text, variant)
    for line in render.contradiction_lines(testimony):
        say(line)
    for variant in variants:
        say(f"{variant}: {render.standing_line(standings[variant])}")
    return standings


def _jobs(release: Release, function: str, given: Sequence[np.ndarray[Any, Any]], on_reference: bool) -> list[Job]:
    """What to run of a release: on the arrays given, or on the reference data of all that `function` leaves."""
    from pipeline.consume import inputs

    entries = release.manifest.entries
    if given or not on_reference:
        named = asked(entries, function, release.text)
        require_given(named, given)
        entry = fitting(named, given)
        return [Job(entry.function, given, entry.outputs, entry)]
    jobs = []
    for entry in asked(entries, function, release.text) if function else entries:
        taken, wanted = release.reference(entry)
        jobs.append(Job(entry.function, [inputs.load(path) for path in taken], entry.outputs, entry, wanted))
    return jobs
