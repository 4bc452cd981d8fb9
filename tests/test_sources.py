"""Sources: model files and their data files from servers of every manner, whatever breaks, and nothing half-written."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipeline import process
from pipeline.errors import ManyProblemsError, PipelineError
from pipeline.manifest.codec import decode
from pipeline.manifest.types import Manifest
from pipeline.sources import download, fetch
from pipeline.spec.load import load
from pipeline.spec.types import (
    HttpsSource,
    HubSource,
    PathSource,
    S3Source,
    ScriptSource,
    Source,
    WheelSource,
)
from pipeline.stages import assembly
from pipeline.stages import source as source_stage
from pipeline.stages.origin import Origin
from pipeline.store.open import open_store
from pipeline.store.pace import Patience
from tests import hub, project, servers, web
from tests.project import DATA, ROOT, Project
from tests.waiting import wait_for

QUICK = Patience(connect=2, silence=0.5, window=1, window_bytes=1000)
SIZE = 3_000_000
SPEC = Path("targets/models/m.yaml")


def _id(value: object) -> str:
    """A name for a test: what is not as usual."""
    if not isinstance(value, web.Manners):
        return str(value)
    return ",".join(f"{k}={v}" for k, v in vars(value).items() if v != getattr(web.Manners(), k)) or "good"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def noise(seed: int, size: int = SIZE) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No long waits."""
    monkeypatch.setattr(download, "_BACKOFF", 0.001)
    monkeypatch.setattr("pipeline.store.web.Patience", lambda: QUICK)
    monkeypatch.setattr("pipeline.store.s3.Patience", lambda **_: QUICK)


@pytest.fixture
def data() -> bytes:
    return noise(0)


@pytest.fixture
def served(tmp_path: Path, data: bytes) -> Iterator[web.Web]:
    """A server that has the model at `models/net.onnx`."""
    folder = tmp_path / "www"
    (folder / "models").mkdir(parents=True)
    (folder / "models/net.onnx").write_bytes(data)
    with web.serve(folder, web.Manners(only="")) as server:
        yield server


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out/model.onnx"


def get(source: Source, output: Path) -> None:
    fetch.fetch(source, output, SPEC)


def refused(source: Source, output: Path) -> str:
    """What is said; and nothing is there."""
    with pytest.raises(PipelineError) as caught:
        get(source, output)
    assert not output.exists()
    return str(caught.value)


def partials(output: Path) -> list[Path]:
    return [p for p in output.parent.rglob("*") if p.name != "fetch.log" and p.is_file() and p.name.startswith(".")]


# The web


@pytest.mark.parametrize(
    "manners",
    [
        web.Manners(),
        web.Manners(tags=True),
        web.Manners(ranges=False),
        web.Manners(extra=5),
        web.Manners(break_after=1_000_000),
        web.Manners(break_after=1_000_000, tags=True),
        web.Manners(break_after=1_000_000, breaks=3, ranges=False),
        web.Manners(stall_after=1_000_000),
        web.Manners(status=500, statuses=3),
        web.Manners(status=429, statuses=2),
    ],
    ids=_id,
)
def test_a_file_comes_whole_from_servers_of_many_manners(
    served: web.Web, output: Path, data: bytes, manners: web.Manners
) -> None:
    manners.only = ""
    served.manners = manners
    if manners.stall_after >= 0:
        threading.Timer(0.3, lambda: setattr(served, "manners", web.Manners(only=""))).start()
    get(HttpsSource(f"{served.url}/models/net.onnx", digest(data)), output)
    assert output.read_bytes() == data
    assert not partials(output)
    if manners.ranges:
        assert served.sent <= len(data) + 2_000_000  # what had come did not come again
    assert output.stat().st_mode & 0o777 == 0o644


def test_what_is_there_and_right_is_not_fetched_again(served: web.Web, output: Path, data: bytes) -> None:
    source = HttpsSource(f"{served.url}/models/net.onnx", digest(data))
    get(source, output)
    get(source, output)
    assert len(served.seen) == 1
    output.write_bytes(data[:-1])
    get(source, output)
    assert output.read_bytes() == data


@pytest.mark.parametrize("tags", [True, False])
def test_a_file_that_changes_between_its_halves_is_never_mixed(
    served: web.Web, tmp_path: Path, output: Path, data: bytes, tags: bool
) -> None:
    other = noise(1)
    change = lambda: (tmp_path / "www/models/net.onnx").write_bytes(other)  # noqa: E731
    served.manners = web.Manners(only="", break_after=1_000_000, breaks=1, tags=tags, broke=change)
    get(HttpsSource(f"{served.url}/models/net.onnx", digest(other)), output)
    assert output.read_bytes() == other


def test_a_file_that_changes_into_a_wrong_one_is_refused(served: web.Web, tmp_path: Path, output: Path, data: bytes) -> None:
    change = lambda: (tmp_path / "www/models/net.onnx").write_bytes(noise(1))  # noqa: E731
    served.manners = web.Manners(only="", break_after=1_000_000, breaks=1, broke=change)
    said = refused(HttpsSource(f"{served.url}/models/net.onnx", digest(data)), output)
    assert f"the SHA-256 is {digest(noise(1))}, but {digest(data)} was expected" in said
    assert not partials(output)


@pytest.mark.parametrize("left", ["half", "whole", "more", "of another file", "nothing"])
def test_what_an_earlier_run_left_is_gone_on_from(served: web.Web, output: Path, data: bytes, left: str) -> None:
    output.parent.mkdir()
    there = {
        "half": data[:1_500_000],
        "whole": data,
        "more": data + b"more",
        "of another file": noise(1)[:1_500_000],
        "nothing": b"",
    }[left]
    (output.parent / f".{digest(data)}.partial").write_bytes(there)
    (output.parent / f".{digest(b'old')}.partial").write_bytes(b"o")
    get(HttpsSource(f"{served.url}/models/net.onnx", digest(data)), output)
    assert output.read_bytes() == data
    assert not partials(output)
    ranges = [asked for _, asked in served.seen]
    assert (
        ranges
        == {
            "half": ["bytes=1500000-"],
            "whole": [],
            "more": ["bytes=3000004-", ""],
            "of another file": ["bytes=1500000-", ""],
            "nothing": [""],
        }[left]
    )


@pytest.mark.parametrize(
    ("manners", "complaint"),
    [
        (web.Manners(status=404), "there is no such file: 404"),
        (web.Manners(status=410), "there is no such file: 410"),
        (web.Manners(status=401), "401 Unauthorized"),
        (web.Manners(status=403), "a presigned URL may have expired"),
        (web.Manners(status=503), "503 Service Unavailable, 6 times"),
        (web.Manners(status=204), "the server answers 204"),
        (web.Manners(stall_after=0), "6 times"),
        (web.Manners(drip=0.05), "too slow, 6 times"),
        (web.Manners(break_after=1000), "6 times"),
        (web.Manners(break_after=1_000_000, ranges=False), "6 times"),
        (web.Manners(break_after=1_000_000, wrong_range="bytes 0-5/9"), "answers with 'bytes 0-5/9'"),
        (web.Manners(break_after=1_000_000, wrong_range="nonsense"), "answers with 'nonsense'"),
        (web.Manners(encoding="gzip"), "the server sends it compressed"),
        (web.Manners(redirect="{path}"), "redirects more than 5 times"),
        (web.Manners(redirect="ftp://127.0.0.1/x"), "which is not followed"),
        (web.Manners(redirect="http://[::1/x"), "redirects to no URL"),
        (web.Manners(flip=10), "but "),
    ],
    ids=_id,
)
def test_a_server_that_does_not_give_the_file_is_one_message_without_secrets(
    served: web.Web, output: Path, data: bytes, manners: web.Manners, complaint: str
) -> None:
    manners.only = ""
    served.manners = manners
    url = served.url.replace("http://", "http://user:s3cr3t@") + "/models/net.onnx?token=s3cr3t"
    source = HttpsSource(url, digest(data))
    said = refused(source, output)
    assert complaint in said
    assert f"{served.url}/models/net.onnx" in said
    assert all(path.stat().st_size for path in partials(output))
    assert "s3cr3t" not in said + repr(source) + source.location
    assert "Authorization" not in said


def test_a_server_that_is_not_there_is_one_message(output: Path) -> None:
    (port,) = servers.free_ports(1)
    said = refused(HttpsSource(f"http://user:s3cr3t@127.0.0.1:{port}/x.onnx?s3cr3t", "0" * 64), output)
    assert "cannot connect" in said
    assert "s3cr3t" not in said
    said = refused(HttpsSource("http://no-such-host.invalid/x.onnx?s3cr3t", "0" * 64), output)
    assert "cannot connect" in said
    assert "s3cr3t" not in said


def test_user_and_password_go_to_their_own_server_only(served: web.Web, tmp_path: Path, output: Path, data: bytes) -> None:
    with web.serve(tmp_path / "www", web.Manners(only="", redirect=served.url + "{path}")) as first:
        url = first.url.replace("http://", "http://user:s3cr3t@") + "/models/net.onnx"
        get(HttpsSource(url, digest(data)), output)
        assert output.read_bytes() == data
        assert first.authorizations == ["Basic dXNlcjpzM2NyM3Q="]
    assert served.authorizations == [None]


def test_a_query_and_what_is_escaped_are_sent_as_they_are(tmp_path: Path, output: Path) -> None:
    (tmp_path / "a b").mkdir()
    with web.serve(tmp_path) as server:
        refused(HttpsSource(f"{server.url}/a%20b/c%2Fd?x=1&y=%2F#part", "0" * 64), output)
        (tmp_path / "a b/net.onnx").write_bytes(b"model")
        (tmp_path / "a b/w é#.bin").write_bytes(b"weights")
        url = f"{server.url}/a%20b/net.onnx?x=1&y=%2F#part"
        get(HttpsSource(url, digest(b"model"), {"w é#.bin": digest(b"weights")}), output)
        assert [path for path, _ in server.seen] == [
            "/a%20b/c%2Fd?x=1&y=%2F",
            "/a%20b/net.onnx?x=1&y=%2F",
            "/a%20b/w%20%C3%A9%23.bin?x=1&y=%2F",
        ]


def test_an_interrupt_ends_a_download_and_leaves_what_came(
    served: web.Web, output: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.manners = web.Manners(only="", rate=1_000_000)
    stop = threading.Event()
    monkeypatch.setattr(process, "_refusing", stop)
    threading.Timer(0.5, stop.set).start()
    assert refused(HttpsSource(f"{served.url}/models/net.onnx", digest(data)), output) == "interrupted"
    (left,) = partials(output)
    assert 0 < left.stat().st_size < SIZE
    assert data.startswith(left.read_bytes())


def test_a_full_disk_is_one_message_and_is_not_kept_full(output: Path, served: web.Web, data: bytes) -> None:
    """A limit on the size of files stands for it: the same call fails."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from pipeline.errors import PipelineError\n"
        "from pipeline.sources.fetch import fetch; from pipeline.spec.types import HttpsSource\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1500000, 1500000))\n"
        "try: fetch(HttpsSource(sys.argv[1], sys.argv[2]), Path(sys.argv[3]), Path('m.yaml'))\n"
        "except PipelineError as error: sys.exit(str(error))"
    )
    argv = [sys.executable, "-c", code, f"{served.url}/models/net.onnx", digest(data), str(output)]
    done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == 1
    assert "File too large" in done.stderr and "Traceback" not in done.stderr
    assert not list(output.parent.iterdir())


def test_memory_does_not_grow_with_the_file(served: web.Web, tmp_path: Path, output: Path) -> None:
    large = tmp_path / "www/large.onnx"
    with large.open("wb") as file:
        file.truncate(300 << 20)
    with large.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from pipeline.sources.fetch import fetch; from pipeline.spec.types import HttpsSource\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "fetch(HttpsSource(sys.argv[1], sys.argv[2]), Path(sys.argv[3]), Path('m.yaml'))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    argv = [sys.executable, "-c", code, f"{served.url}/large.onnx", sha256, str(output)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, capture_output=True, text=True, env=env, check=True)
    assert int(done.stdout) < 60_000  # KiB


def test_a_killed_run_is_gone_on_from_and_the_release_tells_no_secret(tmp_path: Path) -> None:
    """By doit, to the release: a kill in the middle of a download, then the rest, and only that."""
    project = Project(tmp_path / "project", "small", bundle={"targets": ["x86-64"]})
    www = tmp_path / "www"
    www.mkdir()
    text = (DATA / "small.mlir").read_text()
    data = (text + "".join(f"// {n:060}\n" for n in range(40_000))).encode()
    (www / "small.mlir").write_bytes(data)
    with web.serve(www, web.Manners(only="", rate=1_000_000)) as server:
        url = server.url.replace("http://", "http://user:s3cr3t@") + "/small.mlir?token=s3cr3t"
        project.add("small", source={"kind": "https", "url": url, "sha256": digest(data)})
        output = project.layout.source("small", 0, "mlir")
        partial = output.parent / f".{digest(data)}.partial"
        running = subprocess.Popen(
            project.command("fetch:small"), cwd=project.root, env=project.environment(), start_new_session=True
        )
        wait_for(lambda: partial.exists() and partial.stat().st_size > 500_000)
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        there = partial.stat().st_size
        assert 0 < there < len(data)
        assert not output.exists()
        server.manners = web.Manners(only="")
        done = project.doit()
        assert done.returncode == 0, done.stdout + done.stderr
        assert server.seen[1:] == [("/small.mlir?token=s3cr3t", f"bytes={there}-")]
    assert output.read_bytes() == data
    manifest = project.layout.package("small") / "manifest.json"
    source = decode(Manifest, manifest.read_bytes(), "").entries[0].source
    assert (source.kind, source.location) == ("https", f"{server.url}/small.mlir")
    kept = [p for p in (project.root / "out").rglob("*") if p.is_file()]
    assert not [p for p in kept if b"s3cr3t" in p.read_bytes()]
    assert "s3cr3t" not in done.stdout + done.stderr


# A bucket


@pytest.fixture
def bucket(seaweedfs: servers.Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: bytes) -> str:
    """The folder of a bucket, with a model and its data in it; the AWS variables name the server."""
    servers.use_aws(monkeypatch, seaweedfs.endpoint)
    folder = f"sources/{tmp_path.name}"
    store = open_store(f"s3://{servers.BUCKET}/{folder}")
    for name, content in (("net.onnx", data), ("sub/w.bin", b"weights"), ("a b+é?.bin", b"odd")):
        (tmp_path / "upload").write_bytes(content)
        store.upload(name, tmp_path / "upload", digest(content))
    return folder


def test_a_model_and_its_data_come_from_a_bucket(bucket: str, output: Path, data: bytes) -> None:
    beside = {"sub/w.bin": digest(b"weights"), "a b+é?.bin": digest(b"odd")}
    output.parent.mkdir()
    (output.parent / f".{digest(data)}.partial").write_bytes(data[:1_000_000])
    get(S3Source(servers.BUCKET, f"{bucket}/net.onnx", digest(data), beside), output)
    assert output.read_bytes() == data
    assert (output.parent / "sub/w.bin").read_bytes() == b"weights"
    assert (output.parent / "a b+é?.bin").read_bytes() == b"odd"
    assert not partials(output)


@pytest.mark.parametrize("left", ["of another file", "more"])
def test_what_is_left_of_another_object_is_not_taken(bucket: str, output: Path, data: bytes, left: str) -> None:
    output.parent.mkdir()
    there = noise(1)[:1_500_000] if left == "of another file" else data + b"more"
    (output.parent / f".{digest(data)}.partial").write_bytes(there)
    get(S3Source(servers.BUCKET, f"{bucket}/net.onnx", digest(data)), output)
    assert output.read_bytes() == data


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        (S3Source(servers.BUCKET, "nothing.onnx", "0" * 64), "there is no such object"),
        (S3Source("no-such-bucket", "net.onnx", "0" * 64), "correct its name"),
        (S3Source("No_Bucket!", "net.onnx", "0" * 64), "Invalid bucket name"),
    ],
)
def test_an_object_that_is_not_there_is_one_message(bucket: str, output: Path, source: S3Source, complaint: str) -> None:
    assert complaint in refused(source, output)


def test_wrong_credentials_and_endpoints_are_one_message(
    bucket: str, seaweedfs: servers.Server, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = S3Source(servers.BUCKET, f"{bucket}/net.onnx", "0" * 64)
    servers.use_aws(monkeypatch, seaweedfs.endpoint, ("NOBODY", "s3cr3t"))
    said = refused(source, output)
    assert "AWS_ACCESS_KEY_ID" in said and "s3cr3t" not in said
    servers.use_aws(monkeypatch, seaweedfs.endpoint, None)
    assert "there are no AWS credentials" in refused(source, output)
    servers.use_aws(monkeypatch, "nonsense")
    assert "AWS_ENDPOINT_URL_S3 must be like" in refused(source, output)
    servers.use_aws(monkeypatch, seaweedfs.endpoint)
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    assert "no-such-profile" in refused(source, output)
    assert f"but {'0' * 64} was expected" in refused_without_profile(source, output, monkeypatch)


def refused_without_profile(source: Source, output: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("AWS_PROFILE")
    return refused(source, output)


@pytest.mark.parametrize("change", [True, False])
def test_an_object_whose_connection_breaks_is_gone_on_from(
    served: web.Web, tmp_path: Path, output: Path, data: bytes, monkeypatch: pytest.MonkeyPatch, change: bool
) -> None:
    """A web server plays the bucket, since no real one breaks off; it looks at no signature."""
    servers.use_aws(monkeypatch, served.url)
    wanted = noise(1) if change else data

    def broke() -> None:
        if change:
            (tmp_path / "www/models/net.onnx").write_bytes(wanted)

    served.manners = web.Manners(only="", break_after=1_000_000, breaks=1, tags=True, broke=broke)
    get(S3Source("models", "net.onnx", digest(wanted)), output)
    assert output.read_bytes() == wanted
    asked = [range_ for _, range_ in served.seen]
    assert asked == (["", "bytes=1000000-", ""] if change else ["", "bytes=1000000-"])


def test_a_bucket_that_hangs_or_fails_is_one_message(served: web.Web, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    servers.use_aws(monkeypatch, served.url)
    monkeypatch.setattr(download, "_ATTEMPTS", 2)
    monkeypatch.setattr("pipeline.store.s3._SILENCE", 0.5)
    source = S3Source("models", "net.onnx", "0" * 64)
    served.manners = web.Manners(only="", stall_after=10)
    assert "the connection broke" in refused(source, output)


# The hub


@pytest.fixture
def a_hub(monkeypatch: pytest.MonkeyPatch, data: bytes) -> Iterator[hub.Hub]:
    """A hub with a model and its data; the library asks it."""
    files = {("org/net", "onnx/model.onnx"): data, ("org/net", "onnx/model.onnx_data"): b"weights"}
    with hub.asked(hub.Hub(files=files), monkeypatch) as running:
        yield running


def on_the_hub(data: bytes, **changes: str) -> HubSource:
    given = {"repo": "org/net", "revision": hub.REVISION, "path": "onnx/model.onnx", "sha256": digest(data), **changes}
    return HubSource(**given, data={"model.onnx_data": digest(b"weights")})  # type: ignore[arg-type]


def test_a_model_and_its_data_come_from_the_hub(a_hub: hub.Hub, output: Path, data: bytes) -> None:
    get(on_the_hub(data), output)
    assert output.read_bytes() == data
    assert (output.parent / "model.onnx_data").read_bytes() == b"weights"
    assert sorted(p.name for p in output.parent.iterdir()) == ["model.onnx", "model.onnx_data"]


def test_large_files_come_from_the_hubs_storage_without_the_token(
    a_hub: hub.Hub, tmp_path: Path, output: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.TOKEN)
    a_hub.private.add("org/net")
    (tmp_path / "www/onnx").mkdir(parents=True)
    (tmp_path / "www/onnx/model.onnx").write_bytes(data)
    (tmp_path / "www/onnx/model.onnx_data").write_bytes(b"weights")
    with web.serve(tmp_path / "www", web.Manners(only="", break_after=1_000_000, breaks=1)) as storage:
        a_hub.storage = storage.url
        get(on_the_hub(data), output)
        assert output.read_bytes() == data
        assert storage.seen[:2] == [
            ("/onnx/model.onnx?signature=s3cr3t", ""),
            ("/onnx/model.onnx?signature=s3cr3t", "bytes=1000000-"),
        ]
        assert set(storage.authorizations) == {None}
    assert {given for _, _, given in a_hub.seen} == {f"Bearer {hub.TOKEN}"}


def test_the_hub_is_asked_again_when_it_has_trouble(a_hub: hub.Hub, output: Path, data: bytes) -> None:
    a_hub.failures = 3
    get(on_the_hub(data), output)
    assert output.read_bytes() == data
    a_hub.failures = 10**9
    assert "the hub answers 503 Service Unavailable, 6 times" in refused(on_the_hub(data), output.parent / "other")


@pytest.mark.parametrize(
    ("changes", "complaint", "remedy"),
    [
        ({"repo": "org/nothing"}, "there is no such repository, or it is private", "HF_TOKEN"),
        ({"repo": "org/private"}, "there is no such repository, or it is private", "HF_TOKEN"),
        ({"repo": "org/gated"}, "only for those who were given access", "org/gated"),
        ({"revision": "f" * 40}, "the repository has no such revision", "source.revision"),
        ({"path": "onnx/nothing.onnx"}, "the revision has no such file", "path"),
        ({"sha256": "0" * 64}, f"but {'0' * 64} was expected", "targets/models/m.yaml (source.sha256)"),
    ],
)
def test_what_the_hub_has_not_is_one_message(
    a_hub: hub.Hub, output: Path, data: bytes, changes: dict[str, str], complaint: str, remedy: str
) -> None:
    a_hub.files |= {("org/private", "onnx/model.onnx"): data, ("org/gated", "onnx/model.onnx"): data}
    a_hub.private.add("org/private")
    a_hub.gated.add("org/gated")
    said = refused(on_the_hub(data, **changes), output)
    assert complaint in said
    assert remedy in said.split("→")[1]
    assert "Traceback" not in said and len(said.splitlines()) == 2


def test_a_large_file_that_the_hub_has_in_another_state_is_refused_before_it_comes(
    a_hub: hub.Hub, output: Path, data: bytes
) -> None:
    a_hub.storage = "http://127.0.0.1:1"
    assert f"the SHA-256 is {digest(data)}, but {'0' * 64} was expected" in refused(on_the_hub(data, sha256="0" * 64), output)


def test_a_wrong_token_no_hub_and_no_network_are_one_message(
    a_hub: hub.Hub, output: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_s3cr3t")
    said = refused(on_the_hub(data), output)
    assert "401" in said and "HF_TOKEN" in said and "s3cr3t" not in said
    monkeypatch.delenv("HF_TOKEN")
    a_hub.is_hub = False
    assert "this is no hub" in refused(on_the_hub(data), output)
    constants = sys.modules["huggingface_hub.constants"]
    for endpoint, complaint in (("http://127.0.0.1:1", "cannot reach the hub"), ("ftp://x", "the hub cannot be asked")):
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        said = refused(on_the_hub(data), output)
        assert complaint in said and "HF_ENDPOINT" in said


def test_the_hubs_variables_work_as_everywhere(a_hub: hub.Hub, output: Path, data: bytes, tmp_path: Path) -> None:
    a_hub.private.add("org/net")
    code = (
        "import sys; from pathlib import Path; from pipeline.errors import PipelineError\n"
        "from pipeline.sources.fetch import fetch; from pipeline.spec.types import HubSource\n"
        "try: fetch(HubSource('org/net', sys.argv[1], 'onnx/model.onnx', sys.argv[2]), Path(sys.argv[3]), Path('m.yaml'))\n"
        "except PipelineError as error: sys.exit(str(error))"
    )
    argv = [sys.executable, "-c", code, hub.REVISION, digest(data), str(output)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_ENDPOINT": a_hub.url, "HF_HOME": str(tmp_path / "home")}
    env["HF_HUB_DISABLE_TELEMETRY"] = "1"
    offline = subprocess.run(argv, capture_output=True, text=True, env=env | {"HF_HUB_OFFLINE": "1"}, check=False)
    assert "HF_HUB_OFFLINE is set" in offline.stderr
    done = subprocess.run(argv, capture_output=True, text=True, env=env | {"HF_TOKEN": hub.TOKEN}, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert output.read_bytes() == data
    assert not (tmp_path / "home").exists()


def test_without_its_library_the_hub_is_one_message(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pipeline.sources.hub", "pipeline.store.hub"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.delattr(name, raising=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    said = refused(HubSource("org/net", hub.REVISION, "model.onnx", "0" * 64), output)
    assert "what is on the hub needs huggingface_hub" in said
    assert "pip install 'huggingface_hub" in said


# Data files


def script(folder: Path, *names: str) -> Path:
    path = folder / "make.py"
    lines = ["import sys", "from pathlib import Path", "out = Path(sys.argv[1])", "out.write_bytes(b'model')"]
    for name in names:
        lines += [f"p = out.parent / {name!r}", "p.parent.mkdir(exist_ok=True)", f"p.write_bytes({name.encode()!r})"]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(params=["path", "wheel", "script", "https", "s3"])
def with_data(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Source, Path]]:
    """A source of each kind with two data files, and what to change to break them."""
    names = ("w.bin", "sub/v ü.bin")
    data = {name: digest(name.encode()) for name in names}
    place = tmp_path / "place/onnx"
    (place / "sub").mkdir(parents=True)
    (place / "net.onnx").write_bytes(b"model")
    for name in names:
        (place / name).write_bytes(name.encode())
    sha256 = digest(b"model")
    if request.param == "path":
        yield PathSource(place / "net.onnx", sha256, data), place
    elif request.param == "script":
        yield ScriptSource(script(tmp_path, *names), sha256, data), place
    elif request.param == "https":
        with web.serve(tmp_path / "place") as server:
            yield HttpsSource(f"{server.url}/onnx/net.onnx?t=1", sha256, data), place
    elif request.param == "s3":
        with web.serve(tmp_path / "place") as server:
            servers.use_aws(monkeypatch, server.url)
            yield S3Source("onnx", "net.onnx", sha256, data), place
    else:
        index = tmp_path / "index"
        index.mkdir()
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(index))
        with zipfile.ZipFile(index / "tiny-1.0-py3-none-any.whl", "w") as archive:
            for name in ("net.onnx", *names):
                archive.write(place / name, f"tiny/onnx/{name}")
            archive.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
            archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr("tiny-1.0.dist-info/RECORD", "")
        yield WheelSource("tiny", "1.0", "tiny/onnx/net.onnx", sha256, data), place


def test_data_files_come_beside_the_model(with_data: tuple[Source, Path], output: Path) -> None:
    source, _ = with_data
    get(source, output)
    assert output.read_bytes() == b"model"
    assert (output.parent / "w.bin").read_bytes() == b"w.bin"
    assert (output.parent / "sub/v ü.bin").read_bytes() == "sub/v ü.bin".encode()
    assert {p.name for p in output.parent.iterdir()} <= {"model.onnx", "w.bin", "sub", "fetch.log"}
    fetch.require(source, output)
    (output.parent / "w.bin").unlink()  # one that went comes back
    with pytest.raises(PipelineError, match=r"w\.bin"):
        fetch.require(source, output)
    get(source, output)
    fetch.require(source, output)
    (output.parent / "w.bin").write_bytes(b"w.bi")
    with pytest.raises(PipelineError, match=r"w\.bin: the SHA-256 is"):
        fetch.require(source, output)


def test_a_data_file_of_another_digest_is_named(with_data: tuple[Source, Path], output: Path) -> None:
    source, _ = with_data
    wrong = type(source)(**{**vars(source), "data": {**source.data, "w.bin": "0" * 64}})
    with pytest.raises(PipelineError) as caught:
        get(wrong, output)
    assert "w.bin" in caught.value.where
    assert f"but {'0' * 64} was expected" in caught.value.what
    assert f"{SPEC} (source.data.w.bin)" in caught.value.hint
    assert not (output.parent / "w.bin").exists()
    assert not partials(output)


def test_a_data_file_that_is_not_there_is_named(with_data: tuple[Source, Path], output: Path) -> None:
    source, _ = with_data
    wrong = type(source)(**{**vars(source), "data": {**source.data, "other.bin": "0" * 64}})
    with pytest.raises(PipelineError, match=r"other\.bin"):
        get(wrong, output)
    assert not (output.parent / "other.bin").exists()


def test_the_manifest_names_source_and_data() -> None:
    source = assembly.described_source(on_the_hub(b""))
    assert (source.kind, source.location) == ("hub", f"org/net@{hub.REVISION}: onnx/model.onnx")
    assert [(file.name, file.sha256) for file in source.files] == [("model.onnx_data", digest(b"weights"))]


# Specs


def problem(tmp_path: Path, **source: object) -> str:
    """What is said of a spec with this source; empty if nothing."""
    for folder in ("executables", "bundles", "models"):
        (tmp_path / folder).mkdir(exist_ok=True)
    for name in ("executables/x86-64.yaml",):
        (tmp_path / name).write_text((ROOT / "targets" / name).read_text())
    (tmp_path / "bundles/b.yaml").write_text("about: b\ntargets: [x86-64]\n")
    inputs = [{"name": "x", "shape": [1], "dtype": "float32"}]
    spec = {"about": "m", "licence": "MIT", "format": "onnx", "source": source, "inputs": inputs, "bundles": ["b"]}
    (tmp_path / "models/m.yaml").write_text(yaml.safe_dump(spec))
    try:
        load(tmp_path)
    except ManyProblemsError as error:
        return str(error)
    return ""


HUB = {"kind": "hub", "repo": "org/name", "revision": "a" * 40, "path": "onnx/model.onnx", "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ({"kind": "https", "url": "https://user:s3cr3t@host:8443/a%20b/m.onnx?s3cr3t", "sha256": "0" * 64}, ""),
        ({"kind": "https", "url": "http://host", "sha256": "0" * 64}, ""),
        ({"kind": "https", "url": "ftp://host/x?s3cr3t", "sha256": "0" * 64}, "source.url: must be like https://host/path"),
        ({"kind": "https", "url": "https:///x", "sha256": "0" * 64}, "source.url: must be like https://host/path"),
        ({"kind": "https", "url": "https://[::1/x?s3cr3t", "sha256": "0" * 64}, "source.url: must be like https://host/path"),
        ({"kind": "https", "url": "https://h:99999/x", "sha256": "0" * 64}, "source.url: must be like https://host/path"),
        ({"kind": "https", "url": "https://h/x\ny", "sha256": "0" * 64}, "source.url: has characters that cannot be shown"),
        ({"kind": "https", "sha256": "0" * 64}, "source.url: is missing"),
        ({"kind": "https", "url": "https://h/x"}, "source.sha256: is missing"),
        ({"kind": "s3", "url": "s3://bucket/key", "sha256": "0" * 64}, ""),
        ({"kind": "s3", "url": "s3://bucket", "sha256": "0" * 64}, "source.url: must be like s3://bucket/key"),
        ({"kind": "s3", "url": "s3://bucket/key/", "sha256": "0" * 64}, "source.url: must be like s3://bucket/key"),
        ({"kind": "s3", "url": "s3:///key", "sha256": "0" * 64}, "source.url: must be like s3://bucket/key"),
        (HUB, ""),
        ({**HUB, "revision": "main"}, "source.revision: 'main' may move: give the commit, 40 lower-case hex digits"),
        ({**HUB, "revision": "a" * 7}, "source.revision: 'aaaaaaa' may move"),
        ({**HUB, "revision": "v1.0"}, "source.revision: 'v1.0' may move"),
        ({**HUB, "repo": "a/b/c"}, "source.repo: must be like organisation/name"),
        ({**HUB, "repo": "https://hub.example.org/a/b"}, "source.repo: must be like organisation/name"),
        ({**HUB, "path": "../x.onnx"}, "source.path: must be the name of a file"),
        ({**HUB, "path": "/x.onnx"}, "source.path: must be the name of a file"),
        ({**HUB, "url": "x"}, "source.url: is not a key here"),
        ({**HUB, "data": {"model.onnx_data": "0" * 64, "sub/folder/w.bin": "1" * 64}}, ""),
        ({**HUB, "data": {}}, ""),
        ({**HUB, "data": {"w": "0"}}, "source.data.w: must be 64 lower-case hex digits"),
        ({**HUB, "data": {"w": 3}}, "source.data.w: must be text"),
        ({**HUB, "data": ["w"]}, "source.data: must be a mapping"),
        ({**HUB, "data": {"../w": "0" * 64}}, "source.data.../w: must be the name of a file"),
        ({**HUB, "data": {"/w": "0" * 64}}, "source.data./w: must be the name of a file"),
        ({**HUB, "data": {"./w": "0" * 64}}, "source.data../w: must be the name of a file"),
        ({**HUB, "data": {"a//w": "0" * 64}}, "must be the name of a file"),
        ({**HUB, "data": {"a/": "0" * 64}}, "must be the name of a file"),
        ({**HUB, "data": {"": "0" * 64}}, "must be the name of a file"),
        ({**HUB, "data": {"a\0b": "0" * 64}}, "has characters that cannot be shown"),
        ({**HUB, "data": {"w" * 300: "0" * 64}}, "more than 200 bytes"),
        ({**HUB, "data": {".w.part": "0" * 64}}, "must not be hidden"),
        ({**HUB, "data": {"model.onnx": "0" * 64}}, "source.data.model.onnx: model.onnx is what the pipeline names"),
        ({**HUB, "data": {"fetch.log": "0" * 64}}, "fetch.log is what the pipeline names"),
        ({**HUB, "data": {"a": "0" * 64, "a/b": "0" * 64}}, "source.data.a: is the name of a folder, too"),
        ({"kind": "path", "path": "m.yaml", "sha256": "0" * 64, "data": {"w": "0" * 64}}, "source.data.w: there is no file"),
    ],
)
def test_sources_in_specs(tmp_path: Path, source: dict[str, object], complaint: str) -> None:
    said = problem(tmp_path, **source)
    assert complaint in said if complaint else not said
    assert "s3cr3t" not in said
    assert len(said.splitlines()) == bool(complaint)


def test_a_source_is_the_same_text_however_its_data_is_ordered(tmp_path: Path) -> None:
    names = ["b", "a", "c"]
    texts = []
    for order in (names, names[::-1]):
        assert not problem(tmp_path, **HUB, data=dict.fromkeys(order, "0" * 64))
        source = load(tmp_path).models["m"].sources[0]
        texts.append(repr(source))
        hash(source)
    assert texts[0] == texts[1]


def test_nothing_is_left_beside_a_model_that_its_spec_does_not_name(tmp_path: Path) -> None:
    """An ONNX file would take it for its own data, unseen by any digest; and a file may have to be where a folder was."""
    place, output = tmp_path / "place", tmp_path / "out/0/model.onnx"
    place.mkdir()
    for name in ("net.onnx", "w", "v.bin"):
        (place / name).write_bytes(name.encode())
    model = project.model_of(PathSource(place / "net.onnx", digest(b"net.onnx"), {"w": digest(b"w")}))
    (output.parent / "w").mkdir(parents=True)
    for left in ("v.bin", "w/x.bin", "fetch.log", ".0.partial"):
        (output.parent / left).write_bytes(b"left")
    source_stage.run(Origin(model, (output,)))
    assert {str(p.relative_to(output.parent)) for p in output.parent.rglob("*")} == {"model.onnx", "w", "fetch.log"}
    (output.parent / "v.bin").write_bytes(b"left")
    source_stage.run(Origin(model, (output,)))
    assert not (output.parent / "v.bin").exists()
