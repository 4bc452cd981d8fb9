"""A server on loopback that speaks as much of the Hugging Face hub's protocol as finding a file, listing and committing take.

What it says is what the hub's own library reads; that a commit on top of another parent than the last is 412 is in its tests.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from tests import servers

REVISION = "0123456789abcdef" * 2 + "01234567"
TOKEN = "hf_secret"
Tree = dict[str, bytes]


@dataclass
class Hub:
    """A running hub: `files` by repository and path, as they are in the commit REVISION, and `commits` on top of it, by
    repository. `storage` is where large files are, on another server: by path, or by digest where that serves `objects`."""

    url: str = ""
    files: dict[tuple[str, str], bytes] = field(default_factory=dict)
    commits: dict[str, list[tuple[str, Tree]]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    readers: set[str] = field(default_factory=set)  # tokens that may not write
    storage: str = ""
    objects: Path | None = None
    large: int = 0  # bytes, above which a file is one that git does not hold
    part: int = 0  # bytes of the parts in which large files are sent; 0: they are sent whole
    ignored: tuple[str, ...] = ()  # what the repository's .gitignore names: beginnings of paths
    is_hub: bool = True
    failures: int = 0
    trouble: Callable[[str, str], int] = lambda _method, _path: 0  # a status instead of an answer
    lost: int = 0  # commits that are made, whose answers are trouble
    obeys_parents: bool = True
    before_commit: Callable[[], object] = bool
    seen: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, authorization
    lock: threading.RLock = field(default_factory=threading.RLock)

    def tree(self, repo: str, revision: str = "main") -> tuple[str, Tree] | None:
        """A commit, and all files as they are in it; None where there is none."""
        first = {path: data for (name, path), data in self.files.items() if name == repo}
        made = [(REVISION, first), *self.commits.get(repo, [])]
        return made[-1] if revision == "main" else next((one for one in made if one[0] == revision), None)

    def commit(self, repo: str, changes: Tree) -> str:
        """Put files, as anybody might; the commit."""
        with self.lock:
            parent, before = self.tree(repo) or ("", {})
            commit = hashlib.sha1(f"{parent} {sorted(changes)}".encode()).hexdigest()
            self.commits.setdefault(repo, []).append((commit, before | changes))
            return commit


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None:
            pass

        def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def _say(self, answer: Any, status: int = 200) -> None:
            self._send(status, json.dumps(answer).encode(), Content_Type="application/json")

        def _refuse(self, status: int, code: str) -> None:
            self._send(status, X_Error_Code=code, X_Error_Message=code)

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            given = self.headers.get("Authorization")
            path = urlsplit(self.path).path
            with hub.lock:
                hub.seen.append((self.command, self.path, given))
                if hub.failures:
                    hub.failures -= 1
                    return self._send(503)
                if status := hub.trouble(self.command, path):
                    return self._send(status)
                if not hub.is_hub:
                    return self._send(200, b"<html>please log in</html>", ETag='"x"')
                if path.startswith("/upload/"):
                    return self._stored(path.rpartition("/")[2], body)
                return self._of_repository(path, body, given)

        do_GET = do_HEAD = do_POST = do_PUT = _answer  # noqa: N815

        def _of_repository(self, path: str, body: bytes, given: str | None) -> None:
            api = path.startswith("/api/models/")
            repo = "/".join(path.removeprefix("/api/models" if api else "").split("/")[1:3]).removesuffix(".git")
            word, _, rest = path.partition(repo)[2].removeprefix(".git").lstrip("/").partition("/")
            known = {name for name, _ in hub.files} | set(hub.commits)
            token = (given or "").removeprefix("Bearer ")
            if given is not None and token not in {TOKEN, *hub.readers}:
                return self._send(401, X_Error_Message="Invalid credentials in Authorization header")
            if repo not in known or (repo in hub.private and not given):
                return self._refuse(404 if given else 401, "RepoNotFound")
            if repo in hub.gated:
                return self._refuse(403, "GatedRepo")
            if word in ("preupload", "commit", "info") and token != TOKEN:
                return self._send(403 if given else 401, X_Error_Message="You must use a token with write access")
            if word == "info":
                return self._batch(json.loads(body))
            revision, _, rest = rest.partition("/")
            found = hub.tree(repo, unquote(revision))
            if found is None:
                return self._refuse(404, "RevisionNotFound")
            commit, tree = found
            if word == "resolve":
                return self._resolve(commit, tree, unquote(rest))
            if word == "revision":
                return self._say({"id": repo, "sha": commit})
            if word == "tree":
                return self._list(tree, unquote(rest))
            if word == "paths-info":
                wanted = parse_qs(body.decode())["paths"]
                return self._say([self._file(path, tree[path]) for path in wanted if path in tree])
            if word == "preupload":
                return self._say({"files": [self._mode(file, tree) for file in json.loads(body)["files"]]})
            assert word == "commit", self.path
            return self._commit(repo, commit, [json.loads(line) for line in body.splitlines()])

        def _resolve(self, commit: str, tree: Tree, path: str) -> None:
            if path not in tree:
                return self._send(404, X_Repo_Commit=commit, X_Error_Code="EntryNotFound", X_Error_Message="Entry not found")
            data = tree[path]
            if hub.storage and len(data) > hub.large:
                tag, size = _sha256(data), str(len(data))
                place = {"Location": f"{hub.storage}/{tag if hub.objects else path}?signature=s3cr3t"}
                return self._send(302, X_Repo_Commit=commit, X_Linked_Size=size, X_Linked_ETag=f'"{tag}"', **place)
            return self._send(200, data, X_Repo_Commit=commit, ETag=f'"{_oid(data)}"')

        def _file(self, path: str, data: bytes) -> dict[str, Any]:
            lfs = {"oid": _sha256(data), "size": len(data), "pointerSize": 134} if hub.storage and len(data) > hub.large else None
            return {"type": "file", "path": path, "size": len(data), "oid": _oid(data)} | ({"lfs": lfs} if lfs else {})

        def _list(self, tree: Tree, folder: str) -> None:
            inside = f"{folder}/" if folder else ""
            found = [self._file(path, data) for path, data in tree.items() if path.startswith(inside)]
            if folder and not found:
                return self._refuse(404, "EntryNotFound")
            folders = {
                str(parent) for one in found for parent in PurePosixPath(one["path"]).parents if str(parent).startswith(inside)
            }
            return self._say([{"type": "directory", "path": one, "oid": "0" * 40} for one in folders - {"."}] + found)

        def _mode(self, file: dict[str, Any], tree: Tree) -> dict[str, Any]:
            path, is_large = file["path"], bool(hub.storage) and file["size"] > hub.large
            there = tree.get(path)
            oid = None if there is None else _sha256(there) if is_large else _oid(there)
            ignored = bool(hub.ignored) and path.startswith(hub.ignored)
            return {"path": path, "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": ignored, "oid": oid}

        def _batch(self, asked: dict[str, Any]) -> None:
            """Git LFS's batch API, with its transfer `basic`."""
            assert "basic" in asked["transfers"] and hub.objects is not None
            answers = []
            for one in asked["objects"]:
                href, count = f"{hub.url}/upload/{one['oid']}", -(-one["size"] // hub.part) if hub.part else 0
                header = {str(n + 1): f"{href}.{n}?signature=s3cr3t" for n in range(count)}
                header |= {"chunk_size": str(hub.part)} if hub.part else {}
                upload = {"upload": {"href": f"{href}?signature=s3cr3t", "header": header}}
                is_there = (hub.objects / one["oid"]).is_file()
                answers.append({**one} if is_there else {**one, "actions": upload})
            return self._say({"transfer": "basic", "objects": answers})

        def _stored(self, name: str, body: bytes) -> None:
            assert hub.objects is not None
            assert not self.headers.get("Authorization")  # the URL is signed
            if self.command == "POST":
                parts = json.loads(body)["parts"]
                assert [part["partNumber"] for part in parts] == list(range(1, len(parts) + 1))
                body = b"".join((hub.objects / part["etag"]).read_bytes() for part in parts)
            if "." not in name and _sha256(body) != name:
                return self._send(400)
            (hub.objects / name).write_bytes(body)
            return self._send(200, ETag=name)

        def _commit(self, repo: str, last: str, lines: list[dict[str, Any]]) -> None:
            hub.before_commit()
            last = (hub.tree(repo) or ("",))[0]
            changes: Tree = {}
            for line in lines:
                value = line["value"]
                if line["key"] == "header" and value.get("parentCommit", last) != last and hub.obeys_parents:
                    return self._say({"error": "A commit has happened since. Please refresh and try again."}, 412)
                if line["key"] == "file":
                    changes[value["path"]] = base64.b64decode(value["content"])
                if line["key"] == "lfsFile":
                    assert hub.objects is not None
                    changes[value["path"]] = (hub.objects / value["oid"]).read_bytes()
            commit = hub.commit(repo, changes)
            if hub.lost:
                hub.lost -= 1
                return self._send(500)
            return self._say({"success": True, "commitOid": commit, "commitUrl": f"{hub.url}/{repo}/commit/{commit}"})

    return Handler


class _Server(ThreadingHTTPServer):
    def handle_error(self, *arguments: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # the client went away
            super().handle_error(*arguments)


@contextmanager
def serve(hub: Hub) -> Iterator[None]:
    """Serve it until the block ends."""
    server = _Server(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def asked(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Serve it, and let the library ask it, without anybody's token."""
    try:
        from huggingface_hub import constants
    except ImportError:
        servers.missing("needs huggingface_hub: pip install -e '.[hub]'")
    with serve(hub):
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nonexistent")
        yield hub
