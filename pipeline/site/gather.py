"""What the catalogue tells of: all releases of a store, with what witnesses and builders say of them, read through a `Source`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pipeline.consume import parts
from pipeline.consume.evidence import Testimony, admit
from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes
from pipeline.layout import INDEX_KEY, bom_key, evidence_key, provenance_key, yank_key
from pipeline.manifest import provenance
from pipeline.manifest.codec import decode, embedded_evidence
from pipeline.manifest.evidence import EvidenceDocument
from pipeline.manifest.types import Index, IndexedModel, Manifest, Yank
from pipeline.names import is_name, is_version, numbers
from pipeline.store.base import Source
from pipeline.store.survey import side_by_side

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
DEFAULT_CHANNEL = "latest"


@dataclass(frozen=True)
class Release:
    """A release. `sha256` is its manifest's, `made` when it was built or first seen (UTC; empty where nobody says).

    `provenance` is what its builder says; `bom`: whether there is a bill of materials. `signers` are the ids of the keys that
    witnesses signed evidence with. `yank`: why it is not to be used any more. `channels` point to it.
    """

    manifest: Manifest
    sha256: str
    testimony: Testimony
    made: str
    provenance: Mapping[str, Any] | None = None
    bom: bool = False
    signers: tuple[str, ...] = ()
    yank: Yank | None = None
    channels: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        """The model's name."""
        return self.manifest.model.name

    @property
    def version(self) -> str:
        """Its version."""
        return self.manifest.version

    @property
    def name(self) -> str:
        """As users write it."""
        return f"{self.model}@{self.version}"


@dataclass(frozen=True)
class Model:
    """A model of the store: its `releases`, the newest first; `channels` with the versions they point to; and the `problems` of
    releases that cannot be read."""

    name: str
    releases: tuple[Release, ...]
    channels: Mapping[str, str]
    problems: tuple[str, ...] = ()

    @property
    def current(self) -> Release | None:
        """The release that people want who name the model alone: what `latest` points to, or else the newest one in use."""
        pointed = self.channels.get(DEFAULT_CHANNEL)
        usable = [release for release in self.releases if not release.yank]
        return next((r for r in usable if r.version == pointed), next(iter(usable or self.releases), None))


@dataclass(frozen=True)
class Catalogue:
    """A store's models in alphabetical order. `url` is the store's; `is_signed`: what it says was verified here."""

    url: str
    models: tuple[Model, ...]
    is_signed: bool = False
    notes: tuple[str, ...] = field(default=())


def gather(source: Source, is_signed: bool = False, note: Callable[[str], None] = lambda _: None) -> Catalogue:
    """All that the store holds. `note` is told how far it came.

    Raises PipelineError where there is no store, or it cannot be asked. What is wrong with one release its model's page tells.
    """
    found = source.get(INDEX_KEY)
    if found is None:
        hint = "publish something to it first, or check PIPELINE_STORE"
        raise PipelineError("there is no index.json: no store, or nothing was published to it", where=source.url, hint=hint)
    index = decode(Index, found.data, f"{source.url}/{INDEX_KEY}")
    wanted = [(model, version) for model in index.models if is_name(model.name) for version in filter(is_version, model.versions)]
    read: dict[str, list[Release | str]] = {}
    for count, ((model, _), release) in enumerate(side_by_side(partial(_try, source), wanted), 1):
        read.setdefault(model.name, []).append(release)
        note(f"{count} of {len(wanted)} releases read")
    return Catalogue(
        source.url, tuple(_model(model, read[model.name]) for model in index.models if model.name in read), is_signed
    )


def _model(indexed: IndexedModel, read: list[Release | str]) -> Model:
    releases = sorted((one for one in read if isinstance(one, Release)), key=_age, reverse=True)
    channels = {one.channel: one.version for one in indexed.channels}
    return Model(indexed.name, tuple(releases), channels, tuple(one for one in read if isinstance(one, str)))


def _age(release: Release) -> tuple[str, tuple[int, ...], str]:
    return release.made, numbers(release.version), release.version


def _try(source: Source, wanted: tuple[IndexedModel, str]) -> Release | str:
    """The release, or why there is none to show."""
    model, version = wanted
    try:
        return _read(source, model, version)
    except PipelineError as error:
        return f"{model.name}@{version}: {error.what}"


def _read(source: Source, model: IndexedModel, version: str) -> Release:
    left_out: list[str] = []
    found = parts.gather(source, model.name, version, "", left_out.append)
    manifest = found.manifest
    documents, refused = list[EvidenceDocument](), [text.removeprefix("left out: ") for text in left_out]
    for data in found.evidence:
        sha256 = sha256_bytes(data)
        try:
            documents.append(admit(data, sha256, manifest, evidence_key(model.name, version, sha256)))
        except PipelineError as error:
            refused.append(f"{error.where}: {error.what}")
    if own := embedded_evidence(found.data, manifest):
        documents.append(own)
    origin = found.beside.get(provenance_key(model.name, version))
    said = provenance.read(origin, "provenance.json") if origin else None
    return Release(
        manifest,
        sha256_bytes(found.data),
        Testimony(tuple(documents), tuple(refused)),
        _made(said, documents),
        said,
        bom_key(model.name, version) in found.beside,
        tuple(sorted(_signers(found.signatures))),
        decode(Yank, found.yank, yank_key(model.name, version)) if found.yank and found.is_yanked else None,
        tuple(one.channel for one in model.channels if one.version == version),
    )


def _made(said: Mapping[str, Any] | None, documents: list[EvidenceDocument]) -> str:
    """When it was built, by who built it; else when it was first seen."""
    time = provenance.at(said, "predicate", "runDetails", "metadata", "finishedOn")
    if isinstance(time, str) and _TIME.fullmatch(time):
        return time
    return min((d.made for d in documents if not d.made.startswith("1970")), default="")


def _signers(signatures: Mapping[str, bytes]) -> Iterator[str]:
    """The key ids that the signatures' keys end in, each once."""
    yield from {key.rsplit(".", 2)[1] for key in signatures}
