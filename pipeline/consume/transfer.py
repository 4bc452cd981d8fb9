"""Moving stretches of an object from a store: in parallel ranges, verified while they arrive, resumed when a range breaks."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from pipeline.consume.cache import Stretch
from pipeline.errors import PipelineError
from pipeline.manifest.types import SEGMENT_LIMIT
from pipeline.store.base import Body, BrokenTransferError, Source

CONNECTIONS = 8
_GAP = 32 << 10  # bytes that cost less than another request
_RANGE = 64 << 20  # bytes above which a range is worth a connection of its own
_CHUNK = 1 << 20
_ATTEMPTS = 6  # in a row that bring less than _PROGRESS
_PROGRESS = 16 << 10  # bytes
_BACKOFF = 0.2  # seconds, doubled each time


class _StoppedError(Exception):
    """Another connection failed, or the user interrupts."""


def ranges(wanted: Sequence[Stretch]) -> list[list[Stretch]]:
    """`wanted`, ascending, as ranges to request: neighbours together, up to what is worth another connection."""
    found: list[list[Stretch]] = []
    for stretch in wanted:
        last = found[-1] if found else None
        if last and stretch.offset - last[-1].end <= _GAP and stretch.end - last[0].offset <= _RANGE:
            last.append(stretch)
        else:
            found.append([stretch])
    return found


@dataclass
class _Partial:
    """A stretch as far as it has arrived; it goes on where a connection broke."""

    stretch: Stretch
    data: bytearray
    got: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)
    tries: int = 1

    def read(self, body: Body, tell: Callable[[int], None]) -> None:
        view = self.bytes()
        while self.got < self.stretch.length:
            count = body.readinto(view[self.got : self.got + _CHUNK])
            if not count:
                raise BrokenTransferError(f"it ends at byte {self.stretch.offset + self.got}")
            self.digest.update(view[self.got : self.got + count])
            self.got += count
            tell(count)

    def bytes(self) -> memoryview:
        return memoryview(self.data)[: self.stretch.length]

    def is_right(self) -> bool:
        return self.digest.hexdigest() == self.stretch.sha256

    def restart(self) -> None:
        self.got, self.digest, self.tries = 0, hashlib.sha256(), self.tries + 1


class _Range:
    """Stretches to fetch by one request, in order, and how far that has come."""

    def __init__(self, todo: Iterable[Stretch], buffer: bytearray) -> None:
        self.todo, self._buffer = deque(todo), buffer
        self.arrived = 0
        self._partial: _Partial | None = None

    def current(self) -> _Partial:
        """The first stretch that is still to do, as far as it has arrived."""
        stretch = self.todo[0]
        if self._partial is None or self._partial.stretch != stretch:
            fits = stretch.length <= len(self._buffer)
            self._partial = _Partial(stretch, self._buffer if fits else bytearray(stretch.length))
        return self._partial


class _Transfer:
    def __init__(self, source: Source, key: str, put: Callable[[Stretch, memoryview], None], tell: Callable[[int], None]) -> None:
        self._source, self._key, self._put, self._tell_user = source, key, put, tell
        self._where = f"{source.url}/{key}"
        self._queue: deque[list[Stretch]] = deque()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._known = threading.Event()  # whether the server has ranges
        self._error: BaseException | None = None

    def run(self, wanted: Sequence[Stretch]) -> None:
        self._queue.extend(ranges(wanted))
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(min(CONNECTIONS, len(self._queue)))]
        try:
            for thread in threads:
                thread.start()
                while thread.is_alive() and not self._known.wait(0.05):
                    pass  # one connection only, until it is known that the server has ranges
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.1)
        finally:
            self._stop.set()
        if self._error:
            raise self._error

    def _work(self) -> None:
        buffer = bytearray(SEGMENT_LIMIT)
        try:
            while not self._stop.is_set():
                with self._lock:
                    if not self._queue:
                        return
                    stretches = self._queue.popleft()
                self._fetch(_Range(stretches, buffer))
        except _StoppedError:
            pass
        except BaseException as error:  # raised again by the thread that waits
            with self._lock:
                self._error = self._error or error
            self._stop.set()

    def _tell(self, count: int) -> None:
        if self._stop.is_set():
            raise _StoppedError
        self._tell_user(count)

    def _fetch(self, range_: _Range) -> None:
        """Fetch the stretches of one range; of all ranges, if it turns out that the server has none."""
        failures = 0
        while range_.todo:
            before = range_.arrived
            try:
                self._read(range_)
            except BrokenTransferError as error:
                failures = failures + 1 if range_.arrived - before < _PROGRESS else 1
                if failures >= _ATTEMPTS:
                    hint = error.hint or "run the same command again: what is there is not fetched twice"
                    raise PipelineError(
                        f"{error.what}, {_ATTEMPTS} times", where=error.where or self._where, hint=hint
                    ) from error
                if self._stop.wait(_BACKOFF * 2 ** (failures - 1)):
                    raise _StoppedError from None

    def _read(self, range_: _Range) -> None:
        """One connection: from where the range is to its end, or to a stretch that is not what it should be."""
        first = range_.current()
        position = first.stretch.offset + first.got
        with self._source.open(self._key, position, range_.todo[-1].end - position) as body:
            if not body.ranged:
                self._take_all(range_.todo)
                position = 0
            self._known.set()
            while range_.todo:
                partial = range_.current()
                self._skip(body, partial.stretch.offset + partial.got - position)
                before = partial.got
                try:
                    partial.read(body, self._tell)
                finally:
                    range_.arrived += partial.got - before
                position = partial.stretch.end
                if not partial.is_right():
                    self._tell(-partial.stretch.length)
                    self._again(partial)
                    break
                self._put(partial.stretch, partial.bytes())
                range_.todo.popleft()

    def _again(self, partial: _Partial) -> None:
        """Begin a stretch again whose digest is wrong: once, since it may have been the connection."""
        stretch = partial.stretch
        if partial.tries > 1:
            raise PipelineError(
                f"bytes {stretch.offset}-{stretch.end - 1} have the SHA-256 {partial.digest.hexdigest()}, the manifest says "
                f"{stretch.sha256}",
                where=self._where,
                hint="the object is damaged, or a proxy changes it; nothing of it was kept",
            )
        partial.restart()

    def _take_all(self, todo: deque[Stretch]) -> None:
        with self._lock:
            while self._queue:
                todo.extend(self._queue.popleft())

    def _skip(self, body: Body, count: int) -> None:
        scratch = memoryview(bytearray(min(count, _CHUNK)))
        while count:
            got = body.readinto(scratch[: min(count, _CHUNK)])
            if not got:
                raise BrokenTransferError("it ends too early")
            count -= got
            self._tell(0)


def transfer(
    source: Source,
    key: str,
    wanted: Sequence[Stretch],
    put: Callable[[Stretch, memoryview], None],
    tell: Callable[[int], None] = lambda _: None,
) -> None:
    """Fetch the stretches `wanted`, ascending, of the object at `key`; `put` is called by any thread with each that is right.

    `tell` is told of bytes as they arrive (negative when they have to be fetched again). Raises PipelineError when the store
    fails, a digest differs twice, or nothing arrives for several attempts.
    """
    _Transfer(source, key, put, tell).run(wanted)
