"""Promote: move a channel to a release that is in the store, if the channel's policy allows it now."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from pipeline.consume.cache import Cache
from pipeline.consume.reference import Reference
from pipeline.consume.resolve import Remote, Resolver
from pipeline.errors import PipelineError
from pipeline.files import write
from pipeline.layout import channel_key
from pipeline.manifest.types import Channel
from pipeline.names import closest
from pipeline.spec.types import Policy
from pipeline.stages import policy
from pipeline.store import releases
from pipeline.store.base import Store
from pipeline.store.documents import list_evidence
from pipeline.store.open import open_to_publish
from pipeline.trust.signed import require_keys, sign_changes, signing


def run(
    url: str,
    model: str,
    version: str,
    channel: str,
    policies: Mapping[str, Policy],
    folder: Path,
    channels: Collection[str] = (),
) -> None:
    """Move the channel of the store at `url`; `report.txt` into `folder`. Raises PipelineError with the clauses that stop it.

    `channels` are those that policies name.
    """
    if not model or not version:
        raise PipelineError("which release?", hint="doit promote model=NAME version=VERSION channel=stable")
    store = signing(open_to_publish(url), url)
    move(store, model, version, channel, policies, folder, channels, lambda _: None)


def move(
    store: Store,
    model: str,
    version: str,
    channel: str,
    policies: Mapping[str, Policy],
    folder: Path,
    channels: Collection[str],
    expected: Callable[[Channel | None], None],
    rolled_back: bool = False,
) -> None:
    """Move the channel if the policy allows it; `report.txt` into `folder`.

    `expected` is told what it is just before, and raises where that is not as it was thought to be. `rolled_back`: see
    `releases.move`.
    """
    require_keys(store, channel_key(model, channel))
    manifest = Resolver(Remote(store.url), Cache(folder / "cache")).manifest(Reference(model, version=version))
    _require_meant(store, model, channel, channels)
    said: list[str] = []

    def allowed(pointer: Channel | None) -> None:
        expected(pointer)
        release, before = policy.gathered(store, manifest), policy.present(store, pointer)
        policy.require(policies, release, before, channel, store)
        list_evidence(store, model, version)  # witnesses may not have been allowed to
        said[:] = [*policy.remarks(policies, release, before), *policy.told(release, before)]

    moved = releases.move(store, manifest, channel, allowed, rolled_back=rolled_back)
    sign_changes(store)
    lines = [f"{model}@{version} is {channel} in {store.url}" + ("" if moved else ", as it was"), *said]
    write(folder / "report.txt", "".join(f"{line}\n" for line in lines).encode())


def _require_meant(store: Store, model: str, channel: str, channels: Collection[str]) -> None:
    """Raise PipelineError for a channel that is not there, nor named by a policy, where another is called almost the same:
    a policy must not be passed by a slip of the hand."""
    if channel in channels or store.get(channel_key(model, channel)):
        return
    known = {"latest", *channels, *(key.split("/")[-1].removesuffix(".json") for key in store.keys("channels/"))}
    alike = [name for name in known if name[0] == channel[0]]  # `test` is no slip of `latest`
    if channel not in known and (other := closest(channel, alike)):
        hint = f"for a channel of that name beside it, write `{channel}: {{}}` below `channels` in targets/policy.yaml"
        raise PipelineError(f"there is no channel {channel}: did you mean {other!r}?", where=store.url, hint=hint)
