"""Promote: move a channel to a release that is in the store, if the channel's policy allows it now. Backwards too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.consume.cache import Cache
from pipeline.consume.reference import Reference
from pipeline.consume.resolve import Remote, Resolver
from pipeline.errors import PipelineError
from pipeline.files import write
from pipeline.manifest.types import Channel
from pipeline.spec.types import Policy
from pipeline.stages import policy, publish
from pipeline.store.documents import list_evidence
from pipeline.store.open import open_to_publish


def run(url: str, model: str, version: str, channel: str, policies: Mapping[str, Policy], folder: Path) -> None:
    """Move the channel of the store at `url`; `report.txt` into `folder`. Raises PipelineError with the clauses that stop it."""
    if not model or not version:
        raise PipelineError("which release?", hint="doit promote model=NAME version=VERSION channel=stable")
    store = open_to_publish(url)
    manifest = Resolver(Remote(url), Cache(folder / "cache")).manifest(Reference(model, version=version))
    differs: list[str] = []

    def allowed(pointer: Channel | None) -> None:
        release, before = policy.gathered(store, manifest), policy.present(store, pointer)
        policy.require(policies, release, before, channel, store)
        list_evidence(store, model, version)  # witnesses may not have been allowed to
        differs[:] = policy.told(release, before)

    moved = publish.move(store, manifest, channel, allowed)
    lines = [f"{model}@{version} is {channel} in {store.url}" + ("" if moved else ", as it was"), *differs]
    write(folder / "report.txt", "".join(f"{line}\n" for line in lines).encode())
