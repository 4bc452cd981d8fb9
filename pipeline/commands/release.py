"""What commands have in common: the release or the file that one names, and the devices of this machine."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.consume import choose, facts, fetch, runtimes
from pipeline.consume.cache import Cache
from pipeline.consume.evidence import Standing, Testimony
from pipeline.consume.lock import find_lock
from pipeline.consume.reference import Reference, parse
from pipeline.consume.resolve import Remote, Resolver, default_store
from pipeline.errors import PipelineError
from pipeline.files import is_file
from pipeline.iree.device import Device
from pipeline.manifest.types import Artifact, EntryInfo, Lock, Manifest
from pipeline.platforms import SEPARATORS
from pipeline.terminal import Bar, say


def names_file(text: str) -> bool:
    """Whether an argument is a file's path rather than a release's name."""
    return any(separator in text for separator in SEPARATORS) or text.endswith(".vmfb") or is_file(text)


def open_lock(arguments: argparse.Namespace) -> Lock | None:
    """The lock that a command is to obey, of those that name releases: `--lock`, or VMFB_LOCK; None where there is none."""
    return find_lock(arguments.lock) if hasattr(arguments, "lock") else None


def open_remote(arguments: argparse.Namespace) -> Remote:
    """The store that a command names, `offline` or not."""
    named = getattr(arguments, "url", None) or arguments.store or default_store(open_lock(arguments))
    return Remote(named, getattr(arguments, "offline", False))


def tell_notes(arguments: argparse.Namespace, remote: Remote) -> None:
    """Say what is to be known of what the store says, once, unless `quiet`. When it has said it: errors are not about that."""
    if not getattr(arguments, "quiet", False) and not getattr(arguments, "noted", False):
        arguments.noted = True  # a command may name two releases
        for note in remote.notes:
            say(f"note: {note}")


class Release:
    """A release that a command names, with what is needed to fetch it. Errors of fetching are PipelineErrors.

    `shows`: the command only looks at it, so it may be one that was yanked.
    """

    def __init__(self, arguments: argparse.Namespace, text: str, shows: bool = False) -> None:
        self.cache = Cache()
        self.remote = open_remote(arguments)
        self.text = text
        self._resolver = Resolver(self.remote, self.cache, say, shows=shows, lock=open_lock(arguments))
        self.manifest: Manifest = self._resolver.manifest(parse(text))
        tell_notes(arguments, self.remote)
        self.artifact: Artifact = fetch.pick(self.manifest, arguments.bundle)
        self.variants = choose.gated(self.artifact, self.remote.url)
        self.bar = Bar(getattr(arguments, "quiet", False))

    @property
    def pin(self) -> Reference:
        """The reference that means this manifest and never another one."""
        return self._resolver.pin(self.manifest)

    def testimony(self, asks: bool | None = True) -> Testimony:
        """What witnesses say of it. The store is asked; None: if it was asked for the release."""
        return self._resolver.evidence(self.manifest, asks)

    def provenance(self) -> dict[str, Any]:
        """Where it comes from."""
        return self._resolver.provenance(self.manifest)

    def standings(self, testimony: Testimony) -> dict[str, Standing]:
        """What they say of each variant of the artifact."""
        return testimony.of(self.artifact, [entry.function for entry in self.manifest.entries])

    def require_runtime(self) -> None:
        """Say what is known of the installed runtime with this release: an error, a note or nothing."""
        name = f"{self.manifest.model.name}@{self.manifest.version}"
        runtimes.require(name, self.manifest.compiler.version, lambda: self.testimony(None).runtimes(self.artifact), say)

    def fetch(self, variants: Sequence[str] | None) -> fetch.Fetched:
        """The artifact in the cache, with the code of these variants."""
        return fetch.fetch(self.remote, self.cache, self.artifact, variants, self.bar)

    def weights(self) -> Path | None:
        """The weights that the artifact does not hold, in the cache; None where it holds all."""
        got = fetch.fetch_weights(self.remote, self.cache, self.manifest, self.bar)
        return got.path if got else None

    def reference(self, entry: EntryInfo) -> tuple[list[Path], list[Path]]:
        """The files of an entry point's given test data, inputs and outputs, fetched."""
        given = entry.reference.draws[0]
        inputs, outputs = (
            [fetch.fetch_blob(self.remote, self.cache, blob, self.bar) for blob in blobs]
            for blobs in (given.inputs, given.outputs)
        )
        return inputs, outputs


def here(name: str, note: Callable[[str], None] = say) -> list[Device]:
    """The devices of this machine that `--device` means. PipelineError where there is none, or no runtime to ask.

    `note` is told of drivers that cannot be asked.
    """
    return choose.named(facts.of_this_machine(Cache(), note), name)


def refuse_archive(arguments: argparse.Namespace) -> None:
    """Raise PipelineError if a release is named with `--parameters`."""
    if arguments.parameters:
        what = "--parameters is for a FILE: the weights of a release are fetched with it"
        raise PipelineError(what, where=arguments.what, hint="leave it out, or give the file's path")
