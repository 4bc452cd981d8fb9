"""What a store is: objects by key. Consumers read them, whole or in ranges; releases need two conditional writes as well."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from pipeline import exits
from pipeline.errors import PipelineError

# Of a document that is read whole (a manifest, a channel): far above any real one, far below what hurts.
DOCUMENT_LIMIT = 64 << 20


class BrokenTransferError(PipelineError):
    """A transfer that broke, stalled, or was refused for now: the same request may succeed later."""

    exit_code = exits.AWAY


@dataclass(frozen=True)
class Object:
    """An object read from a store; `tag` names this state of it for `replace`."""

    data: bytes
    tag: str


class Body(Protocol):
    """The bytes of an object: those asked for, or where a server has no ranges (not `ranged`) all of them."""

    @property
    def ranged(self) -> bool:
        """Whether it begins where it was asked to, and not at 0."""

    def readinto(self, buffer: memoryview) -> int:
        """Fill the front of `buffer` with what has arrived; returns how many bytes, 0 at the end.

        Raises BrokenTransferError when the connection breaks, and when the server is too slow.
        """


class Source(Protocol):
    """Objects by key, to read. Every method raises PipelineError for a store that is missing, refuses, or goes away."""

    url: str

    def get(self, key: str) -> Object | None:
        """The object at `key`, at most DOCUMENT_LIMIT bytes, or None where there is none."""

    def open(self, key: str, offset: int, length: int) -> AbstractContextManager[Body]:
        """`length` bytes of the object at `key` from `offset` on, to be read while the block lasts."""

    def listed(self, prefix: str) -> list[str] | None:
        """The keys that begin with `prefix`, in alphabetical order; None where the store cannot be listed, or not by this
        user."""


@runtime_checkable
class Vouched(Protocol):
    """A source that knows whose word counts."""

    def doubt(self, key: str, data: bytes) -> str:
        """Why the document of evidence at `key` does not count, though it is whole; empty where it does."""


@dataclass(frozen=True)
class Rest:
    """What a server sends of a file: its bytes from `offset` to the end.

    `size` is that of the whole file, None where the server does not say. `tag` names the file's state, and may be empty.
    """

    offset: int
    size: int | None
    tag: str
    body: Body


class File(Protocol):
    """A file of a server, to be read from its beginning, or from where a connection broke. `url` has nothing secret in it."""

    url: str

    def rest(self, offset: int, tag: str) -> AbstractContextManager[Rest]:
        """The file from `offset` on, to be read while the block lasts.

        From 0 where the server has no ranges, the file is not so long, or not in the state `tag` any more (empty: any state).
        Raises BrokenTransferError where another try may help, and PipelineError where none will.
        """


class Store(Source, Protocol):
    """Objects by key, to read and to write."""

    @property
    def identity(self) -> Mapping[str, str]:
        """What decides, beside the URL, which store that is: whose change makes it another. Nothing secret."""

    def keys(self, prefix: str) -> list[str]:
        """The keys that begin with `prefix`, in alphabetical order."""

    def holds(self, key: str, size: int, sha256: str) -> bool:
        """Whether `upload` put an object of this size (bytes) and digest at `key`, and nobody put other bytes there since."""

    def upload(self, key: str, path: Path, sha256: str) -> None:
        """Put the file at `path`, whole or not at all, reading it once; what was there is replaced.

        Raises PipelineError, with nothing changed, if its digest is not `sha256`.
        """

    def create(self, key: str, data: bytes) -> bool:
        """Put `data` only if there is nothing at `key`; False, and nothing changed, if there is."""

    def replace(self, key: str, data: bytes, tag: str | None) -> bool:
        """Put `data` only if the object is still in the state `tag` (None: does not exist); False if it is not."""


@dataclass(frozen=True)
class Stored:
    """An object as it is listed: its size in bytes, and when it was written, in seconds since 1970 by the store's clock."""

    key: str
    size: int
    written: float


@dataclass(frozen=True)
class Unfinished:
    """An upload that was begun and not completed: `part` names it, `begun` is a time as `Stored.written` is."""

    key: str
    part: str
    begun: float


class Keeper(Store, Protocol):
    """A store, for those who look after it: they alone remove anything."""

    def entries(self, prefix: str) -> Iterator[Stored]:
        """Every object below `prefix`, which is empty or ends in `/`, in no order, as it is read page by page."""

    def remove(self, key: str) -> None:
        """Remove the object at `key`, or nothing where there is none."""

    def unfinished(self) -> Iterator[Unfinished]:
        """The uploads that were begun and not completed."""

    def abort(self, upload: Unfinished) -> None:
        """Give up such an upload, and the room that it takes."""


_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")


def is_ranged(content_range: str, offset: int, length: int, where: str) -> bool:
    """Whether a body is the range asked for, by its Content-Range. Raises PipelineError if it is another one."""
    if not content_range:
        return False
    match = _RANGE.fullmatch(content_range)
    if not match or (int(match[1]), int(match[2])) != (offset, offset + length - 1):
        asked, hint = f"{offset}-{offset + length - 1}", "the object is not what its manifest says, or a proxy damages ranges"
        raise _other_range(asked, content_range, where, hint)
    return True


def size_by_range(content_range: str, offset: int, where: str) -> int | None:
    """The size of a file by the Content-Range of its rest from `offset` on; None where it is not told.

    Raises PipelineError if it is another range.
    """
    match = _RANGE.fullmatch(content_range)
    if not match or int(match[1]) != offset:
        raise _other_range(f"{offset}-", content_range, where, "a proxy damages ranges: ask for the file in another way")
    return None if match[3] == "*" else int(match[3])


def _other_range(asked: str, content_range: str, where: str, hint: str) -> PipelineError:
    return PipelineError(f"the server was asked for bytes {asked} and answers with {content_range!r}", where=where, hint=hint)


def wrong_digest(path: Path, found: str) -> PipelineError:
    """The error for a file that is not what its manifest says."""
    return PipelineError(
        f"has the SHA-256 {found}, not the one its manifest names", where=str(path), hint="remove out/ and run doit"
    )


def no_such_object(url: str, key: str) -> PipelineError:
    """The error for a blob that a manifest names and the store has not."""
    return PipelineError("is not in the store", where=f"{url}/{key}", hint="the release is damaged: publish it again")


def too_large(url: str, key: str) -> PipelineError:
    """The error for a document above DOCUMENT_LIMIT."""
    return PipelineError(f"is larger than {DOCUMENT_LIMIT >> 20} MiB, which no document of ours is", where=f"{url}/{key}")
