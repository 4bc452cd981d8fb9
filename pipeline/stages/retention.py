"""Which releases stay when a store is pruned, and why: of values alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.consume.reference import Reference, parse
from pipeline.errors import ManyProblemsError, PipelineError, disk_errors
from pipeline.manifest.types import Channel
from pipeline.names import numbers
from pipeline.store.survey import Release


@dataclass(frozen=True)
class Known:
    """A release in the store: the digest of its manifest, when that was written (seconds since 1970), if it was yanked, and if
    it is not signed though the store is: anybody may have put it there."""

    sha256: str
    written: float
    yanked: bool
    unsigned: bool = False


def pins(path: Path, given: str) -> tuple[Reference, ...]:
    """What the file at `path`, if there is one, and the words of `given` name. Raises PipelineError for what is no pin."""
    found: list[Reference] = []
    problems: list[str] = []
    with disk_errors(str(path)):
        lines = path.read_text("utf-8", "replace").split("\n") if path.exists() else []
    words = [(f"{path}:{number}", line.partition("#")[0].strip()) for number, line in enumerate(lines, 1)]
    for where, word in (*words, *(("pins=", word) for word in given.replace(",", " ").split())):
        try:
            if word and (reference := parse(word)).channel:
                raise PipelineError(
                    f"{reference} may be another release tomorrow", hint="give MODEL@VERSION or MODEL@sha256:DIGEST"
                )
            found += [reference] if word else []
        except PipelineError as error:
            problems.append(f"{where}: {error}")
    if problems:
        raise ManyProblemsError(problems)
    return tuple(dict.fromkeys(found))


def kept(
    releases: Mapping[Release, Known], channels: Iterable[Channel], pinned: Sequence[Reference], keep: int
) -> dict[Release, str]:
    """The releases that stay, each with the reason.

    The last `keep` of each model stay, by when their manifests were written, and so does what a channel points to, and the last
    `keep` that it pointed to before, and what is pinned. A release that was yanked, or is unsigned, does not count among the
    last; it stays as long as one of them is older.
    """
    found: dict[Release, str] = {}
    for model in sorted({model for model, _ in releases}):
        mine = {version: known for (name, version), known in releases.items() if name == model}
        newest = sorted(mine, key=lambda v: (mine[v].written, numbers(v), v), reverse=True)
        last = [version for version in newest if not (mine[version].yanked or mine[version].unsigned)][:keep]
        found |= {(model, version): f"one of the last {keep}" for version in last}
        oldest = newest.index(last[-1]) if len(last) == keep else len(newest)
        between = ((version, "yanked" if mine[version].yanked else "not signed") for version in newest[:oldest])
        found |= {(model, v): f"{why}, and newer than the last {keep}" for v, why in between if v not in last}
    for channel in channels:
        before = [past.version for past in channel.history if past.version != channel.version]
        usable = [v for v in dict.fromkeys(before) if (channel.model, v) in releases and not releases[channel.model, v].yanked]
        found |= {(channel.model, version): f"{channel.channel} pointed to it" for version in usable[:keep]}
    for release, known in releases.items():
        if any(_is_meant(reference, release, known) for reference in pinned):
            found[release] = "pinned"
    for channel in channels:
        if (release := (channel.model, channel.version)) in releases:
            found[release] = f"channel {channel.channel}"
    return found


def _is_meant(reference: Reference, release: Release, known: Known) -> bool:
    return reference.model == release[0] and (reference.version == release[1] or reference.sha256 == known.sha256)


def meaningless(pinned: Sequence[Reference], releases: Mapping[Release, Known]) -> list[str]:
    """A line for each pin that names nothing in the store: it may be misspelt."""
    return [
        f"the pin {reference} names nothing in the store"
        for reference in pinned
        if not any(_is_meant(reference, release, known) for release, known in releases.items())
    ]
