"""What a consumer's side does with TUF's library: the metadata of a store, brought up to date and verified by its client."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from securesystemslib.signer import Key, Signature
from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from pipeline.errors import DeniedError, PipelineError, disk_errors
from pipeline.files import sha256_bytes
from pipeline.layout import TIMESTAMP_KEY, TRUST
from pipeline.store.base import DOCUMENT_LIMIT, Object, Source
from pipeline.trust.anchors import Anchor, TrustError
from pipeline.trust.view import TARGETS, TIME, Delegation, Target, View

_WHO = "tell who publishes it: somebody may have changed the store, or what comes from it"
_LONG = 1 << 20  # bytes of a root or a timestamp: far above any real one


class _Fetcher(FetcherInterface):
    """Gives TUF's client the objects of a store. `known` are those that were just asked for."""

    def __init__(self, source: Source, known: Mapping[str, Object | None]) -> None:
        self._source, self._known = source, dict(known)

    def _fetch(self, url: str) -> Iterator[bytes]:
        yield self.download_bytes(url, DOCUMENT_LIMIT)

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """The object at the key `url`. What a store raises goes through: the library turns only its own errors."""
        try:
            found = self._known.pop(url) if url in self._known else self._source.get(url)
        except DeniedError as error:  # how S3 says that there is none, to who may not list
            raise DownloadHTTPError(f"{url}: {error.what}", 403) from error
        if found is None:
            raise DownloadHTTPError(f"{url} is not there", 404)
        if len(found.data) > max_length:
            raise DownloadLengthMismatchError(f"{url} has {len(found.data)} bytes, more than {max_length}")
        return found.data


@contextmanager
def trust_errors(store: str) -> Iterator[None]:
    """Say what TUF's client, or a signature, tells of a store as a TrustError."""
    try:
        yield
    except ExpiredMetadataError as error:
        hint = "`doit trust-refresh` signs it anew; if that was done, something holds back what is newer, or this clock is wrong"
        raise TrustError(f"what it says was signed for a time that is over ({error})", where=store, hint=hint) from error
    except BadVersionNumberError as error:
        raise TrustError(f"is in an older state than was seen before ({error})", where=store, hint=_WHO) from error
    except LengthOrHashMismatchError as error:
        raise TrustError(f"has other metadata than is signed ({error})", where=store, hint=_WHO) from error
    except UnsignedMetadataError as error:
        raise TrustError(f"is not signed by enough of those who are believed ({error})", where=store, hint=_WHO) from error
    except DownloadHTTPError as error:
        if TIMESTAMP_KEY in str(error):
            what = f"is not signed, though its signers are known here ({error})"
            raise TrustError(what, where=store, hint=f"{_WHO}; or `vmfb trust remove` it") from error
        raise TrustError(f"lacks a part of its signed metadata ({error})", where=store, hint=_WHO) from error
    except DeserializationError as error:
        told = f"{error}{f': {error.__cause__!r:.200}' if error.__cause__ else ''}"
        raise TrustError(f"has damaged metadata ({told})", where=store, hint=_WHO) from error
    except (RepositoryError, DownloadError, UnverifiedSignatureError, VerificationError) as error:
        raise TrustError(f"has metadata that is not as it must be ({error})", where=store, hint=_WHO) from error


def refresh(source: Source, anchor: Anchor, roles: Collection[str], known: Mapping[str, Object | None]) -> View:
    """What the store says now, with the targets of `roles` beside those of the top. Raises TrustError for what is not as it must
    be, and what the source raises; nothing of it is believed then."""
    config = UpdaterConfig(
        root_max_length=_LONG,
        timestamp_max_length=_LONG,
        snapshot_max_length=DOCUMENT_LIMIT,
        targets_max_length=DOCUMENT_LIMIT,
    )
    with anchor.metadata() as folder, trust_errors(anchor.store), disk_errors(str(folder)):
        fetcher = _Fetcher(source, known)
        updater = Updater(str(folder), TRUST, fetcher=fetcher, config=config, bootstrap=anchor.root)
        updater.refresh()
        delegations = _delegations(_read(folder, TARGETS))
        for one in delegations:
            if one.role in roles:
                updater.get_targetinfo(one.example)
        view = _view(folder, delegations, roles)
        anchor.keep(view)
        return view


def _read(folder: Path, role: str) -> Metadata[Targets]:
    return Metadata[Targets].from_bytes((folder / f"{role}.json").read_bytes())


def _delegations(targets: Metadata[Targets]) -> tuple[Delegation, ...]:
    found = targets.signed.delegations
    roles = (found.roles if found else None) or {}
    return tuple(Delegation(name, tuple(role.paths)) for name, role in roles.items() if role.paths)


def _view(folder: Path, delegations: tuple[Delegation, ...], roles: Collection[str]) -> View:
    """What the files say that the library has just verified."""
    timestamp = (folder / "timestamp.json").read_bytes()
    root = Metadata[Root].from_bytes((folder / "root.json").read_bytes()).signed
    snapshot = Metadata[Snapshot].from_bytes((folder / "snapshot.json").read_bytes()).signed
    read = {name: _read(folder, name).signed for name in (TARGETS, *(d.role for d in delegations if d.role in roles))}
    ends = [root.expires, snapshot.expires, Metadata[Timestamp].from_bytes(timestamp).signed.expires]
    return View(
        sha256_bytes(timestamp),
        root.version,
        min(*ends, *(one.expires for one in read.values())).strftime(TIME),
        delegations,
        {name: _targets(one) for name, one in read.items()},
    )


def _targets(role: Targets) -> dict[str, Target]:
    """Those that have the digest that we go by."""
    found = {}
    for key, info in role.targets.items():
        if sha256 := info.hashes.get("sha256"):
            custom = info.custom if isinstance(info.custom, dict) else {}
            found[key] = Target(info.length, sha256, custom)
    return found


@contextmanager
def _root_errors(where: str) -> Iterator[None]:
    try:
        yield
    except (RepositoryError, ValueError) as error:
        hint = "`doit trust-init` makes one; who publishes the store gives it to you by a way that you trust"
        raise PipelineError(f"is no root of trust: {error}", where=where, hint=hint) from error


def root_lines(data: bytes, where: str) -> list[str]:
    """Who is named by a root of trust, for people. Raises PipelineError for what is none."""
    with _root_errors(where):
        metadata = Metadata[Root].from_bytes(data)
        if not isinstance(metadata.signed, Root):
            raise PipelineError("is other metadata than a root", where=where, hint="give the file root.json")
        metadata.signed.verify_delegate(Root.type, metadata.signed_bytes, metadata.signatures)
    root = metadata.signed
    lines = [f"root {root.version}, until {root.expires:%Y-%m-%d}, sha256 {sha256_bytes(data)}"]
    for name, role in sorted(root.roles.items()):
        lines.append(f"  {name}: {role.threshold} of {len(role.keyids)}: {', '.join(role.keyids)}")
    return lines


def signed_by(key: Key, keyid: str, signature: str, data: bytes) -> bool:
    """Whether the signature, in hex, is the key's over the data."""
    with suppress(UnverifiedSignatureError, ValueError):
        key.verify_signature(Signature(keyid, signature), data)
        return True
    return False
