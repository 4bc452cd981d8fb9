"""Documents in a store that more than one may write: those that move, by compare-and-swap, and evidence, which is only added."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from contextlib import suppress

from pipeline.errors import DeniedError, PipelineError
from pipeline.files import sha256_bytes
from pipeline.layout import evidence_digests, evidence_folder, evidence_index_key, evidence_key
from pipeline.manifest.codec import encode
from pipeline.manifest.evidence import EVIDENCE_INDEX_SCHEMA, EvidenceIndex
from pipeline.store.base import Object, Store

_ATTEMPTS = 40


def swap(store: Store, key: str, wanted: Callable[[Object | None], bytes]) -> bool:
    """Put what `wanted` makes of the object at `key`, by compare-and-swap; whether that changed it."""
    for attempt in range(_ATTEMPTS):
        current = store.get(key)
        data = wanted(current)
        if current is not None and current.data == data:
            return False
        if store.replace(key, data, current.tag if current else None):
            return True
        time.sleep(random.uniform(0, 0.05 * min(attempt, 10)))  # noqa: S311  # others are at it too
    raise PipelineError(f"changed {_ATTEMPTS} times while it was being written", where=f"{store.url}/{key}", hint="publish again")


def require_not_newer(current: Object | None, schema: int, where: str) -> None:
    """Raise PipelineError where a document is of a newer program than this one, whose schema is `schema`: what that knows more
    would be lost if this one wrote over it."""
    try:
        found = json.loads(current.data)["schema"] if current else 0
    except (ValueError, RecursionError, TypeError, KeyError):
        return  # damaged: it may be made anew
    if type(found) is int and found > schema:
        what = f"has schema version {found}, this program writes version {schema}"
        raise PipelineError(what, where=where, hint="upgrade vmfb-pipeline")


def add_evidence(store: Store, model: str, version: str, *documents: bytes) -> list[str]:
    """Put documents of evidence beside a release, those that are not there, and list them. Returns their keys.

    Who may create them, and neither list nor replace anything, leaves the list to the next who may: it is for web servers alone.
    """
    keys = [evidence_key(model, version, sha256_bytes(data)) for data in documents]
    for key, data in zip(keys, documents, strict=True):
        _put(store, key, data)
    with suppress(DeniedError):
        list_evidence(store, model, version)
    return keys


def _put(store: Store, key: str, data: bytes) -> None:
    """Put a document whose key is its digest; other bytes there are damage, and replaced. DeniedError for who may only create."""
    if not store.create(key, data):
        swap(store, key, lambda _: data)


def list_evidence(store: Store, model: str, version: str) -> None:
    """Write the list of a release's evidence anew, where it is not up to date.

    Whoever adds a document lists all after it: so however several interleave, the last list has all.
    """
    folder = evidence_folder(model, version)
    key = evidence_index_key(model, version)

    # The object is read before the keys are: what is added in between changes its tag, and the list is made again.
    def wanted(current: Object | None) -> bytes:
        require_not_newer(current, EVIDENCE_INDEX_SCHEMA, f"{store.url}/{key}")
        return encode(EvidenceIndex(EVIDENCE_INDEX_SCHEMA, evidence_digests(store.keys(folder), model, version)))

    swap(store, key, wanted)
