"""How long a server may take for an answer, whatever part of it it dwells on: status line, headers, interim answers, the lengths
of chunks, trailers. urllib3's own limits begin anew with every byte that arrives."""

from __future__ import annotations

import http.client
import io
import socket
import time
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, ClassVar

_HEAD = 1 << 20  # bytes that status lines and headers may have, interim ones too
_DOCUMENT = 16 << 20  # bytes of an answer that botocore reads at once: lists and refusals
_SENT = 256 << 10  # bytes that a server must take in its time
_MARGIN = 1 << 20  # bytes that may come with a piece of a body: lengths of chunks, trailers


@dataclass(frozen=True)
class Patience:
    """How long a server may take, in seconds: to connect, for status and headers, to send anything, and the least bytes in any
    `window`."""

    connect: float = 10.0
    headers: float = 60.0
    silence: float = 30.0
    window: float = 30.0
    window_bytes: int = 30_000


class TooSlowError(OSError):
    """A server that takes longer than it may, or sends without end what is no answer."""


class Pace(io.RawIOBase):
    """What a connection brings, as a file, while its pace is right. Only time that is spent waiting counts."""

    def __init__(self, connection: socket.socket, patience: Patience) -> None:
        self._connection, self._patience = connection, patience
        self._file = connection.makefile("rb", buffering=0)  # keeps the connection open
        self._head, self._left = True, _HEAD
        self._waited, self._bytes = 0.0, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def begin_body(self) -> None:
        """Status and headers are here."""
        self._head, self._left, self._waited, self._bytes = False, _DOCUMENT, 0.0, 0

    def expect(self, count: int) -> None:
        """At most `count` bytes of a body are wanted next."""
        self._left = count + _MARGIN

    def readinto(self, buffer: Any) -> int:
        """As of any raw file. Raises TooSlowError."""
        if self._left <= 0:
            raise TooSlowError("the answer has headers or trailers without end")
        most = self._patience.headers if self._head else self._patience.window
        while True:
            begun = time.monotonic()
            self._connection.settimeout(max(min(self._patience.silence, most - self._waited), 0.001))
            try:
                count = self._connection.recv_into(buffer)
            except TimeoutError:
                self._waited += time.monotonic() - begun
                if not self._is_right():
                    raise self._too_slow() from None
                continue
            finally:
                self._connection.settimeout(self._patience.silence)  # for the next request
            self._waited += time.monotonic() - begun
            self._left -= count
            self._bytes += count
            if count and self._waited >= most and not self._is_right():
                raise self._too_slow()
            return count

    def _is_right(self) -> bool:
        """Whether enough came in the window that ends, after which the next begins."""
        if self._head or self._waited < self._patience.window or self._bytes < self._patience.window_bytes:
            return False
        self._waited, self._bytes = 0.0, 0
        return True

    def _too_slow(self) -> TooSlowError:
        if self._head:
            return TooSlowError(f"no whole answer in {self._waited:.0f} s")
        return TooSlowError(f"{self._bytes} bytes in {self._waited:.0f} s: too slow")

    def close(self) -> None:
        """Let go of the connection."""
        self._file.close()
        super().close()


class _File(io.BufferedReader):
    """As much as there is, and not as much as is asked for: whoever waits for the rest of a MiB cannot hash what is there."""

    def readinto(self, buffer: Any) -> int:
        return self.readinto1(buffer)


class _Answer(http.client.HTTPResponse):
    """An answer that is read at its `pace`."""

    patience: ClassVar[Patience]

    def __init__(self, connection: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(connection, *arguments, **options)
        self.fp.close()
        self.pace = Pace(connection, self.patience)
        self.fp = _File(self.pace)

    def begin(self) -> None:
        super().begin()
        self.pace.begin_body()


def read_into(answer: Any, buffer: memoryview) -> int:
    """Fill the front of `buffer` with what has arrived of the body of an answer of urllib3's: the count, 0 at the end.

    Without a copy in between, which costs as much as the network where that is fast. Raises OSError and urllib3's HTTPError.
    """
    found = getattr(answer, "_original_response", None)
    if isinstance(found, _Answer):
        found.pace.expect(len(buffer))
    if not isinstance(found, _Answer) or found.chunked:
        data = answer.read1(len(buffer), decode_content=False)
        buffer[: len(data)] = data
        return len(data)
    left = found.length
    count = found.readinto(buffer)
    if not count and left:
        raise ConnectionResetError(f"{left} bytes more were expected")
    if found.isclosed():
        answer.release_conn()  # to be used again
    return count


def set_pace(pools: MutableMapping[str, Any], patience: Patience) -> None:
    """Let the connections of urllib3's `pools`, classes by scheme, keep to the pace."""
    for scheme, pool in list(pools.items()):
        pools[scheme] = type("PacedPool", (pool,), {"ConnectionCls": _paced(pool.ConnectionCls, patience)})


def _paced(base: Any, wait: Patience) -> Any:
    class Answer(_Answer):
        patience = wait

    class Connection(base):  # type: ignore[misc]
        response_class = Answer

        def request(
            self, method: str, url: str, body: Any = None, headers: Mapping[str, str] | None = None, *args: Any, **more: Any
        ) -> Any:
            # botocore waits for the answer to this as long as bytes come, and without end where the connection ends.
            kept = {name: value for name, value in (headers or {}).items() if name.lower() != "expect"}
            return super().request(method, url, body, kept, *args, **more)

        def send(self, data: Any) -> None:
            # All of what is given to a socket must be sent within its time limit: 16 MiB, over any link.
            if self.sock is None or not isinstance(data, bytes):
                super().send(data)
                return
            for start in range(0, len(data), _SENT):
                self.sock.settimeout(wait.silence)
                super().send(data[start : start + _SENT])

    return Connection


def reason(error: BaseException) -> str:
    """Why an exchange failed, in words: what is too slow says so, however urllib3 and botocore wrap it."""
    found = next((str(e) for e in _causes(error) if isinstance(e, TooSlowError)), "")
    return found or str(error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen, todo = set(), [error]
    while todo:
        one = todo.pop()
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            todo += [e for e in (*one.args, one.__cause__, one.__context__) if isinstance(e, BaseException)]
