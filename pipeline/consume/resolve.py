"""From what a user asks for to a release's manifest: by the store, or by what was last seen of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pipeline import exits
from pipeline.consume.cache import Cache
from pipeline.consume.evidence import Gatherer, Testimony
from pipeline.consume.lock import locked
from pipeline.consume.reference import Reference
from pipeline.consume.yanks import Yanks
from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes
from pipeline.layout import INDEX_KEY, TRUST, channel_key, provenance_key, release_key
from pipeline.manifest import provenance
from pipeline.manifest.codec import decode, embedded_evidence
from pipeline.manifest.evidence import EvidenceDocument
from pipeline.manifest.types import Channel, Index, Lock, Manifest, Yank
from pipeline.names import did_you_mean, is_version
from pipeline.plain import without_secrets
from pipeline.platforms import is_own
from pipeline.store.base import BrokenTransferError, Source
from pipeline.store.open import address_of, open_source
from pipeline.store.yanks import YankedError, told
from pipeline.trust.anchors import anchor_of, require_allowed
from pipeline.trust.source import TrustedSource

T = TypeVar("T", Channel, Index)

DEFAULT_STORE = Path("out/store")
_REQUESTS = 8  # at a time


class _NotThereError(BrokenTransferError):
    """A path that is not there: of a disk that is not mounted, or mistyped, and then waiting is of no use."""

    exit_code = exits.NOT_DONE


def default_store(lock: Lock | None = None) -> str:
    """PIPELINE_STORE, the store of a lock that is obeyed, or `out/store` in a folder where `doit` has published to it."""
    if named := os.environ.get("PIPELINE_STORE") or (lock.store if lock else ""):
        return named
    if DEFAULT_STORE.is_dir():
        return str(DEFAULT_STORE)
    raise PipelineError(f"no store is named, and {DEFAULT_STORE} is not here", hint="give --store URL, or set PIPELINE_STORE")


def _is_open(url: str) -> bool:
    """Whether what comes from a URL comes over a network as it is, to be read and changed by whoever is between."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False  # no URL at all, as will be said
    return parts.scheme == "http" and host not in ("localhost", "::1") and not host.startswith("127.")


class Remote:
    """A store by its URL, opened only when something has to be asked. `offline`: never.

    What it says is verified where it is known who signs it; else raises TrustError if it has to be signed.
    """

    def __init__(self, url: str, offline: bool = False) -> None:
        self._address = address_of(url)
        self.url, self.offline = self._address.url, offline
        self._anchor = anchor_of(self._address.name)
        if self._anchor is None:
            require_allowed(self._address.name)
        # What was not verified when it was read shall not be found by who verifies.
        self.cached_as = f"{self._address.name} signed by {self._anchor.sha256}" if self._anchor else self._address.name
        self.is_away = False  # it did not answer: what was last seen of it is good enough
        self._source: Source | None = None

    @property
    def source(self) -> Source:
        """The store itself. Raises PipelineError when offline."""
        if self.offline:
            raise PipelineError("is not in the cache", where=self.url, hint="run the command without --offline")
        if "://" not in self._address.to_open and not Path(self._address.to_open).exists():
            what = "there is no such file" if self.url.endswith(".tar") else "there is no such folder"
            raise _NotThereError(what, where=self.url, hint="check the path; is it mounted?")
        self._source = self._source or self._opened()
        return self._source

    @property
    def name(self) -> str:
        """The name that no other store has."""
        return self._address.name

    @property
    def bare(self) -> Source:
        """The store with its metadata, of which nothing is verified."""
        return open_source(self._address.to_open)

    def _opened(self) -> Source:
        source = open_source(self._address.to_open)
        return TrustedSource(source, self._anchor) if self._anchor else source

    @property
    def likely(self) -> str:
        """What to do where it is no store: of a project's folder, to take that project's."""
        own = Path(self.url, DEFAULT_STORE)
        if "://" in self.url or not Path(self.url, "dodo.py").is_file():
            return "check the URL"
        return f"a project publishes to {own}: give that" if own.is_dir() else "run `doit` there, then give its out/store"

    @property
    def is_signed(self) -> bool:
        """Whether what it says is verified here."""
        return self._anchor is not None

    def _is_own_folder(self) -> bool:
        """Whether it is a folder into which nobody else can put anything, and which nobody signs."""
        folder = Path(self._address.to_open)
        try:
            is_folder = "://" not in self._address.to_open and folder.is_dir()
            return is_folder and is_own(folder.stat()) and not (folder / TRUST).exists()
        except OSError:
            return False

    @property
    def notes(self) -> list[str]:
        """What a user is to know of what the store says, before it is used."""
        is_open = _is_open(self._address.to_open)
        between = "whoever is between here and there"
        if self._anchor:
            return [f"{self.url} comes by http: {between} sees what is fetched, and may hold it back"] if is_open else []
        if self._is_own_folder():
            return []
        more = f", and comes by http: {between} may change it" if is_open else ""
        return [without_secrets(f"{self.url} is not signed, as far as is known here (`vmfb trust add`){more}")]


class Resolver:
    """Finds manifests in a store, remembers them in the cache. `note` is told what a user should know.

    `index`: what the store holds, where that was just asked. `shows`: releases are only looked at, so those that were yanked
    are found as others are, with a note. `yanked`: why the last that was found so is not to be used any more. `lock`: names mean
    what it says, and nothing else; as pins do, so what was yanked since is found with a note.
    """

    yanked: Yank | None = None

    def __init__(
        self,
        remote: Remote,
        cache: Cache,
        note: Callable[[str], None] = lambda _: None,
        index: Index | None = None,
        shows: bool = False,
        lock: Lock | None = None,
    ) -> None:
        self.remote, self._cache, self._note, self._index = remote, cache, note, index
        self._embedded: dict[tuple[str, str], EvidenceDocument] = {}
        self._digests: dict[tuple[str, str], str] = {}
        self._asked = False
        self._told: set[str] = set()
        self._lock = lock
        self._yanks, self._shows = Yanks(remote.cached_as, cache), shows
        self._named: dict[tuple[str, str], Reference] = {}  # what was asked for, by what it is
        self._heard: set[tuple[str, str]] = set()  # of which the store has said whether they were yanked

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
        index = self._index or self._moving(Index, INDEX_KEY, "the list of models")
        if index is None:
            what = "there is no index.json: no store, or nothing was published to it"
            raise PipelineError(what, where=self.remote.url, hint=self.remote.likely)
        return index

    def _unknown(self, reference: Reference) -> PipelineError:
        models = {m.name: m for m in self.index().models}
        if reference.model not in models:
            return PipelineError(
                f"there is no model {reference.model}: {did_you_mean(reference.model, models)}", where=self.remote.url
            )
        if reference.sha256:
            return PipelineError(f"no release of {reference.model} has this manifest: {reference}", where=self.remote.url)
        known = models[reference.model]
        word = reference.version or reference.channel
        others = known.versions if reference.version else [c.channel for c in known.channels]
        kind = "version" if reference.version else "channel"
        return PipelineError(f"{reference.model} has no {kind} {word}: {did_you_mean(word, others)}", where=self.remote.url)

    def manifest(self, reference: Reference) -> Manifest:
        """The manifest of the release that `reference` names.

        Raises PipelineError where there is none, or a wrong one, and YankedError where it is not to be used any more; that one
        is found by the digest of its manifest alone, with a note.
        """
        manifest = self._manifest(reference)
        self._named[manifest.model.name, manifest.version] = reference
        self._require_usable(manifest, asks=self._asked)
        return manifest

    def _require_usable(self, manifest: Manifest, asks: bool) -> None:
        """Raise YankedError where the release was yanked. The store is asked if `asks`, and where it said so before."""
        model, version = release = manifest.model.name, manifest.version
        yank = self._yanks.remembered(model, version)
        if (asks or yank) and release not in self._heard and not self.remote.offline and not self.remote.is_away:
            try:
                yank = self._yanks.ask(self.remote.source, model, version)
                self._heard.add(release)
            except BrokenTransferError as error:
                self.remote.is_away = True
                self._tell(f"{error.where}: {error.what}; going by what was last seen")
        if yank:
            self._refuse_yanked(self._named.get(release, Reference(model, version=version)), yank)

    def _refuse_yanked(self, reference: Reference, yank: Yank) -> None:
        if self._shows or reference.sha256 or self._lock:
            self.yanked = yank
            self._tell(f"! {told(yank)}")
            return
        pin = Reference(yank.model, sha256=self._digests[yank.model, yank.version])
        hint = f"take another release (`vmfb list`), or ask who publishes it; to have this one all the same, name it {pin}"
        raise YankedError(f"{reference}: {told(yank)}" if reference.channel else told(yank), where=self.remote.url, hint=hint)

    def _manifest(self, reference: Reference) -> Manifest:
        if self._lock:
            one = locked(self._lock, reference)
            return self._release(Reference(one.model, version=one.version), one.version, one.manifest, "the lock")
        if reference.sha256:
            return self._pinned(reference)
        if reference.version:
            return self._release(reference, reference.version, None)
        key = channel_key(reference.model, reference.channel)
        channel = self._moving(Channel, key, f"{reference}")
        if channel is None:
            raise self._unknown(reference)
        is_asked = (channel.model, channel.channel) == (reference.model, reference.channel)
        if not is_asked or channel.manifest.name != release_key(reference.model, channel.version):
            raise PipelineError("is the channel of another model, or points elsewhere", where=self._where(key))
        return self._release(reference, channel.version, channel.manifest.sha256)

    def pin(self, manifest: Manifest) -> Reference:
        """The reference that means the manifest, which was found here, and never another one."""
        return Reference(manifest.model.name, sha256=self._digests[manifest.model.name, manifest.version])

    def _release(self, reference: Reference, version: str, sha256: str | None, by: str = "its channel") -> Manifest:
        """The manifest of a version, with this digest if it is known, `by` whom. Another than that first seen is not believed."""
        key = release_key(reference.model, version)
        data = self._cache.document(self.remote.cached_as, key)
        first, self._asked = self._first_seen(reference.model, version, data), sha256 is not None and not self._lock
        if first and sha256 not in (None, first):
            raise self._changed(reference.model, version, first, sha256 or "")
        if data is not None and first == sha256_bytes(data):
            try:
                return self._kept(data, reference.model, version)
            except PipelineError:
                pass  # damaged in the cache: the store has the right one
        self._asked = True
        found = self.remote.source.get(key)
        if found is None:
            raise self._unknown(reference)
        digest = sha256_bytes(found.data)
        if sha256 not in (None, digest):
            raise PipelineError(
                f"has the SHA-256 {digest}, {by} says {sha256}",
                where=self._where(key),
                hint="the release was damaged or replaced: tell who publishes it",
            )
        if first not in ("", digest):
            raise self._changed(reference.model, version, first, digest)
        return self._kept(found.data, reference.model, version)

    def _first_seen(self, model: str, version: str, data: bytes | None) -> str:
        """The digest that a version's manifest had when it was first seen. Caches of older programs have only it, `data`."""
        key = release_key(model, version)
        first = self._cache.first_seen(self.remote.cached_as, key)
        if not first and data is not None:
            with suppress(PipelineError):
                self._checked(data, model, version)
                return sha256_bytes(data)
        return first

    def _changed(self, model: str, version: str, first: str, now: str) -> PipelineError:
        return PipelineError(
            f"has the SHA-256 {now}; when it was first seen here it had {first}",
            where=self._where(release_key(model, version)),
            hint=f"releases never change: ask who publishes it. If this one is right, name it: {Reference(model, sha256=now)}",
        )

    def _pinned(self, reference: Reference) -> Manifest:
        """The manifest with a digest, under whatever version it is: of those in the cache, then of those in the store."""
        model, sha256 = reference.model, reference.sha256
        self._asked = False
        for data in self._cache.manifests(self.remote.cached_as, model):
            if sha256_bytes(data) == sha256:
                return self._kept(data, model, None)
        if self.remote.offline:
            raise PipelineError(f"{reference} is not in the cache", where=self.remote.url, hint="run it without --offline")
        self._asked = True
        versions = [v for m in self.index().models if m.name == model for v in (*(c.version for c in m.channels), *m.versions)]
        source, keys = self.remote.source, dict.fromkeys(release_key(model, v) for v in versions if is_version(v))
        with ThreadPoolExecutor(_REQUESTS) as pool:
            for start in range(0, len(keys), _REQUESTS):
                for found in pool.map(source.get, list(keys)[start : start + _REQUESTS]):
                    if found and sha256_bytes(found.data) == sha256:
                        return self._kept(found.data, model, None)
        raise self._unknown(reference)

    def _kept(self, data: bytes, model: str, version: str | None) -> Manifest:
        """The manifest in `data`, checked, and remembered as what its version is."""
        manifest = self._checked(data, model, version)
        if embedded := embedded_evidence(data, manifest):
            self._embedded[model, manifest.version] = embedded
        self._digests[model, manifest.version] = digest = sha256_bytes(data)
        before = self._cache.keep_for_good(self.remote.cached_as, release_key(model, manifest.version), data)
        if before not in ("", digest):
            self._note(
                f"{model} {manifest.version} was another manifest so far, with the SHA-256 {before}: from now on it is this"
            )
        return manifest

    def _checked(self, data: bytes, model: str, version: str | None) -> Manifest:
        """The manifest in `data`, which must be of this model, and of this version where that is known."""
        where = self._where(release_key(model, version or "…"))
        manifest = decode(Manifest, data, where)
        if manifest.model.name != model or version not in (None, manifest.version):
            raise PipelineError(f"is the manifest of {manifest.model.name} {manifest.version}", where=where)
        return manifest

    def provenance(self, manifest: Manifest) -> dict[str, Any]:
        """What the store says of where a release comes from that was resolved here, a statement about its very manifest.

        Raises PipelineError where there is none, or one about another.
        """
        key = provenance_key(manifest.model.name, manifest.version)
        sha256 = self._digests[manifest.model.name, manifest.version]

        def read(data: bytes) -> dict[str, Any]:
            document = provenance.read(data, self._where(key))
            provenance.require_about(document, sha256, self._where(key))
            return document

        if seen := self._cache.document(self.remote.cached_as, key):
            with suppress(PipelineError):  # damaged in the cache, or of what the version was once
                return read(seen)
        found = self.remote.source.get(key)
        if found is None:
            hint = "it was published before releases did: publishing it again adds that"
            raise PipelineError("the release does not say where it comes from", where=self._where(key), hint=hint)
        document = read(found.data)
        self._cache.keep(self.remote.cached_as, key, found.data)
        return document

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
        if asks:
            self._require_usable(manifest, asks)
        found = gatherer.gather(manifest, asks, [embedded] if embedded else [])
        self.remote.is_away = self.remote.is_away or gatherer.is_away
        return found
