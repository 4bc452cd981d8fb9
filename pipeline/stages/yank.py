"""Yank: say of a release in the store that it is not to be used any more, and why; or that it may be again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.files import write
from pipeline.layout import channel_of, release_key, release_of, yank_key
from pipeline.machine import now
from pipeline.manifest.codec import encode
from pipeline.manifest.types import SCHEMA, Yank
from pipeline.names import did_you_mean
from pipeline.plain import plain
from pipeline.store.base import Object, Store
from pipeline.store.channels import find_channel
from pipeline.store.documents import require_not_newer, swap
from pipeline.store.open import open_to_publish
from pipeline.store.yanks import read_yank
from pipeline.trust.signed import require_keys, sign_changes, signing

_LONGEST = 1000  # characters of a reason


def run(url: str, model: str, version: str, reason: str, undo: bool, folder: Path) -> None:
    """Write why the release is not to be used any more, or with `undo` that it may be; `report.txt` into `folder`, with the
    channels that point to it. Raises PipelineError where there is no such release."""
    if not model or not version:
        raise PipelineError("which release?", hint='doit yank model=NAME version=VERSION reason="…"')
    reason = plain(" ".join(reason.split()))
    if bool(reason) == undo or len(reason) > _LONGEST:
        what = f"has more than {_LONGEST} characters" if len(reason) > _LONGEST else "is needed, or `undo=yes`"
        raise PipelineError(f"a reason {what}", hint=f'doit yank model={model} version={version} reason="…"')
    store = signing(open_to_publish(url), url)
    require_keys(store, yank_key(model, version))
    pointing = list(_pointing(store, model, version))
    if not pointing and store.get(release_key(model, version)) is None:
        raise _unknown(store, model, version)
    lines = _undo(store, model, version) if undo else _yank(store, model, version, reason)
    sign_changes(store)
    if not undo:
        lines += [f"the channel {channel} points to it: `doit rollback model={model} channel={channel}`" for channel in pointing]
        lines += [] if pointing else ["no channel points to it"]
    write(folder / "report.txt", "".join(f"{line}\n" for line in lines).encode())


def _yank(store: Store, model: str, version: str, reason: str) -> list[str]:
    key = yank_key(model, version)

    def wanted(current: Object | None) -> bytes:
        require_not_newer(current, SCHEMA, f"{store.url}/{key}")
        made = now()
        try:
            before = read_yank(current, model, version, store.url)
            if before and before.reason == reason and current:
                return current.data
            made = before.made if before else made
        except PipelineError:
            pass  # damaged: it is made anew
        return encode(Yank(SCHEMA, model, version, reason, made, ""))

    swap(store, key, wanted)
    return [f"{model}@{version} is yanked in {store.url}: {reason}"]


def _undo(store: Store, model: str, version: str) -> list[str]:
    """Say that it may be used again: the document stays, for those who cannot tell what is not there from what they may not
    read."""
    key = yank_key(model, version)

    def wanted(current: Object | None) -> bytes:
        require_not_newer(current, SCHEMA, f"{store.url}/{key}")
        try:
            before = read_yank(current, model, version, store.url)
        except PipelineError:
            before = Yank(SCHEMA, model, version, "what was written of it was damaged", now(), "")
        if before is None:
            raise PipelineError(f"{model}@{version} is not yanked", where=store.url)
        return encode(Yank(SCHEMA, model, version, before.reason, before.made, now()))

    swap(store, key, wanted)
    return [f"{model}@{version} may be used again, in {store.url}"]


def _pointing(store: Store, model: str, version: str) -> Iterator[str]:
    """The channels that point to the release; those that cannot be read are passed over: this must not be kept from working."""
    for named in filter(None, map(channel_of, store.keys(f"channels/{model}/"))):
        try:
            channel = find_channel(store, *named)
        except PipelineError:
            continue
        if channel and channel.version == version:
            yield channel.channel


def _unknown(store: Store, model: str, version: str) -> PipelineError:
    known = [found for found in map(release_of, store.keys("releases/")) if found]
    models = {name for name, _ in known}
    if model not in models:
        return PipelineError(f"there is no model {model}: {did_you_mean(model, models)}", where=store.url)
    versions = [number for name, number in known if name == model]
    return PipelineError(f"{model} has no version {version}: {did_you_mean(version, versions)}", where=store.url)
