"""Files on the Hugging Face hub. Its library finds them, with the user's token and endpoint; they are downloaded as any other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

from pipeline.files import other_content
from pipeline.spec.types import HubSource
from pipeline.store.base import Rest
from pipeline.store.hub import Place, find
from pipeline.store.web import WebFile


class HubFile:
    """The file `path` of the source's repository and commit, which is to have the digest `sha256`."""

    def __init__(self, source: HubSource, path: str, sha256: str, hint: str) -> None:
        self.url = f"{source.repo}@{source.revision}: {path}"
        self._source, self._path, self._sha256, self._hint = source, path, sha256, hint

    @contextmanager
    def rest(self, offset: int, tag: str) -> Iterator[Rest]:
        """As any file of a web server, once the hub has said that it is there."""
        with self._file.rest(offset, tag) as rest:
            yield rest

    @cached_property
    def _file(self) -> WebFile:
        """Found to be there, and to have no other digest as far as the hub tells (it does of large files)."""
        repo = self._source.repo
        place = Place(repo, self.url, "correct source.repo", "correct source.revision", "correct the path in the spec")
        found = find(place, self._path, self._source.revision)
        if found.sha256 not in ("", self._sha256):
            raise other_content(found.sha256, self._sha256, self.url, self._hint)
        return WebFile(found.url, headers=found.headers)
