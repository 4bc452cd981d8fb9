"""A server on loopback that speaks as much of the Hugging Face hub's protocol as finding a file takes."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REVISION = "0123456789abcdef" * 2 + "01234567"
TOKEN = "hf_secret"


@dataclass
class Hub:
    """A running hub: `files` by repository and path. `storage` is where large files are, on another server."""

    url: str = ""
    files: dict[tuple[str, str], bytes] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    storage: str = ""
    is_hub: bool = True
    failures: int = 0
    seen: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, authorization


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def _refuse(self, status: int, code: str) -> None:
            self._send(status, X_Error_Code=code, X_Error_Message=code)

        def do_GET(self) -> None:
            given = self.headers.get("Authorization")
            hub.seen.append((self.command, self.path, given))
            if hub.failures:
                hub.failures -= 1
                return self._send(503)
            if not hub.is_hub:
                return self._send(200, b"<html>please log in</html>", ETag='"x"')
            repo, _, rest = self.path.lstrip("/").partition("/resolve/")
            revision, _, path = rest.partition("/")
            known = {name for name, _ in hub.files}
            if given not in (None, f"Bearer {TOKEN}"):
                return self._send(401, X_Error_Message="Invalid credentials in Authorization header")
            if repo not in known or (repo in hub.private and not given):
                return self._refuse(404 if given else 401, "RepoNotFound")
            if repo in hub.gated:
                return self._refuse(403, "GatedRepo")
            if revision != REVISION:
                return self._refuse(404, "RevisionNotFound")
            if (repo, path) not in hub.files:
                return self._refuse(404, "EntryNotFound")
            data = hub.files[repo, path]
            if hub.storage:
                tag, size = hashlib.sha256(data).hexdigest(), str(len(data))
                place = {"Location": f"{hub.storage}/{path}?signature=s3cr3t"}
                return self._send(302, X_Repo_Commit=REVISION, X_Linked_Size=size, X_Linked_ETag=f'"{tag}"', **place)
            return self._send(200, data, X_Repo_Commit=REVISION, ETag=f'"{hashlib.sha1(data).hexdigest()}"')

        do_HEAD = do_GET  # noqa: N815

    return Handler


@contextmanager
def serve(hub: Hub) -> Iterator[None]:
    """Serve it until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
