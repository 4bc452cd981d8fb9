"""Stores: the same contract on a directory and on real S3 servers, and every failure a PipelineError that helps."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer

import pytest

from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes, sha256_file
from pipeline.store import s3
from pipeline.store.base import Object, Store
from pipeline.store.open import open_store
from tests import servers
from tests.project import ROOT

KEY = "folder/object.json"
THREADS = 8
# Every method, as a call on any store with any file.
CALLS: dict[str, Callable[[Store, Path], object]] = {
    "get": lambda store, _: store.get(KEY),
    "holds": lambda store, _: store.holds(KEY, 4, "0" * 64),
    "upload": lambda store, path: store.upload(KEY, path, sha256_file(path)),
    "create": lambda store, _: store.create(KEY, b"data"),
    "replace": lambda store, _: store.replace(KEY, b"data", "0" * 32),
    "replace nothing": lambda store, _: store.replace(KEY, b"data", None),
}
READS = ("get", "holds")
any_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"some content")
    return path


def read(store: Store, key: str = KEY) -> Object:
    found = store.get(key)
    assert found is not None
    return found


def race(*work: Callable[[], object]) -> list[object]:
    """The results of calls that start at the same moment."""
    barrier = threading.Barrier(len(work))

    def run(one: Callable[[], object]) -> object:
        barrier.wait()
        return one()

    with ThreadPoolExecutor(len(work)) as pool:
        return list(pool.map(run, work))


def failures(store: Store, file: Path, *names: str) -> list[str]:
    """What each call says as it fails; at the same time, since a client without an answer tries for seconds."""

    def fail(name: str) -> str:
        with pytest.raises(PipelineError) as caught:
            CALLS[name](store, file)
        assert store.url in str(caught.value)
        return str(caught.value)

    with ThreadPoolExecutor(len(CALLS)) as pool:
        return list(pool.map(fail, names or CALLS))


# What a store promises.


def test_an_empty_store_has_nothing(store: Store) -> None:
    assert store.get(KEY) is None
    assert not store.holds(KEY, 0, sha256_bytes(b""))


def test_an_upload_replaces_what_was_there(store: Store, file: Path) -> None:
    for content in (b"longer than the next", b"", b"short"):
        file.write_bytes(content)
        store.upload(KEY, file, digest := sha256_file(file))
        assert read(store).data == content
        assert store.holds(KEY, len(content), digest)


def test_a_large_upload_arrives_to_the_byte(store: Store, file: Path) -> None:
    content = os.urandom(60_000_001)  # over 16 MiB it goes in parts
    file.write_bytes(content)
    store.upload(KEY, file, digest := sha256_file(file))
    assert store.holds(KEY, len(content), digest)
    assert read(store).data == content


def test_what_others_wrote_over_an_object_is_not_held(store: Store, file: Path) -> None:
    store.upload(KEY, file, digest := sha256_file(file))
    assert not store.holds(KEY, 13, digest)
    assert not store.holds(KEY, 12, "0" * 64)
    other = b"other conten"
    assert store.replace(KEY, other, read(store).tag)
    assert not store.holds(KEY, 12, digest)


@pytest.mark.parametrize("size", [1000, 40_000_000])
def test_a_file_that_is_not_what_it_should_be_is_not_stored(store: Store, file: Path, size: int) -> None:
    file.write_bytes(os.urandom(size))
    with pytest.raises(PipelineError, match="not the one its manifest names"):
        store.upload(KEY, file, "0" * 64)
    assert store.get(KEY) is None


def test_a_second_create_changes_nothing(store: Store) -> None:
    assert store.create(KEY, b"first")
    before = read(store)
    assert not store.create(KEY, b"second")
    assert read(store) == before
    assert before.data == b"first"


def test_replace_needs_the_tag_of_the_present_state(store: Store) -> None:
    store.create(KEY, b"one")
    one = read(store)
    assert store.replace(KEY, b"two", one.tag)
    two = read(store)
    assert two.data == b"two"
    assert not store.replace(KEY, b"three", one.tag)
    assert not store.replace(KEY, b"three", None)
    assert read(store) == two


def test_replace_without_a_tag_creates(store: Store) -> None:
    assert not store.replace(KEY, b"data", "0" * 32)
    assert store.get(KEY) is None
    assert store.replace(KEY, b"data", None)
    assert read(store).data == b"data"


def test_of_a_race_to_create_exactly_one_wins_and_its_data_stays(new_store: Callable[[], Store]) -> None:
    for _ in range(3):
        store = new_store()
        data = [b"%d" % n * 1000 for n in range(THREADS)]
        won = race(*[partial(store.create, KEY, d) for d in data])
        assert won.count(True) == 1
        assert read(store).data == data[won.index(True)]


def test_of_a_race_to_replace_exactly_one_wins_and_its_data_stays(store: Store) -> None:
    store.create(KEY, b"start")
    for turn in range(3):
        before = read(store)
        data = [b"%d in turn %d" % (n, turn) for n in range(THREADS)]
        won = race(*[partial(store.replace, KEY, d, before.tag) for d in data])
        assert won.count(True) == 1
        assert read(store).data == data[won.index(True)]


def test_stores_of_one_bucket_or_folder_do_not_meet(new_store: Callable[[], Store]) -> None:
    one, other = new_store(), new_store()
    one.create(KEY, b"data")
    assert other.get(KEY) is None


# What goes wrong with a directory.


@pytest.mark.parametrize("key", ["../escaped", "folder/../../escaped", "/escaped", "folder/.."])
def test_a_key_that_leaves_the_directory_is_refused(tmp_path: Path, file: Path, key: str) -> None:
    store = open_store(str(tmp_path / "store"))
    calls = (
        store.get,
        lambda k: store.holds(k, 0, ""),
        lambda k: store.create(k, b""),
        lambda k: store.upload(k, file, sha256_file(file)),
    )
    for call in calls:
        with pytest.raises(PipelineError, match="leaves the store"):
            call(key)


@pytest.mark.parametrize("name", [name for name in CALLS if name not in READS and name != "replace"])
@pytest.mark.parametrize("root", ["file", "file/below", "/proc/store"])
def test_a_directory_that_cannot_be_written_is_an_error(tmp_path: Path, file: Path, root: str, name: str) -> None:
    # Not by its permissions, which root does not feel.
    store = open_store(str(tmp_path / root))
    with pytest.raises(PipelineError):
        CALLS[name](store, file)
    assert store.get(KEY) is None


def test_a_failed_write_leaves_nothing_beside_the_objects(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    store.create(KEY, b"data")
    assert not store.create(KEY, b"data")
    with pytest.raises(PipelineError):
        store.upload(KEY, tmp_path / "missing", "0" * 64)
    assert [p.name for p in (tmp_path / "store").rglob("*") if p.is_file()] == [Path(KEY).name]


def test_a_missing_local_file_is_an_error(store: Store, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="missing"):
        store.upload(KEY, tmp_path / "missing", "0" * 64)


# What goes wrong with a server.


def test_a_wrong_secret_is_an_error_that_names_it(server: servers.Server, monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    servers.use_aws(monkeypatch, server.endpoint, (servers.OWNER[0], "wrong"))
    said = failures(open_store(f"s3://{servers.BUCKET}"), file)
    assert all("SignatureDoesNotMatch" in s or "(403)" in s for s in said)
    assert all("AWS_SECRET_ACCESS_KEY" in s or "AWS_PROFILE" in s for s in said)


def test_an_unknown_access_key_is_an_error_that_names_it(
    server: servers.Server, monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    servers.use_aws(monkeypatch, server.endpoint, ("NOBODY", "secret"))
    said = failures(open_store(f"s3://{servers.BUCKET}"), file, "get", "upload", "create")
    assert all("InvalidAccessKeyId" in s and "AWS_ACCESS_KEY_ID" in s for s in said)


def test_credentials_that_may_not_write_are_refused(server: servers.Server, monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    servers.use_aws(monkeypatch, server.endpoint, servers.READER)
    said = failures(open_store(f"s3://{servers.BUCKET}/{file.parent.name}"), file, "upload", "create", "replace nothing")
    assert all("AccessDenied" in s and "may not do this" in s for s in said)


def test_a_missing_bucket_is_an_error_that_says_so(server: servers.Server, file: Path) -> None:
    # Not `holds`: a HEAD request has the same 404 for a missing bucket and a missing object. Not `replace`: SeaweedFS
    # looks at the condition first, and finds it unmet.
    said = failures(open_store("s3://no-such-bucket"), file, "get", "upload", "create", "replace nothing")
    assert all("create the bucket, or correct its name" in s for s in said)


def test_no_credentials_is_an_error_that_says_what_to_set(
    server: servers.Server, monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    servers.use_aws(monkeypatch, server.endpoint, None)
    said = failures(open_store(f"s3://{servers.BUCKET}"), file)
    assert all("there are no AWS credentials" in s and "AWS_PROFILE" in s for s in said)


def test_a_closed_port_is_an_error_that_names_the_endpoint(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    with socket.socket() as taken:  # bound but not listening: nobody else can open it meanwhile
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        servers.use_aws(monkeypatch, endpoint)
        said = failures(open_store("s3://bucket"), file)
    assert all("cannot connect" in s and endpoint in s and "AWS_ENDPOINT_URL_S3" in s for s in said)


class HangUp(BaseRequestHandler):
    """A server that reads a little and goes away."""

    def handle(self) -> None:
        self.request.recv(1000)


class NotS3(BaseHTTPRequestHandler):
    """A web server of another kind: a page as the answer to everything."""

    def answer(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>welcome</html>")

    do_GET = do_HEAD = do_PUT = answer  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class HalfAnswer(NotS3):
    """A server that dies while it sends an object."""

    def answer(self) -> None:
        self.send_response(200)
        self.send_header("ETag", '"0"')
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"the first bytes")

    do_GET = answer  # noqa: N815


@pytest.fixture
def fake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server with the handler that the test names, as the S3 endpoint."""
    kind = ThreadingHTTPServer if issubclass(request.param, BaseHTTPRequestHandler) else ThreadingTCPServer
    with kind(("127.0.0.1", 0), request.param) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.use_aws(monkeypatch, f"http://127.0.0.1:{running.server_address[1]}")
        try:
            yield
        finally:
            running.shutdown()
            thread.join()


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("fake", [HangUp], indirect=True)
def test_a_server_that_hangs_up_is_an_error_that_says_to_try_again(file: Path) -> None:
    said = failures(open_store("s3://bucket"), file)
    assert all("the connection broke" in s and "run the same command again" in s for s in said)


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("fake", [HalfAnswer], indirect=True)
def test_half_an_object_is_an_error(file: Path) -> None:
    failures(open_store("s3://bucket"), file, "get")


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("fake", [NotS3], indirect=True)
def test_a_server_that_is_not_s3_is_an_error(file: Path) -> None:
    said = failures(open_store("s3://bucket"), file, "get", "holds")
    assert all("AWS_ENDPOINT_URL_S3" in s for s in said)


@pytest.mark.parametrize("endpoint", ["127.0.0.1:8333", "http://", "nonsense"])
def test_an_endpoint_that_is_no_url_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    servers.use_aws(monkeypatch, endpoint)
    with pytest.raises(PipelineError, match="AWS_ENDPOINT_URL_S3"):
        open_store("s3://bucket")


def test_a_missing_profile_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    servers.use_aws(monkeypatch, "http://127.0.0.1:9", None)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(PipelineError, match="nobody"):
        open_store("s3://bucket")


@any_call
def test_a_bucket_name_that_cannot_be_is_an_error(
    monkeypatch: pytest.MonkeyPatch, file: Path, call: Callable[[Store, Path], object]
) -> None:
    servers.use_aws(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(PipelineError, match="bucket name"):
        call(open_store("s3://Not A Bucket"), file)


@pytest.mark.parametrize("url", ["http://example.org/x", "gs://bucket", "s3:///prefix"])
def test_a_url_of_another_kind_is_an_error(url: str) -> None:
    with pytest.raises(PipelineError):
        open_store(url)


# Uploads that do not end


def parts(store: Store) -> list[str]:
    assert isinstance(store, s3.S3Store)
    found = store._client.list_multipart_uploads(Bucket=servers.BUCKET, Prefix=store.prefix).get("Uploads", [])
    return [str(upload["Key"]) for upload in found]


def test_an_upload_that_fails_leaves_no_parts(server: servers.Server, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_PART", 5 << 20)
    store = open_store(f"s3://{servers.BUCKET}/{uuid.uuid4().hex}")
    file.write_bytes(bytes(11 << 20))
    with pytest.raises(PipelineError, match="has the SHA-256"):
        store.upload(KEY, file, "0" * 64)
    assert not parts(store)


KILLED = """if True:
    import os, sys
    from pathlib import Path
    from pipeline.files import sha256_file
    from pipeline.store import s3
    from pipeline.store.open import open_store

    s3._PART = 5 << 20
    send = s3.S3Store._send
    def killed(store, key, call, data, **options):
        if options.get("PartNumber") == 3:
            os._exit(9)
        return send(store, key, call, data, **options)
    s3.S3Store._send = killed
    file = Path(sys.argv[2])
    open_store(sys.argv[1], Path(sys.argv[3])).upload(sys.argv[4], file, sha256_file(file))
"""


def test_the_parts_that_a_kill_leaves_are_removed_by_the_next_run(server: servers.Server, file: Path, tmp_path: Path) -> None:
    url, notes = f"s3://{servers.BUCKET}/{uuid.uuid4().hex}", tmp_path / "uploads.json"
    file.write_bytes(bytes(16 << 20))
    words = [sys.executable, "-c", KILLED, url, str(file), str(notes), KEY]
    done = subprocess.run(words, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 9
    store = open_store(url)
    assert len(parts(store)) == 1
    assert "secret" not in notes.read_text()
    open_store(f"s3://{servers.WITNESSED}", notes)  # another bucket: not its business
    assert len(parts(store)) == 1
    store = open_store(url, notes)
    assert not parts(store)
    assert not notes.exists()
    store.upload(KEY, file, digest := sha256_file(file))
    assert store.holds(KEY, 16 << 20, digest)
    assert not notes.exists()
