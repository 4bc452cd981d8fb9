"""A store in a repository of the Hugging Face hub, `hf://user/repo@revision`: its keys are the paths of the repository's files.

It is read as a web server's, at that revision. What is written is one commit a file, on top of the commit that was looked at.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar
from urllib.parse import quote, urlsplit

import urllib3

from pipeline.errors import PipelineError, disk_errors
from pipeline.files import sha256_bytes
from pipeline.layout import PROBE_KEY, PRUNE
from pipeline.plain import public_url
from pipeline.store.base import BrokenTransferError, Object, wrong_digest
from pipeline.store.hub import NO_FILE, Place, by_status, endpoint, headers, hub_errors, no_hub, refusal
from pipeline.store.pace import Patience
from pipeline.store.web import WebSource

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

T = TypeVar("T")
_MAIN = "main"
_URL = re.compile(r"hf://([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(.+))?", re.ASCII)
_CONFLICTS = 40  # commits of others, between a look and a commit of this one
_TRIES = 4  # of a commit that the hub has trouble with
_PAUSE = 1.0  # seconds before the second of them, and twice as long before each other


def place_of(url: str) -> tuple[str, str]:
    """The repository and the revision of `hf://user/repo@revision`. Raises PipelineError for another URL."""
    match = _URL.fullmatch(url.rstrip("/"))
    if not match:
        hint = "give hf://user/repo or hf://user/repo@revision: a model's repository, of which the whole is the store"
        raise PipelineError(f"{public_url(url)!r} is no store", hint=hint)
    return match[1], match[2] or _MAIN


class HubSource(WebSource):
    """The files of `repo` at `revision`: a branch, a tag or a commit, which never changes."""

    def __init__(self, repo: str, revision: str = _MAIN, patience: Patience | None = None) -> None:
        url = f"hf://{repo}" + (f"@{revision}" if revision != _MAIN else "")
        at = endpoint(url)
        super().__init__(f"{at}/{repo}/resolve/{quote(revision, safe='')}", patience, headers(url))
        self.url, self._repo, self._revision, self._endpoint = url, repo, revision, at
        self._place = Place(repo, url)

    def _at(self, commit: str) -> Self:
        """The same files, as they are in a commit."""
        other = copy.copy(self)
        other._base = self._base._replace(path=f"{self._base.path.rpartition('/')[0]}/{commit}")
        return other

    def _check(self, answer: urllib3.BaseHTTPResponse, url: str) -> None:
        """The hub names what it refuses, and says which file is not there; so do none of the servers that it redirects to."""
        status, told, parts = answer.status, answer.headers, urlsplit(url)
        is_asked = parts[:2] == self._base[:2] and parts.path.startswith(f"{self._base.path}/")
        code = told.get("X-Error-Code", "")
        if status < 400 or not (code or is_asked):
            super()._check(answer, url)
            if status < 400 and is_asked and "X-Repo-Commit" not in told:
                raise no_hub("the answer names no commit", self.url)
        elif status == 404 and not code:
            raise no_hub(f"it answers {status} {answer.reason}, and not what is not there", self.url)
        elif status != 404 or code != NO_FILE:
            raise refusal(code, self._place) or by_status(status, told.get("X-Error-Message") or answer.reason or "", self.url)

    def get(self, key: str) -> Object | None:
        """The object at `key`; its tag is its digest."""
        found = super().get(key)
        return found and Object(found.data, sha256_bytes(found.data))

    @cached_property
    def _api(self) -> HfApi:
        from huggingface_hub import HfApi

        return HfApi(endpoint=self._endpoint)

    def listed(self, prefix: str) -> list[str]:
        """The files below the folder that `prefix` names, but hidden ones, which are no objects."""
        from huggingface_hub import RepoFile
        from huggingface_hub.errors import EntryNotFoundError

        folder = prefix.rpartition("/")[0] or None
        with hub_errors(self._place):
            try:
                found = list(self._api.list_repo_tree(self._repo, folder, recursive=True, revision=self._revision))
            except EntryNotFoundError:
                return []
        keys = [one.path for one in found if isinstance(one, RepoFile)]
        return sorted(key for key in keys if key.startswith(prefix) and not key.rpartition("/")[2].startswith("."))


class HubStore(HubSource):
    """The files of `repo` on a branch, to write too. Raises PipelineError for a commit, which never changes.

    Every write is a commit. Of conditional ones the parent is the commit in which the condition was seen to hold: where another
    commit came between, it is looked at again.
    """

    def __init__(self, repo: str, revision: str = _MAIN, patience: Patience | None = None) -> None:
        super().__init__(repo, revision, patience)
        if re.fullmatch("[0-9a-f]{40}", revision):
            raise PipelineError("a commit never changes: it can only be read", where=self.url, hint="name a branch after the @")
        self.identity: Mapping[str, str] = {"endpoint": self._endpoint}
        self._lock = threading.Lock()  # the hub takes commits one after the other
        _be_quiet()

    def keys(self, prefix: str) -> list[str]:
        """`listed`."""
        return self.listed(prefix)

    def holds(self, key: str, size: int, sha256: str) -> bool:
        """By what the hub tells; a small file, of which it does not know the digest, is read."""
        from huggingface_hub import RepoFile

        with hub_errors(self._place):
            found = self._api.get_paths_info(self._repo, [key], revision=self._revision)
        file = next((one for one in found if isinstance(one, RepoFile) and one.path == key), None)
        if file is None or file.size != size:
            return False
        if file.lfs:
            return bool(file.lfs.sha256 == sha256)
        there = self.get(key)
        return there is not None and there.tag == sha256

    def upload(self, key: str, path: Path, sha256: str) -> None:
        """Send the file, then commit it."""
        from huggingface_hub import CommitOperationAdd

        with disk_errors(str(path)), path.open("rb") as file, hub_errors(self._place):
            operation = CommitOperationAdd(key, file)  # open: see `_commit`
            if operation.upload_info.sha256.hex() != sha256:
                raise wrong_digest(path, operation.upload_info.sha256.hex())
            self._api.preupload_lfs_files(self._repo, [operation], revision=self._revision, free_memory=False)
            self._insist(lambda: self._commit(operation, None))

    def create(self, key: str, data: bytes) -> bool:
        """A commit on top of one that has no such file."""
        if key.startswith(PRUNE):
            return True  # a lease: nobody prunes a repository, which keeps all that it ever had
        return self.replace(key, data, None)

    def replace(self, key: str, data: bytes, tag: str | None) -> bool:
        """A commit on top of one in which the file is in that state."""
        from huggingface_hub import CommitOperationAdd

        is_unanswered = False

        def put() -> bool | None:
            nonlocal is_unanswered
            parent = self._head()
            current = self._at(parent).get(key)
            if (current.tag if current else None) != tag:
                return is_unanswered and current is not None and current.data == data
            is_unanswered = True
            made = self._commit(CommitOperationAdd(key, io.BytesIO(data)), parent)
            is_unanswered = False
            if made is None:
                return None
            there = self._at(made).get(key)
            if there is None or there.data != data:
                hint = "see whether a .gitignore in the repository names it: the hub leaves that out, and says nothing"
                raise PipelineError("is not in the commit that was to put it there", where=f"{self.url}/{key}", hint=hint)
            return True

        return self._insist(put)

    def ignored(self) -> list[str]:
        """Whether it takes a commit on top of one that is not the last: of that which the probe itself once was put on."""
        from huggingface_hub import CommitOperationAdd

        found = self.get(PROBE_KEY)
        parent = _parent(found)
        while not parent:
            head = self._head()
            if self.replace(PROBE_KEY, _probe(head), found.tag if found else None):
                parent = head
            else:
                found = self.get(PROBE_KEY)
                parent = _parent(found)
        made = self._commit(CommitOperationAdd(PROBE_KEY, io.BytesIO(_probe("") + b"\n")), parent)
        return [] if made is None else ["parentCommit (commit on top of what is known)"]

    def _head(self) -> str:
        with hub_errors(self._place):
            sha = self._api.model_info(self._repo, revision=self._revision, expand=["sha"]).sha
        if not sha:
            raise no_hub("the answer names no commit", self.url)
        return str(sha)

    def _commit(self, operation: CommitOperationAdd, parent: str | None) -> str | None:
        """The commit that was made, or the last where that would have changed nothing; None where another came between.

        The operation's content is an open file. Of bytes, and of a file by its name, the library would send what git does not
        hold to Xet's servers, by a protocol of theirs, where Git LFS's does for every hub.
        """
        from huggingface_hub.errors import HfHubHTTPError

        message = f"Put {operation.path_in_repo}"
        with self._lock, hub_errors(self._place):
            try:
                made = self._api.create_commit(
                    self._repo, [operation], commit_message=message, revision=self._revision, parent_commit=parent
                )
            except HfHubHTTPError as error:
                if error.response.status_code == 412:
                    return None
                raise
        return str(made.oid)

    def _insist(self, write: Callable[[], T | None]) -> T:
        """What `write` comes to, which is asked again where another commit came between (None), or the hub has trouble.

        A commit whose answer was lost may have been made: `write` looks first, or makes no difference.
        """
        conflicts = broken = 0
        while True:
            try:
                if (done := write()) is not None:
                    return done
            except BrokenTransferError:
                broken += 1
                if broken == _TRIES:
                    raise
                time.sleep(_PAUSE * 2 ** (broken - 1))
            else:
                conflicts += 1
                if conflicts == _CONFLICTS:
                    what = f"others put {conflicts} commits on top while one was being made"
                    hint = "publish again; if it was nobody, the token may only propose changes, and not make them"
                    raise PipelineError(what, where=self.url, hint=hint)
                time.sleep(random.uniform(0, 0.05 * min(conflicts, 10)))  # noqa: S311


def _probe(parent: str) -> bytes:
    about = "put by publishers, to see whether the hub refuses commits on top of this parent, which is not the last any more"
    return json.dumps({"about": about, "parent": parent}).encode() + b"\n"


def _parent(found: Object | None) -> str:
    """The commit that the probe names; empty where it names none."""
    match = re.search(rb'"parent": "([0-9a-f]{40})"', found.data) if found else None
    return match[1].decode() if match else ""


def _be_quiet() -> None:
    """Let the library draw no bars of its own, and not warn where a commit would change nothing, and how a file is sent."""
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    for name in ("hf_api", "_commit_api"):
        logging.getLogger(f"huggingface_hub.{name}").setLevel(logging.ERROR)
