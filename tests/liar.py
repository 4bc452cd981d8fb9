"""An S3 server in memory that can be told to lie: what proxies, gateways and broken connections do, when a test wants it."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

METADATA = "x-amz-meta-"
# What it does to a request: answers 200 of its own and does nothing; sends half of the answer; half, in a broken chunk; an error
# whose text is half there; does it and answers without the ETag; gets other bytes than were sent.
# It does it twice, as something between that repeats requests; does it, and the answer is lost.
MADE_UP, HALF, CHUNK, REFUSAL, NO_ETAG, DAMAGE = "made up", "half", "chunk", "refusal", "no ETag", "damage"
TWICE, LOST = "twice", "lost"


@dataclass
class Liar:
    """What is in the server, and how it lies. `fault` says what happens to a request, by its number, method and key."""

    endpoint: str = ""
    objects: dict[str, tuple[bytes, dict[str, str]]] = field(default_factory=dict)  # by bucket and key
    ignores: tuple[str, ...] = ()  # headers that it does not know
    fault: Callable[[int, str, str], str] = lambda number, method, key: ""
    requests: list[tuple[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    liar: Liar

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _send(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None, fault: str = "") -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if fault in (CHUNK, REFUSAL):
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", (headers or {}).get("Length", str(len(body))))
        self.end_headers()
        if fault in (CHUNK, REFUSAL):
            self.wfile.write(b"ff\r\n" + body[: len(body) // 2])
        elif self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if fault == HALF else body)
        if fault:
            self.close_connection = True

    def _refuse(self, status: int, code: str, fault: str = "") -> None:
        self._send(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode(), fault=fault)

    def _etag(self, key: str) -> str | None:
        found = self.liar.objects.get(key)
        return f'"{hashlib.md5(found[0], usedforsecurity=False).hexdigest()}"' if found else None

    def _told(self, key: str) -> dict[str, str]:
        return {"ETag": self._etag(key) or "", **self.liar.objects[key][1]}

    def _begin(self) -> tuple[str, str, bytes]:
        """The key, what is to happen to this request, and its body."""
        key = unquote(urlsplit(self.path).path).strip("/")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.liar.lock:
            self.liar.requests.append((self.command, key))
            return key, self.liar.fault(len(self.liar.requests), self.command, key), body

    def _is_damaged(self, body: bytes) -> bool:
        digest = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        return self.headers.get("Content-MD5", digest) != digest

    def do_PUT(self) -> None:
        key, fault, body = self._begin()
        if fault == MADE_UP:
            return self._send(200)
        if fault == DAMAGE:
            body = body[:-1] + b"?"
        status, told = self._put(key, body)
        if fault == TWICE:
            status, told = self._put(key, body)
        if fault == LOST:
            self.close_connection = True
            return None
        if status != 200:
            return self._refuse(status, told)
        return self._send(200, headers={} if fault == NO_ETAG else {"ETag": told})

    def _put(self, key: str, body: bytes) -> tuple[int, str]:
        """What a write comes to: 200 and the ETag, or another status and the name of what is wrong."""
        with self.liar.lock:
            if self._is_damaged(body):
                return 400, "BadDigest"
            asked = {n: v for n in ("If-None-Match", "If-Match") if n not in self.liar.ignores and (v := self.headers.get(n))}
            present = self._etag(key)
            if ("If-None-Match" in asked and present) or (
                "If-Match" in asked and (present or "").strip('"') != asked["If-Match"]
            ):
                return 412, "PreconditionFailed"
            kept = {n.lower(): v for n, v in self.headers.items() if n.lower().startswith(METADATA)}
            self.liar.objects[key] = (body, kept)
            return 200, self._etag(key) or ""

    def do_HEAD(self) -> None:
        key, fault, _ = self._begin()
        if fault == MADE_UP:
            return self._send(200)
        if key not in self.liar.objects:
            return self._send(404)
        return self._send(200, headers={**self._told(key), "Length": str(len(self.liar.objects[key][0]))})

    def do_GET(self) -> None:
        key, fault, _ = self._begin()
        if fault == REFUSAL:
            return self._refuse(403, "AccessDenied", fault)
        if fault == LOST:
            self.close_connection = True
            return None
        if "list-type" in self.path:
            return self._send(200, self._list(key), fault=fault)
        if key not in self.liar.objects:
            return self._refuse(404, "NoSuchKey")
        return self._send(200, self.liar.objects[key][0], self._told(key), fault)

    def _list(self, bucket: str) -> bytes:
        prefix = f"{bucket}/{parse_qs(urlsplit(self.path).query).get('prefix', [''])[0]}"
        keys = sorted(key.removeprefix(f"{bucket}/") for key in self.liar.objects if key.startswith(prefix))
        items = "".join(f"<Contents><Key>{escape(key)}</Key></Contents>" for key in keys)
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{items}</ListBucketResult>".encode()


@contextmanager
def liar() -> Iterator[Liar]:
    """The server, until the block ends."""
    told = Liar()
    handler = type("Handler", (_Handler,), {"liar": told})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        told.endpoint = f"http://127.0.0.1:{running.server_address[1]}"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield told
        finally:
            running.shutdown()
            thread.join()
