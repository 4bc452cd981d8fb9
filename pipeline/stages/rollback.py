"""Rollback: move a channel to the release that it pointed to before."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes
from pipeline.layout import channel_key, release_key
from pipeline.manifest.types import Channel
from pipeline.spec.types import Policy
from pipeline.stages import promote
from pipeline.store.base import Store
from pipeline.store.channels import find_channel
from pipeline.store.open import open_to_publish
from pipeline.store.yanks import find_yank, told
from pipeline.trust.signed import require_keys, signing


def run(
    url: str,
    model: str,
    version: str,
    channel: str,
    policies: Mapping[str, Policy],
    folder: Path,
    channels: Collection[str] = (),
) -> None:
    """Move the channel of the store at `url` to the release before, or to `version`; `report.txt` into `folder`.

    It is not compared with the present one. Raises PipelineError with the clauses that stop it, and where no release before is
    known that may be used.
    """
    if not model:
        raise PipelineError("which channel?", hint="doit rollback model=NAME channel=stable")
    store = signing(open_to_publish(url), url)
    require_keys(store, channel_key(model, channel))
    seen = find_channel(store, model, channel)
    version = version or _before(store, model, channel, seen)

    def require_seen(now: Channel | None) -> None:
        if now != seen:
            said = f"moved meanwhile, to {now.version}" if now else "is gone"
            raise PipelineError(
                f"the channel {channel} of {model} {said}", where=store.url, hint="look what it is, then try again"
            )

    policies = {bundle: replace(one, slower=None, larger=None, less_exact=None) for bundle, one in policies.items()}
    promote.move(store, model, version, channel, policies, folder, channels, require_seen, rolled_back=True)


def _before(store: Store, model: str, channel: str, present: Channel | None) -> str:
    """The release that a channel pointed to before the present one: the last that is there, as it was, and may be used."""
    if present is None:
        raise PipelineError(f"{model} has no channel {channel}", where=store.url, hint="`vmfb list` shows those that there are")
    passed = []
    newest = {past.version: past for past in reversed(present.history)}  # how it left a release last
    for past in present.history:
        if past is not newest[past.version] or past.rolled_back or past.version == present.version:
            continue
        found = store.get(release_key(model, past.version))
        if found is None:
            passed.append(f"{model}@{past.version} is not in the store any more")
        elif sha256_bytes(found.data) != past.sha256:
            passed.append(f"{model}@{past.version} is not what it was: `doit fsck` tells more")
        elif yank := find_yank(store, model, past.version):
            passed.append(told(yank))
        else:
            return past.version
    what = f"no release is known that {channel} of {model} pointed to before {present.version}, and that may be used"
    hint = f"`doit rollback model={model} channel={channel} version=VERSION` goes to any that is in the store"
    raise PipelineError("\n".join([what, *dict.fromkeys(passed)]), where=f"{store.url}/{channel_key(model, channel)}", hint=hint)
