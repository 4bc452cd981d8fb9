"""Registries as stores: what `vmfb copy` puts into docker's own is what was published, and is read, in parts too, by anyone."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import cli
from pipeline.errors import DeniedError, PipelineError
from pipeline.layout import blob_key, evidence_of, provenance_key, release_key, signature_key
from pipeline.manifest.codec import decode
from pipeline.manifest.types import Manifest
from pipeline.stages.publish import publish
from pipeline.store.base import BrokenTransferError, Store
from pipeline.store.open import open_source, open_store, open_to_copy_to, open_to_publish
from pipeline.store.pace import Patience
from tests import releases, servers
from tests.publishing import LATEST, MODEL, Package, assert_whole
from tests.test_copy import content

if not os.environ.get("CI"):
    pytest.importorskip("oras")
from pipeline.store import oci

Vmfb = Callable[..., int]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the registry keeps what it has."""
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def registry(folder: Path) -> Iterator[str]:
    with servers.registry(folder) as host:
        yield host


@pytest.fixture
def there(registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty repository; nobody is logged in."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return f"oci://{registry}/tests/{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]}"


@pytest.fixture
def vmfb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Vmfb:
    monkeypatch.setenv("VMFB_CACHE", str(tmp_path / "cache"))
    return lambda *words: cli.main([str(word) for word in words])


@pytest.fixture
def source(tmp_path: Path, package: Package) -> Store:
    """A folder with two releases, and all that may be beside."""
    store = open_store(str(tmp_path / "source"))
    for version, text in (("1.0", "one"), ("2.0+b", "two")):
        publish(package(text), store, version=version)
        for key in store.keys(f"evidence/{MODEL}/{version}/"):
            if evidence_of(key):
                store.create(signature_key(key, "ab" * 32), b"a signature")
    return store


def test_what_is_copied_there_and_back_is_the_same(source: Store, there: str, vmfb: Vmfb, tmp_path: Path) -> None:
    assert vmfb("copy", "--all", "--store", source.url, "--to", there) == 0
    store = open_source(there)
    expected = content(source)
    assert len(expected) > 15
    listed = store.listed("")
    assert listed is not None
    assert set(listed) == {key for key in expected if not key.startswith("blobs/")}
    for key, data in expected.items():
        found = store.get(key)
        assert found is not None, key
        if not key.endswith("index.json") and not key.startswith("channels/"):  # lists, and where they were before
            assert found.data == data
    assert vmfb("copy", "--all", "--store", there, "--to", tmp_path / "back") == 0
    back = open_store(str(tmp_path / "back"))
    assert content(back, ("index.json", "channels/")) == content(source, ("index.json", "channels/"))
    assert_whole(back, "2.0+b")


def test_a_second_copy_sends_nothing_and_a_channel_moves(
    source: Store, there: str, vmfb: Vmfb, package: Package, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("copy", MODEL, "--store", source.url, "--to", there)
    assert vmfb(*words) == 0
    assert "sent" in capsys.readouterr().out
    assert vmfb(*words) == 0
    assert "nothing to send, was there" in capsys.readouterr().out
    publish(package("three"), source, version="3.0")
    assert vmfb(*words) == 0
    found = open_source(there).get(LATEST)
    assert found
    assert json.loads(found.data)["version"] == "3.0"


def test_only_what_a_device_needs_is_fetched(there: str, vmfb: Vmfb, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = open_store(str(tmp_path / "source"))
    manifest, _ = releases.release(source, tmp_path / "package", 1 << 20, 1 << 16)
    assert vmfb("copy", "noise", "--store", source.url, "--to", there) == 0
    capsys.readouterr()
    assert vmfb("fetch", "noise", "--store", there, "--device", "haswell") == 0
    said = capsys.readouterr()
    assert "here is" in said.err
    whole = source.get(blob_key(manifest.artifacts[0].blob.sha256))
    got = Path(said.out.strip()).read_bytes()
    assert whole
    assert got != whole.data
    assert len(got) == len(whole.data)
    assert vmfb("fetch", "noise", "--store", there, "--full") == 0
    assert Path(capsys.readouterr().out.strip()).read_bytes() == whole.data


def test_a_damaged_blob_is_refused(
    there: str, folder: Path, vmfb: Vmfb, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = open_store(str(tmp_path / "source"))
    manifest, _ = releases.release(source, tmp_path / "package", 1 << 16, 1 << 16)
    assert vmfb("copy", "noise", "--store", source.url, "--to", there) == 0
    digest = manifest.artifacts[0].blob.sha256
    held = folder / "data/docker/registry/v2/blobs/sha256" / digest[:2] / digest / "data"
    data = bytearray(held.read_bytes())
    for place in range(0, len(data), 1000):
        data[place] ^= 1
    held.write_bytes(data)
    capsys.readouterr()
    assert vmfb("fetch", "noise", "--store", there, "--full") == 1
    said = capsys.readouterr()
    assert not said.out
    assert said.err.count("error:") == 1
    assert "the object is damaged" in said.err


def test_two_copies_at_once_leave_whole_releases(source: Store, there: str, vmfb: Vmfb) -> None:
    code = "import sys; from pipeline import cli; sys.exit(cli.main(sys.argv[1:]))"
    asked = [[f"{MODEL}@1.0", "--channel", "beta"], [f"{MODEL}@2.0+b"]]
    words = [[sys.executable, "-c", code, "copy", *one, "--store", source.url, "--to", there] for one in asked]
    copies = [subprocess.Popen(one) for one in words]
    assert [copy.wait(60) for copy in copies] == [0, 0]
    assert vmfb("copy", MODEL, "--store", source.url, "--to", there) == 0  # the list may have lacked one
    store = open_to_copy_to(there)
    for version in ("1.0", "2.0+b"):
        assert_whole(store, version)
    index = store.get("index.json")
    assert index
    assert set(json.loads(index.data)["models"][0]["versions"]) >= {"1.0", "2.0+b"}


def test_other_clients_find_files_and_what_refers_to_a_release(source: Store, there: str, vmfb: Vmfb, tmp_path: Path) -> None:
    assert vmfb("copy", "--all", "--store", source.url, "--to", there) == 0
    repository = there.removeprefix("oci://")
    tag = oci.tag_of(release_key(MODEL, "1.0"))
    code = "import oras.client, sys; oras.client.OrasClient(insecure=True).pull(sys.argv[1], outdir=sys.argv[2])"
    pull = [sys.executable, "-c", code, f"{repository}:{tag}", str(tmp_path / "pulled")]
    subprocess.run(pull, check=True, capture_output=True)
    pulled = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "pulled").rglob("*") if path.is_file()}
    manifest_ = source.get(release_key(MODEL, "1.0"))
    assert manifest_
    wanted = {blob.sha256 for blob in decode(Manifest, manifest_.data, "").blobs()}
    assert pulled == {*wanted, hashlib.sha256(manifest_.data).hexdigest()}
    host, _, name = repository.partition("/")
    with urllib.request.urlopen(
        urllib.request.Request(f"http://{host}/v2/{name}/manifests/{tag}", headers={"Accept": oci._MANIFEST})
    ) as answer:
        digest = hashlib.sha256(answer.read()).hexdigest()
    with urllib.request.urlopen(
        urllib.request.Request(f"http://{host}/v2/{name}/manifests/sha256-{digest}", headers={"Accept": oci._INDEX})
    ) as answer:
        referrers = json.load(answer)["manifests"]
    about = {one["annotations"][oci._KEY] for one in referrers}
    assert provenance_key(MODEL, "1.0") in about
    assert {key for key in source.keys(f"evidence/{MODEL}/1.0/") if not key.endswith("index.json")} < about


def test_another_release_of_that_version_is_refused(
    source: Store, there: str, vmfb: Vmfb, tmp_path: Path, package: Package, capsys: pytest.CaptureFixture[str]
) -> None:
    other = open_store(str(tmp_path / "other"))
    publish(package("other"), other, version="1.0")
    assert vmfb("copy", f"{MODEL}@1.0", "--store", source.url, "--to", there) == 0
    before = content(open_to_copy_to(there))
    assert vmfb("copy", f"{MODEL}@1.0", "--store", other.url, "--to", there) == 1
    assert "is published already, with other content" in capsys.readouterr().err
    assert content(open_to_copy_to(there)) == before


def test_nothing_else_writes_there(there: str) -> None:
    for opens in (open_store, open_to_publish):
        with pytest.raises(PipelineError, match="writes there have no conditions") as error:
            opens(there)
        assert "vmfb copy MODEL --to" in error.value.hint


def test_logins_are_those_of_docker(
    tmp_path: Path, source: Store, vmfb: Vmfb, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    (tmp_path / "registry").mkdir()
    with servers.registry(tmp_path / "registry", "somebody") as host:
        words = ("copy", MODEL, "--store", source.url, "--to", f"oci://{host}/models")
        for login in (None, "somebody:wrong"):
            if login:
                _log_in(tmp_path / "docker", host, login)
            assert vmfb(*words) == 1
            said = capsys.readouterr()
            assert "docker login" in said.err
            assert "wrong" not in said.err
            assert said.err.count("error:") == 1
        _log_in(tmp_path / "docker", host, f"somebody:{servers.REGISTRY_PASSWORD}")
        assert vmfb(*words) == 0
        assert vmfb("list", "--store", f"oci://{host}/models") == 0
        assert MODEL in capsys.readouterr().out
        (tmp_path / "docker" / "config.json").write_text("{not json")
        assert vmfb("list", "--store", f"oci://{host}/models") == 1
        assert "logins cannot be read" in capsys.readouterr().err


def _log_in(folder: Path, host: str, login: str) -> None:
    folder.mkdir(exist_ok=True)
    known = {"auths": {host: {"auth": base64.b64encode(login.encode()).decode()}}}
    (folder / "config.json").write_text(json.dumps(known))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("oci://127.0.0.1", "is no store"),
        ("oci://127.0.0.1/Models", "is no store"),
        ("oci://127.0.0.1:port/models", "is no store"),
        ("oci://127.0.0.1/models?x=1", "is no store"),
        ("oci://me:secret@127.0.0.1/models", "its URL names a user"),
        ("oci://127.0.0.1:1/models", "cannot reach the registry"),
    ],
)
def test_what_is_no_registry_is_one_message(url: str, says: str) -> None:
    with pytest.raises(PipelineError, match=says) as error:
        open_source(url).get(KEY)
    assert "secret" not in str(error.value)


def test_without_the_client_it_is_one_message(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["oras"] = None
from pipeline import cli
sys.exit(cli.main(["list", "--store", "oci://127.0.0.1/x"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert "the extra `oci`" in done.stderr
    assert "Traceback" not in done.stderr


@given(st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=200))
def test_tags_are_made_of_keys_and_keys_of_tags(key: str) -> None:
    tag = oci.tag_of(key)
    assert oci._TAG.fullmatch(tag)
    assert oci.key_of(tag) == (None if tag.startswith("_k") else key)


# A registry that lies: what it answers is made up by a test.


class _Liar:
    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.token = ""  # who does not show it is asked to
        liar = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, headers, body = liar.answers.get(self.path.partition("/v2/x/")[2], (404, {}, b""))
                if self.path == "/v2/":
                    status, headers, body = 200, {}, b"{}"
                if liar.token and "token" not in self.path and self.headers.get("Authorization") != f"Bearer {liar.token}":
                    realm = f"http://{self.headers['Host']}/v2/x/token"
                    status, body = 401, b""
                    headers = {"WWW-Authenticate": f'Bearer realm="{realm}",service="x",scope="repository:x:pull"'}
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)
                self.close_connection = True

            do_POST = do_PUT = do_GET  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.store = oci.OciStore(f"oci://127.0.0.1:{self._server.server_port}/x", Patience(silence=1.0, headers=1.0))

    def end(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def liar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Liar]:
    monkeypatch.setenv("HOME", str(tmp_path))
    made = _Liar()
    yield made
    made.end()


KEY = "index.json"


def _said(**layer: object) -> bytes:
    return json.dumps({"layers": [{"digest": "sha256:" + "0" * 64, "size": 2, **layer}], "annotations": {oci._KEY: KEY}}).encode()


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        ((200, {}, b"<html>"), PipelineError, "gives no manifest"),
        ((200, {}, b"[" * 100_000), PipelineError, "gives no manifest"),
        ((200, {}, b"[]"), PipelineError, "gives no manifest"),
        ((200, {}, b"{}"), PipelineError, "is something else"),
        ((200, {}, b'{"layers": 5}'), PipelineError, "is something else"),
        ((200, {}, _said(digest=5, size="x")), PipelineError, "is something else"),
        ((200, {}, _said(data="e30=")), BrokenTransferError, "other bytes than its manifest says"),
        ((200, {}, _said(data="%%")), PipelineError, "is something else"),
        ((200, {}, _said(size=1 << 40)), PipelineError, "is larger than"),
        ((200, {}, b" " * (5 << 20)), PipelineError, "larger than 4 MiB"),
        ((200, {"Content-Length": "500"}, b"{}"), BrokenTransferError, "broke|reach"),
        ((503, {}, b""), BrokenTransferError, "has trouble: 503"),
        ((429, {}, b""), BrokenTransferError, "has trouble: 429"),
        ((403, {}, b""), DeniedError, "login|let you"),
        ((418, {}, b'{"errors": [{"message": "\\u001b[2Ja teapot"}]}'), PipelineError, "418 .*a teapot"),
        ((302, {"Location": "ftp://127.0.0.1/x"}, b""), PipelineError, "redirects to what is not followed"),
    ],
)  # fmt: skip
def test_a_registry_that_lies(liar: _Liar, answer: tuple[int, dict[str, str], bytes], kind: type, says: str) -> None:
    liar.answers[f"manifests/{oci.tag_of(KEY)}"] = answer
    with pytest.raises(kind, match=says) as error:
        liar.store.get(KEY)
    assert "\x1b" not in str(error.value)


def test_a_list_that_lies(liar: _Liar) -> None:
    liar.answers["tags/list"] = (
        200,
        {"Link": '</v2/x/tags/list?n=1>; rel="next"'},
        b'{"tags": ["index.json", 5, "a/b", "_kaa"]}',
    )
    liar.answers["tags/list?n=1"] = liar.answers["tags/list"]  # and so on, for ever
    assert liar.store.keys("index") == ["index.json", "index.json"]
    liar.answers["tags/list?n=1"] = (200, {"Link": '</v2/x/tags/list?n=2>; rel="next"'}, b"{}")
    liar.answers["tags/list?n=2"] = (200, {"Link": '</v2/x/tags/list?n=1>; rel="next"'}, b"{}")  # in turn, for ever
    assert liar.store.keys("index") == ["index.json"]
    liar.answers["tags/list"] = (200, {}, b"[]")
    with pytest.raises(PipelineError, match="gives no list"):
        liar.store.keys("")


@pytest.mark.parametrize("place", ["", "http://[", "ftp://127.0.0.1/x"])
def test_nowhere_to_put_a_blob(liar: _Liar, tmp_path: Path, place: str) -> None:
    (tmp_path / "blob").write_bytes(b"x")
    sha256 = hashlib.sha256(b"x").hexdigest()
    liar.answers["blobs/uploads/"] = (202, {"Location": place}, b"")
    with pytest.raises(PipelineError, match="does not say where to put it"):
        liar.store.upload(blob_key(sha256), tmp_path / "blob", sha256)


@pytest.mark.parametrize("junk", [b'{"manifests": 5}', b'{"manifests": [5, {"annotations": 5}, {}]}', b"{}"])
def test_a_list_of_referrers_that_is_none_is_begun_anew(liar: _Liar, junk: bytes) -> None:
    liar.answers["manifests/sha256-ab"] = (200, {}, junk)
    liar.store._refer(KEY, {"subject": {"digest": "sha256:ab"}, "annotations": {oci._KEY: KEY}})


def test_a_blob_in_parts_that_are_others(liar: _Liar) -> None:
    digest = "ab" * 32
    liar.answers[f"blobs/sha256:{digest}"] = (206, {"Content-Range": "bytes 5-9/100"}, b"abcde")
    with pytest.raises(PipelineError, match="asked for bytes 0-4"), liar.store.open(blob_key(digest), 0, 5):
        pass
    with pytest.raises(PipelineError, match="is not in the store"), liar.store.open(blob_key("cd" * 32), 0, 5):
        pass


def test_what_is_signed_in_a_redirect_is_not_told(liar: _Liar) -> None:
    digest = "ab" * 32
    liar.answers[f"blobs/sha256:{digest}"] = (307, {"Location": "http://127.0.0.1:1/x?signature=secret"}, b"")
    with pytest.raises(BrokenTransferError, match="cannot reach") as error, liar.store.open(blob_key(digest), 0, 5):
        pass
    assert "secret" not in str(error.value)


def test_a_token_is_asked_for_and_another_when_it_has_ended(liar: _Liar) -> None:
    data = b"{}"
    layer = _said(digest=f"sha256:{hashlib.sha256(data).hexdigest()}", data=base64.b64encode(data).decode())
    liar.answers[f"manifests/{oci.tag_of(KEY)}"] = (200, {}, layer)
    for liar.token in ("first", "second"):
        liar.answers["token?service=x&scope=repository%3Ax%3Apull"] = (200, {}, json.dumps({"token": liar.token}).encode())
        found = liar.store.get(KEY)
        assert found
        assert found.data == data
    liar.token = "third"
    with pytest.raises(DeniedError, match="does not let you"):
        liar.store.get(KEY)
    liar.answers.clear()
    with pytest.raises(DeniedError, match="does not let you"):
        liar.store.get(KEY)
