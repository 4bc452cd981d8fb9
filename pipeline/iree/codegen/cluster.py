"""Batches on a Dask cluster. The only user of `distributed`, imported when there is something to generate.

Batches travel to the workers, code comes back through the shared cache, if there is one in a bucket, or else as the
result. Dask itself gives a dead worker's batches to others.
"""

from __future__ import annotations

import functools
import ipaddress
import logging
import math
import os
import queue
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pipeline import process, seal
from pipeline.cache import Cache, shared_at, warn_of_strangers
from pipeline.errors import PipelineError
from pipeline.iree.codegen import generation, pieces
from pipeline.iree.codegen.pieces import Batch
from pipeline.seal import Seal

_log = logging.getLogger(__name__)
_INSTALL = "pip install 'vmfb-pipeline[build,cluster]'"
_HINT = f"start one with `dask worker` where this version is installed ({_INSTALL}), or unset PIPELINE_SCHEDULER"
_connecting = threading.Lock()
T = TypeVar("T")


@dataclass(frozen=True)
class Unfit:
    """What a worker gives back would not count: it has another compiler, another version of this package, or another key."""

    worker: str
    lacks: str


@dataclass(frozen=True)
class Done:
    """What a worker made: the keys of what it put into the shared cache, and the rest itself, sealed."""

    stored: tuple[str, ...]
    made: Mapping[str, bytes]


def _require_seal() -> Seal:
    if ours := seal.from_environment("sent"):
        return ours
    what = f"PIPELINE_SCHEDULER is set, but {seal.VARIABLE} is not: what comes back could be anybody's code"
    raise PipelineError(what, hint=f"{seal.MAKE_KEY}, on the workers too")


Generate = Callable[[Batch, Path], dict[str, bytes]]


def work(batch: Batch, cache_url: str, key_name: str, generate: Generate) -> Done | Unfit:
    """`generate` the batch, on a worker that has the key of this name. A worker that was killed may have done it all but tell."""
    from distributed import get_worker

    here = get_worker().address
    if batch.generator != pieces.generator(batch.backend):
        return Unfit(here, "another compiler or version than this machine")
    try:
        ours = _require_seal()
    except PipelineError as error:
        return Unfit(here, f"no key that it can use ({error.what})" if os.environ.get(seal.VARIABLE) else f"no {seal.VARIABLE}")
    if ours.name != key_name:
        return Unfit(here, f"another {seal.VARIABLE} than this machine")
    shared = shared_at(cache_url, writable=True) if cache_url else None
    keys = list(batch.keys.values())
    if shared and len(shared.get_many(keys)) == len(keys):
        return Done(tuple(keys), {})
    with tempfile.TemporaryDirectory(prefix="pieces-") as folder:
        try:
            made = generate(batch, Path(folder))
        except PipelineError as error:  # its log is gone with the folder
            raise type(error)(error.what, where=f"worker {here} on {socket.gethostname()}") from None
    left = shared.put_many(made) if shared else made
    return Done(tuple(key for key in made if key not in left), {key: ours.sealed(key, data) for key, data in left.items()})


@functools.cache
def _connect(address: str) -> Any:
    try:
        from distributed import Client
    except ModuleNotFoundError as error:
        raise PipelineError(f"PIPELINE_SCHEDULER is set, but {error.name} is not installed", hint=_INSTALL) from error
    if is_open(address):
        _log.warning("%s is not encrypted, and runs what anybody sends it, as does this machine: use tls://", address)
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters of it is said here
    try:
        return Client(address, timeout=_patience(), set_as_default=False, name="vmfb-pipeline")
    except (OSError, ValueError) as error:
        hint = "start it with `dask scheduler`, or correct or unset PIPELINE_SCHEDULER"
        raise PipelineError(f"no Dask scheduler answers: {error}", where=address, hint=hint) from error


def is_open(address: str) -> bool:
    """Whether others than this machine's users may reach a scheduler, which unpickles, and so runs, what anybody sends it."""
    scheme, separator, rest = address.rpartition("://")
    host = urlsplit(f"//{rest}").hostname or ""
    try:
        inside = ipaddress.ip_address(host).is_loopback
    except ValueError:
        inside = host == "localhost"
    return not inside and (scheme if separator else "tcp") not in ("tls", "wss", "inproc")


def _patience() -> float:
    """How many seconds to wait for a scheduler, and for a worker as long as there is none."""
    text = os.environ.get("PIPELINE_SCHEDULER_TIMEOUT") or "60"
    try:
        return float(text)
    except ValueError:
        raise PipelineError(f"{text!r} is no number of seconds", where="PIPELINE_SCHEDULER_TIMEOUT") from None


def each(address: str, resource: str, call: Callable[..., T], *arguments: Any, seconds: float) -> list[tuple[str, T | str]]:
    """Let `call` be done by each worker that was started with `--resources "<resource>=1"`, side by side.

    The name of each, with what the call returned there, or why it did not in `seconds`. Raises PipelineError where no scheduler
    answers.
    """
    with _connecting:
        client = _connect(address)
    try:
        workers = client.scheduler_info(n_workers=-1)["workers"]
    except (OSError, CancelledError) as error:
        raise PipelineError(f"the Dask scheduler went away: {error}", where=address, hint=_HINT) from error
    able = {at: str(info["name"]) for at, info in workers.items() if info["resources"].get(resource)}
    options = {"allow_other_workers": False, "resources": {resource: 1}, "pure": False, "retries": 0}
    futures = {at: client.submit(call, *arguments, workers=[at], **options) for at in able}
    deadline = time.monotonic() + seconds
    try:
        return [
            (able[at], _ended(future, deadline, f"it did not answer within {seconds:.0f} s")) for at, future in futures.items()
        ]
    finally:
        client.cancel(list(futures.values()))


def _ended(future: Any, deadline: float, late: str) -> Any:
    """What a call returned, or in words why it did not: `late` where the deadline passed."""
    while not future.done() and time.monotonic() < deadline:
        process.pause(0.1)
    try:
        if future.status == "finished":
            return future.result(timeout=_patience())
        error = future.exception(timeout=_patience()) if future.status == "error" else None
    except (OSError, CancelledError):
        return late
    return f"it failed: {type(error).__name__}: {error}" if error else late


class Cluster:
    """The cluster whose scheduler is at `address`."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._seal = _require_seal()
        with _connecting:
            self._client = _connect(address)
        self._unfit: dict[str, str] = {}  # worker → what it lacks
        self._alone_since: float | None = None

    def _workers(self) -> dict[str, int]:
        """The threads of each worker that may work for us."""
        if self._client.status != "running":
            return {}
        try:
            # Of a scheduler that died a moment ago nobody knows yet: its answer would be waited for without end.
            found = self._client.nthreads(callback_timeout=_patience())
        except (OSError, CancelledError):  # a timeout is an OSError
            return {}
        return {worker: threads for worker, threads in found.items() if worker not in self._unfit}

    def _check(self) -> None:
        """Raise PipelineError if this run was interrupted, or if there has been no worker for too long."""
        if process.interrupted():
            raise PipelineError("interrupted")
        if self._workers():
            self._alone_since = None
            return
        self._alone_since = self._alone_since or time.monotonic()
        if time.monotonic() - self._alone_since > _patience():
            what = f"no worker for {_patience():.0f} s"
            if self._client.status != "running":
                what = "the Dask scheduler went away"
            elif self._unfit:
                refused = ", ".join(sorted(self._unfit))
                what = f"no worker has this compiler, this version and this {seal.VARIABLE}: refused were {refused}"
            raise PipelineError(what, where=self.address, hint=_HINT)

    def cores(self) -> int:
        """How many batches can run at a time. Raises PipelineError if there is no worker, nor comes one."""
        while True:
            self._check()
            if threads := self.threads:
                return threads
            time.sleep(0.2)

    @property
    def threads(self) -> int:
        """How many batches could run at a time just now."""
        return sum(self._workers().values())

    def _submit(self, batch: Batch, cache_url: str, generate: Generate) -> Any:
        fit = list(self._workers()) if self._unfit else None
        key = f"pieces-{batch.target}-{uuid.uuid4().hex}"  # no name would make Dask look at every byte
        return self._client.submit(
            work, batch, cache_url, self._seal.name, generate, key=key, workers=fit, allow_other_workers=False
        )

    def _refuse(self, unfit: Unfit) -> None:
        if unfit.worker not in self._unfit:
            self._unfit[unfit.worker] = unfit.lacks
            _log.warning("the worker %s has %s: it is left out", unfit.worker, unfit.lacks)

    def run(
        self, batches: Sequence[Batch], cache: Cache | None, generate: Generate = generation.generate, seconds: float = math.inf
    ) -> Iterator[tuple[Batch, Any]]:
        """What each batch made, as it ends: the batch, and a call that returns key → code or raises PipelineError.

        Without a `cache` nothing is kept. What has not ended in so many `seconds` is given up.
        """
        end = time.monotonic() + seconds
        url = cache.shared.store.url if cache and cache.shared else ""
        url = url if url.startswith("s3://") else ""  # a folder here is none over there
        ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        waiting: dict[Any, Batch] = {}

        def submit(batch: Batch) -> None:
            future = self._submit(batch, url, generate)
            waiting[future] = batch
            future.add_done_callback(ended.put)

        for batch in batches:
            submit(batch)
        try:
            while waiting and time.monotonic() < end:
                self._check()
                try:
                    future = ended.get(timeout=1)
                except queue.Empty:
                    continue
                batch = waiting.pop(future)
                result = None if future.status == "error" else self._result(future)
                if isinstance(result, Unfit):
                    self._refuse(result)
                    self.cores()
                    submit(batch)
                else:
                    yield batch, functools.partial(self._code, future, result, batch, cache)
        finally:
            self._client.cancel(list(waiting))

    def _result(self, future: Any) -> Any:
        try:
            return future.result(timeout=_patience())
        except (OSError, CancelledError) as error:
            raise PipelineError(f"the Dask scheduler went away: {error}", where=self.address, hint=_HINT) from error

    def _code(self, future: Any, done: Done | None, batch: Batch, cache: Cache | None) -> dict[str, bytes]:
        if done is None:
            error = future.exception()
            if isinstance(error, PipelineError):
                raise error
            raise PipelineError(f"a worker failed: {type(error).__name__}: {error}", where=self.address, hint=_HINT)
        asked = batch.keys.values()
        opened = {key: self._seal.opened(key, entry) for key, entry in done.made.items() if key in asked}
        made = {key: data for key, data in opened.items() if data is not None}
        warn_of_strangers(f"a worker of {self.address}", len(opened) - len(made), len(opened))
        if cache is None:
            return made
        cache.put(made)
        stored = [key for key in done.stored if key in asked]
        found = cache.shared.get_many(stored) if cache.shared and stored else {}
        for key, data in found.items():
            cache.local.put(key, data)
        return {**made, **found}
