"""Whether a release was yanked: it is kept, and not to be used any more."""

from __future__ import annotations

from pipeline.errors import PipelineError
from pipeline.layout import yank_key
from pipeline.manifest.codec import decode
from pipeline.manifest.types import Yank
from pipeline.store.base import Object, Source


class YankedError(PipelineError):
    """The release was yanked: others may be used."""


def read_yank(found: Object | None, model: str, version: str, url: str) -> Yank | None:
    """What `found`, at the release's key in the store at `url`, says; None where the release is not yanked.

    Raises PipelineError where that cannot be read: what is there says that the release was yanked at some time.
    """
    if found is None:
        return None
    where = f"{url}/{yank_key(model, version)}"
    try:
        yank = decode(Yank, found.data, where)
    except PipelineError as error:
        hint = error.hint or "ask for another release; who publishes it can say so again: `doit yank`"
        raise PipelineError(f"{model}@{version} may be yanked: {error.what}", where=where, hint=hint) from error
    if (yank.model, yank.version) != (model, version):
        raise PipelineError(f"is about {yank.model}@{yank.version}", where=where, hint="say it again: `doit yank`")
    return None if yank.undone else yank


def find_yank(source: Source, model: str, version: str) -> Yank | None:
    """Why a release in the store is not to be used any more; None where it may be. Raises PipelineError as `read_yank` does."""
    return read_yank(source.get(yank_key(model, version)), model, version, source.url)


def told(yank: Yank) -> str:
    """What a yank says, for people."""
    return f"{yank.model}@{yank.version} was yanked on {yank.made[:10]}: {yank.reason}"


def require_not_yanked(source: Source, model: str, version: str) -> None:
    """Raise YankedError, with the reason, where a release was yanked: no channel may move to it."""
    if yank := find_yank(source, model, version):
        undo = f"doit yank model={model} version={version} undo=yes"
        hint = f"publish another, under another version; or, if the reason is gone, `{undo}`"
        raise YankedError(told(yank), where=source.url, hint=hint)
