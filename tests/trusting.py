"""What tests of signed stores share: a store that is signed, served in every way, and the means of who attacks it."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata

from pipeline.consume.cache import Cache
from pipeline.consume.reference import Reference
from pipeline.consume.resolve import Remote, Resolver
from pipeline.files import sha256_bytes
from pipeline.manifest.types import Manifest
from pipeline.stages.publish import publish
from pipeline.store.base import Store
from pipeline.store.open import address_of, open_to_publish
from pipeline.trust import anchors
from pipeline.trust.keys import VARIABLE, read_key
from pipeline.trust.repository import metadata_key, named
from pipeline.trust.setup import Setup, begin
from pipeline.trust.signed import signing
from tests import releases, servers, web
from tests.liar import liar

MODEL = "noise"
SIZE, SEGMENT = 1 << 14, 1 << 12
KINDS = ("folder", "web", "s3")


@dataclass
class Signed:
    """A signed store in the folder `root`; its keys are in `keys`."""

    root: Path
    keys: Path
    packages: Path

    @property
    def url(self) -> str:
        return str(self.root)

    def publish(self, seed: int, model: str = MODEL, channel: str = "latest", store: Store | None = None) -> Manifest:
        folder = self.packages / f"{model}-{seed}"
        if not folder.exists():
            releases.make(folder, SIZE, SEGMENT, seed, name=model)
        receipt = publish(folder, signing(store or open_to_publish(self.url), self.url), channel=channel)
        name, version = str(receipt["release"]).split("@")
        return manifest_of(self.url, Reference(name, version=version), self.packages / "own-cache")

    def state(self, name: str) -> Path:
        """A copy of the store as it is now, to go back to."""
        return Path(shutil.copytree(self.root, self.root.with_name(name)))

    def go_back(self, state: Path) -> None:
        shutil.rmtree(self.root)
        shutil.copytree(state, self.root)

    def metadata(self, role: str) -> tuple[Path, Metadata[Any]]:
        """The present metadata of a role, and its file."""
        versions = [int(path.name.split(".")[0]) for path in self.root.glob(f"trust/*.{role}.json")]
        path = self.root / ("trust/timestamp.json" if role == "timestamp" else metadata_key(role, max(versions)))
        return path, Metadata[Any].from_bytes(path.read_bytes())

    def forge(self, role: str, key: Path | None = None, edit: Callable[[Any], object] = lambda _: None) -> None:
        """Change a role's metadata and sign it with a key, whether that is one of its; all above it is signed by the key that is
        online."""
        order = [role, *(r for r in ("snapshot", "timestamp") if r != role and role != "timestamp")]
        order = order if role != "snapshot" else ["snapshot", "timestamp"]
        told = None
        for name in order:
            _, metadata = self.metadata(name)
            metadata.signed.version += 1
            if name == role:
                edit(metadata.signed)
            elif name == "snapshot":
                metadata.signed.meta[f"{role}.json"] = told
            else:
                metadata.signed.snapshot_meta = told
            signer = read_key(key if name == role and key else self.keys / "online.pem")
            assert signer
            metadata.sign(signer)
            data = metadata.to_bytes()
            told = named(metadata, data)
            file = "timestamp.json" if name == "timestamp" else f"{metadata.signed.version}.{name}.json"
            (self.root / "trust" / file).write_bytes(data)


def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setup: Setup | None = None) -> Signed:
    """A store with one release, signed, whose signers are known on this machine, which has all keys."""
    monkeypatch.setenv("VMFB_TRUST_DIR", str(tmp_path / "trust"))
    monkeypatch.setenv(VARIABLE, str(tmp_path / "keys"))
    signed = Signed(tmp_path / "store", tmp_path / "keys", tmp_path)
    store = open_to_publish(signed.url)
    releases.release(store, tmp_path / f"{MODEL}-0", SIZE, SEGMENT)
    begin(store, address_of(signed.url).name, setup or Setup())
    return signed


@contextmanager
def served(kind: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Callable[[], None]]]:
    """The URL at which the folder can be read, in each way, and what brings its present files there."""
    if kind == "folder":
        yield str(root), lambda: None
    elif kind == "web":
        with web.serve(root) as running:
            yield running.url, lambda: None
    else:
        with liar() as server:
            servers.use_aws(monkeypatch, server.endpoint)

            def bring() -> None:
                server.objects.clear()
                server.objects.update(
                    {f"bucket/{p.relative_to(root).as_posix()}": (p.read_bytes(), {}) for p in root.rglob("*") if p.is_file()}
                )

            bring()
            yield "s3://bucket", bring


def believe(url: str, signed: Signed) -> anchors.Anchor:
    """Let this machine know who signs the store at a URL."""
    return anchors.add(address_of(url).name, (signed.keys / "root.json").read_bytes())


def manifest_of(url: str, reference: Reference, cache: Path) -> Manifest:
    """What a consumer gets."""
    return Resolver(Remote(url), Cache(cache)).manifest(reference)


def past(seconds: int = 60) -> datetime.datetime:
    """A time that is over."""
    return datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds)


def digest(path: Path) -> str:
    return sha256_bytes(path.read_bytes())
