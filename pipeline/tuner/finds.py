"""What was found of kernels by whoever shares the cache: where a search starts, and no more.

Only records count for what is built: what is found here is measured again before it goes into one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict

from pipeline.cache import SharedCache
from pipeline.files import sha256_bytes
from pipeline.iree import toolchain
from pipeline.iree.targets import Target
from pipeline.iree.tuning import Lowering, Tuned, lowering_of

_KEPT = 4  # lowerings of a kernel, the best first: what is fast on one CPU may be slow on another


class Finds:
    """What is known of kernels for a target and the compiler that is here, in the `shared` cache; nothing where there is none.

    What is damaged there, or of a newer program, is as if it were not there.
    """

    def __init__(self, shared: SharedCache | None, target: Target) -> None:
        self._shared = shared
        self._made_for = [toolchain.digest(), target.attribute, target.subgroup_size]
        self._known: dict[str, dict[Lowering, float]] = {}

    def _key(self, kernel: str) -> str:
        return sha256_bytes(json.dumps(["tuned", kernel, *self._made_for]).encode())

    def fetch(self, kernels: Iterable[str]) -> None:
        """Ask for what is known of these kernels."""
        keys = {self._key(kernel): kernel for kernel in kernels}
        found = self._shared.get_many(list(keys)) if self._shared and keys else {}
        self._known |= {keys[key]: _decoded(data) for key, data in found.items()}

    def of(self, kernel: str) -> list[Lowering]:
        """The lowerings that are known of a kernel, what gained most first."""
        return list(self._known.get(kernel, {}))

    def add(self, entry: Tuned) -> None:
        """Let others know what was found."""
        if not self._shared:
            return
        self.fetch([entry.kernel])  # others may have found something meanwhile
        before = self._known.get(entry.kernel, {})
        found = before | {entry.changes: max(round(entry.speed, 3), before.get(entry.changes, 0.0))}
        kept = dict(sorted(found.items(), key=lambda one: -one[1])[:_KEPT])
        if kept != before:
            self._shared.condemn(self._key(entry.kernel))  # or `put` would leave what is there
            self._shared.put(self._key(entry.kernel), _encoded(kept))
            self._known[entry.kernel] = kept

    def remove(self, kernel: str, wrong: Iterable[Lowering]) -> None:
        """Keep nobody else starting from lowerings whose numbers were wrong here."""
        bad = {*wrong}
        if not self._shared or not bad & {*self._known.get(kernel, {})}:
            return
        self.fetch([kernel])
        kept = {changes: speed for changes, speed in self._known.get(kernel, {}).items() if changes not in bad}
        self._shared.condemn(self._key(kernel))
        self._shared.put(self._key(kernel), _encoded(kept))
        self._known[kernel] = kept


def _encoded(known: Mapping[Lowering, float]) -> bytes:
    said = [{"changes": [asdict(change) for change in changes], "speed": speed} for changes, speed in known.items()]
    return json.dumps(said).encode()


def _decoded(data: bytes) -> dict[Lowering, float]:
    try:
        return {lowering_of(one["changes"]): float(one["speed"]) for one in json.loads(data)}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
