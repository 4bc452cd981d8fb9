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
from pipeline.seal import Seal
from pipeline.stages.publish import run
from pipeline.store import published
from pipeline.store.base import BrokenTransferError, Store
from pipeline.store.open import open_store, open_to_publish
from pipeline.store.published import lacks
from tests import servers
from tests.liar import CHUNK, DAMAGE, HALF, MADE_UP, NO_ETAG, REFUSAL, Liar, liar
from tests.publishing import Package

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
    cache = SharedCache(open_store(URL), True, sealed := Seal("pieces", b"the builders' key"))
    keys = [f"{number:064x}" for number in range(3)]
    lying.objects |= {f"bucket/prefix/pieces/{sealed.name}/00/{key}": (b"x" * 5000, {}) for key in keys}
    assert cache.get_many(keys) == {}
    cache.put_many(dict.fromkeys(keys, b"data"))
    assert len([r for r in caplog.records if "going on" in r.message]) <= 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("AWS_PROFILE", "nobody"), ("AWS_ENDPOINT_URL_S3", "nonsense"), ("PIPELINE_CACHE", "http://me:secret@host/x")],
)
def test_a_shared_cache_that_cannot_be_opened_costs_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, builders_key: Path, name: str, value: str
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


@pytest.mark.parametrize("write", ["create", "replace"])
def test_a_document_that_is_damaged_on_the_way_is_sent_again(lying: Liar, write: str) -> None:
    store = open_store(URL)
    tag = None
    if write == "replace":
        store.create(KEY, b"before")
        tag = (found := store.get(KEY)) and found.tag
    first = len(lying.requests) + 1
    lying.fault = lambda number, *_: DAMAGE if number == first else ""
    assert store.replace(KEY, b"data", tag)
    found = store.get(KEY)
    assert found
    assert found.data == b"data"


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


# Conditions of writes.


@pytest.mark.parametrize("ignored", [("If-None-Match",), ("If-Match",), ("If-None-Match", "If-Match")])
def test_a_server_that_ignores_conditions_is_refused_before_anything_is_sent(
    lying: Liar, package: Package, tmp_path: Path, ignored: tuple[str, ...]
) -> None:
    lying.ignores = ignored
    for _ in range(2):  # also where it was tried before
        with pytest.raises(PipelineError, match="the server ignores") as caught:
            run(package("one"), URL, "", "latest", {}, tmp_path / "receipt.json")
        assert [name for name in ("If-None-Match", "If-Match") if f"{name} (" in str(caught.value)] == [*ignored]
        assert [*lying.objects] == ["bucket/prefix/probe.json"]


def test_a_server_that_obeys_conditions_is_asked_once_in_a_run(lying: Liar) -> None:
    open_to_publish(URL)
    asked = len(lying.requests)
    assert asked == 3
    open_to_publish(URL)
    assert len(lying.requests) == asked
    open_to_publish(f"{URL}/another")
    assert len(lying.requests) > asked


# What was published, and is there still.


@pytest.fixture
def receipt(lying: Liar, package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a release that is in the bucket. Each question is that of another run."""
    monkeypatch.setattr(published, "_stores", _Forgets())
    run(package("one"), URL, "", "latest", {}, path := tmp_path / "receipt.json")
    lying.requests.clear()
    return path


class _Forgets(dict[str, Store | PipelineError]):
    def __contains__(self, key: object) -> bool:
        return False


def test_what_is_in_the_bucket_is_found_by_one_request(lying: Liar, receipt: Path) -> None:
    assert lacks(receipt) == ""
    ((method, key),) = lying.requests
    assert (method, key.rpartition("/")[2]) == ("GET", "manifest.json")


def test_an_emptied_bucket_and_another_manifest_are_told(lying: Liar, receipt: Path) -> None:
    (key,) = (key for key in lying.objects if key.endswith("manifest.json"))
    lying.objects[key] = (b"{}", {})
    assert lacks(receipt).endswith("manifest.json changed in the store")
    lying.objects.clear()
    assert lacks(receipt).endswith("manifest.json is not in the store any more")


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9", "endpoint was"),
        ("AWS_DEFAULT_REGION", "eu-west-1", "region was 'us-east-1', is 'eu-west-1'"),
        ("AWS_PROFILE", "another", "profile was 'default', is 'another'"),
        ("AWS_ACCESS_KEY_ID", "ANOTHERKEY", f"key was {servers.OWNER[0]!r}, is 'ANOTHERKEY'"),
    ],
)
def test_a_store_of_the_same_name_elsewhere_is_another(
    receipt: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str, said: str
) -> None:
    (tmp_path / "config").write_text("[profile another]\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert lacks(receipt) == ""
    monkeypatch.setenv(variable, value)
    assert said in lacks(receipt)


def test_temporary_keys_that_change_are_the_same_store(receipt: Path, package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    run(package("one"), URL, "", "latest", {}, receipt)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ANOTHERKEY")
    assert lacks(receipt) == ""


def test_a_receipt_has_no_secrets(lying: Liar, package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", lying.endpoint.replace("//", "//me:hidden@"))
    run(package("one"), URL, "", "latest", {}, path := tmp_path / "receipt.json")
    assert servers.OWNER[0] in path.read_text()
    assert not [secret for secret in (servers.OWNER[1], "hidden", "me:") if secret in path.read_text()]


def test_a_store_that_does_not_answer_is_asked_once(receipt: Path, monkeypatch: pytest.MonkeyPatch, lying: Liar) -> None:
    monkeypatch.setattr(published, "_stores", {})
    lying.fault = lambda number, method, key: HALF
    assert "could not be asked: the connection broke" in lacks(receipt)
    asked = len(lying.requests)
    assert "could not be asked" in lacks(receipt)
    assert len(lying.requests) == asked


def test_a_file_that_was_damaged_in_a_folder_is_told_and_a_channel_that_others_moved_is_not(
    package: Package, tmp_path: Path
) -> None:
    store, path = tmp_path / "store", tmp_path / "receipt.json"
    run(package("one"), str(store), "", "latest", {}, path)
    run(package("two"), str(store), "", "latest", {}, tmp_path / "other.json")
    assert lacks(path) == ""
    blob = next(p for p in (store / "blobs").rglob("*") if p.is_file() and p.read_bytes() == b"one" * 1000)
    blob.write_bytes(b"x" * 3000)
    assert lacks(path) == f"{blob} changed in the store"
    run(package("one"), str(store), "", "latest", {}, path)
    assert lacks(path) == ""
    assert blob.read_bytes() == b"one" * 1000


def test_a_receipt_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "receipt.json").write_text('{"store": "s3://bucket", "objects": []}')
    assert lacks(tmp_path / "receipt.json") == lacks(tmp_path / "missing.json") == "there is no receipt of it"
