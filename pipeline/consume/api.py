"""What programs do with releases beside running them: find one, fetch its file, ask what devices would run of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.consume import facts
from pipeline.consume.cache import Cache
from pipeline.consume.choose import WORDS, Choices, choices, gated, named, refusal, worth_having
from pipeline.consume.fetch import Progress, fetch_weights, pick
from pipeline.consume.fetch import fetch as fetch_stretches
from pipeline.consume.lock import find_lock
from pipeline.consume.reference import parse
from pipeline.consume.resolve import Remote, Resolver, default_store
from pipeline.errors import PipelineError
from pipeline.files import is_file
from pipeline.iree.device import Device
from pipeline.manifest.types import Artifact, Manifest
from pipeline.store.yanks import told


@dataclass(frozen=True)
class Opened:
    """A release that was found in a store, and one of its files."""

    remote: Remote
    cache: Cache
    resolver: Resolver
    manifest: Manifest
    artifact: Artifact

    @property
    def name(self) -> str:
        """`model@version`."""
        return f"{self.manifest.model.name}@{self.manifest.version}"


class Quiet:
    """A Progress that shows nothing."""

    def begin(self, name: str, total: int) -> None:
        """Nothing."""

    def advance(self, count: int) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""

    def waiting(self, name: str) -> None:
        """Nothing."""


def opened(
    model: str,
    store: str = "",
    bundle: str = "",
    offline: bool = False,
    lock: str | Path | None = None,
    cache: Path | None = None,
    note: Callable[[str], None] = warnings.warn,
) -> Opened:
    """The release that `model` names: `NAME`, `NAME@VERSION` or `NAME:CHANNEL`. PipelineError where there is none.

    `store` is a URL or folder (default: PIPELINE_STORE), `bundle` one of its files (default: the first), `lock` a file of `vmfb
    lock` (default: VMFB_LOCK, or none): then a name means what it says. `note` is told if it was yanked.
    """
    held = find_lock(lock)
    remote, kept = Remote(store or default_store(held), offline), Cache(cache)
    resolver = Resolver(remote, kept, lock=held)
    manifest = resolver.manifest(parse(model))
    if resolver.yanked:
        note(told(resolver.yanked))
    return Opened(remote, kept, resolver, manifest, pick(manifest, bundle))


def is_elsewhere(device: str) -> bool:
    """Whether a device's name is that of another machine: a known one, or a file of its facts."""
    return device in facts.known_machines() or (device not in WORDS and is_file(device))


def _devices(release: Opened, device: str) -> list[Device]:
    """What `device` means: `auto`, a device here, or a machine that is not here."""
    if is_elsewhere(device):
        return facts.of_machine(device)
    return named(facts.of_this_machine(release.cache, warnings.warn), device)


def explain(
    model: str,
    *,
    device: str = "auto",
    store: str = "",
    bundle: str = "",
    offline: bool = False,
    lock: str | Path | None = None,
    cache: Path | None = None,
) -> Choices:
    """Of each device, the best first, which variant it would run of the release, and of every other why not.

    `device` is `auto` (all of this machine), a driver or a device's name, or another machine: one of those that this package
    knows, or a file that `vmfb devices --json` wrote there. Else as `opened`.
    """
    release = opened(model, store, bundle, offline, lock, cache)
    return Choices(choices(gated(release.artifact, release.remote.url), _devices(release, device)))


def fetch(
    model: str,
    *,
    device: str = "auto",
    full: bool = False,
    store: str = "",
    bundle: str = "",
    offline: bool = False,
    lock: str | Path | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """The release's file in the cache, with the code that `device` needs (as `explain` takes it; `full`: all of it).

    Its weights are fetched too, where it does not hold them. Raises PipelineError where no device may run it.
    """
    release = opened(model, store, bundle, offline, lock, cache)
    wanted = None
    if not full:
        found = choices(gated(release.artifact, release.remote.url), _devices(release, device))
        if not (wanted := worth_having(found)):
            what = f"no device may run {release.name}:\n    {refusal(found)}"
            raise PipelineError(what, hint="full=True fetches it nevertheless")
    shown = progress or Quiet()
    fetch_weights(release.remote, release.cache, release.manifest, shown)
    return fetch_stretches(release.remote, release.cache, release.artifact, wanted, shown).path
