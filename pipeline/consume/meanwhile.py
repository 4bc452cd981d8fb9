"""Finding something out while bytes come that are needed whatever it is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from pipeline import process
from pipeline.consume.fetch import Progress

T = TypeVar("T")
_AT_ONCE = 0.1  # seconds that are waited for what is remembered, so that a refusal comes before any byte


class Meanwhile(Generic[T]):
    """What a thread finds out. Use `meanwhile`."""

    def __init__(self, find: Callable[[], T]) -> None:
        self._find = find
        self._found: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._thread.join(_AT_ONCE)
        self.check()

    def _run(self) -> None:
        try:
            self._found.append(self._find())
        except BaseException as error:  # raised again by the thread that waits
            self._error = error

    def check(self) -> None:
        """Raise what the thread has raised, if it has."""
        if self._error:
            raise self._error

    def result(self) -> T:
        """What was found, waited for. Raises what the thread raised."""
        while self._thread.is_alive():
            self._thread.join(0.1)  # with no end, a signal would wait on some systems
        self.check()
        return self._found[0]


@contextmanager
def meanwhile(find: Callable[[], T]) -> Iterator[Meanwhile[T]]:
    """`find` by another thread while the block lasts. Where that ends by an error, the child processes end too."""
    try:
        yield Meanwhile(find)
    except BaseException:
        process.end_all()
        raise


class Watched:
    """A transfer's progress that ends the transfer where what is found out meanwhile is an error."""

    def __init__(self, progress: Progress, found: Meanwhile[T]) -> None:
        self._progress, self._found = progress, found

    def begin(self, name: str, total: int) -> None:
        """`total` bytes of the file `name` are about to come."""
        self._progress.begin(name, total)

    def advance(self, count: int) -> None:
        """`count` more bytes came. Raises what the other thread has raised."""
        self._found.check()
        self._progress.advance(count)

    def end(self) -> None:
        """Nothing more comes."""
        self._progress.end()

    def waiting(self, name: str) -> None:
        """Another process is fetching the same file."""
        self._progress.waiting(name)
