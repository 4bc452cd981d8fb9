"""A store tells the truth: what a server says is believed only where it is so, and what it lacks is named."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline import cache as caches
from pipeline.cache import SharedCache
from pipeline.errors import DeniedError, PipelineError
from pipeline.files import sha256_bytes
from pipeline.store.base import BrokenTransferError, Store
from pipeline.store.open import open_store
from tests import servers
from tests.liar import CHUNK, DAMAGE, HALF, MADE_UP, NO_ETAG, REFUSAL, Liar, liar

URL = "s3://bucket/prefix"
KEY = "folder/object.json"
HELD = f"bucket/prefix/{KEY}"


@pytest.fixture
def lying(monkeypatch: pytest.MonkeyPatch) -> Iterator[Liar]:
    """A server that lies as it is told, as the S3 endpoint."""
    with liar() as server:
        servers.use_aws(monkeypatch, server.endpoint)
        yield server


@pytest.fixture
def blob(tmp_path: Path) -> Path:
    path = tmp_path / "blob"
    path.write_bytes(os.urandom(1000))
    return path


def first(count: int, method: str, fault: str) -> Callable[[int, str, str], str]:
    """The fault for the first `count` requests of this method."""
    left = [count]

    def told(_number: int, found: str, _key: str) -> str:
        left[0] -= found == method
        return fault if found == method and left[0] >= 0 else ""

    return told


# Answers that break.


@pytest.mark.parametrize("fault", [HALF, CHUNK])
def test_a_document_whose_body_breaks_is_asked_for_again(lying: Liar, fault: str) -> None:
    lying.objects[HELD] = (b"x" * 5000, {})
    lying.fault = first(2, "GET", fault)
    found = open_store(URL).get(KEY)
    assert found
    assert found.data == b"x" * 5000


@pytest.mark.parametrize("fault", [HALF, CHUNK])
def test_a_list_that_breaks_is_asked_for_again(lying: Liar, fault: str) -> None:
    lying.objects[HELD] = (b"", {})
    lying.fault = first(2, "GET", fault)
    assert open_store(URL).keys("folder/") == [KEY]


CALLS: dict[str, Callable[[Store], object]] = {
    "get": lambda store: store.get(KEY),
    "keys": lambda store: store.keys(""),
    "listed": lambda store: store.listed(""),
    "open": lambda store: store.open(KEY, 0, 10).__enter__(),
}


@pytest.mark.parametrize(
    ("call", "fault"),
    [(call, fault) for call in CALLS for fault in (HALF, CHUNK, REFUSAL) if call != "open" or fault == REFUSAL],
)
def test_answers_that_always_break_are_a_broken_transfer(lying: Liar, call: str, fault: str) -> None:
    lying.objects[HELD] = (b"x" * 5000, {})
    lying.fault = lambda number, method, key: fault
    with pytest.raises((BrokenTransferError, DeniedError)) as caught:
        CALLS[call](open_store(URL))
    assert isinstance(caught.value, BrokenTransferError) or fault == REFUSAL
    assert URL in str(caught.value)


@pytest.mark.parametrize("fault", [HALF, CHUNK, REFUSAL, MADE_UP])
def test_the_shared_cache_outlives_every_answer(lying: Liar, fault: str, caplog: pytest.LogCaptureFixture) -> None:
    lying.fault = lambda number, method, key: fault
    cache = SharedCache(open_store(URL), writable=True)
    keys = [f"{number:064x}" for number in range(3)]
    lying.objects |= {f"bucket/prefix/pieces/00/{key}": (b"x" * 5000, {}) for key in keys}
    assert cache.get_many(keys) == {}
    cache.put_many(dict.fromkeys(keys, b"data"))
    assert len([r for r in caplog.records if "going on" in r.message]) <= 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("AWS_PROFILE", "nobody"), ("AWS_ENDPOINT_URL_S3", "nonsense"), ("PIPELINE_CACHE", "http://me:secret@host/x")],
)
def test_a_shared_cache_that_cannot_be_opened_costs_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, value: str
) -> None:
    servers.use_aws(monkeypatch, "http://127.0.0.1:9", None)
    monkeypatch.setenv("PIPELINE_CACHE", URL)
    monkeypatch.setenv(name, value)
    assert caches.shared() is None
    (said,) = (record.message for record in caplog.records if record.name == "pipeline.cache")
    assert "going on without it" in said
    assert "secret" not in said


# Writes that are answered by something else.


def test_a_write_that_only_a_proxy_answered_does_not_count(lying: Liar, blob: Path) -> None:
    lying.fault = lambda number, method, key: MADE_UP if method == "PUT" else ""
    store = open_store(URL)
    writes = (
        lambda: store.create(KEY, b"data"),
        lambda: store.replace(KEY, b"data", None),
        lambda: store.replace(KEY, b"data", "0" * 32),
        lambda: store.upload(KEY, blob, sha256_bytes(blob.read_bytes())),
    )
    for write in writes:
        with pytest.raises(BrokenTransferError, match="something before the store answers for it"):
            write()
    assert not lying.objects


def test_a_write_that_a_proxy_answered_is_tried_again(lying: Liar, blob: Path) -> None:
    store = open_store(URL)
    for key, write in {
        "a": lambda: store.create("a", b"data"),
        "b": lambda: store.upload("b", blob, sha256_bytes(blob.read_bytes())),
    }.items():
        lying.fault = first(2, "PUT", MADE_UP)
        write()
        assert f"bucket/prefix/{key}" in lying.objects


def test_bytes_that_are_damaged_on_the_way_are_sent_again(lying: Liar, blob: Path) -> None:
    store, digest = open_store(URL), sha256_bytes(blob.read_bytes())
    lying.fault = first(1, "PUT", DAMAGE)
    store.upload(KEY, blob, digest)
    assert lying.objects[HELD][0] == blob.read_bytes()
    lying.fault = lambda number, method, key: DAMAGE
    with pytest.raises(BrokenTransferError, match="damaged on the way"):
        store.upload("another", blob, digest)
    assert "bucket/prefix/another" not in lying.objects


def test_a_blob_that_only_a_proxy_says_is_there_is_not(lying: Liar, blob: Path) -> None:
    lying.fault = lambda number, method, key: MADE_UP
    assert not open_store(URL).holds(KEY, 0, sha256_bytes(blob.read_bytes()))


def test_a_write_whose_answer_lost_its_etag_is_read_back(lying: Liar) -> None:
    lying.fault = lambda number, method, key: NO_ETAG
    store = open_store(URL)
    assert store.create(KEY, b"data")
    found = store.get(KEY)
    assert found
    assert store.replace(KEY, b"other", found.tag)
    assert not store.create(KEY, b"data")
    assert not store.replace(KEY, b"data", found.tag)
    assert lying.objects[HELD][0] == b"other"


def test_what_refuses_is_a_pipeline_error(lying: Liar) -> None:
    with pytest.raises(PipelineError, match="is not in the store"), open_store(URL).open(KEY, 0, 10):
        pass
