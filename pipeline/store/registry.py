"""The connection to a repository of an OCI registry: requests, at their pace, with the logins of docker, podman and oras."""

from __future__ import annotations

import os
import re
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import DeniedError, PipelineError
from pipeline.plain import plain, public_url
from pipeline.store.base import BrokenTransferError
from pipeline.store.pace import Patience, reason, set_pace
from pipeline.store.web import WebBody

try:
    import requests
    from oras.auth import get_auth_backend
    from oras.auth import utils as oras_logins
    from oras.container import Container
    from oras.logger import setup_logger
    from requests.adapters import HTTPAdapter
except ImportError as error:
    remedy = "pip install 'oras>=0.2.40,<0.3', or this package with the extra `oci`"
    raise PipelineError(f"a registry needs oras: {error}", hint=remedy) from error

_AUTHORITIES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")  # variables that name a file of certificates
_ASKED = r" with url: \S*"  # what was redirected to may be signed, which is a secret
_LOCAL = ("localhost", "127.0.0.1", "::1")
setup_logger(quiet=True)  # what goes wrong is told once, by the error
_LOG_IN = "log in with `docker login`, `podman login` or `oras login`; DOCKER_CONFIG names another folder than ~/.docker"


class _Paced(HTTPAdapter):  # type: ignore[misc]  # it has no types
    """What `requests` sends goes by connections that keep to a pace; nothing is tried again unasked."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        super().__init__(pool_maxsize=16)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self._pace(self.poolmanager)

    def proxy_manager_for(self, *arguments: Any, **options: Any) -> Any:
        return self._pace(super().proxy_manager_for(*arguments, **options))

    def _pace(self, pools: Any) -> Any:
        if "paced" not in vars(pools):
            pools.pool_classes_by_scheme = dict(pools.pool_classes_by_scheme)
            set_pace(pools.pool_classes_by_scheme, self._patience)
            pools.paced = True
        return pools

    def send(self, request: Any, *arguments: Any, **options: Any) -> Any:
        return super().send(request, *arguments, **{**options, "timeout": (self._patience.connect, self._patience.silence)})


class Repository:
    """A repository, at `oci://registry/repository`; by http where that is this machine, or by `oci+http://`."""

    def __init__(self, url: str, patience: Patience | None = None) -> None:
        self.url = public_url(url).rstrip("/")
        try:
            parts = urlsplit(url)
            host, user, _ = parts.hostname or "", parts.username, parts.port
        except ValueError as error:
            raise self._no_store("its port is no number") from error
        repository = parts.path.strip("/")
        if user is not None:
            raise PipelineError("its URL names a user: a registry has none there", where=self.url, hint=_LOG_IN)
        if not host or not re.fullmatch(r"[a-z0-9]+(?:[._/-]+[a-z0-9]+)*", repository) or parts.query or parts.fragment:
            raise self._no_store("a repository has small letters, digits, and single . _ - / between them")
        self._is_plain = parts.scheme == "oci+http" or host in _LOCAL
        self._host, self._session = parts.netloc.lower(), requests.Session()
        self._session.trust_env = False  # ~/.netrc is no login of a registry; proxies are said below
        self._session.verify = next(filter(None, map(os.environ.get, _AUTHORITIES)), True)
        self._session.proxies = {} if urllib.request.proxy_bypass(host) else urllib.request.getproxies()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _Paced(patience or Patience()))
        self._container = Container(f"{parts.netloc}/{repository}")
        self._base = f"{'http' if self._is_plain else 'https'}://{parts.netloc}/v2/{repository}"
        self._login: Any = None  # oras's, when the registry has asked for one
        self._shown: dict[str, str] = {}  # what proves it

    def _no_store(self, why: str) -> PipelineError:
        return PipelineError(f"is no store: {why}", where=self.url, hint="give oci://registry/repository")

    def _log_in(self, challenge: Any) -> bool:
        """Let requests show what the user has logged in with, in the way that the registry asks for; whether there is any."""
        is_basic = challenge.headers.get("WWW-Authenticate", "").lower().startswith("basic")
        if self._login is None:
            self._login = get_auth_backend("basic" if is_basic else "token", self._session, insecure=self._is_plain)
            own = Path(os.environ.get("DOCKER_CONFIG") or Path("~/.docker").expanduser()) / "config.json"
            podman = Path(os.environ.get("XDG_RUNTIME_DIR") or "/nowhere") / "containers" / "auth.json"
            files = [str(path) for path in (podman, own) if path.is_file()]
            try:
                self._login._auth_config = oras_logins.load_configs(files)
                self._login.load_configs(self._container)
            except (ValueError, AttributeError, TypeError, LookupError) as error:
                raise PipelineError("logins cannot be read", where=", ".join(files) or str(own), hint=_LOG_IN) from error
        if is_basic and not getattr(self._login, "_basic_auth", None):
            return False
        try:
            shown, is_new = self._login.authenticate_request(challenge, {}, refresh=True)
        except (ValueError, AttributeError, TypeError, LookupError) as error:
            if isinstance(error, requests.exceptions.RequestException):
                raise
            raise PipelineError("the registry asks for a login in a way that is not known", where=self.url) from error
        self._shown = dict(shown) if is_new else {}
        return bool(is_new)

    @contextmanager
    def errors(self, key: str) -> Iterator[None]:
        """What goes wrong in the block on the way of the object at `key`, as errors of ours."""
        where = f"{self.url}/{key}".rstrip("/")
        try:
            yield
        except requests.exceptions.SSLError as error:
            raise PipelineError(
                f"cannot connect: {reason(error)}", where=where, hint="check the URL and its certificate"
            ) from error
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.TooManyRedirects) as error:
            raise PipelineError("the registry redirects to what is not followed", where=where) from error
        except (requests.exceptions.RequestException, OSError) as error:
            told = f"cannot reach the registry: {re.sub(_ASKED, '', reason(error))}"
            raise BrokenTransferError(plain(told), where=where, hint="check the network and the URL") from error

    def ask(self, key: str, method: str, path: str, *but: int, stream: bool = False, **options: Any) -> Any:
        """The answer of the registry to a request about the object at `key`. One with a status in `but` is no error."""
        url = path if path.startswith(("http://", "https://")) else f"{self._base}/{path}"
        headers = {"Accept-Encoding": "identity", **options.pop("headers", {})}
        with self.errors(key):
            answer = self._sent(method, url, headers, stream, **options)
        if answer.ok or answer.status_code in but:
            if not self._is_plain and not answer.url.startswith("https:"):
                raise PipelineError("the registry redirects from https to http, which is not followed", where=self.url)
            return answer
        raise self._refused(answer, key)

    def _sent(self, method: str, url: str, headers: Mapping[str, str], stream: bool, data: Any = None) -> Any:
        """The answer to a request, which is sent again with a login, to this registry only, where that is asked for."""
        is_own = urlsplit(url).netloc.lower() == self._host
        answer = None
        while True:
            shown = self._shown if is_own else {}
            if hasattr(data, "seek"):
                data.seek(0)
            was, answer = answer, self._session.request(method, url, headers={**headers, **shown}, data=data, stream=stream)
            # What redirects led to does not get the login: it does not ask for ours.
            if answer.status_code != 401 or was is not None or urlsplit(answer.url).netloc.lower() != self._host:
                return answer
            if not is_own or not self._log_in(answer):
                return answer
            answer.close()

    def _refused(self, answer: Any, key: str) -> PipelineError:
        status, where = answer.status_code, f"{self.url}/{key}".rstrip("/")
        said = ""
        with suppress(ValueError, LookupError, TypeError, requests.exceptions.RequestException):
            said = plain(f": {answer.json()['errors'][0]['message']:.200}")
        if status in (408, 429) or status >= 500:
            return BrokenTransferError(f"the registry has trouble: {status} {answer.reason}{said}", where=where)
        if status in (401, 403):
            return DeniedError(f"the registry does not let you do that: {status}{said}", where=where, hint=_LOG_IN)
        return PipelineError(f"the registry answers {status} {answer.reason}{said}", where=where)


def read(answer: Any, limit: int) -> bytes:
    """All of an answer's body. Raises BrokenTransferError where it is cut short, PipelineError above `limit` bytes."""
    with answer:
        body, data, chunk = WebBody(False, answer.raw, public_url(answer.url)), bytearray(), memoryview(bytearray(1 << 16))
        while count := body.readinto(chunk):
            data += chunk[:count]
            if len(data) > limit:
                raise PipelineError(f"the registry's answer is larger than {limit >> 20} MiB", where=body.where)
        length = answer.headers.get("Content-Length")
        if length is not None and length != str(len(data)):
            raise BrokenTransferError(f"the registry promised {length} bytes and sent {len(data)}", where=body.where)
        return bytes(data)
