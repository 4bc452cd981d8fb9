"""A store behind a web server, or a single file: any static server, or one that redirects to presigned URLs. To read only."""

from __future__ import annotations

import base64
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

import urllib3
from urllib3.exceptions import HTTPError, LocationParseError, ProtocolError, SSLError

from pipeline.errors import DeniedError, PipelineError
from pipeline.names import whole_number
from pipeline.plain import public_url
from pipeline.store.base import (
    DOCUMENT_LIMIT,
    Body,
    BrokenTransferError,
    Object,
    Rest,
    is_ranged,
    no_such_object,
    size_by_range,
    too_large,
)
from pipeline.store.pace import Patience, read_into, reason, set_pace

_REDIRECTS = 5
_REDIRECT_CODES = (301, 302, 303, 307, 308)
_HINTS = {
    401: "the server wants credentials: give them in the URL, https://user:password@host/path",
    403: "the server does not let you read this; a presigned URL may have expired",
}


@dataclass(frozen=True)
class WebBody:
    """A body that is read as it arrives, at its pace: see `pace`."""

    ranged: bool
    answer: urllib3.BaseHTTPResponse
    where: str

    def readinto(self, buffer: memoryview) -> int:
        """Fill the front of `buffer` with what has arrived."""
        try:
            return read_into(self.answer, buffer)
        except (HTTPError, OSError) as error:
            raise BrokenTransferError(f"the connection broke: {reason(error)}", where=self.where) from error

    def document(self, url: str, key: str) -> bytes:
        """All of it. Raises PipelineError above DOCUMENT_LIMIT."""
        data = bytearray()
        chunk = memoryview(bytearray(1 << 16))
        while count := self.readinto(chunk):
            data += chunk[:count]
            if len(data) > DOCUMENT_LIMIT:
                raise too_large(url, key)
        return bytes(data)


class _Site:
    """The server of a URL, and those it redirects to. User, password and `headers` go to that host only."""

    def __init__(self, url: str, patience: Patience | None, what: str, headers: Mapping[str, str]) -> None:
        self._patience = patience or Patience()
        try:
            parts = urlsplit(url)
            user, password, _ = parts.username, parts.password, parts.port
            if not parts.hostname:
                raise ValueError("no host")
        except ValueError as error:
            told = "it has no host, or what should be its port is no number"  # not the error's text, which may have a password
            raise PipelineError(f"{public_url(url)!r} is no {what}: {told}", hint="give https://host/path") from error
        secret = base64.b64encode(f"{unquote(user or '')}:{unquote(password or '')}".encode()).decode()
        self._headers = {**({"authorization": f"Basic {secret}"} if user else {}), **headers}
        self._base = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="")
        self.url = public_url(url)
        self._pool = self._make_pool(parts.scheme, parts.hostname)

    def _make_pool(self, scheme: str, host: str) -> urllib3.PoolManager:
        limits: Any = {
            "timeout": urllib3.Timeout(connect=self._patience.connect, read=self._patience.silence),
            "retries": False,
            "maxsize": 16,
        }
        proxy = urllib.request.getproxies().get(scheme)
        pools = urllib3.PoolManager(**limits)
        if proxy and not urllib.request.proxy_bypass(host):
            try:
                pools = urllib3.ProxyManager(proxy if "://" in proxy else f"http://{proxy}", **limits)
            except (HTTPError, ValueError) as error:
                hint = f"correct {scheme}_proxy"
                raise PipelineError(f"{public_url(proxy)!r} is no proxy: {error}", where=self.url, hint=hint) from error
        pools.pool_classes_by_scheme = dict(pools.pool_classes_by_scheme)
        set_pace(pools.pool_classes_by_scheme, self._patience)
        return pools

    def _redirected(self, url: str, location: str | None) -> str:
        try:
            target = urljoin(url, location or "")
            old, new = urlsplit(url).scheme, urlsplit(target).scheme
        except ValueError as error:
            raise PipelineError(f"the server redirects to no URL: {error}", where=public_url(url)) from error
        if new not in ("http", "https") or (old, new) == ("https", "http"):
            raise PipelineError(
                f"the server redirects from {old} to {new or 'nowhere'}, which is not followed",
                where=public_url(url),
                hint="only redirects to https (or from http to http) are",
            )
        return target

    @contextmanager
    def _answer(self, url: str, headers: Mapping[str, str], but: int = 0) -> Iterator[urllib3.BaseHTTPResponse]:
        """The last answer behind all redirects; its body is not read yet. The status `but` is not an error."""
        first = url
        for _ in range(_REDIRECTS + 1):
            same_host = urlsplit(url)[:2] == urlsplit(first)[:2]
            sent = {"Accept-Encoding": "identity", **headers, **(self._headers if same_host else {})}
            answer = self._request(url, sent)
            try:
                if answer.status not in _REDIRECT_CODES:
                    if answer.status != but:
                        self._check(answer, url)
                    yield answer
                    return
                url = self._redirected(url, answer.headers.get("Location"))
            finally:
                answer.close()
        raise PipelineError(f"the server redirects more than {_REDIRECTS} times", where=public_url(first))

    def _request(self, url: str, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        where = public_url(url)
        try:
            return self._pool.request("GET", url, headers=headers, preload_content=False, redirect=False)
        except LocationParseError as error:  # its text has the whole URL in it, with what is secret
            raise PipelineError("is no URL", where=where, hint="check the URL, or what the server redirects to") from error
        except SSLError as error:
            raise PipelineError(f"cannot connect: {error}", where=where, hint="check the URL and its certificate") from error
        except ProtocolError as error:
            raise BrokenTransferError(f"the connection broke: {reason(error)}", where=where) from error
        except HTTPError as error:
            told = f"cannot connect: {reason(error)}"
            raise BrokenTransferError(told, where=where, hint="check the network and the URL") from error

    def _check(self, answer: urllib3.BaseHTTPResponse, url: str) -> None:
        """Raise PipelineError for an answer, from `url`, that is neither what was asked for nor that there is no such thing."""
        status, where = answer.status, public_url(url)
        if status in (408, 429) or status >= 500:
            raise BrokenTransferError(f"the server has trouble: {status} {answer.reason}", where=where)
        if status not in (200, 206, 404, 410):
            kind = DeniedError if status in _HINTS else PipelineError
            raise kind(f"the server answers {status} {answer.reason}", where=where, hint=_HINTS.get(status, ""))
        if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise PipelineError("the server sends it compressed, though asked not to", where=where)


class WebSource(_Site):
    """Objects below a URL. A query in it is sent with every request; user and password, and `headers`, go to that host only."""

    def __init__(self, url: str, patience: Patience | None = None, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(url, patience, "store", headers or {})
        self._base = self._base._replace(path=self._base.path.rstrip("/"))
        self.url = self.url.rstrip("/")

    def _url(self, key: str) -> str:
        return urlunsplit(self._base._replace(path=f"{self._base.path}/{quote(key)}"))

    def get(self, key: str) -> Object | None:
        """The object at `key`; its tag is its ETag."""
        with self._answer(self._url(key), {}) as answer:
            if answer.status in (404, 410):
                return None
            body = WebBody(False, answer, f"{self.url}/{key}")
            data = body.document(self.url, key)
            length = answer.headers.get("Content-Length")
            if length is not None and length != str(len(data)):
                raise BrokenTransferError(f"the server promised {length} bytes and sent {len(data)}", where=body.where)
            return Object(data, answer.headers.get("ETag", ""))

    @contextmanager
    def open(self, key: str, offset: int, length: int) -> Iterator[Body]:
        """A ranged GET. A server without ranges sends the whole object, whose body starts at 0."""
        with self._answer(self._url(key), {"Range": f"bytes={offset}-{offset + length - 1}"}) as answer:
            where = f"{self.url}/{key}"
            if answer.status in (404, 410):
                raise no_such_object(self.url, key)
            content_range = answer.headers.get("Content-Range", "") if answer.status == 206 else ""
            if answer.status == 206 and not content_range:
                raise PipelineError("the server sends a part without saying which", where=where)
            yield WebBody(is_ranged(content_range, offset, length, where), answer, where)

    def listed(self, _prefix: str) -> list[str] | None:
        """A web server does not list."""
        return None


class WebFile(_Site):
    """The file at a URL. User and password in it, and `headers`, go to that host only."""

    def __init__(self, url: str, patience: Patience | None = None, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(url, patience, "URL of a file", headers or {})

    @contextmanager
    def rest(self, offset: int, tag: str) -> Iterator[Rest]:
        """A GET, of a range where `offset` is not 0. The tag is a strong ETag, or else the time of the last change."""
        asked = {"Range": f"bytes={offset}-", **({"If-Range": tag} if tag else {})} if offset else {}
        too_far = 416 if offset else 0
        with self._answer(urlunsplit(self._base), asked, but=too_far) as answer:
            if answer.status != too_far:
                yield self._rest(answer, offset)
                return
        with self.rest(0, "") as whole:
            yield whole

    def _rest(self, answer: urllib3.BaseHTTPResponse, offset: int) -> Rest:
        told, status = answer.headers, answer.status
        if status in (404, 410):
            raise PipelineError(f"there is no such file: {status} {answer.reason}", where=self.url, hint="check the URL")
        if status == 206 and not offset:
            raise PipelineError("the server sends a part, though it was asked for all", where=self.url)
        if status == 206:
            size = size_by_range(told.get("Content-Range", ""), offset, self.url)
        else:
            offset, size = 0, whole_number(told.get("Content-Length", ""))
        etag = told.get("ETag", "")
        tag = etag if etag.startswith('"') else told.get("Last-Modified", "")
        return Rest(offset, size, tag, WebBody(status == 206, answer, self.url))
