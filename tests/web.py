"""A web server on loopback that serves a folder, well or badly."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


@dataclass
class Manners:
    """How the server behaves towards requests whose path contains `only`; every field is a way to be bad at it."""

    only: str = "blobs/"
    ranges: bool = True
    break_after: int = 0  # bytes, after which the connection ends
    breaks: int = 10**9  # how many times
    broke: Callable[[], object] = bool  # called before each break
    tags: bool = False  # whether it tells states of a file apart: ETag, If-Range, If-Match
    stall_after: int = -1  # bytes, after which nothing more comes until the server ends
    drip: float = 0.0  # seconds between bytes
    rate: float = 0.0  # bytes a second
    extra: int = 0  # what Content-Length promises too much
    shift: int = 0  # by how much the body is another range than asked for
    wrong_range: str = ""  # a Content-Range that lies
    flip: int = 0  # how many times a byte of the body is wrong
    endless: bool = False
    status: int = 0
    reason: str | None = None  # beside the status
    statuses: int = 10**9  # how many times
    redirect: str = ""  # to this; `{path}` is the path asked for
    encoding: str = ""


@dataclass
class Web:
    """A running server. `seen` are the requests: path and Range."""

    url: str
    manners: Manners = field(default_factory=Manners)
    seen: list[tuple[str, str]] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    sent: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    ended: threading.Event = field(default_factory=threading.Event)


def _handler(web: Web, root: Path) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            with web.lock:
                web.seen.append((self.path, self.headers.get("Range", "")))
                web.authorizations.append(self.headers.get("Authorization"))
            manners = web.manners if web.manners.only in self.path else Manners()
            try:
                self._answer(manners)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def _once(self, name: str) -> bool:
            with web.lock:
                left = getattr(web.manners, name)
                setattr(web.manners, name, left - 1)
                return bool(left > 0)

        def _plain(self, status: int, **headers: str) -> None:
            self.send_response(status, web.manners.reason)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _answer(self, manners: Manners) -> None:
            path = root / unquote(self.path.split("?")[0].lstrip("/"))
            if manners.redirect:
                return self._plain(302, Location=manners.redirect.format(path=self.path))
            if manners.status and self._once("statuses"):
                return self._plain(manners.status)
            if not path.is_file():
                return self._plain(404)
            data, start = path.read_bytes(), 0
            asked, tag = self.headers.get("Range", ""), f'"{hashlib.sha256(data).hexdigest()}"'
            if manners.tags and self.headers.get("If-Match", tag).strip('"') != tag.strip('"'):
                return self._plain(412)
            if manners.tags and self.headers.get("If-Range", tag) != tag:
                asked = ""
            if asked and manners.ranges:
                first, last = (int(n or len(data)) for n in asked.removeprefix("bytes=").split("-"))
                if first >= len(data):
                    return self._plain(416)
                start = first + manners.shift
                body = data[start : last + 1 + manners.shift]
                self.send_response(206)
                says = manners.wrong_range or f"bytes {first}-{min(last, len(data) - 1)}/{len(data)}"
                self.send_header("Content-Range", says)
            else:
                body = data
                self.send_response(200)
            if manners.tags:
                self.send_header("ETag", tag)
            if manners.flip and self._once("flip"):
                body = body[: len(body) // 2] + bytes([body[len(body) // 2] ^ 1]) + body[len(body) // 2 + 1 :]
            if manners.encoding:
                self.send_header("Content-Encoding", manners.encoding)
            if manners.endless:
                self.send_header("Connection", "close")
            else:
                self.send_header("Content-Length", str(len(body) + manners.extra))
            self.end_headers()
            self._send(body, manners)
            return None

        def _send(self, body: bytes, manners: Manners) -> None:
            if manners.break_after and len(body) > manners.break_after and self._once("breaks"):
                self._write(body[: manners.break_after])
                manners.broke()
                self.close_connection = True
                return
            if manners.stall_after >= 0:
                self._write(body[: manners.stall_after])
                web.ended.wait()
            elif manners.drip:
                for byte in body:
                    self._write(bytes([byte]))
                    time.sleep(manners.drip)
            elif manners.rate:
                for i in range(0, len(body), 16384):
                    self._write(body[i : i + 16384])
                    time.sleep(16384 / manners.rate)
            else:
                self._write(body)
            if manners.extra:
                self.close_connection = True
            while manners.endless:
                self._write(bytes(1 << 16))

        def _write(self, data: bytes) -> None:
            self.wfile.write(data)
            self.wfile.flush()
            with web.lock:
                web.sent += len(data)

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        pass  # the client went away


@contextmanager
def serve(root: Path, manners: Manners | None = None) -> Iterator[Web]:
    """Serve the folder `root` until the block ends."""
    web = Web("", manners or Manners())
    server = _Server(("127.0.0.1", 0), _handler(web, root))
    web.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        web.ended.set()
        server.shutdown()
        server.server_close()
