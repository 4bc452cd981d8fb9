"""Runtimes: try what the store's channels point to in runtimes that nobody tried it in yet; say which break it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import activity
from pipeline.consume.api import Quiet
from pipeline.consume.attest import Witnessing
from pipeline.consume.cache import Cache
from pipeline.consume.reference import Reference
from pipeline.consume.render import runtime_lines
from pipeline.consume.resolve import Remote, Resolver
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import write
from pipeline.iree import devices
from pipeline.iree.device import Device
from pipeline.iree.devices import runtimes
from pipeline.iree.devices.runtimes import Runtime
from pipeline.iree.toolchain import REQUIRED
from pipeline.manifest.codec import encode
from pipeline.manifest.evidence import RuntimeInfo
from pipeline.manifest.types import Artifact, Manifest
from pipeline.names import numbers
from pipeline.store.base import Store
from pipeline.store.open import open_store
from pipeline.store.yanks import YankedError
from pipeline.trust.anchors import WITNESS_KEY


@dataclass(frozen=True)
class _File:
    """A file of a release that channels point to, and what is known of it, the newest word first."""

    manifest: Manifest
    channels: tuple[str, ...]
    artifact: Artifact
    known: Sequence[RuntimeInfo]

    @property
    def title(self) -> str:
        return f"{self.manifest.model.name}@{self.manifest.version} ({', '.join(self.channels)}) {self.artifact.bundle}"

    @property
    def broken(self) -> list[RuntimeInfo]:
        """The runtimes that fail, of those as new as its compiler: older ones were never promised."""
        newest = {info.version: info for info in reversed(self.known) if info.works is not None}
        made = numbers(self.manifest.compiler.version)[:2]
        return [info for info in newest.values() if not info.works and numbers(info.version)[:2] >= made]


def run(url: str, models: Sequence[str], folder: Path) -> None:
    """Try the releases of the store at `url`, add what was seen to their evidence; `report.txt` into `folder`.

    `models` are those that this project builds. Raises PipelineError where a runtime breaks a file, with what to build again.
    """
    store, remote, cache = open_store(url), Remote(url), Cache(folder / "cache")
    notes: list[str] = []
    if remote.is_signed and not os.environ.get(WITNESS_KEY):
        notes.append(f"{WITNESS_KEY} is not set: what is seen here does not count in {remote.url}, which is signed")
    resolver = Resolver(remote, cache, notes.append)
    with disk_errors(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
    found, present = runtimes.find(runtimes.wanted(), folder), devices.find(folder)
    files: list[_File] = []
    for reference, channels in _channels(resolver).items():
        try:
            manifest = resolver.manifest(reference)
        except YankedError as error:
            notes.append(f"not tried: {error.what}")
            continue
        activity.say(f"{manifest.model.name}@{manifest.version}")
        _try(store, Witnessing(remote, cache, manifest, Quiet(), activity.say, 0), resolver, found, present)
        testimony = resolver.evidence(manifest, asks=True)
        files += [_File(manifest, channels, artifact, testimony.runtimes(artifact)) for artifact in manifest.artifacts]
    lacking = [f"not tried with {runtime.version}: {runtime.problem}" for runtime in found if runtime.problem]
    lines = [line for file in files for line in (file.title, *(f"  {line}" for line in runtime_lines(file.known)))]
    write(folder / "report.txt", "".join(f"{line}\n" for line in [*dict.fromkeys(notes), *lines, *lacking]).encode())
    if any(file.broken for file in files):
        raise _broken([file for file in files if file.broken], models, folder)


def _channels(resolver: Resolver) -> dict[Reference, tuple[str, ...]]:
    """What channels point to, each version once, with their names."""
    found: dict[Reference, tuple[str, ...]] = {}
    for model in resolver.index().models:
        for channel in model.channels:
            reference = Reference(model.name, version=channel.version)
            found[reference] = (*found.get(reference, ()), channel.channel)
    return found


def _try(store: Store, witnessing: Witnessing, resolver: Resolver, found: Sequence[Runtime], present: Sequence[Device]) -> None:
    """Try the files of a release in the runtimes of which its documents say nothing, and add a document of that."""
    manifest = witnessing.manifest
    testimony = resolver.evidence(manifest, asks=True)
    wanted = {}
    for artifact in manifest.artifacts:
        known = {info.version for info in testimony.runtimes(artifact) if info.works is not None}
        wanted[artifact.bundle] = [r for r in found if r.version not in known and not r.problem]
    if any(wanted.values()) and (document := witnessing.try_runtimes(present, wanted)).files:
        from pipeline.trust.witnesses import add_signed_evidence, own_signer

        add_signed_evidence(store, manifest.model.name, manifest.version, encode(document), own_signer())


def _broken(files: Sequence[_File], models: Sequence[str], folder: Path) -> PipelineError:
    told = "\n".join(f"{file.title} fails with {info.version}: {info.how}" for file in files for info in file.broken)
    names = dict.fromkeys(file.manifest.model.name for file in files)
    newest = max((info.version for file in files for info in file.broken), key=numbers)
    compiler = "" if numbers(newest)[:2] <= numbers(REQUIRED)[:2] else f" with iree-base-compiler {newest}"
    again = [f"publish:{name}" for name in names if name in models]
    steps = [f"build again{compiler}: `doit {' '.join(again)}`"] if again else []
    if others := [name for name in names if name not in models]:
        steps.append(f"{', '.join(others)}: not built in this project")
    return PipelineError(told, where=str(folder / "report.txt"), hint="; ".join(steps))
