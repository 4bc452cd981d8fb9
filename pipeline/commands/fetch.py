"""`vmfb fetch`: a release's file, with the code that devices need."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from pipeline.commands.release import Release, here
from pipeline.consume import choose, facts, fetch
from pipeline.consume.api import is_elsewhere
from pipeline.consume.meanwhile import Watched, meanwhile
from pipeline.errors import PipelineError
from pipeline.iree.devices import NoRuntimeError
from pipeline.platforms import SEPARATORS
from pipeline.terminal import put, say

# What a fetch may do without is imported where it is needed: a warm one takes a tenth of a second.


def _wanted(release: Release, device: str, note: Callable[[str], None]) -> list[str] | None:
    """The variants to fetch for `--device`; None: all, for this machine's devices cannot be known. `note` is told why."""
    if not is_elsewhere(device):
        try:
            found = choose.choices(release.variants, here(device, note))
        except NoRuntimeError:
            if device != "auto":
                raise
            note("IREE's runtime is not installed, so the devices here are not known: fetching the code for all")
            return None
    else:
        found = choose.choices(release.variants, facts.of_machine(device))
    variants = choose.worth_having(found)
    if not variants:
        raise PipelineError(
            f"no device may run {release.text}:\n    {choose.refusal(found)}",
            hint="`vmfb explain` tells more; `--full` fetches it nevertheless",
        )
    return variants


def _target(output: str | None, name: Path) -> Path | None:
    """Where `--output` says that the file `name` goes; None where it says nothing."""
    if output is None:
        return None
    if not output:
        raise PipelineError("names no file", where="--output", hint="give -o FILE, or -o FOLDER/")
    is_folder = output.endswith(SEPARATORS) or Path(output).is_dir()  # there or not; Path drops the slash
    return Path(output) / name if is_folder else Path(output)


def _wanted_with_weights(release: Release, device: str) -> tuple[list[str] | None, int]:
    """As `_wanted`, while the release's weights come into the cache; and how many bytes of them came.

    A machine is asked for its devices by a child for each driver, seconds for the first time; weights are for all of them.
    """
    if not is_elsewhere(device):
        release.require_runtime()
    if not release.manifest.parameters:
        return _wanted(release, device, say), 0
    notes: list[str] = []  # said when no bar is in the way
    with meanwhile(lambda: _wanted(release, device, notes.append)) as wanted:
        got = fetch.fetch_weights(release.remote, release.cache, release.manifest, Watched(release.bar, wanted))
        variants = wanted.result()
    for note in notes:
        say(note)
    return variants, got.came if got else 0


def _fetch_weights(release: Release, target: Path | None) -> tuple[fetch.Brought, Path] | None:
    """The release's weights in the cache, copied to `target` if there is one; None where its files hold all."""
    for parameters in release.manifest.parameters:
        if target:
            return fetch.deliver_weights(release.remote, release.cache, parameters, target, release.bar), target
    got = fetch.fetch_weights(release.remote, release.cache, release.manifest, release.bar)
    return (got, got.path) if got else None


def run(arguments: argparse.Namespace) -> None:
    """Bring the release's file, or its weights, and print the path. PipelineError for what no device may run."""
    from pipeline.consume.render import size
    from pipeline.consume.weights import beside

    release = Release(arguments, arguments.model)
    name = f"{release.manifest.model.name}@{release.manifest.version}"
    file = Path(release.artifact.blob.name)
    target = _target(arguments.output, beside(file) if arguments.parameters else file)
    if arguments.parameters:
        weights = _fetch_weights(release, target)
        if not weights:
            raise PipelineError("holds all its weights: there is no archive of them", where=name)
        if not arguments.quiet:
            say(f"{name}: {_came(weights[0])}; its weights are {size(weights[0].present)}")
        put(weights[1])
        return
    variants, came = (None, 0) if arguments.full else _wanted_with_weights(release, arguments.device)
    weights = _fetch_weights(release, beside(target) if target else None)  # first: a file is there when all of it is
    if target:
        fetched, path = fetch.deliver(release.remote, release.cache, release.artifact, variants, target, release.bar)
    else:
        fetched = release.fetch(variants)
        path = fetched.path
    if not arguments.quiet:
        total = release.artifact.blob.size
        part = "all of it" if fetched.present == total else f"{size(fetched.present)} of {size(total)}"
        say(f"{name}: {_came(fetched)}; here is {part}, for {', '.join(fetched.variants)}")
        if weights:
            say(f"its weights, {size(weights[0].present)}: {_came(weights[0], came)}; they are {weights[1]}")
    put(path)


def _came(got: fetch.Brought, before: int = 0) -> str:
    from pipeline.consume.render import size

    return f"fetched {size(got.came + before)}" if got.came + before else "nothing to fetch"
