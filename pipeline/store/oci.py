"""A store in an OCI registry, as images are kept in: `oci://registry/repository`. To read, and for `vmfb copy` to write to.

A blob of ours is a blob of the repository, by its digest. Every other object is a manifest with a tag made of its key (`tag_of`),
whose first layer is the object; what is small stands in the manifest itself, too. That of a release has its blobs as further
layers: no registry collects them as garbage, and other clients pull them. Evidence, signatures and what tells where a release
comes from refer to it (`subject`); where the registry lists no referrers, by the tag that the specification has for that.

Registries compare nothing before they write: one may write to a repository at a time.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from urllib.parse import urljoin

from pipeline.errors import DeniedError, PipelineError, disk_errors
from pipeline.files import sha256_bytes
from pipeline.layout import PRUNE, belonging_to, blob_of, release_key
from pipeline.manifest.codec import decode
from pipeline.manifest.types import Blob, Manifest
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
from pipeline.store.pace import Patience
from pipeline.store.registry import Repository, read
from pipeline.store.web import WebBody

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
_PAGES = 10_000  # of a list of tags, of which registries give hundreds at once
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_REFERRERS = re.compile(r"sha256-[0-9a-f]{64}")


def tag_of(key: str) -> str:
    """The tag of the object at `key`: `/` is `_s`, `_` is `_u`, of other signs that a tag has not each byte `_x` and two digits.

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


class OciStore:
    """Objects in a repository of a registry, at `oci://registry/repository`; by http where that is this machine, or by `oci+http://`.

    Who may read or write it is known by logins of docker, podman or oras.
    """

    def __init__(self, url: str, patience: Patience | None = None) -> None:
        self._repository = Repository(url, patience)
        self.url = self._repository.url

    @property
    def identity(self) -> Mapping[str, str]:
        """Nothing beside the URL."""
        return {}

    def _manifest(self, key: str, tag: str) -> tuple[dict[str, Any], str, int] | None:
        """What is tagged so, its digest, and its size in bytes; None where nothing is."""
        accept = {"Accept": f"{_MANIFEST}, {_INDEX}"}
        answer = self._repository.ask(key, "GET", f"manifests/{tag}", 404, headers=accept, stream=True)
        if answer.status_code == 404:
            return None
        with self._repository.errors(key):
            data = read(answer, _LIMIT)
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
        if digest := blob_of(key):
            answer = self._repository.ask(key, "GET", f"blobs/sha256:{digest}", 404, stream=True)
            with self._repository.errors(key):
                return None if answer.status_code == 404 else Object(read(answer, DOCUMENT_LIMIT), digest)
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
            answer = self._repository.ask(key, "GET", f"blobs/sha256:{digest}", stream=True)
            with self._repository.errors(key):
                data = read(answer, DOCUMENT_LIMIT)
        if sha256_bytes(data) != digest:
            raise BrokenTransferError("the registry gives other bytes than its manifest says", where=f"{self.url}/{key}")
        return Object(data, tag)

    @contextmanager
    def open(self, key: str, offset: int, length: int) -> Iterator[Body]:
        """A ranged GET. A registry that ignores the range gives the whole blob."""
        asked = {"Range": f"bytes={offset}-{offset + length - 1}"}
        answer = self._repository.ask(key, "GET", f"blobs/sha256:{blob_of(key)}", 404, headers=asked, stream=True)
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
        path, seen = "tags/list", set[str]()
        while path and path not in seen:
            seen.add(path)
            if len(seen) > _PAGES:
                raise PipelineError("the registry's list of its tags does not end", where=self.url)
            answer = self._repository.ask("", "GET", path, 404, stream=True)
            if answer.status_code == 404:
                return
            with self._repository.errors(""):
                data = read(answer, DOCUMENT_LIMIT)
            try:
                yield from (str(tag) for tag in json.loads(data).get("tags") or ())
            except (ValueError, TypeError, AttributeError, RecursionError) as error:
                raise PipelineError("the registry gives no list of its tags", where=self.url) from error
            more = re.search(r"[?&](n=[^>]*|last=[^>]*)>", answer.headers.get("Link", ""))
            path = f"tags/list?{more[1]}" if more else ""

    # Writing

    def holds(self, key: str, size: int, sha256: str) -> bool:
        """By a HEAD request: the registry has checked the digest of what was put."""
        answer = self._repository.ask(key, "HEAD", f"blobs/sha256:{sha256}", 404)
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
        begun = self._repository.ask(key, "POST", "blobs/uploads/", headers={"Content-Length": "0"})
        place, named = "", begun.headers.get("Location", "")
        with suppress(ValueError):  # one that is no URL
            place = urljoin(begun.url, named)
        if not named or not place.startswith(("http://", "https://")):
            raise PipelineError("the registry does not say where to put it", where=f"{self.url}/{key}")
        headers = {"Content-Length": str(size), "Content-Type": _BLOB}
        self._repository.ask(
            key, "PUT", f"{place}{'&' if '?' in place else '?'}digest=sha256:{sha256}", headers=headers, data=data
        )

    def create(self, key: str, data: bytes) -> bool:
        """Put `data` unless something is there, as far as a look before can tell."""
        if key.startswith(PRUNE):
            return True  # a lease: nobody prunes a registry by its keys
        if self._manifest(key, tag_of(key)):
            return False
        self._put(key, data)
        found = self.get(key)  # who came between may have put another, and what answers a write need not have kept it
        return found is not None and found.data == data

    def replace(self, key: str, data: bytes, tag: str | None) -> bool:
        """Put `data` if the object is in that state, as far as a look before can tell."""
        found = self._manifest(key, tag_of(key))
        if (found[1] if found else None) != tag:
            return False
        self._put(key, data)
        return True

    def _put(self, key: str, data: bytes) -> None:
        beside = belonging_to(key)
        release = release_key(*beside[:2]) if beside else ""
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
        return self._repository.ask(key, "PUT", f"manifests/{tag}", headers=headers, data=_encoded(made))

    def _refer(self, key: str, made: Mapping[str, Any]) -> None:
        """List what refers to a manifest in the index that has its digest for a tag: the specification's way without the API."""
        tag = str(made["subject"]["digest"]).replace(":", "-")
        found = self._manifest(key, tag)
        listed = found[0].get("manifests") if found else None
        known = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        data = _encoded(made)
        mine = {
            "mediaType": _MANIFEST,
            "digest": f"sha256:{sha256_bytes(data)}",
            "size": len(data),
            "artifactType": _DOCUMENT,
            "annotations": made["annotations"],
        }
        others = [one for one in known if one.get("annotations") != made["annotations"]]
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
