"""Fsck: whether a store is what it says, to the byte, and what to do where it is not; `repair`: what can be done from `out/`."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from pipeline import activity
from pipeline.consume.render import size
from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes, write
from pipeline.layout import (
    INDEX_KEY,
    TIMESTAMP_KEY,
    blob_key,
    channel_key,
    evidence_digests,
    evidence_folder,
    evidence_index_key,
    evidence_key,
    is_signed,
    release_key,
    yank_key,
)
from pipeline.manifest.codec import decode, encode
from pipeline.manifest.evidence import EvidenceDocument, EvidenceIndex
from pipeline.manifest.types import Channel, Index, Manifest
from pipeline.store.base import BrokenTransferError, Keeper, Source
from pipeline.store.channels import find_channel
from pipeline.store.documents import list_evidence
from pipeline.store.index import made_index, update_index
from pipeline.store.leases import DAY, find_pruning
from pipeline.store.open import open_to_keep
from pipeline.store.survey import Held, Release, Survey, read_held, side_by_side, survey
from pipeline.store.yanks import find_yank, told
from pipeline.trust.signed import keeping

_SHOWN = 40  # problems in a message, strays in the report
_CHUNK = 1 << 20
T = TypeVar("T")
_REPAIR = "`doit fsck repair=yes` where out/ has it, or publish it again"


@dataclass(frozen=True)
class Finding:
    """What is wrong with the object at `key`, and what to do; `mended`: what was done. Not `is_wrong`: only to be known."""

    key: str
    what: str
    hint: str = ""
    mended: str = ""
    is_wrong: bool = True

    @property
    def is_open(self) -> bool:
        """Whether something is to be done still."""
        return self.is_wrong and not self.mended

    def __str__(self) -> str:
        next_ = f"; {self.mended}" if self.mended else f" → {self.hint}" if self.hint else ""
        return f"{'✓' if self.mended else '✗' if self.is_wrong else '·'} {self.key}: {self.what}{next_}"


class Packages:
    """What `out/` has: packages of releases, from which a store can be repaired."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders

    def blob(self, sha256: str) -> Path | None:
        """A file that should have this digest."""
        return next((path for folder in self._folders if (path := folder / "blobs" / sha256).is_file()), None)

    def evidence(self, sha256: str) -> bytes | None:
        """The document with this digest."""
        for folder in self._folders:
            path = folder / "evidence" / f"{sha256}.json"
            if path.is_file() and sha256_bytes(data := path.read_bytes()) == sha256:
                return data
        return None

    def manifest(self, release: Release, claimed: set[str]) -> bytes | None:
        """The manifest of a release: by the digests that channels say it has, or a version that is derived from its content."""
        for folder in self._folders:
            try:
                data = (folder / "manifest.json").read_bytes()
                found = decode(Manifest, data, str(folder))
            except (OSError, PipelineError):
                continue
            if found.model.name == release[0]:
                named = data if found.version == release[1] else encode(replace(found, version=release[1]))
                is_derived = found.version == release[1] and release[1].startswith("c") and not claimed
                if is_derived or sha256_bytes(named) in claimed:
                    return named
        return None


class Check:
    """One look at all of a store. Where it may, it repairs what it finds."""

    def __init__(self, store: Keeper, packages: Packages, deep: bool = False, repair: bool = False) -> None:
        self._store, self._packages, self._deep, self._repair = store, packages, deep, repair
        self.found = Survey()
        self.held: dict[Release, Held] = {}
        self.channels: list[Channel] = []
        self._lost: list[Release] = []  # whose manifest is not to be read

    def run(self) -> Iterator[Finding]:
        """Everything that is wrong, and what is to be known beside."""
        activity.say("listing")
        self.found = survey(self._store)
        yield from self._channels()
        yield from self._manifests()
        yield from self._pointers()
        yield from self._blobs()
        yield from self._yanks()
        yield from self._evidence()
        yield from self._index()
        yield from self._rest()

    def summary(self) -> str:
        """How much was looked at."""
        blobs, documents = self.found.blobs, sum(map(len, self.found.beside.values()))
        numbers = {"release": len(self.found.releases), "channel": len(self.channels), "document": documents, "blob": len(blobs)}
        told = ", ".join(f"{count} {word}{'s' * (count != 1)}" for word, count in numbers.items())
        return f"{told} of {size(sum(one[0] for one in blobs.values()))}"

    def _mend(self, finding: Finding, how: str, call: Callable[[], object]) -> Finding:
        """The finding, repaired if that is asked for and can be done."""
        if not self._repair:
            return finding
        try:
            return replace(finding, mended=how) if call() is not False else finding
        except BrokenTransferError:
            raise
        except PipelineError as error:
            return replace(finding, hint=f"could not be repaired: {error.what}")

    def _channels(self) -> Iterator[Finding]:
        for (model, name), channel in side_by_side(
            lambda one: _or_error(lambda: find_channel(self._store, *one)), self.found.channels
        ):
            if isinstance(channel, PipelineError):
                hint = f"remove that object, then `doit promote model={model} version=VERSION channel={name}`"
                yield Finding(channel_key(model, name), channel.what, hint)
            elif channel:
                self.channels.append(channel)

    def _claims(self) -> dict[Release, set[str]]:
        """The digests that channels say manifests have."""
        found: dict[Release, set[str]] = {}
        for channel in self.channels:
            found.setdefault((channel.model, channel.version), set()).add(channel.manifest.sha256)
            for past in channel.history:
                found.setdefault((channel.model, past.version), set()).add(past.sha256)
        return found

    def _manifests(self) -> Iterator[Finding]:
        claims = self._claims()
        pointed = {(channel.model, channel.version) for channel in self.channels}
        releases = {*self.found.releases, *pointed}
        looked = side_by_side(lambda one: read_held(self._store, one), releases)
        for release, held in activity.each("releases", looked, len(releases)):
            claimed = claims.get(release, set())
            if isinstance(held, Held) and (held.sha256 in claimed or not claimed):
                self.held[release] = held
                continue
            what = "is not there, and a channel points to it" if held is None else ""
            if isinstance(held, Held):
                what = f"has the SHA-256 {held.sha256}, its channels say {' or '.join(sorted(claimed))}"
                self.held[release] = held
            elif held is not None:
                what = held.what
            key, hint = release_key(*release), f"{_REPAIR}; else yank it, and roll channels back that point to it"
            if isinstance(held, PipelineError) and held.hint:
                hint = held.hint
            yield self._mend(Finding(key, what, hint), "put back from out/", partial(self._put_back, release, claimed))
            self._lost += [release] if release not in self.held else []

    def _put_back(self, release: Release, claimed: set[str]) -> bool:
        data, key = self._packages.manifest(release, claimed), release_key(*release)
        if data is None:
            return False
        found = self._store.get(key)
        if not self._store.replace(key, data, found.tag if found else None):
            return False
        held = read_held(self._store, release)
        if isinstance(held, Held):
            self.held[release] = held
        return isinstance(held, Held)

    def _pointers(self) -> Iterator[Finding]:
        """What channels say of manifests; that these are there was looked at before."""
        for channel in self.channels:
            release, key = (channel.model, channel.version), channel_key(channel.model, channel.channel)
            expected = release_key(*release)
            if channel.manifest.name != expected:
                yield Finding(key, f"points to {channel.manifest.name}, not to {expected}", "remove it, then `doit promote`")
            yank = _or_error(partial(find_yank, self._store, *release))
            if yank and not isinstance(yank, PipelineError):
                back = f"`doit rollback model={channel.model} channel={channel.channel}`"
                yield Finding(key, f"points to what nobody gets: {told(yank)}", back)

    def _blobs(self) -> Iterator[Finding]:
        needing: dict[bytes, tuple[int, list[Release]]] = {}
        for release, held in sorted(self.held.items()):
            for digest, count in held.blobs.items():
                needing.setdefault(digest, (count, []))[1].append(release)
        activity.say(f"{len(needing)} blobs")
        looked = side_by_side(lambda one: self._damage(one, needing[one][0]), needing)
        for digest, what in activity.each("blobs", looked, len(needing)):
            releases = ["@".join(release) for release in needing[digest][1] if what and self._is_there(release)]
            if releases:
                more = f" and {len(releases) - 3} more" if len(releases) > 3 else ""
                what += f"; needed by {', '.join(releases[:3])}{more}"
                yield self._mend(Finding(blob_key(digest.hex()), what, _REPAIR), "sent again", partial(self._send, digest.hex()))
        orphans = [digest for digest in self.found.blobs if digest not in needing]
        if orphans:
            what = f"{len(orphans)} that no manifest names, {size(sum(self.found.blobs[one][0] for one in orphans))}"
            hint = "`doit prune keep=N` removes them when they are a day old"
            if self._lost:
                hint = f"some may be of {', '.join('@'.join(release) for release in self._lost)}: see to that first"
            yield Finding("blobs/", what, hint, is_wrong=False)

    def _is_there(self, release: Release) -> bool:
        """Whether a release is there still: it may have been pruned since it was listed."""
        return self._store.get(release_key(*release)) is not None

    def _damage(self, digest: bytes, count: int) -> str:
        """What is wrong with a blob that should have `count` bytes; empty where nothing is."""
        key, sha256 = blob_key(digest.hex()), digest.hex()
        listed = self.found.blobs.get(digest)
        if listed and listed[0] != count:
            return f"has {listed[0]} bytes, not {count}"
        try:
            if (not self._deep or not listed) and self._store.holds(key, count, sha256):
                return ""
            if not listed:  # nor did it come meanwhile
                return "is not there"
            # What has no digest beside it, as a bucket's objects by other programs, is read.
            return "" if self._digest(key, count) == sha256 else "has other bytes than its digest says"
        except BrokenTransferError:
            raise
        except PipelineError as error:
            return f"cannot be read: {error.what}"

    def _digest(self, key: str, count: int) -> str:
        digest, buffer = hashlib.sha256(), memoryview(bytearray(_CHUNK))
        if count:
            with self._store.open(key, 0, count) as body:
                while read := body.readinto(buffer):
                    digest.update(buffer[:read])
        return digest.hexdigest()

    def _send(self, sha256: str) -> bool:
        path = self._packages.blob(sha256)
        if path:
            self._store.upload(blob_key(sha256), path, sha256)
        return path is not None

    def _yanks(self) -> Iterator[Finding]:
        for release, yank in side_by_side(lambda one: _or_error(lambda: find_yank(self._store, *one)), self.found.yanks):
            if isinstance(yank, PipelineError):
                again = (
                    f'`doit yank model={release[0]} version={release[1]} reason="…"` writes it again, `undo=yes` takes it back'
                )
                yield Finding(yank_key(*release), yank.what, again)

    def _evidence(self) -> Iterator[Finding]:
        there, gone = dict[Release, tuple[str, ...]](), list[Release]()
        for release, beside in self.found.beside.items():
            if release in self.found.releases or release in self.held:
                there[release] = evidence_digests((one.key for one in beside), *release)
            else:
                gone.append(release)
        documents = ((release, digest) for release, digests in there.items() for digest in digests)
        bad: set[tuple[Release, str]] = set()
        for (release, digest), what in side_by_side(lambda one: self._document(*one), documents):
            if what:
                hint = "`doit fsck repair=yes` puts it back from out/, or removes it: it does not count as it is"
                finding = Finding(evidence_key(*release, digest), what, hint)
                mended = self._mend(finding, "put right, or removed", partial(self._right, release, digest))
                bad |= {(release, digest)} if mended.mended else set()
                yield mended
        for release, what in side_by_side(lambda one: self._list(one, there[one]), there):
            if what:
                finding = Finding(evidence_index_key(*release), what, "`doit fsck repair=yes` writes it anew")
                yield self._mend(finding, "written anew", partial(list_evidence, self._store, *release))
            elif any(one == release for one, _ in bad) and self._repair:
                list_evidence(self._store, *release)
        for model, version in sorted(gone):
            yield Finding(evidence_folder(model, version), "belongs to a release that is not there", is_wrong=False)

    def _document(self, release: Release, digest: str) -> str:
        key = evidence_key(*release, digest)
        found = self._store.get(key)
        if found is None:
            return ""  # somebody has removed it since
        if sha256_bytes(found.data) != digest:
            return "does not have the digest that it is named by"
        error = _or_error(lambda: decode(EvidenceDocument, found.data, key))
        return error.what if isinstance(error, PipelineError) else ""

    def _right(self, release: Release, digest: str) -> bool:
        """Put a document right, or remove it: but not from a signed store, where it may be missed."""
        key, data = evidence_key(*release, digest), self._packages.evidence(digest)
        if data is None and self._store.get(TIMESTAMP_KEY):
            return False
        self._store.remove(key)
        return data is None or self._store.create(key, data)

    def _list(self, release: Release, digests: tuple[str, ...]) -> str:
        key = evidence_index_key(*release)
        found = self._store.get(key)
        if found is None:
            return "is not there: web servers show none" if digests else ""
        listed = _or_error(lambda: decode(EvidenceIndex, found.data, key))
        if isinstance(listed, PipelineError):
            return listed.what
        if listed and listed.documents != digests:  # or somebody has added some since all was listed
            digests = evidence_digests(self._store.keys(evidence_folder(*release)), *release)
        return "" if listed and listed.documents == digests else "does not list what is there"

    def _index(self) -> Iterator[Finding]:
        made = made_index(self._store)
        # Read after that: who published in between has written both, and then it is made again.
        found = self._store.get(INDEX_KEY)
        index = _or_error(lambda: decode(Index, found.data, INDEX_KEY)) if found else None
        if index == made or index == made_index(self._store) or (found is None and not self.found.releases):
            return
        what = index.what if isinstance(index, PipelineError) else "does not list what is there" if found else "is not there"
        finding = Finding(INDEX_KEY, what, "`doit fsck repair=yes` writes it anew")
        yield self._mend(finding, "written anew", lambda: update_index(self._store))

    def _rest(self) -> Iterator[Finding]:
        pruning = _or_error(lambda: find_pruning(self._store))
        if isinstance(pruning, PipelineError):
            yield Finding("prune/", pruning.what, pruning.hint)
        if self.found.strange:
            shown = ", ".join(self.found.strays[:_SHOWN])
            yield Finding("others", f"{self.found.strange} objects are not of this program: {shown}", is_wrong=False)
        uploads = _or_error(lambda: list(self._store.unfinished()))
        if isinstance(uploads, PipelineError):
            yield Finding("uploads", f"cannot be listed: {uploads.what}", uploads.hint, is_wrong=False)
            return
        for upload in uploads:
            if upload.begun < time.time() - DAY:
                what, hint = "was begun more than a day ago, and never completed", "`doit fsck repair=yes` gives it up"
                finding = Finding(upload.key, what, hint, is_wrong=False)
                yield self._mend(finding, "given up", partial(self._store.abort, upload))


def _or_error(call: Callable[[], T]) -> T | PipelineError:
    """What a call returns, or its error; but that the store does not answer is no finding."""
    try:
        return call()
    except BrokenTransferError:
        raise
    except PipelineError as error:
        return error


def _not_as_signed(signed: Source, found: Survey) -> Iterator[Finding]:
    """What is not as it was signed, of all that is there: by what a publisher would be told of it."""
    keys = [release_key(*release) for release in found.releases]
    keys += [*(channel_key(*one) for one in found.channels), *(yank_key(*one) for one in found.yanks)]
    keys += [one.key for beside in found.beside.values() for one in beside if is_signed(one.key)]
    for key, error in side_by_side(lambda one: _or_error(lambda: signed.get(one)), keys):
        if isinstance(error, PipelineError):
            yield Finding(key, error.what, error.hint)


def run(url: str, deep: bool, repair: bool, made: Path, folder: Path) -> None:
    """Check the store at `url`, `deep`: reading every byte of a bucket too; `report.txt` into `folder`. Raises PipelineError
    with what is wrong. `repair`: by the packages below `made`, and of the store's own keys.

    In a signed store what is signed is put back as it was, or stays as it is: so nothing has to be signed. Lists are not.
    """
    store = open_to_keep(url, looks=not repair)
    signed = keeping(store, url)
    check = Check(store, Packages(sorted(made.glob("models/*/package"))), deep, repair)
    found = list(check.run())
    if signed is not store:
        found += _not_as_signed(signed, check.found)
    wrong = [finding for finding in found if finding.is_open]
    count = f"{len(wrong)} problem{'s' * (len(wrong) != 1)}" if wrong else "all is as it should be"
    lines = [*map(str, found), f"{store.url}: {check.summary()}: {count}"]
    write(folder / "report.txt", "".join(f"{line}\n" for line in lines).encode())
    if wrong:
        shown = [f"{store.url}: {count}, of {check.summary()}", *map(str, wrong[:_SHOWN])]
        shown += [f"and {len(wrong) - _SHOWN} more"] if len(wrong) > _SHOWN else []
        raise PipelineError(
            "\n  ".join(shown),
            hint=f"{folder / 'report.txt'} has all; the runbook, docs/runbook.html of `doit site`, says what to do",
        )
