"""Who makes the code of ways to lower a kernel: the cores of this machine, or the workers of a Dask cluster."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from pipeline import process
from pipeline.errors import PipelineError
from pipeline.iree.codegen import generation
from pipeline.iree.codegen.pieces import Batch
from pipeline.iree.toolchain import CompilerCrashedError, CompilerRefusedError
from pipeline.tuner.deadline import Deadline

_log = logging.getLogger(__name__)
_SECONDS = 20.0  # that the compiler may take for one way to lower a kernel, or for a batch of them
_SENT = 10.0  # and a batch to travel, and to wait for a worker
Made = dict[str, bytes]  # by keys, without what the compiler does not make


class Makers(Protocol):
    """Whoever makes code."""

    @property
    def cores(self) -> int:
        """How many batches are made side by side."""

    @property
    def are_elsewhere(self) -> bool:
        """Whether that leaves this machine in peace."""

    def make(self, batches: Sequence[Batch], folder: Path, deadline: Deadline) -> list[Made]:
        """What the compiler makes of each batch before the deadline; logs go into `folder`."""


class Here:
    """So many cores of this machine."""

    are_elsewhere = False

    def __init__(self, cores: int) -> None:
        self.cores = cores

    def make(self, batches: Sequence[Batch], folder: Path, deadline: Deadline) -> list[Made]:
        """See Makers."""
        with ThreadPoolExecutor(self.cores) as pool:
            tried = [pool.submit(attempt, one, folder / str(number), deadline) for number, one in enumerate(batches)]
            return [future.result() for future in tried]


class There:
    """The workers of the cluster whose scheduler is at `address`; `here`, what they do not do.

    Raises PipelineError if it cannot be asked at all, as a build does.
    """

    def __init__(self, address: str, here: Here) -> None:
        from pipeline.iree.codegen.cluster import Cluster  # distributed takes a second to import

        self._here, self._cluster, self._lost = here, Cluster(address), False
        self._cluster.cores()

    @property
    def _threads(self) -> int:
        return 0 if self._lost else self._cluster.threads

    @property
    def cores(self) -> int:
        """Threads of all workers; cores of this machine where there are none any more."""
        return self._threads or self._here.cores

    @property
    def are_elsewhere(self) -> bool:
        """Whether there is a worker."""
        return self._threads > 0

    def make(self, batches: Sequence[Batch], folder: Path, deadline: Deadline) -> list[Made]:
        """See Makers. A cluster that failed is not asked again."""
        found: dict[int, Made] = {}
        if self._threads:
            try:
                self._make_there(batches, deadline, found)
            except PipelineError as error:
                if process.interrupted():
                    raise
                self._lost = True
                _log.warning("the search goes on without the cluster: %s", error.what)
        left = [number for number in range(len(batches)) if number not in found]
        found |= dict(zip(left, self._here.make([batches[number] for number in left], folder, deadline), strict=True))
        return [found[number] for number in range(len(batches))]

    def _make_there(self, batches: Sequence[Batch], deadline: Deadline, found: dict[int, Made]) -> None:
        """Have workers make batches: what is `found` by their numbers, without those of which nothing came, or not in time."""
        seconds = deadline.within(_SECONDS * (1 + max(len(batch.keys) for batch in batches)))  # if it is tried one by one
        numbers = {id(batch): number for number, batch in enumerate(batches)}
        generate = functools.partial(attempted, seconds=seconds)
        for batch, result in self._cluster.run(batches, None, generate, seconds + _SENT):
            found[numbers[id(batch)]] = result()
        if len(found) < len(batches):
            raise PipelineError(f"it did not answer within {seconds + _SENT:.0f} s")


def find(cores: int) -> Makers:
    """The cluster whose scheduler PIPELINE_SCHEDULER names, or so many cores here. Raises PipelineError if it cannot be asked."""
    here, address = Here(cores), os.environ.get("PIPELINE_SCHEDULER")
    return There(address, here) if address else here


def attempted(batch: Batch, folder: Path, seconds: float) -> Made:
    """`attempt`, on a worker, whose clock is another."""
    return attempt(batch, folder, Deadline.after(seconds))


def attempt(batch: Batch, folder: Path, deadline: Deadline) -> Made:
    """What the compiler makes of the kernels in the batch; those that it does not make one by one are left out."""
    made = _made(batch, folder, deadline)
    if not made and len(batch.keys) > 1:
        for number, part in enumerate(generation.parts(batch, 1)):
            made |= _made(part, folder / f"alone-{number}", deadline)
    return made


def _made(batch: Batch, folder: Path, deadline: Deadline) -> Made:
    """The code of all kernels in the batch; of none where the compiler refuses one, or there is no time for it."""
    if deadline.left:
        with suppress(CompilerRefusedError, CompilerCrashedError, process.TimedOutError):
            return generation.generate_once(batch, folder, deadline.within(_SECONDS))
    return {}
