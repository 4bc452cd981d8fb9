"""Publishers and `doit prune` at once: each says what it is about to do before it looks what the other is about to do.

A publisher writes a lease, which names a release and its blobs, and then reads what a pruner is removing; a pruner writes what it
is about to remove, and then reads leases, manifests and channels. So of two that mean the same thing at the same time at least
one sees the other: a pruner leaves what it sees named, a publisher waits until what it sees is gone, and then sends it again.
No clocks are compared but the store's own with itself.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

from pipeline.errors import DeniedError, PipelineError
from pipeline.layout import PRUNING_KEY, lease_key
from pipeline.manifest.codec import decode, encode
from pipeline.manifest.types import SCHEMA, Lease, Pruning
from pipeline.store.base import Object, Store
from pipeline.store.documents import require_not_newer

DAY = 86400.0  # seconds that a lease holds
_RENEWED = DAY / 2  # after so long a publisher takes another, and looks again
# A pruner looks and removes for so long after it said what. With the time that a request may take (4 tries of 70 s) it has
# ended before others give it up.
BATCH_SECONDS = 240.0
PATIENCE = 600.0  # seconds in which what a pruner says stays the same: then it was killed
_POLL = 1.0
_NOBODY = Pruning(SCHEMA, "", (), ())  # is at work


class Claim:
    """A publisher's leases on a release and its blobs, of which it takes the first when it has something to write."""

    def __init__(self, store: Store, model: str, version: str, blobs: Collection[str] = ()) -> None:
        self._store, self._release = store, f"{model}@{version}"
        self._lease = Lease(SCHEMA, model, version, tuple(sorted(blobs)))
        self._taken: float | None = None

    def renew(self, note: Callable[[str], None] = lambda _: None) -> bool:
        """Take a lease where there is none, or it is old; whether one was taken: then what was looked at before may be gone.

        Waits until nobody is removing any of it.
        """
        if self._taken is not None and time.monotonic() - self._taken < _RENEWED:
            return False
        self._taken = time.monotonic()
        self._store.create(lease_key(uuid.uuid4().hex), encode(self._lease))  # nobody else's: if it is taken, by this very write
        named = {self._release, *self._lease.blobs}

        def concerns(pruning: Pruning) -> bool:
            return bool(pruning.turn) and not named.isdisjoint((*pruning.releases, *pruning.blobs))

        _wait(self._store, concerns, note, takes_over=True)
        return True


def _read(found: Object | None, url: str) -> Pruning:
    where = f"{url}/{PRUNING_KEY}"
    require_not_newer(found, SCHEMA, where)
    if found is None:
        return _NOBODY
    try:
        return decode(Pruning, found.data, where)
    except PipelineError as error:
        hint = "if no `doit prune` is at work anywhere, remove that object"
        raise PipelineError(f"what is being removed cannot be read: {error.what}", where=where, hint=hint) from error


def find_pruning(store: Store) -> Pruning:
    """What is being removed from a store. Raises PipelineError where that cannot be read."""
    return _read(store.get(PRUNING_KEY), store.url)


def _wait(store: Store, concerns: Callable[[Pruning], bool], note: Callable[[str], None], takes_over: bool) -> Object | None:
    """Wait while what is being removed `concerns`; what is there then. Where that stays the same for too long, its pruner was
    killed: it is ended, if `takes_over`."""
    first, seen, deadline = None, store.get(PRUNING_KEY), time.monotonic() + PATIENCE
    while concerns(pruning := _read(seen, store.url)):
        if first is None:
            first = pruning
            note(
                f"waiting for `doit prune`, which is at work in {store.url} or was killed there: at most {PATIENCE / 60:.0f} min"
            )
        elif pruning != first and takes_over:
            return seen  # what is removed now was chosen after the lease was there
        elif pruning != first:
            first, deadline = pruning, time.monotonic() + PATIENCE
        if time.monotonic() > deadline:
            if takes_over:  # so that others need not wait. What it has left behind is for the next `doit prune`
                with suppress(DeniedError):
                    store.replace(PRUNING_KEY, encode(replace(pruning, turn="", blobs=())), seen.tag if seen else None)
            return seen
        time.sleep(_POLL * random.uniform(0.5, 1))  # noqa: S311
        seen = store.get(PRUNING_KEY)
    return seen


class Turn:
    """What a pruner may remove now. `left`: the releases of which something is left, for the next."""

    def __init__(self, left: tuple[str, ...] = ()) -> None:
        self.left = left
        self._until = (time.monotonic() + BATCH_SECONDS, time.time() + BATCH_SECONDS)  # a machine may sleep

    @property
    def is_over(self) -> bool:
        """Whether it is too late to remove any more of it."""
        return time.monotonic() > self._until[0] or time.time() > self._until[1]


@contextmanager
def removing(
    store: Store, releases: Sequence[str], blobs: Sequence[str], note: Callable[[str], None] = lambda _: None
) -> Iterator[tuple[Turn, Pruning]]:
    """Say what is about to be removed, while the block lasts; what others name is to be looked at in it, and only before.

    Yields the right to remove it, and what another pruner said that was killed: some of that may be gone. Waits for other
    pruners.
    """
    while True:
        before = _wait(store, lambda pruning: bool(pruning.turn), note, takes_over=False)
        left = _read(before, store.url)
        # What a killed one has left behind is said on, lest this one be killed too.
        said = Pruning(
            SCHEMA,
            uuid.uuid4().hex,
            tuple(dict.fromkeys((*releases, *left.releases))),
            tuple(dict.fromkeys((*blobs, *left.blobs))),
        )
        turn = Turn(left.releases)
        # What was sent twice, for the answer was lost, finds what it has written itself.
        if store.replace(PRUNING_KEY, encode(said), before.tag if before else None) or find_pruning(store).turn == said.turn:
            break
    try:
        yield turn, left
    finally:
        found = store.get(PRUNING_KEY)
        if found is None or _read(found, store.url).turn != said.turn:
            what = "another took over while things were removed: this machine was too slow, or slept"
            raise PipelineError(what, where=f"{store.url}/{PRUNING_KEY}", hint="run `doit fsck`")
        store.replace(PRUNING_KEY, encode(replace(_NOBODY, releases=turn.left)), found.tag)
