"""What tests of publishing share: small packages, and a store that notes what is done to it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from pipeline.files import sha256_bytes, write
from pipeline.layout import LEASES, blob_key, channel_key, release_key
from pipeline.manifest import types as m
from pipeline.manifest.codec import content_version, decode, encode
from pipeline.stages import record
from pipeline.store.base import Body, Keeper, Object, Store, Stored, Unfinished
from tests import releases

MODEL = "tiny"
LATEST = channel_key(MODEL, "latest")
Package = Callable[[str], Path]
T = TypeVar("T")


def make_package(folder: Path, content: str) -> Path:
    """A package as the package stage writes it: an artifact with the given content, and reference data."""
    folder /= f"package-{content}"

    def blob(name: str, data: bytes) -> m.Blob:
        write(folder / "blobs" / sha256_bytes(data), data)
        return m.Blob(name, sha256_bytes(data), len(data))

    file = blob("tiny-desktop.vmfb", content.encode() * 1000)
    artifact = m.Artifact("desktop", file, (), (), (m.SegmentInfo("head", 0, file.size, file.sha256, ()),), (), ())
    # The second input is the same blob as the first, as happens with real models.
    inputs = (blob("input_0.npy", b"input"), blob("input_1.npy", b"input"))
    outputs = (blob("output_0.npy", b"output"),)
    draw = m.DrawInfo("given", inputs, outputs, (m.ToleranceInfo(0.0, 0.0, 0.0, None),), ())
    reference = m.Reference("files", (draw,))
    source = m.Source("path", "tiny.mlir", "0" * 64, ())
    manifest = m.Manifest(
        schema=m.MANIFEST_SCHEMA,
        model=m.ModelInfo(MODEL, "about", "MIT", "mlir"),
        version="",
        entries=(m.EntryInfo("main", "main", source, (), (), (), (), reference),),
        compiler=m.Compiler("iree-base-compiler", "3", "c"),
        parameters=(),
        artifacts=(artifact,),
    )
    write(folder / "manifest.json", encode(replace(manifest, version=content_version(manifest))))
    evidence = releases.package_evidence(folder, releases.unseen(manifest))
    record.write_record(folder, "key", ["manifest.json", *evidence, *(f"blobs/{b.sha256}" for b in manifest.blobs())])
    return folder


def manifest_of(package: Path) -> m.Manifest:
    return decode(m.Manifest, (package / "manifest.json").read_bytes(), "package")


@dataclass
class Spy:
    """A store that notes every call and runs a hook before and after each. Leases have random names: LEASES."""

    store: Store
    before: Callable[[Spy], None] = lambda _: None
    after: Callable[[Spy], None] = lambda _: None
    calls: list[tuple[str, str]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.store.url

    @property
    def identity(self) -> Mapping[str, str]:
        return self.store.identity

    @property
    def writes(self) -> list[tuple[str, str]]:
        return [call for call in self.calls if call[0] not in ("get", "holds", "keys", "listed", "entries")]

    def _call(self, name: str, key: str, call: Callable[[], T]) -> T:
        self.calls.append((name, LEASES if key.startswith(LEASES) else key))
        self.before(self)
        result = call()
        self.after(self)
        return result

    def get(self, key: str) -> Object | None:
        return self._call("get", key, lambda: self.store.get(key))

    def listed(self, prefix: str) -> list[str] | None:
        return self._call("listed", prefix, lambda: self.store.listed(prefix))

    def holds(self, key: str, size: int, sha256: str) -> bool:
        return self._call("holds", key, lambda: self.store.holds(key, size, sha256))

    def keys(self, prefix: str) -> list[str]:
        return self._call("keys", prefix, lambda: self.store.keys(prefix))

    def open(self, key: str, offset: int, length: int) -> AbstractContextManager[Body]:
        raise NotImplementedError  # publishing reads only documents

    def upload(self, key: str, path: Path, sha256: str) -> None:
        self._call("upload", key, lambda: self.store.upload(key, path, sha256))

    def create(self, key: str, data: bytes) -> bool:
        return self._call("create", key, lambda: self.store.create(key, data))

    def replace(self, key: str, data: bytes, tag: str | None) -> bool:
        return self._call("replace", key, lambda: self.store.replace(key, data, tag))


@dataclass
class KeeperSpy(Spy):
    """The same of a store to look after, whose calls are made by several threads: one at a time."""

    store: Keeper
    lock: threading.Lock = field(default_factory=threading.Lock)

    def _call(self, name: str, key: str, call: Callable[[], T]) -> T:
        with self.lock:
            return super()._call(name, key, call)

    def entries(self, prefix: str) -> Iterator[Stored]:
        return self._call("entries", prefix, lambda: iter(list(self.store.entries(prefix))))

    def open(self, key: str, offset: int, length: int) -> AbstractContextManager[Body]:
        return self.store.open(key, offset, length)

    def remove(self, key: str) -> None:
        self._call("remove", key, lambda: self.store.remove(key))

    def unfinished(self) -> Iterator[Unfinished]:
        return self.store.unfinished()

    def abort(self, upload: Unfinished) -> None:
        self.store.abort(upload)


def assert_whole(store: Store, version: str) -> None:
    """The release, and everything its manifest names, is there, to the byte."""
    found = store.get(release_key(MODEL, version))
    assert found is not None
    for blob in decode(m.Manifest, found.data, "store").blobs():
        held = store.get(blob_key(blob.sha256))
        assert held is not None
        assert (len(held.data), sha256_bytes(held.data)) == (blob.size, blob.sha256)


def pointed_at(store: Store, channel: str = "latest") -> str:
    """The version that the channel points at, which is whole and has the digest that the channel says."""
    found = store.get(channel_key(MODEL, channel))
    assert found is not None
    pointer = decode(m.Channel, found.data, "store")
    manifest = store.get(pointer.manifest.name)
    assert manifest is not None
    assert (sha256_bytes(manifest.data), len(manifest.data)) == (pointer.manifest.sha256, pointer.manifest.size)
    assert_whole(store, pointer.version)
    return pointer.version
