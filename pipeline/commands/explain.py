"""`vmfb explain`: which code each device runs, and why."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.commands.release import Release, here, names_file, refuse_archive
from pipeline.consume import explain, facts, fetch, inspect, render, runtimes, weights
from pipeline.consume.entries import Signature
from pipeline.consume.evidence import Standing, Testimony
from pipeline.consume.explain import Answer
from pipeline.errors import PipelineError
from pipeline.iree import backends
from pipeline.iree.device import Device
from pipeline.iree.gates import Gated
from pipeline.terminal import put, say


@dataclass(frozen=True)
class _Subject:
    """What is explained: a file's or a release's entry points, and its variants with what devices do with them.

    `testimony` is what witnesses say of a release, `known` of its variants, and `tuned` how much of each is tuned. `archive` are
    the weights that it needs; `lacking` says why it cannot be loaded without them.
    """

    path: Path
    entries: Sequence[Signature]
    variants: Sequence[Gated]
    formats: Sequence[str]
    answers: Sequence[Answer]
    archive: Path | None
    lacking: str
    known: Mapping[str, Standing] = field(default_factory=dict)
    tuned: Mapping[str, str] = field(default_factory=dict)
    testimony: Testimony = field(default_factory=lambda: Testimony(()))


def _of_file(arguments: argparse.Namespace, found: Sequence[Device]) -> _Subject:

    contents, archive, lacking = inspect.inspect(Path(arguments.what), digests=False), None, ""
    answers = explain.explain_file(contents, found)
    if arguments.pretend is None:
        runtimes.require_of_file(contents, say)
        try:
            archive = weights.of_file(contents, arguments.parameters)
        except weights.MissingError as error:
            lacking = str(error)
    entries = contents.identity.entries if contents.identity else ()
    return _Subject(contents.path, entries, contents.variants, list(contents.formats), answers, archive, lacking)


def _of_release(arguments: argparse.Namespace, found: Sequence[Device]) -> _Subject:
    from pipeline.consume.render import size

    refuse_archive(arguments)
    release, archive, lacking = Release(arguments, arguments.what, shows=True), None, ""
    file = fetch.entry(release.cache, release.artifact)
    held = fetch.held(release.artifact, file.present())
    if arguments.pretend is None:
        release.require_runtime()
    if held and arguments.pretend is None:
        inspect.require_release(file.path, release.manifest)
    for parameters in release.manifest.parameters:
        kept = fetch.weights_entry(release.cache, parameters)
        archive = kept.path
        if not kept.present().issuperset(kept.stretches):
            lacking = f"its weights are not here, {size(kept.size)}: `vmfb fetch {release.text}` brings them"
    formats = list(dict.fromkeys(v.format for v in release.variants))
    answers = explain.explain(release.variants, found, held)
    entries, testimony = release.manifest.entries, release.testimony()
    known, tuned = release.standings(testimony), render.tuning_lines(release.artifact)
    return _Subject(file.path, entries, release.variants, formats, answers, archive, lacking, known, tuned, testimony)


def _fetches(arguments: argparse.Namespace, answer: Answer) -> str:
    """The command that brings the code that a device would run."""
    driver = answer.choice.device.driver
    device = arguments.pretend or next((word for word, named in backends.words().items() if named == driver), driver)
    model = "MODEL" if names_file(arguments.what) else arguments.what
    return f"vmfb fetch {shlex.quote(model)} --device {shlex.quote(device)}"


def run(arguments: argparse.Namespace) -> None:
    """Print what each device would run and what the module itself says. PipelineError where the two differ."""
    found = facts.of_machine(arguments.pretend) if arguments.pretend is not None else here(arguments.device)
    what = (_of_file if names_file(arguments.what) else _of_release)(arguments, found)
    answers, is_here = what.answers, arguments.pretend is None
    if not what.variants:
        put(f"{arguments.what} has no gates. It holds {', '.join(what.formats) or 'no code'}.")
        for lack in explain.lacks(what.formats):
            put(lack)
    elif is_here and not what.lacking:
        answers = explain.ask(what.path, what.variants, answers, what.archive)
    for line in render.contradiction_lines(what.testimony):
        put(line)
    for answer in answers:
        fetch_it = _fetches(arguments, answer)
        put(*render.answer_lines(answer, {v.name: v.format for v in what.variants}, what.known, what.tuned, fetch_it))
    if what.variants and not what.known:
        put("A file does not tell how its variants were verified; a release does: `vmfb explain MODEL`.")
    for line in render.entry_lines(what.entries):
        put(line)
    for line in explain.machine_advice(what.formats, found) if is_here else ():
        put(f"! {line}")
    if is_here and what.lacking:
        put(*f"! not loaded: {what.lacking}".split("\n"))
    if any(answer.bug for answer in answers):
        raise PipelineError("the prediction from the gates is not what the file does")
