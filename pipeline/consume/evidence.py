"""What witnesses say of a release: the documents of a store, each checked against the manifest, and what they say together."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from pipeline.consume.cache import Cache
from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes
from pipeline.iree.device import titled
from pipeline.layout import evidence_digests, evidence_folder, evidence_index_key, evidence_key
from pipeline.manifest.codec import decode, encode, reference_digest
from pipeline.manifest.evidence import (
    EVIDENCE_INDEX_SCHEMA,
    KINDS,
    AccuracyProof,
    EvidenceDocument,
    EvidenceIndex,
    RuntimeInfo,
    VariantProof,
)
from pipeline.manifest.types import Artifact, Manifest
from pipeline.store.base import BrokenTransferError, Source, Vouched

_REQUESTS = 8  # at a time
_LIMIT = 2000  # documents of one release that are read
_SIZE = 1 << 20  # bytes of a document: far above any real one
_CLOCKS = datetime.timedelta(days=1)  # that clocks may differ by


@dataclass(frozen=True)
class Seen:
    """A proof, and the document that has it."""

    proof: VariantProof
    document: EvidenceDocument

    @property
    def place(self) -> str:
        """The device that ran it, for people."""
        proof = self.proof
        if proof.kind == "emulator":
            return f"{proof.device} played by {proof.driver}"
        return titled(proof.device, proof.driver) if proof.driver else proof.device


@dataclass(frozen=True)
class Standing:
    """What all witnesses together say of a variant.

    `kind` is the strongest evidence that there is for every entry point. `right`: those who saw it right, the strongest first
    and of these the newest; `wrong`: those who saw it wrong, the newest first. `untested` are the functions that nobody ran,
    all where `kind` is `untested`, and `reason` is why, where a document says it.
    """

    variant: str
    kind: str
    right: tuple[Seen, ...]
    wrong: tuple[Seen, ...]
    untested: tuple[str, ...]
    reason: str

    @property
    def _strongest(self) -> list[Seen]:
        return [s for s in self.right if s.proof.kind == self.right[0].proof.kind]

    @property
    def witnesses(self) -> int:
        """How many machines with a device saw it right, in the strongest way in which any did."""
        return len({(s.document.witness.system, s.document.witness.cpu, s.place) for s in self._strongest})

    @property
    def newest(self) -> str:
        """The day of the newest document that speaks for it; empty where none says when."""
        day = max((s.document.made[:10] for s in self.right), default="")
        return "" if day.startswith("1970") else day

    @property
    def subgroup_sizes(self) -> tuple[int, ...]:
        """Those that the device of the newest proof had, as anybody saw it right."""
        same = (s for s in self._strongest if s.place == self.right[0].place)
        return tuple(sorted({lanes for s in same for lanes in s.proof.subgroup_sizes}))

    @property
    def of_tolerance(self) -> float | None:
        """The largest part of a tolerance that was used, among those of the strongest kind."""
        return max((f.of_tolerance for s in self._strongest for f in s.proof.functions), default=None)

    @property
    def max_abs_error(self) -> float | None:
        """The largest absolute error among those of the strongest kind."""
        return max((f.max_abs_error for s in self._strongest for f in s.proof.functions), default=None)

    @property
    def accuracy(self) -> tuple[AccuracyProof, ...]:
        """For each function that was scored on a data set, how well: of those who saw it right the one with the most samples."""
        found: dict[str, AccuracyProof] = {}
        for proof in (proof for seen in self.right for proof in seen.proof.accuracy):
            if proof.function not in found or proof.samples > found[proof.function].samples:
                found[proof.function] = proof
        return tuple(found.values())

    def is_at_least(self, kind: str) -> bool:
        """Whether the evidence is as strong as `kind`, and nobody saw it wrong."""
        return KINDS.index(self.kind) >= KINDS.index(kind) and not self.wrong


@dataclass(frozen=True)
class Testimony:
    """The documents about a release that count, and why others do not, a sentence for each; and what could not be `unread`."""

    documents: tuple[EvidenceDocument, ...]
    refused: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()

    __test__ = False  # pytest takes it for a test by its name

    def of(self, artifact: Artifact, functions: Sequence[str]) -> dict[str, Standing]:
        """What is known of each variant of a file, whose entry points are `functions`."""
        seen: dict[str, list[Seen]] = {variant.name: [] for variant in artifact.variants}
        for document in self.documents:
            for file in document.files:
                if file.bundle == artifact.bundle:
                    for proof in file.variants:
                        seen[proof.variant].append(Seen(proof, document))
        return {name: _standing(name, found, functions) for name, found in seen.items()}

    def runtimes(self, artifact: Artifact) -> list[RuntimeInfo]:
        """The versions of IREE's runtime that a file was tried with, the newest word first; witnesses had one themselves."""
        found: list[RuntimeInfo] = []
        for document in sorted(self.documents, key=lambda d: d.made, reverse=True):
            for file in document.files:
                if file.bundle == artifact.bundle:
                    found += file.runtimes
                    right = [p for p in file.variants if p.kind == "device" and not p.problem]
                    if right and document.witness.runtime:
                        how = f"{right[0].variant} on {Seen(right[0], document).place}"
                        found.append(RuntimeInfo(document.witness.runtime, True, how))
        return found

    @property
    def contradictions(self) -> tuple[tuple[str, str, Seen], ...]:
        """The bundle and variant, and who saw it wrong."""
        found = [
            (file.bundle, proof.variant, Seen(proof, document))
            for document in self.documents
            for file in document.files
            for proof in file.variants
            if proof.problem
        ]
        return tuple(sorted(found, key=lambda item: item[2].document.made, reverse=True))


def _standing(name: str, seen: Sequence[Seen], functions: Sequence[str]) -> Standing:
    newest = sorted(seen, key=lambda s: s.document.made, reverse=True)
    right = [s for s in newest if not s.proof.problem and s.proof.kind != "untested"]
    right.sort(key=lambda s: -KINDS.index(s.proof.kind))
    strongest = {f.function: s.proof.kind for s in reversed(right) for f in s.proof.functions}
    untested = tuple(f for f in functions if f not in strongest)
    kind = "untested" if untested else min(strongest.values(), key=KINDS.index)
    reasons = [s.proof.reason for s in (right if right else newest) if s.proof.reason]
    wrong = tuple(s for s in newest if s.proof.problem)
    return Standing(name, kind, tuple(right), wrong, untested, reasons[0] if reasons and untested else "")


def misfit(document: EvidenceDocument, manifest: Manifest) -> str:
    """Why a document does not speak of the release; empty where it does."""
    variants = {a.bundle: {v.name: v.sha256 for v in a.variants} for a in manifest.artifacts}
    files = {artifact.bundle: artifact.blob.sha256 for artifact in manifest.artifacts}
    functions = {entry.function for entry in manifest.entries}
    if document.model != manifest.model.name:
        return f"is of another model, {document.model!r:.100}"
    if document.parameters != tuple(p.blob.sha256 for p in manifest.parameters):
        return "is of other weights"
    if document.reference != reference_digest(manifest):
        return "is of other test data"
    try:
        made = datetime.datetime.fromisoformat(document.made)
    except ValueError:  # a day that no calendar has
        return f"is of no time, {document.made}"
    if made > datetime.datetime.now(datetime.UTC) + _CLOCKS:
        return f"is of the future, {document.made}"
    for file in document.files:
        if files.get(file.bundle) != file.sha256:
            return f"is of another file for {file.bundle!r:.100}, with sha256 {file.sha256[:16]}…"
        for proof in file.variants:
            if variants[file.bundle].get(proof.variant) != proof.sha256:
                return f"is of other code for {proof.variant!r:.100}, with sha256 {proof.sha256[:16]}…"
            if strange := [f.function for f in proof.functions if f.function not in functions]:
                return f"is of a function that there is not, {strange[0]!r:.100}"
    return ""


def admit(data: bytes, sha256: str, manifest: Manifest, where: str) -> EvidenceDocument:
    """The document with these bytes. Raises PipelineError, with the reason, where it does not count."""
    if len(data) > _SIZE:
        raise PipelineError(f"has {len(data)} bytes, which no document of evidence has", where=where)
    if sha256_bytes(data) != sha256:
        raise PipelineError("does not have the digest that it is named by: it is damaged, or not whole", where=where)
    document = decode(EvidenceDocument, data, where)
    if problem := misfit(document, manifest):
        raise PipelineError(problem, where=where)
    return document


class _Unread(str):
    """Why a document is not known."""


class Gatherer:
    """Finds what a store has about releases; what was read is kept in the cache, for it never changes.

    `note` is told what a user should know. `is_away`: the store did not answer, so it was not asked for more.
    """

    is_away = False

    def __init__(self, source: Callable[[], Source], store: str, cache: Cache, note: Callable[[str], None]) -> None:
        self._source, self._store, self._cache, self._note = source, store, cache, note

    def gather(self, manifest: Manifest, asks: bool = True, embedded: Iterable[EvidenceDocument] = ()) -> Testimony:
        """What witnesses say of the release, with what its own manifest does, `embedded`.

        Not `asks`, or where the store cannot be asked: what was last seen.
        """
        model, version = manifest.model.name, manifest.version
        kept = self._cache.document(self._store, evidence_index_key(model, version))
        digests = _index(kept)
        if asks:
            try:
                found = _digests(self._source(), model, version)
            except PipelineError as error:
                self.is_away = isinstance(error, BrokenTransferError)
                self._note(f"what is known of {model}@{version} cannot be read now: {error.what}; going by what was last seen")
                asks = False
            else:
                if kept is None or found != digests:
                    now = encode(EvidenceIndex(EVIDENCE_INDEX_SCHEMA, found))
                    self._cache.keep(self._store, evidence_index_key(model, version), now)
                digests = found
        elif kept is None:
            self._note(f"what witnesses say of {model}@{version} was never read: it is not known here")
        with ThreadPoolExecutor(_REQUESTS) as pool:
            read = list(pool.map(partial(self._read, manifest, asks), digests[:_LIMIT]))
        documents = [*(d for d in read if isinstance(d, EvidenceDocument)), *embedded]
        refused = [text for text in read if isinstance(text, str) and not isinstance(text, _Unread)]
        unread = [text for text in read if isinstance(text, _Unread)]
        if len(digests) > _LIMIT:
            unread.append(_Unread(f"{len(digests) - _LIMIT} of {len(digests)} documents are too many"))
        return Testimony(tuple(documents), tuple(refused), tuple(unread))

    def has_seen(self, manifest: Manifest) -> bool:
        """Whether the store was ever asked about the release."""
        return self._cache.document(self._store, evidence_index_key(manifest.model.name, manifest.version)) is not None

    def _read(self, manifest: Manifest, asks: bool, sha256: str) -> EvidenceDocument | str:
        key = evidence_key(manifest.model.name, manifest.version, sha256)
        data = self._cache.document(self._store, key)
        if data is None or sha256_bytes(data) != sha256:
            if not asks or self.is_away:
                return _Unread(f"{key}: is not in the cache")
            try:
                found = self._source().get(key)
            except PipelineError as error:
                self.is_away = self.is_away or isinstance(error, BrokenTransferError)
                return _Unread(f"{error.where}: {error.what}")
            if found is None:
                return f"{key}: is not there"
            data = found.data
        try:
            document = admit(data, sha256, manifest, key)
        except PipelineError as error:
            return f"{error.where}: {error.what}"
        try:
            source = self._source() if asks and not self.is_away else None
            if isinstance(source, Vouched) and (doubt := source.doubt(key, data)):
                wrong = [proof.problem for file in document.files for proof in file.variants if proof.problem]
                return f"{key}: {doubt}" + (f" (it says: {wrong[0]})" if wrong else "")
        except PipelineError as error:
            self.is_away = self.is_away or isinstance(error, BrokenTransferError)
            return _Unread(f"{error.where}: {error.what}")
        self._cache.keep(self._store, key, data)
        return document


def _index(data: bytes | None) -> tuple[str, ...]:
    try:
        return decode(EvidenceIndex, data, "the cache").documents if data else ()
    except PipelineError:
        return ()


def _digests(source: Source, model: str, version: str) -> tuple[str, ...]:
    """The documents that the store has: by listing it, else by its own list."""
    folder = evidence_folder(model, version)
    keys = source.listed(folder)
    if keys is not None:
        return evidence_digests(keys, model, version)
    key = evidence_index_key(model, version)
    found = source.get(key)
    return decode(EvidenceIndex, found.data, f"{source.url}/{key}").documents if found else ()


def require(standing: Standing | None, kind: str, release: str, variant: str) -> None:
    """Raise PipelineError if there is less evidence for the variant than `kind`, or somebody saw it wrong."""
    if not kind or (standing and standing.is_at_least(kind)):
        return
    if standing and standing.wrong:
        seen = standing.wrong[0]
        what = f"{variant} was wrong on {seen.place}: {seen.proof.problem}"
    else:
        known = standing.kind if standing else "untested"
        what = f"{variant} would run here, and the strongest evidence for it is {known}, not {kind}"
    hint = f"`vmfb attest {release}` on a machine that has the device makes evidence; or ask for less than `{kind}`"
    raise PipelineError(what, where=release, hint=hint)
