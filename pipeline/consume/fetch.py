"""Fetching an artifact: the stretches of the file that its devices need, each once; and the weights that it does not hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from pipeline import platforms
from pipeline.consume.cache import Cache, Entry, Stretch, stretches, whole
from pipeline.consume.resolve import Remote
from pipeline.consume.transfer import transfer
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import sha256_bytes, staged
from pipeline.layout import blob_key
from pipeline.manifest.types import Artifact, Blob, Manifest, Parameters
from pipeline.names import did_you_mean


class Progress(Protocol):
    """Whoever shows how a transfer goes."""

    def begin(self, name: str, total: int) -> None:
        """`total` bytes of the file `name` are about to come."""

    def advance(self, count: int) -> None:
        """`count` more bytes came; negative: they have to come again. Called by any thread."""

    def end(self) -> None:
        """Nothing more comes."""

    def waiting(self, name: str) -> None:
        """Another process is fetching the same file."""


@dataclass(frozen=True)
class Brought:
    """A file in the cache. `came` is how many bytes had to be fetched.

    `stretches` were there when this was found out: another process that fetches more since does not change it.
    """

    path: Path
    came: int
    stretches: frozenset[Stretch]

    @property
    def present(self) -> int:
        """How many bytes are there."""
        return sum(s.length for s in self.stretches)


@dataclass(frozen=True)
class Fetched(Brought):
    """An artifact's file in the cache. `variants` are those that are whole in it."""

    artifact: Artifact
    variants: tuple[str, ...]


def pick(manifest: Manifest, bundle: str = "") -> Artifact:
    """The artifact of `bundle`, or the first. Raises PipelineError for a bundle that the release does not have."""
    artifacts = {a.bundle: a for a in manifest.artifacts}
    if bundle and bundle not in artifacts:
        what = f"{manifest.model.name}@{manifest.version} has no bundle {bundle}"
        raise PipelineError(f"{what}: {did_you_mean(bundle, artifacts)}")
    return artifacts[bundle] if bundle else manifest.artifacts[0]


def entry(cache: Cache, artifact: Artifact) -> Entry:
    """The artifact's file in the cache, there or not."""
    return cache.entry(artifact.blob, stretches(artifact.segments))


def needed(artifact: Artifact, variants: Sequence[str] | None) -> list[Stretch]:
    """The stretches that these variants need to load and run; None: the whole file."""
    chosen = artifact.segments
    if variants is not None:
        chosen = tuple(
            s for s in chosen if s.kind != "directory" and (not s.variants or not set(s.variants).isdisjoint(variants))
        )
    return list(stretches(chosen))


def held(artifact: Artifact, present: frozenset[Stretch]) -> tuple[str, ...]:
    """The variants all of whose stretches are among `present`."""
    return tuple(v.name for v in artifact.variants if present.issuperset(needed(artifact, [v.name])))


def weights_entry(cache: Cache, parameters: Parameters) -> Entry:
    """The archive of weights in the cache, there or not. Whatever names the same archive has the same file."""
    return cache.entry(parameters.blob, stretches(parameters.segments))


def _bring(remote: Remote, blob: Blob, file: Entry, wanted: Sequence[Stretch], progress: Progress) -> Brought:
    """Fetch those of `wanted` that are not in the file."""
    present = file.present()
    if present.issuperset(wanted):
        file.used()
        return Brought(file.path, 0, present)
    with file.writing(lambda: progress.waiting(blob.name)) as writer:
        missing = writer.recover(wanted)
        if not missing:
            return Brought(file.path, 0, frozenset(writer.present))
        progress.begin(blob.name, sum(s.length for s in missing))
        try:
            transfer(remote.source, blob_key(blob.sha256), missing, writer.put, progress.advance)
        finally:
            progress.end()
        return Brought(file.path, sum(s.length for s in missing), frozenset(writer.present))


def fetch(remote: Remote, cache: Cache, artifact: Artifact, variants: Sequence[str] | None, progress: Progress) -> Fetched:
    """Have the artifact in the cache, with the code of `variants` (None: all, and the names of its parts)."""
    file = entry(cache, artifact)
    got = _bring(remote, artifact.blob, file, needed(artifact, variants), progress)
    return Fetched(got.path, got.came, got.stretches, artifact, held(artifact, got.stretches))


def fetch_weights(remote: Remote, cache: Cache, manifest: Manifest, progress: Progress) -> Brought | None:
    """Have the weights that the release's artifacts do not hold in the cache, whole; None where they hold all."""
    for parameters in manifest.parameters:
        file = weights_entry(cache, parameters)
        return _bring(remote, parameters.blob, file, file.stretches, progress)
    return None


def fetch_blob(remote: Remote, cache: Cache, blob: Blob, progress: Progress) -> Path:
    """Have a whole blob, of reference data for instance, in the cache."""
    parts = whole(blob)
    return _bring(remote, blob, cache.entry(blob, parts), parts, progress).path


class _DamagedError(PipelineError):
    """The cache does not hold what it says."""


def _copy(file: Entry, there: frozenset[Stretch], path: Path) -> None:
    with (
        staged(path) as temporary,
        disk_errors(str(path)),
        file.path.open("rb") as source,
        temporary.open("wb") as out,
    ):
        platforms.resize(out.fileno(), file.size)
        for stretch in sorted(there):
            source.seek(stretch.offset)
            data = source.read(stretch.length)
            if sha256_bytes(data) != stretch.sha256:
                raise _DamagedError("is damaged", where=str(file.path))
            out.seek(stretch.offset)
            out.write(data)


def _replaceable(path: Path) -> Path:
    """The file that `path` means, links followed. PipelineError if it is there and no regular file: it would be replaced."""
    with disk_errors(str(path)):
        try:
            real = path.resolve()
        except RuntimeError as error:  # how pathlib tells of links that go in circles
            raise PipelineError("is a link to itself", where=str(path)) from error
        if real.exists() and not real.is_file():
            raise PipelineError("is no regular file", where=str(path), hint="name a file or a folder to copy it to")
    return real


T = TypeVar("T", bound=Brought)


def _deliver(file: Entry, bring: Callable[[], T], target: Path) -> T:
    """`bring`, then copy to `target`. Holes stay holes.

    Every byte is verified on the way; what the disk has damaged is fetched again, and nothing else.
    """
    real = _replaceable(target)
    got = bring()
    try:
        _copy(file, got.stretches, real)
    except _DamagedError:
        file.heal()
        got = bring()
        _copy(file, got.stretches, real)
    return got


def deliver(
    remote: Remote, cache: Cache, artifact: Artifact, variants: Sequence[str] | None, target: Path, progress: Progress
) -> tuple[Fetched, Path]:
    """`fetch`, then copy to `target`, or into that folder under the artifact's name. Every byte is verified on the way."""
    path = target / artifact.blob.name if target.is_dir() else target
    return _deliver(entry(cache, artifact), lambda: fetch(remote, cache, artifact, variants, progress), path), path


def deliver_weights(remote: Remote, cache: Cache, parameters: Parameters, target: Path, progress: Progress) -> Brought:
    """Fetch the weights, then copy them to `target`. Every byte is verified on the way."""
    file = weights_entry(cache, parameters)
    return _deliver(file, lambda: _bring(remote, parameters.blob, file, file.stretches, progress), target)
