"""Evidence in a store to which witnesses write: with no more rights than they need, at once, and killed while they do."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from pipeline.consume.evidence import admit
from pipeline.errors import DeniedError, PipelineError
from pipeline.files import sha256_bytes
from pipeline.layout import (
    blob_key,
    channel_key,
    evidence_digests,
    evidence_folder,
    evidence_index_key,
    evidence_key,
    release_key,
)
from pipeline.manifest.codec import decode, encode
from pipeline.manifest.evidence import EvidenceDocument, EvidenceIndex, Witness
from pipeline.manifest.types import Manifest
from pipeline.store.base import Object, Store
from pipeline.store.documents import add_evidence, list_evidence
from pipeline.store.open import open_store
from tests import releases, servers
from tests.waiting import FOREVER

ROUNDS, WITNESSES, EACH = 50, 3, 4


def seen(manifest: Manifest, by: str) -> bytes:
    """A document that is another for each who says it."""
    return encode(replace(releases.unseen(manifest), witness=Witness(by, "3", "a system", "a CPU")))


def listed(store: Store, manifest: Manifest) -> set[str]:
    """The digests in the store's own list."""
    key = evidence_index_key(manifest.model.name, manifest.version)
    return {*decode(EvidenceIndex, get(store, key), key).documents}


def get(store: Store, key: str) -> bytes:
    found = store.get(key)
    assert found, key
    return found.data


@pytest.fixture
def owned(server: servers.Server) -> Iterator[tuple[Store, servers.Server]]:
    """The empty bucket in which a witness has its rights, as its owner."""
    client = servers.client_of(server.endpoint)
    for item in client.list_objects_v2(Bucket=servers.WITNESSED).get("Contents", ()):
        client.delete_object(Bucket=servers.WITNESSED, Key=item["Key"])
    yield open_store(f"s3://{servers.WITNESSED}"), server


def test_a_witness_may_add_evidence_and_write_nothing_else(
    owned: tuple[Store, servers.Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, server = owned
    manifest, _ = releases.release(store, tmp_path)
    model, version = manifest.model.name, manifest.version
    servers.use_aws(monkeypatch, server.endpoint, servers.WITNESS)
    witness = open_store(f"s3://{servers.WITNESSED}")
    (key,) = add_evidence(witness, model, version, mine := seen(manifest, "me"))
    assert get(store, key) == mine
    assert sha256_bytes(mine) in listed(store, manifest)
    assert not witness.create(key, b"another")  # who asks for create-only gets it
    digest = "0" * 64
    others = [release_key(model, version), release_key(model, "2"), blob_key(digest), channel_key(model, "latest"), "index.json"]
    (tmp_path / "blob").write_bytes(b"blob")
    for other in [*others, f"evidence-of-mine/{digest}.json"]:
        before = store.get(other)
        with pytest.raises(DeniedError):
            witness.create(other, b"{}")
        with pytest.raises(DeniedError):
            witness.replace(other, b"{}", before.tag if before else None)
        with pytest.raises(DeniedError):
            witness.upload(other, tmp_path / "blob", sha256_bytes(b"blob"))
        assert store.get(other) == before


def test_evidence_that_is_written_over_is_found_out(
    owned: tuple[Store, servers.Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither server can be told to let a key create and not replace: so the digest has to tell."""
    store, server = owned
    manifest, _ = releases.release(store, tmp_path)
    (key,) = add_evidence(store, manifest.model.name, manifest.version, theirs := seen(manifest, "them"))
    client = servers.client_of(server.endpoint, servers.WITNESS)
    client.put_object(Bucket=servers.WITNESSED, Key=key, Body=seen(manifest, "me"))
    with pytest.raises(PipelineError, match="does not have the digest"):
        admit(get(store, key), sha256_bytes(theirs), manifest, key)


class CreateOnly:
    """A store whose user may create and read, but neither list nor replace."""

    def __init__(self, store: Store) -> None:
        self._store, self.url = store, store.url

    def get(self, key: str) -> Object | None:
        return self._store.get(key)

    def create(self, key: str, data: bytes) -> bool:
        return self._store.create(key, data)

    def _refuse(self, *_: object) -> None:
        raise DeniedError("may not do this", where=self.url)

    keys = replace = _refuse


def test_who_can_only_create_leaves_the_list_to_the_next(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    manifest, _ = releases.release(store, tmp_path / "package")
    model, version = manifest.model.name, manifest.version
    mine, theirs = seen(manifest, "me"), seen(manifest, "them")
    (key,) = add_evidence(CreateOnly(store), model, version, mine)  # type: ignore[arg-type]
    assert get(store, key) == mine
    assert sha256_bytes(mine) not in listed(store, manifest)
    add_evidence(store, model, version, theirs)
    assert {sha256_bytes(mine), sha256_bytes(theirs)} <= listed(store, manifest)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to_is_denied(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir(mode=0o500)
    with pytest.raises(DeniedError):
        open_store(str(tmp_path / "store")).create("evidence/a", b"")


def _say(url: str, environment: dict[str, str], manifest: Manifest, name: str, told: Connection) -> None:
    """A witness: tells the digest of each document that is in the store for certain."""
    os.environ.update(environment)
    store = open_store(url)
    told.send("")
    for number in range(EACH):
        data = seen(manifest, f"{name}-{number}")
        add_evidence(store, manifest.model.name, manifest.version, data)
        told.send(sha256_bytes(data))


def _round(url: str, manifest: Manifest, name: str, longest: float) -> tuple[set[str], int]:
    """Three witnesses at once, some of which are killed: what they got done, and how many were killed."""
    context = multiprocessing.get_context("forkserver")
    environment = {k: v for k, v in os.environ.items() if k.startswith("AWS_")}
    running = []
    for number in range(WITNESSES):
        hears, tells = context.Pipe(duplex=False)
        process = context.Process(target=_say, args=(url, environment, manifest, f"{name}-{number}", tells))
        process.start()
        tells.close()
        running.append((process, hears))
    for _, hears in running:
        hears.recv()  # they are ready
    for process, _ in running:
        if random.random() < 0.7:
            time.sleep(random.uniform(0, longest))
            process.kill()
    done, killed = set[str](), 0
    for process, hears in running:
        process.join(FOREVER)
        killed += process.exitcode == -9
        try:
            while True:
                done.add(hears.recv())
        except (EOFError, OSError):
            pass
    return done - {""}, killed


def _documents(store: Store, manifest: Manifest) -> list[EvidenceDocument]:
    """Every document that the store has: all are whole, and of this release."""
    folder, version = evidence_folder(manifest.model.name, manifest.version), manifest.version
    found = []
    for sha256 in evidence_digests(store.keys(folder), manifest.model.name, version):
        key = evidence_key(manifest.model.name, version, sha256)
        found.append(admit(get(store, key), sha256, manifest, key))
    return found


@pytest.mark.parametrize("longest", [0.02, pytest.param(0.3, id="seaweedfs", marks=pytest.mark.slow)])
def test_witnesses_that_write_at_once_and_are_killed_lose_nothing_and_leave_no_half(
    longest: float, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = str(tmp_path / "store")
    if longest > 0.1:
        servers.use_aws(monkeypatch, request.getfixturevalue("seaweedfs").endpoint)
        url = f"s3://{servers.BUCKET}/{random.randbytes(8).hex()}"
    multiprocessing.get_context("forkserver").set_forkserver_preload(["tests.test_documents", "pipeline.store.s3"])
    store = open_store(url)
    manifest, _ = releases.release(store, tmp_path / "package")
    model, version = manifest.model.name, manifest.version
    done, killed = set[str](), 0
    for number in range(ROUNDS):
        more, ended = _round(url, manifest, str(number), longest)
        done |= more
        killed += ended
        listed(store, manifest)  # is never half
    assert killed >= ROUNDS / 5, "hardly one was killed at work"
    assert len(done) >= ROUNDS, "hardly one was at work"
    there = {sha256_bytes(encode(document)) for document in _documents(store, manifest)}
    assert done <= there
    list_evidence(store, model, version)  # as the next does who adds one
    assert listed(store, manifest) == there
    assert set(store.keys(evidence_folder(model, version))) == {
        evidence_index_key(model, version),
        *(evidence_key(model, version, sha256) for sha256 in there),
    }
