"""What a store says of releases that are not to be used any more; it is remembered for when the store is not asked."""

from __future__ import annotations

from contextlib import suppress

from pipeline.consume.cache import Cache
from pipeline.errors import DeniedError, PipelineError
from pipeline.layout import yank_key
from pipeline.manifest.types import Yank
from pipeline.store.base import Object, Source
from pipeline.store.yanks import read_yank


class Yanks:
    """Of the store that the cache knows as `store`."""

    def __init__(self, store: str, cache: Cache) -> None:
        self._store, self._cache = store, cache

    def remembered(self, model: str, version: str) -> Yank | None:
        """What was last seen."""
        kept = self._cache.document(self._store, yank_key(model, version))
        with suppress(PipelineError):  # damaged in the cache
            return read_yank(Object(kept, "") if kept is not None else None, model, version, "the cache's copy of the store")
        return None

    def ask(self, source: Source, model: str, version: str) -> Yank | None:
        """What the store says now; what was last seen where it may not be asked, as some say of whatever is not there.

        Raises BrokenTransferError where it does not answer, and PipelineError where its answer cannot be read.
        """
        key = yank_key(model, version)
        try:
            found = source.get(key)
        except DeniedError:
            return self.remembered(model, version)
        yank = read_yank(found, model, version, source.url)
        if found is not None:
            self._cache.keep(self._store, key, found.data)
        else:
            self._cache.forget(self._store, key)
        return yank
