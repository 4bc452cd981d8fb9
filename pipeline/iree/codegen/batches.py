"""Which pieces are generated together, and where: on this machine's cores, or on a cluster's."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from pipeline.cache import Cache
from pipeline.iree import backends
from pipeline.iree.codegen.generation import generate
from pipeline.iree.codegen.pieces import Batch, Dispatches, Piece
from pipeline.iree.toolchain import CompilerRefusedError

# Starting the compiler costs as much as a few pieces; in a batch of many one slow piece keeps all others waiting.
_SMALLEST, _LARGEST = 8, 40
_ROUNDS = 4  # batches a core
_cores = os.cpu_count() or 1
_free = threading.BoundedSemaphore(_cores)  # for all steps that run at the same time


@dataclass(frozen=True)
class Refused:
    """The compiler generates no code for a target: its first error."""

    target: str
    error: CompilerRefusedError


def plan(dispatches: Dispatches, pieces: Sequence[Piece], cores: int) -> list[Batch]:
    """All `pieces` in batches, each of one target, the slow ones first; the large pieces spread among them."""
    size = max(_SMALLEST, min(_LARGEST, -(-len(pieces) // (cores * _ROUNDS))))
    batches = []
    for target in sorted({p.target for p in pieces}, key=lambda t: (not backends.named(t.backend).is_slow_to_generate, t.name)):
        mine = sorted((p for p in pieces if p.target == target), key=lambda p: (-dispatches.size(p.symbol), p.symbol))
        count = -(-len(mine) // size)
        batches += [dispatches.batch(mine[start::count]) for start in range(count)]
    return batches


def run(dispatches: Dispatches, missing: Sequence[Piece], folder: Path, cache: Cache) -> Iterator[dict[str, bytes] | Refused]:
    """Generate the `missing` pieces, with logs in `folder`; what each batch made, as it ends and is in `cache`.

    On the cluster whose scheduler PIPELINE_SCHEDULER names, or here.
    """
    if not missing:
        return
    if address := os.environ.get("PIPELINE_SCHEDULER"):
        yield from _run_there(address, dispatches, missing, folder, cache)
    else:
        yield from _kept(run_here(plan(dispatches, missing, _cores), folder), cache)
    cache.local.trim()


def _kept(results: Iterator[dict[str, bytes] | Refused], cache: Cache) -> Iterator[dict[str, bytes] | Refused]:
    for made in results:
        if not isinstance(made, Refused):
            cache.put(made)
        yield made


def _run_there(
    address: str, dispatches: Dispatches, missing: Sequence[Piece], folder: Path, cache: Cache
) -> Iterator[dict[str, bytes] | Refused]:
    from pipeline.iree.codegen.cluster import Cluster  # distributed takes a second to import

    cluster = Cluster(address)
    for batch, result in cluster.run(plan(dispatches, missing, cluster.cores()), cache):
        made = outcome(batch, result)
        if isinstance(made, Refused) or len(made) == len(batch.keys):
            yield made
        else:  # what a worker says to be in the shared cache cannot be read here, or what it sent is not authentic
            yield from _kept(run_here([batch], folder), cache)


def run_here(batches: Sequence[Batch], folder: Path) -> Iterator[dict[str, bytes] | Refused]:
    """Generate `batches` on all cores, in `folder`; what each made, as it ends."""

    def run(index: int, batch: Batch) -> dict[str, bytes]:
        with _free:
            return generate(batch, folder / f"{batch.target}-{index}")

    pool = ThreadPoolExecutor(_cores)
    try:
        futures = {pool.submit(run, index, batch): batch for index, batch in enumerate(batches)}
        yield from (outcome(futures[future], future.result) for future in as_completed(futures))
    finally:
        pool.shutdown(cancel_futures=True)


def outcome(batch: Batch, result: Callable[[], dict[str, bytes]]) -> dict[str, bytes] | Refused:
    """What a batch made, or that its target is refused. Any other error is not about a target, and ends the build."""
    try:
        return result()
    except CompilerRefusedError as error:
        return Refused(batch.target, error)
