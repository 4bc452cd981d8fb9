"""Servers that never come to an end, whatever part of an answer they dwell on: an error, soon."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import urllib3

from pipeline.errors import PipelineError
from pipeline.files import sha256_file
from pipeline.store import s3
from pipeline.store.base import BrokenTransferError
from pipeline.store.pace import Patience, set_pace
from pipeline.store.s3file import S3File
from pipeline.store.web import WebFile, WebSource
from tests import servers

QUICK = Patience(connect=2, headers=0.6, silence=0.4, window=0.6, window_bytes=1000)
SOON = 20  # seconds, on a machine with other work; without a limit it is for ever
HEAD = b'HTTP/1.1 200 OK\r\nETag: "1"\r\n'
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
BODY = CHUNKED + b"3\r\nabc\r\n"


def dripping(before: bytes, forever: bytes) -> Iterator[bytes]:
    """`before`, then a little now and then."""
    yield before
    for byte in itertools.cycle(forever):
        time.sleep(0.05)
        yield bytes([byte])


def pouring(before: bytes, forever: bytes) -> Iterator[bytes]:
    """`before`, then as much as is taken."""
    yield before
    while True:
        yield forever * 1000


ENDLESS: dict[str, Callable[[], Iterator[bytes]]] = {
    "nothing": lambda: dripping(b"", b""),
    "status line": lambda: dripping(b"HTTP/1.1 200 ", b"O"),
    "headers, dripping": lambda: dripping(HEAD, b"X: y\r\n"),
    "headers, pouring": lambda: pouring(HEAD, b"X: y\r\n"),
    "interim answers, dripping": lambda: dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "interim answers, pouring": lambda: pouring(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "length of a chunk": lambda: dripping(CHUNKED, b"0"),
    "extension of a chunk": lambda: dripping(CHUNKED + b"3;", b"x"),
    "trailers, dripping": lambda: dripping(BODY + b"0\r\n", b"X: y\r\n"),
    "trailers, pouring": lambda: pouring(BODY + b"0\r\n", b"X: " + bytes(80) + b"\r\n"),
    "chunks of a byte": lambda: dripping(BODY, b"1\r\nx\r\n"),
    "body": lambda: dripping(HEAD + b"Content-Length: 1000000\r\n\r\n", b"x"),
}


@contextmanager
def server(answer: Callable[[], Iterator[bytes]]) -> Iterator[str]:
    """A server that gives every request this answer."""
    ended = threading.Event()

    def talk(client: socket.socket) -> None:
        with client, suppress(OSError):
            client.recv(1 << 16)
            for data in answer():
                client.sendall(data)
                if ended.is_set():
                    return
            ended.wait()

    def listen() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=talk, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=listen, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)


def read_file(file: WebFile | S3File) -> None:
    with file.rest(0, "") as rest:
        buffer = memoryview(bytearray(1 << 16))
        while rest.body.readinto(buffer):
            pass


@contextmanager
def soon() -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < SOON


@pytest.mark.parametrize("answer", ENDLESS.values(), ids=ENDLESS)
def test_a_web_server_without_end_is_a_broken_transfer(answer: Callable[[], Iterator[bytes]]) -> None:
    with server(answer) as url:
        with soon(), pytest.raises(BrokenTransferError):
            WebSource(url, QUICK).get("index.json")
        with soon(), pytest.raises(BrokenTransferError):
            read_file(WebFile(f"{url}/x", QUICK))


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("status line", "no whole answer in"),
        ("length of a chunk", "bytes in . s: too slow"),
        ("trailers, pouring", "without end"),
    ],
)
def test_what_takes_too_long_is_said(answer: str, told: str) -> None:
    with server(ENDLESS[answer]) as url, pytest.raises(BrokenTransferError, match=told):
        WebSource(url, QUICK).get("index.json")


@pytest.mark.parametrize("answer", ["headers, dripping", "interim answers, pouring", "trailers, pouring", "body"])
def test_a_bucket_without_end_is_a_broken_transfer(answer: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(s3, "Patience", lambda **_: QUICK)
    monkeypatch.setattr(s3, "_TRIES", 1)
    (file := tmp_path / "file").write_bytes(bytes(1 << 21))  # large enough for an interim answer
    with server(ENDLESS[answer]) as url:
        servers.use_aws(monkeypatch, url)
        store = s3.S3Store("b", "")
        calls = [lambda: store.get("k"), lambda: store.keys("k"), lambda: store.upload("k", file, sha256_file(file))]
        errors: list[Exception] = []

        def call(one: Callable[[], object]) -> None:
            try:
                one()
            except PipelineError as error:
                errors.append(error)

        threads = [threading.Thread(target=call, args=(one,)) for one in (*calls, lambda: read_file(S3File("b", "k")))]
        with soon():
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert len(errors) == len(threads)
    assert all(isinstance(error, BrokenTransferError) for error in errors)


def test_a_server_that_goes_away_after_an_interim_answer_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(s3, "_TRIES", 1)
    (file := tmp_path / "file").write_bytes(bytes(1 << 21))

    def left() -> Iterator[bytes]:
        yield b"HTTP/1.1 100 Continue\r\n"
        raise OSError

    with server(left) as url:
        servers.use_aws(monkeypatch, url)
        with soon(), pytest.raises(BrokenTransferError):
            s3.S3Store("b", "").upload("k", file, sha256_file(file))


def test_what_is_slow_and_right_is_waited_for() -> None:
    def slow() -> Iterator[bytes]:
        for byte in HEAD:
            yield bytes([byte])
        time.sleep(0.3)
        yield b"Content-Length: 30000\r\n\r\n"
        for _ in range(15):
            time.sleep(0.1)
            yield bytes(2000)

    with server(slow) as url:
        found = WebSource(url, QUICK).get("index.json")
        assert found
        assert found.data == bytes(30000)


def test_a_slow_link_takes_what_is_large() -> None:
    taken = []

    class Slow(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_PUT(self) -> None:
            left = int(self.headers["Content-Length"])
            while left:
                left -= len(self.rfile.read(min(left, 1 << 20)))
                time.sleep(0.1)
            taken.append(True)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    listening = HTTPServer(("127.0.0.1", 0), Slow, bind_and_activate=False)
    listening.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    listening.server_bind()
    listening.server_activate()
    thread = threading.Thread(target=listening.handle_request)
    thread.start()
    pools = {"http": urllib3.HTTPConnectionPool}
    set_pace(pools, QUICK)
    timeout = urllib3.Timeout(connect=0.5, read=0.5)
    pool = pools["http"]("127.0.0.1", listening.server_address[1], timeout=timeout, retries=False)
    assert pool.request("PUT", "/x", body=bytes(16 << 20)).status == 200
    thread.join()
    listening.server_close()
    assert taken
