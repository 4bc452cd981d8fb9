"""A store in an OCI registry, as images are kept in: `oci://registry/repository`. To read, and for `vmfb copy` to write to.

A blob of ours is a blob of the repository, by its digest. Every other object is a manifest with a tag made of its key (`tag_of`),
whose first layer is the object; what is small stands in the manifest itself, too. That of a release has its blobs as further
layers: no registry collects them as garbage, and other clients pull them. Evidence, signatures and what tells where a release
comes from refer to it (`subject`); where the registry lists no referrers, by the tag that the specification has for that.

Registries compare nothing before they write: one may write to a repository at a time. Only user of `oras`, the extra `oci`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import re
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from urllib.parse import urljoin, urlsplit

from pipeline.errors import DeniedError, PipelineError, disk_errors
from pipeline.files import sha256_bytes
from pipeline.layout import PRUNE, blob_digest, manifest_beside
from pipeline.manifest.codec import decode
from pipeline.manifest.types import Blob, Manifest
from pipeline.plain import plain, public_url
from pipeline.store.base import (
    DOCUMENT_LIMIT,
    Body,
    BrokenTransferError,
    Object,
    is_ranged,
    no_such_object,
    too_large,
    wrong_digest,
)
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

# Of the image specification, and of ours.
_MANIFEST, _INDEX = "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json"
_EMPTY = {
    "mediaType": "application/vnd.oci.empty.v1+json",
    "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    "size": 2,
    "data": "e30=",
}
_DOCUMENT, _BLOB = "application/vnd.vmfb-pipeline.document", "application/octet-stream"
_KEY, _TITLE = "vmfb-pipeline.key", "org.opencontainers.image.title"
_SMALL = 64 << 10  # bytes of a document that stands in its manifest
_LIMIT = 4 << 20  # bytes of a manifest, as the distribution specification has it
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_REFERRERS = re.compile(r"sha256-[0-9a-f]{64}")
_AUTHORITIES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")  # variables that name a file of certificates
_ASKED = r" with url: \S*"  # what was redirected to may be signed, which is a secret
_LOCAL = ("localhost", "127.0.0.1", "::1")
setup_logger(quiet=True)  # what goes wrong is told once, by the error
_LOG_IN = "log in with `docker login`, `podman login` or `oras login`; DOCKER_CONFIG names another folder than ~/.docker"


def tag_of(key: str) -> str:
    """The tag of the object at `key`: `/` is `_s`, `_` is `_u`, other signs that a tag has not `_` and two hex digits of a byte.

    What is too long for a tag is `_k` and the key's SHA-256; the key stands in the manifest then.
    """
    escaped = re.sub(r"[^A-Za-z0-9.-]", lambda sign: {"/": "_s", "_": "_u"}.get(sign[0]) or _hex(sign[0]), key)
    if escaped[:1] in (".", "-"):
        escaped = _hex(escaped[0]) + escaped[1:]
    return escaped if _TAG.fullmatch(escaped) else f"_k{sha256_bytes(key.encode())}"


def _hex(sign: str) -> str:
    return "".join(f"_x{byte:02x}" for byte in sign.encode())


def key_of(tag: str) -> str | None:
    """The key of a tag that `tag_of` made of it; None for one by the key's digest, and for any other."""
    signs = {"_s": b"/", "_u": b"_"}
    data = re.sub(
        rb"_x([0-9a-f]{2})|_[su]", lambda m: bytes.fromhex(m[1].decode()) if m[1] else signs[m[0].decode()], tag.encode()
    )
    key = data.decode("utf-8", "replace")
    return key if tag_of(key) == tag else None


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
        if not isinstance(pools.pool_classes_by_scheme, dict) or "paced" not in vars(pools):
            pools.pool_classes_by_scheme = dict(pools.pool_classes_by_scheme)
            set_pace(pools.pool_classes_by_scheme, self._patience)
            pools.paced = True
        return pools

    def send(self, request: Any, *arguments: Any, **options: Any) -> Any:
        return super().send(request, *arguments, **{**options, "timeout": (self._patience.connect, self._patience.silence)})


class OciStore:
    """Objects in a repository of a registry, at `oci://registry/repository`; by http where that is this machine, or by `oci+http://`.

    Who may read or write it is known by logins of docker, podman or oras.
    """

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

    @property
    def identity(self) -> Mapping[str, str]:
        """Nothing beside the URL."""
        return {}

    # Requests

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
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

    def _ask(self, key: str, method: str, path: str, *but: int, stream: bool = False, **options: Any) -> Any:
        """The answer of the registry to a request about the object at `key`. One with a status in `but` is no error."""
        url = path if path.startswith(("http://", "https://")) else f"{self._base}/{path}"
        headers = {"Accept-Encoding": "identity", **options.pop("headers", {})}
        with self._errors(key):
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

    def _manifest(self, key: str, tag: str) -> tuple[dict[str, Any], str, int] | None:
        """What is tagged so, its digest, and its size in bytes; None where nothing is."""
        accept = {"Accept": f"{_MANIFEST}, {_INDEX}"}
        answer = self._ask(key, "GET", f"manifests/{tag}", 404, headers=accept, stream=True)
        if answer.status_code == 404:
            return None
        with self._errors(key):
            data = _read(answer, _LIMIT)
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise PipelineError("the registry gives no manifest for it", where=f"{self.url}/{key}")
        return found, f"sha256:{sha256_bytes(data)}", len(data)

    # Reading

    def get(self, key: str) -> Object | None:
        """The object at `key`; its tag is the digest of the manifest that holds it."""
        if digest := blob_digest(key):
            answer = self._ask(key, "GET", f"blobs/sha256:{digest}", 404, stream=True)
            with self._errors(key):
                return None if answer.status_code == 404 else Object(_read(answer, DOCUMENT_LIMIT), digest)
        if (found := self._manifest(key, tag_of(key))) is None:
            return None
        manifest, tag, _ = found
        try:
            layer = manifest["layers"][0]
            if manifest["annotations"][_KEY] != key:
                raise ValueError("another key")
            digest, size = str(layer["digest"]).removeprefix("sha256:"), int(layer["size"])
            data = base64.b64decode(layer["data"], validate=True) if "data" in layer else None
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, binascii.Error) as error:
            raise PipelineError(
                f"the tag {tag_of(key)} is something else", where=f"{self.url}/{key}", hint="use another repository"
            ) from error
        if size > DOCUMENT_LIMIT:
            raise too_large(self.url, key)
        if data is None:
            answer = self._ask(key, "GET", f"blobs/sha256:{digest}", stream=True)
            with self._errors(key):
                data = _read(answer, DOCUMENT_LIMIT)
        if sha256_bytes(data) != digest:
            raise BrokenTransferError("the registry gives other bytes than its manifest says", where=f"{self.url}/{key}")
        return Object(data, tag)

    @contextmanager
    def open(self, key: str, offset: int, length: int) -> Iterator[Body]:
        """A ranged GET. A registry that ignores the range gives the whole blob."""
        asked = {"Range": f"bytes={offset}-{offset + length - 1}"}
        answer = self._ask(key, "GET", f"blobs/sha256:{blob_digest(key)}", 404, headers=asked, stream=True)
        try:
            if answer.status_code == 404:
                raise no_such_object(self.url, key)
            where = f"{self.url}/{key}"
            told = answer.headers.get("Content-Range", "") if answer.status_code == 206 else ""
            if answer.status_code == 206 and not told:
                raise PipelineError("the registry sends a part without saying which", where=where)
            yield WebBody(is_ranged(told, offset, length, where), answer.raw, where)
        finally:
            answer.close()

    def listed(self, prefix: str) -> list[str] | None:
        """By the list of tags; None where that is not permitted."""
        with suppress(DeniedError):
            return self.keys(prefix)
        return None

    def keys(self, prefix: str) -> list[str]:
        """By the list of tags. A key that is too long for one stands in the manifest of its digest."""
        found: list[str] = []
        for tag in self._tags():
            if _REFERRERS.fullmatch(tag):
                continue
            key = key_of(tag)
            if key is None and tag.startswith("_k") and (made := self._manifest(tag, tag)):
                named = made[0].get("annotations")
                key = named.get(_KEY) if isinstance(named, dict) else None
            if isinstance(key, str) and tag_of(key) == tag and key.startswith(prefix):
                found.append(key)
        return sorted(found)

    def _tags(self) -> Iterator[str]:
        path = "tags/list"
        while path:
            answer = self._ask("", "GET", path, 404, stream=True)
            if answer.status_code == 404:
                return
            with self._errors(""):
                data = _read(answer, DOCUMENT_LIMIT)
            try:
                yield from (str(tag) for tag in json.loads(data).get("tags") or ())
            except (ValueError, TypeError, AttributeError, RecursionError) as error:
                raise PipelineError("the registry gives no list of its tags", where=self.url) from error
            more = re.search(r"[?&](n=[^>]*|last=[^>]*)>", answer.headers.get("Link", ""))
            following = f"tags/list?{more[1]}" if more else ""
            path = following if following != path else ""

    # Writing

    def holds(self, key: str, size: int, sha256: str) -> bool:
        """By a HEAD request: the registry has checked the digest of what was put."""
        answer = self._ask(key, "HEAD", f"blobs/sha256:{sha256}", 404)
        return bool(answer.ok and answer.headers.get("Content-Length") == str(size))

    def upload(self, key: str, path: Path, sha256: str) -> None:
        """Put the file, in one request. The registry shows it when it has found its digest right."""
        with disk_errors(str(path)), path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != sha256:
                raise wrong_digest(path, digest)
            file.seek(0)
            self._put_blob(key, sha256, file, os.fstat(file.fileno()).st_size)

    def _put_blob(self, key: str, sha256: str, data: bytes | IO[bytes], size: int) -> None:
        begun = self._ask(key, "POST", "blobs/uploads/", headers={"Content-Length": "0"})
        place = urljoin(begun.url, begun.headers.get("Location", ""))
        if not begun.headers.get("Location"):
            raise PipelineError("the registry does not say where to put it", where=f"{self.url}/{key}")
        headers = {"Content-Length": str(size), "Content-Type": _BLOB}
        self._ask(key, "PUT", f"{place}{'&' if '?' in place else '?'}digest=sha256:{sha256}", headers=headers, data=data)

    def create(self, key: str, data: bytes) -> bool:
        """Put `data` unless something is there, as far as a look before can tell."""
        if key.startswith(PRUNE):
            return True  # a lease: nobody prunes a registry by its keys
        if self._manifest(key, tag_of(key)):
            return False
        self._put(key, data)
        return True

    def replace(self, key: str, data: bytes, tag: str | None) -> bool:
        """Put `data` if the object is in that state, as far as a look before can tell."""
        found = self._manifest(key, tag_of(key))
        if (found[1] if found else None) != tag:
            return False
        self._put(key, data)
        return True

    def _put(self, key: str, data: bytes) -> None:
        release = manifest_beside(key)
        layers = [_descriptor(_DOCUMENT, sha256_bytes(data), len(data), key.rpartition("/")[2])]
        if len(data) <= _SMALL:
            layers[0]["data"] = base64.b64encode(data).decode()
        for sha256, content in ((sha256_bytes(data), data), (_EMPTY["digest"][7:], b"{}")):  # type: ignore[index]
            if not self.holds(key, len(content), sha256):
                self._put_blob(key, sha256, content, len(content))
        made: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "artifactType": _DOCUMENT,
            "config": _EMPTY,
            "layers": layers,
            "annotations": {_KEY: key},
        }
        if release == key:
            layers += _layers(decode(Manifest, data, f"{self.url}/{key}"))
        elif release and (about := self._manifest(release, tag_of(release))):
            made["subject"] = {"mediaType": _MANIFEST, "digest": about[1], "size": about[2]}
        told = self._put_manifest(key, tag_of(key), made)
        if "subject" in made and "OCI-Subject" not in told.headers:
            self._refer(key, made)

    def _put_manifest(self, key: str, tag: str, made: Mapping[str, Any]) -> Any:
        headers = {"Content-Type": str(made["mediaType"])}
        return self._ask(key, "PUT", f"manifests/{tag}", headers=headers, data=_encoded(made))

    def _refer(self, key: str, made: Mapping[str, Any]) -> None:
        """List what refers to a manifest in the index that has its digest for a tag: the specification's way without the API."""
        tag = str(made["subject"]["digest"]).replace(":", "-")
        found = self._manifest(key, tag)
        known = found[0].get("manifests", []) if found else []
        data = _encoded(made)
        mine = {
            "mediaType": _MANIFEST,
            "digest": f"sha256:{sha256_bytes(data)}",
            "size": len(data),
            "artifactType": _DOCUMENT,
            "annotations": made["annotations"],
        }
        others = [one for one in known if isinstance(one, dict) and one.get("annotations", {}).get(_KEY) != key]
        index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [*others, mine]}
        self._put_manifest(key, tag, index)


def _encoded(made: Mapping[str, Any]) -> bytes:
    return json.dumps(made, separators=(",", ":"), sort_keys=True).encode()


def _descriptor(kind: str, sha256: str, size: int, title: str) -> dict[str, Any]:
    return {"mediaType": kind, "digest": f"sha256:{sha256}", "size": size, "annotations": {_TITLE: title}}


def _layers(manifest: Manifest) -> list[dict[str, Any]]:
    """A release's blobs, each once, by the names that whoever pulls them finds them under."""
    blobs: dict[str, Blob] = {blob.sha256: blob for blob in manifest.blobs()}
    titles: set[str] = set()
    layers = []
    for blob in blobs.values():
        title = blob.name if blob.name not in titles else f"{blob.sha256[:12]}-{blob.name}"
        titles.add(title)
        layers.append(_descriptor(_BLOB, blob.sha256, blob.size, title))
    return layers


def _read(answer: Any, limit: int) -> bytes:
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
