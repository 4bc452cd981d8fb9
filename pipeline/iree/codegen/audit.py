"""Cached code generated once more and compared: what a cache says it is, is it that?"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.cache import Cache, LocalCache
from pipeline.iree import mlir
from pipeline.iree.codegen import batches
from pipeline.iree.codegen.front import front_half
from pipeline.iree.codegen.pieces import Code, Dispatches
from pipeline.iree.targets import Target


@dataclass(frozen=True)
class Wrong:
    """An entry that is whole, but not what this machine generates: of which kernel and target, in which cache."""

    kernel: str
    target: str
    cache: str


@dataclass(frozen=True)
class Audit:
    """What was found: how many entries the caches have for the module, how many were checked, which were wrong."""

    present: int
    checked: int
    wrong: tuple[Wrong, ...]


def _differs(entry: bytes, made: bytes) -> bool:
    """Whether the entry gives other code. (How long it took to generate may differ.)"""
    try:
        found = Code.decode(entry)
    except (ValueError, TypeError):
        return True
    return replace(found, seconds=0) != replace(Code.decode(made), seconds=0)


def _entries(cache: Cache, keys: Sequence[str]) -> dict[str, dict[str, bytes]]:
    """What each of the caches has of `keys`, by the cache's place."""
    here = {key: data for key in keys if (data := cache.local.get(key)) is not None}
    found = {str(cache.local.folder): here}
    if cache.shared:
        found[cache.shared.store.url] = cache.shared.get_many(keys)
    return found


def _mend(cache: Cache, key: str, data: bytes) -> None:
    cache.local.put(key, data)
    if cache.shared:
        cache.shared.condemn(key)
        cache.shared.put(key, data)


def audit(source: Path, folder: Path, targets: Sequence[Target], flags: Sequence[str], cache: Cache, sample: int) -> Audit:
    """Generate `sample` of the pieces of `source` that are in `cache`, drawn by chance, and compare.

    A wrong entry is replaced by what was generated, where the cache can be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The front half too is made anew, in a cache of its own: it is what the keys are computed from.
    sources = front_half(source, folder, targets, flags, LocalCache(folder / "front", 0)).sources
    with mlir.opened(sources) as module:
        dispatches = Dispatches(module, targets, flags)
        pieces = {piece.key: piece for piece in dispatches.pieces.values()}
        found = _entries(cache, list(pieces))
        present = sorted({key for entries in found.values() for key in entries})
        chosen = random.sample(present, min(sample, len(present)))
        made: dict[str, bytes] = {}
        for result in batches.run_here(batches.plan(dispatches, [pieces[key] for key in chosen], 1), folder / "pieces"):
            if isinstance(result, batches.Refused):
                raise result.error
            made |= result
    sources.unlink()
    wrong = []
    for place, entries in found.items():
        for key in made.keys() & entries.keys():
            if _differs(entries[key], made[key]):
                wrong.append(Wrong(pieces[key].symbol, pieces[key].target.name, place))
                _mend(cache, key, made[key])
    return Audit(len(present), len(chosen), tuple(wrong))
