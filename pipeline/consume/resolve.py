"""From what a user asks for to a release's manifest: by the store, or by what was last seen of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pipeline.consume.cache import Cache
from pipeline.consume.evidence import Gatherer, Testimony
from pipeline.consume.reference import Reference
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import expanded, sha256_bytes
from pipeline.layout import INDEX_KEY, channel_key, release_key
from pipeline.manifest.codec import decode, embedded_evidence
from pipeline.manifest.evidence import EvidenceDocument
from pipeline.manifest.types import SCHEMA, Channel, Index, Manifest
from pipeline.names import did_you_mean
from pipeline.store.base import BrokenTransferError, Source, public_url
from pipeline.store.open import open_source

T = TypeVar("T", Channel, Index)

DEFAULT_STORE = Path("out/store")


def default_store() -> str:
    """PIPELINE_STORE, or `out/store` in a folder where `doit` has published to it."""
    if named := os.environ.get("PIPELINE_STORE"):
        return named
    if DEFAULT_STORE.is_dir():
        return str(DEFAULT_STORE)
    raise PipelineError(f"no store is named, and {DEFAULT_STORE} is not here", hint="give --store URL, or set PIPELINE_STORE")


class Remote:
    """A store by its URL, opened only when something has to be asked. `offline`: never."""

    def __init__(self, url: str, offline: bool = False) -> None:
        is_path = "://" not in url
        with disk_errors("the current folder"):
            self._address = str(expanded(url).absolute()) if is_path else url
        # For people and for the cache: a token in the address may change, and is nobody's business.
        self.url = self._address if is_path else public_url(url).rstrip("/")
        # A bucket of the same name at another endpoint is another store. The chain of boto3 takes too long to ask here.
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        at = f"{public_url(endpoint).rstrip('/')} " if url.startswith("s3://") and endpoint else ""
        self.cached_as = at + self.url
        self.offline = offline
        self.is_away = False  # it did not answer: what was last seen of it is good enough
        self._source: Source | None = None

    @property
    def source(self) -> Source:
        """The store itself. Raises PipelineError when offline."""
        if self.offline:
            raise PipelineError("is not in the cache", where=self.url, hint="run the command without --offline")
        self._source = self._source or open_source(self._address)
        if "://" not in self._address and not Path(self._address).is_dir():
            raise BrokenTransferError("there is no such folder", where=self.url, hint="check the path; is it mounted?")
        return self._source


class Resolver:
    """Finds manifests in a store, remembers them in the cache. `note` is told what a user should know."""

    def __init__(self, remote: Remote, cache: Cache, note: Callable[[str], None] = lambda _: None) -> None:
        self.remote, self._cache, self._note = remote, cache, note
        self._embedded: dict[tuple[str, str], EvidenceDocument] = {}
        self._asked = False
        self._told: set[str] = set()

    def _tell(self, text: str) -> None:
        """Note something once."""
        if text not in self._told:
            self._told.add(text)
            self._note(text)

    def _where(self, key: str) -> str:
        return f"{self.remote.url}/{key}"

    def _moving(self, kind: type[T], key: str, what: str) -> T | None:
        """A document that changes: from the store, or when it cannot be reached as it was last seen."""
        seen = self._cache.document(self.remote.cached_as, key)
        if not self.remote.offline and not (self.remote.is_away and seen is not None):
            try:
                found = self.remote.source.get(key)
            except BrokenTransferError as error:
                if seen is None:
                    raise
                self.remote.is_away = True
                self._tell(f"{error.where}: {error.what}; going by what it was when last seen")
            else:
                if found is None:
                    return None
                document = self._decoded(kind, key, found.data)
                self._cache.keep(self.remote.cached_as, key, found.data)
                return document
        if seen is None:
            raise PipelineError(f"{what} is not in the cache", where=self.remote.url, hint="run it without --offline")
        return decode(kind, seen, f"the cache's copy of {key}")

    def _decoded(self, kind: type[T], key: str, data: bytes) -> T:
        try:
            return decode(kind, data, self._where(key))
        except PipelineError as error:
            hint = error.hint or "it is damaged: `doit publish` to this store makes it again"
            raise PipelineError(error.what, where=error.where, hint=hint) from error

    def index(self) -> Index:
        """What the store holds."""
        index = self._moving(Index, INDEX_KEY, "the list of models")
        if index is None:
            raise PipelineError(
                "there is no index.json: no store, or nothing was published to it", where=self.remote.url, hint="check the URL"
            )
        return index

    def _unknown(self, reference: Reference) -> PipelineError:
        models = {m.name: m for m in self.index().models}
        if reference.model not in models:
            return PipelineError(
                f"there is no model {reference.model}: {did_you_mean(reference.model, models)}", where=self.remote.url
            )
        known = models[reference.model]
        word = reference.version or reference.channel
        others = known.versions if reference.version else [c.channel for c in known.channels]
        kind = "version" if reference.version else "channel"
        return PipelineError(f"{reference.model} has no {kind} {word}: {did_you_mean(word, others)}", where=self.remote.url)

    def manifest(self, reference: Reference) -> Manifest:
        """The manifest of the release that `reference` names. Raises PipelineError where there is none, or a wrong one."""
        if reference.version:
            return self._release(reference, reference.version, None)
        key = channel_key(reference.model, reference.channel)
        channel = self._moving(Channel, key, f"{reference}")
        if channel is None:
            raise self._unknown(reference)
        wanted = Channel(SCHEMA, reference.model, reference.channel, channel.version, channel.manifest)
        if channel != wanted or channel.manifest.name != release_key(reference.model, channel.version):
            raise PipelineError("is the channel of another model, or points elsewhere", where=self._where(key))
        return self._release(reference, channel.version, channel.manifest.sha256)

    def _release(self, reference: Reference, version: str, sha256: str | None) -> Manifest:
        key = release_key(reference.model, version)
        data = self._cache.document(self.remote.cached_as, key)
        self._asked = sha256 is not None
        if data is not None and (sha256 is None or sha256_bytes(data) == sha256):
            try:
                return self._checked(data, reference.model, version, key)
            except PipelineError:
                pass  # damaged in the cache: the store has the right one
        self._asked = True
        found = self.remote.source.get(key)
        if found is None:
            raise self._unknown(reference)
        if sha256 is not None and sha256_bytes(found.data) != sha256:
            raise PipelineError(
                f"has the SHA-256 {sha256_bytes(found.data)}, its channel says {sha256}",
                where=self._where(key),
                hint="the release was damaged or replaced: tell who publishes it",
            )
        manifest = self._checked(found.data, reference.model, version, key)
        self._cache.keep(self.remote.cached_as, key, found.data)
        return manifest

    def _checked(self, data: bytes, model: str, version: str, key: str) -> Manifest:
        manifest = decode(Manifest, data, f"{self.remote.url}/{key}")
        if (manifest.model.name, manifest.version) != (model, version):
            raise PipelineError(f"is the manifest of {manifest.model.name} {manifest.version}", where=f"{self.remote.url}/{key}")
        if embedded := embedded_evidence(data, manifest):
            self._embedded[model, version] = embedded
        return manifest

    def evidence(self, manifest: Manifest, asks: bool | None = None) -> Testimony:
        """What witnesses say of a release that was resolved here.

        The store is asked for it if `asks`; by default, if it was asked for the release, or never for this. Where it has not
        answered before, it is not asked.
        """
        gatherer = Gatherer(lambda: self.remote.source, self.remote.cached_as, self._cache, self._tell)
        embedded = self._embedded.get((manifest.model.name, manifest.version))
        if asks is None:
            asks = self._asked or not gatherer.has_seen(manifest)
        asks = asks and not self.remote.offline and not self.remote.is_away
        found = gatherer.gather(manifest, asks, [embedded] if embedded else [])
        self.remote.is_away = self.remote.is_away or gatherer.is_away
        return found
