"""Fetching: from every kind of store, from servers of every manner, by several at once, and whatever kills it."""

from __future__ import annotations

import base64
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import cli, exits, platforms
from pipeline.consume import facts, transfer
from pipeline.consume import fetch as fetching
from pipeline.consume.api import Quiet
from pipeline.consume.cache import Cache, Stretch
from pipeline.consume.reference import parse
from pipeline.consume.resolve import Remote, Resolver
from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes, write
from pipeline.iree.device import Device
from pipeline.layout import blob_key, channel_key, release_key
from pipeline.manifest import types as m
from pipeline.store.base import Store
from pipeline.store.open import open_store
from pipeline.store.pace import Patience
from pipeline.store.web import WebSource
from tests import releases, servers, web
from tests.project import ROOT
from tests.waiting import wait_for

QUICK = Patience(connect=2, silence=0.5, window=1, window_bytes=1000)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cache of its own for each test, and no long waits."""
    monkeypatch.setenv("VMFB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PIPELINE_STORE", raising=False)
    monkeypatch.setattr(transfer, "_BACKOFF", 0.001)


@pytest.fixture
def noise(tmp_path: Path) -> tuple[Path, m.Manifest, bytes]:
    """A store folder with a release of 16 segments of 64 KiB, its manifest, and the file's bytes."""
    root = tmp_path / "store"
    manifest, data = releases.release(open_store(str(root)), tmp_path / "package")
    return root, manifest, data


def get(url: str, variants: list[str] | None = None, model: str = "noise", patience: Patience | None = None) -> fetching.Fetched:
    """Fetch the release in the test's cache."""
    remote, cache = Remote(url), Cache()
    if url.startswith("http"):
        remote._source = WebSource(url, patience)
    manifest = Resolver(remote, cache).manifest(parse(model))
    return fetching.fetch(remote, cache, fetching.pick(manifest), variants, Quiet())


def assert_right(fetched: fetching.Fetched, data: bytes, variants: list[str] | None) -> None:
    """What these variants need is there, the rest are holes, and the cache knows which is which."""
    found = fetched.path.read_bytes()
    assert len(found) == len(data)
    entry = fetching.entry(Cache(), fetched.artifact)
    wanted = set(fetching.needed(fetched.artifact, variants))
    assert entry.present() >= wanted
    for stretch in entry.stretches:
        there = stretch in entry.present()
        expected = data[stretch.offset : stretch.end] if there else bytes(stretch.length)
        assert found[stretch.offset : stretch.end] == expected


# From every kind of store


@pytest.mark.parametrize("variants", [None, ["cpu"], ["gpu"], ["gpu", "cpu"]])
def test_a_release_comes_from_every_kind_of_store(store: Store, tmp_path: Path, variants: list[str] | None) -> None:
    _, data = releases.release(store, tmp_path / "package")
    fetched = get(store.url, variants)
    assert_right(fetched, data, variants)
    assert get(store.url, variants).came == 0


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("variants", [None, ["cpu"]])
def test_a_release_comes_from_a_web_server(
    noise: tuple[Path, m.Manifest, bytes], ranges: bool, variants: list[str] | None
) -> None:
    root, _, data = noise
    with web.serve(root, web.Manners(ranges=ranges)) as server:
        assert_right(get(server.url, variants), data, variants)
        bodies = [range_ for path, range_ in server.seen if "blobs/" in path]
        if not ranges:
            assert len(bodies) == 1  # one body gives everything


def test_a_bucket_that_is_public_is_read_without_credentials(
    ceph: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    servers.use_aws(monkeypatch, ceph.endpoint)  # type: ignore[attr-defined]
    url = f"s3://{servers.BUCKET}/{tmp_path.name}"
    store = open_store(url)
    _, data = releases.release(store, tmp_path / "package")
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"AWS": ["*"]},
                "Action": ["s3:GetObject"],
                "Resource": [f"arn:aws:s3:::{servers.BUCKET}/*"],
            }
        ],
    }
    client = store._client  # type: ignore[attr-defined]
    client.put_bucket_policy(Bucket=servers.BUCKET, Policy=json.dumps(policy))
    try:
        servers.use_aws(monkeypatch, ceph.endpoint, None)  # type: ignore[attr-defined]
        assert_right(get(url), data, None)
        web_url = f"{ceph.endpoint}/{servers.BUCKET}/{tmp_path.name}"  # type: ignore[attr-defined]
        assert_right(get(web_url), data, None)
    finally:
        client.delete_bucket_policy(Bucket=servers.BUCKET)


def test_holes_are_filled_later_and_nothing_comes_twice(noise: tuple[Path, m.Manifest, bytes]) -> None:
    root, _, data = noise
    with web.serve(root) as server:
        first = get(server.url, ["cpu"])
        second = get(server.url, ["gpu"])
        last = get(server.url)
        assert first.came + second.came + last.came == len(data) == sum_of_blobs(server)
    assert_right(last, data, None)


def sum_of_blobs(server: web.Web) -> int:
    total = 0
    for path, range_ in server.seen:
        if "blobs/" in path:
            first, last = range_.removeprefix("bytes=").split("-")
            total += int(last) - int(first) + 1
    return total


def test_neighbours_are_asked_for_together() -> None:
    parts = [Stretch(i * 100, 100, f"{i:064}") for i in range(10)]
    assert transfer.ranges(parts) == [parts]
    assert transfer.ranges([parts[0], *parts[5:]]) == [[parts[0], *parts[5:]]]  # a small gap costs less than a request
    far = Stretch(1 << 20, 100, "f" * 64)
    assert transfer.ranges([*parts, far]) == [parts, [far]]
    big = [Stretch(i << 23, 1 << 23, f"{i:064}") for i in range(10)]
    assert [len(r) for r in transfer.ranges(big)] == [8, 2]


# Weights outside the file


WEIGHTS = random.Random(3).randbytes(2_500_000)


def get_weights(url: str, patience: Patience | None = None) -> fetching.Brought:
    """Fetch the release's weights in the test's cache."""
    remote, cache = Remote(url), Cache()
    if url.startswith("http"):
        remote._source = WebSource(url, patience)
    found = fetching.fetch_weights(remote, cache, Resolver(remote, cache).manifest(parse("noise")), Quiet())
    assert found
    return found


def test_weights_come_from_every_kind_of_store(store: Store, tmp_path: Path) -> None:
    releases.release(store, tmp_path / "package", weights=WEIGHTS)
    assert get_weights(store.url).path.read_bytes() == WEIGHTS
    assert get_weights(store.url).came == 0


@pytest.mark.parametrize(
    "manners",
    [
        web.Manners(break_after=100_000, breaks=12),
        web.Manners(break_after=300_000, breaks=5, ranges=False),
        web.Manners(flip=1),
        web.Manners(status=503, statuses=3),
    ],
    ids=["breaks", "no ranges", "flip", "503"],
)
def test_weights_arrive_whatever_the_connection(manners: web.Manners, tmp_path: Path) -> None:
    releases.release(open_store(str(tmp_path / "store")), tmp_path / "package", weights=WEIGHTS)
    with web.serve(tmp_path / "store", manners) as server:
        assert get_weights(server.url).path.read_bytes() == WEIGHTS


def test_weights_that_are_damaged_in_the_store_are_one_message(tmp_path: Path) -> None:
    manifest, _ = releases.release(open_store(str(tmp_path / "store")), tmp_path / "package", weights=WEIGHTS)
    path = tmp_path / "store" / blob_key(manifest.parameters[0].blob.sha256)
    path.write_bytes(WEIGHTS[:1_000_000] + b"damage" + WEIGHTS[1_000_006:])
    with pytest.raises(PipelineError, match="the manifest says"):
        get_weights(str(tmp_path / "store"))
    assert cli.main(["fetch", "noise", "--full", "--store", str(tmp_path / "store")]) == 1
    path.write_bytes(WEIGHTS)
    assert 0 < get_weights(str(tmp_path / "store")).came < len(WEIGHTS)  # what was right is not fetched twice


def test_weights_are_fetched_once_by_all_who_want_them(tmp_path: Path) -> None:
    """Several processes, two versions of a model with the same weights, each from its own server."""
    for seed in (1, 2):
        releases.release(open_store(str(tmp_path / "store")), tmp_path / f"package{seed}", seed=seed, weights=WEIGHTS)
    index = json.loads((tmp_path / "store" / "index.json").read_text())
    with web.serve(tmp_path / "store", web.Manners(rate=8e6)) as server:
        versions = index["models"][0]["versions"] * 2
        processes = [vmfb("fetch", f"noise@{version}", "--full", "--store", server.url) for version in versions]
        for process in processes:
            _, err = process.communicate()
            assert process.returncode == 0, err
        assert sum_of_blobs(server) == len(WEIGHTS) + 2 * (1 << 20)


def test_a_copy_is_there_when_its_weights_are(tmp_path: Path) -> None:
    releases.release(open_store(str(tmp_path / "store")), tmp_path / "package", weights=WEIGHTS)
    target = tmp_path / "out" / "noise.vmfb"
    with web.serve(tmp_path / "store", web.Manners(break_after=1_000_000, breaks=1, rate=2e6)) as server:
        process = vmfb("fetch", "noise", "--full", "--store", server.url, "-o", str(target))
        wait_for(lambda: server.sent > 1_500_000)
        process.kill()
        process.communicate()
        assert not target.exists()
        assert cli.main(["fetch", "noise", "--full", "--store", server.url, "-o", str(target)]) == 0
    assert target.with_suffix(".irpa").read_bytes() == WEIGHTS
    assert target.exists()


def slow_to_list(monkeypatch: pytest.MonkeyPatch, server: web.Web, found: list[Device]) -> None:
    """Let drivers tell of these devices only when weights have begun to come."""

    def find(*_: object) -> list[Device]:
        wait_for(lambda: server.sent > 200_000)
        return found

    monkeypatch.setattr(facts, "of_this_machine", find)


def test_weights_come_while_the_machine_is_asked_for_its_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    releases.release(open_store(str(tmp_path / "store")), tmp_path / "package", weights=WEIGHTS)
    with web.serve(tmp_path / "store") as server:
        slow_to_list(monkeypatch, server, facts.of_machine("avx512-server"))
        assert cli.main(["fetch", "noise", "--store", server.url, "-o", str(tmp_path / "out.vmfb")]) == 0
        assert (tmp_path / "out.irpa").read_bytes() == WEIGHTS
        assert sum_of_blobs(server) == len(WEIGHTS) + (1 << 20) - 5 * (1 << 16)  # without the GPU's code and the directory


def test_a_refusal_ends_the_transfer_of_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    releases.release(open_store(str(tmp_path / "store")), tmp_path / "package", weights=WEIGHTS)
    with web.serve(tmp_path / "store", web.Manners(rate=1e6)) as server:
        slow_to_list(monkeypatch, server, [])
        assert cli.main(["fetch", "noise", "--store", server.url, "-o", str(tmp_path / "out.vmfb")]) == 1
        assert server.sent < len(WEIGHTS)
    assert "no device may run noise" in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))


def test_an_interrupt_ends_whoever_is_asked_for_devices(tmp_path: Path) -> None:
    releases.release(open_store(str(tmp_path / "store")), tmp_path / "package", weights=WEIGHTS)
    with web.serve(tmp_path / "store", web.Manners(stall_after=300_000)) as server:
        process = vmfb("fetch", "noise", "--store", server.url)
        children = Path(f"/proc/{process.pid}/task")
        wait_for(lambda: server.sent > 200_000 and any(len(path.read_text().split()) > 1 for path in children.glob("*/children")))
        found = "".join(path.read_text() for path in children.glob("*/children")).split()
        (child,) = (number for number in found if b"VMFB_RUN=" in Path(f"/proc/{number}/environ").read_bytes())
        os.kill(int(child), signal.SIGSTOP)  # so that it does not end by itself
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert not Path(f"/proc/{child}").exists()


def test_weights_above_what_memory_holds_come_in_stretches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.consume.cache.WHOLE_LIMIT", 1000)  # it is for reference data only
    releases.release(open_store(str(tmp_path / "store")), tmp_path / "package", weights=WEIGHTS)
    assert get_weights(str(tmp_path / "store")).path.read_bytes() == WEIGHTS


# Servers with bad manners


@pytest.mark.parametrize(
    "manners",
    [
        web.Manners(break_after=30_000, breaks=12),
        web.Manners(break_after=100_000, breaks=5, ranges=False),
        web.Manners(flip=1),
        web.Manners(flip=1, ranges=False),
        web.Manners(status=503, statuses=3),
        web.Manners(status=429, statuses=2),
    ],
    ids=lambda manners: ",".join(f"{k}={v}" for k, v in vars(manners).items() if v != vars(web.Manners())[k]),
)
def test_what_breaks_now_and_then_is_overcome(noise: tuple[Path, m.Manifest, bytes], manners: web.Manners) -> None:
    root, _, data = noise
    with web.serve(root, manners) as server:
        assert_right(get(server.url), data, None)


def test_a_range_goes_on_where_it_broke(noise: tuple[Path, m.Manifest, bytes]) -> None:
    root, _, data = noise
    with web.serve(root, web.Manners(break_after=300_000, breaks=2)) as server:
        assert_right(get(server.url), data, None)
        starts = [int(r.removeprefix("bytes=").split("-")[0]) for path, r in server.seen if "blobs/" in path]
        assert starts == [0, 300_000, 600_000]


@pytest.mark.parametrize(
    ("manners", "complaint"),
    [
        (web.Manners(break_after=1, breaks=10**6, ranges=False), "6 times"),
        (web.Manners(stall_after=10), "6 times"),
        (web.Manners(drip=0.02), "too slow|6 times"),
        (web.Manners(flip=10**6), "the manifest says"),
        (web.Manners(shift=5), "the manifest says"),
        (web.Manners(wrong_range="bytes 0-5/7"), "answers with 'bytes 0-5/7'"),
        (web.Manners(wrong_range="lies"), "answers with 'lies'"),
        (web.Manners(extra=1000, break_after=1000, breaks=10**6, ranges=False), "6 times"),
        (web.Manners(status=500), "the server has trouble: 500"),
        (web.Manners(status=403), "the server answers 403"),
        (web.Manners(status=404), "is not in the store"),
        (web.Manners(encoding="gzip"), "compressed"),
        (web.Manners(redirect="ftp://127.0.0.1/x"), "redirects from http to ftp"),
        (web.Manners(redirect="file:///etc/passwd"), "redirects from http to file"),
        (web.Manners(redirect="{path}"), "redirects more than 5 times"),
        (web.Manners(only="channels", status=404), "is no model|has no channel"),
        (web.Manners(only="channels", endless=True), "is larger than 64 MiB"),
        (web.Manners(only="manifest", flip=1), "its channel says"),
        (web.Manners(only="channels", extra=5), "promised|broke"),
    ],
    ids=lambda value: (
        ",".join(f"{k}={v}" for k, v in vars(value).items() if v != vars(web.Manners())[k])
        if isinstance(value, web.Manners)
        else ""
    ),
)
def test_what_stays_bad_is_one_message_and_keeps_nothing_wrong(
    noise: tuple[Path, m.Manifest, bytes], manners: web.Manners, complaint: str
) -> None:
    root, _manifest, data = noise
    with web.serve(root, manners) as server:
        slow = manners.stall_after >= 0 or manners.drip
        with pytest.raises(PipelineError, match=complaint):
            get(server.url, patience=QUICK if slow else None)
    assert_cache_is_right(Cache(), data)
    assert_right(get(str(root)), data, None)


def test_an_endless_body_costs_no_more_than_the_file(noise: tuple[Path, m.Manifest, bytes]) -> None:
    root, _, data = noise
    with web.serve(root, web.Manners(endless=True, ranges=False)) as server:
        assert_right(get(server.url), data, None)
        assert server.sent < 20 * len(data)


def test_redirects_are_followed_and_credentials_stay_with_their_host(noise: tuple[Path, m.Manifest, bytes]) -> None:
    root, _, data = noise
    with web.serve(root) as front, web.serve(root) as back:
        front.manners = web.Manners(redirect=back.url + "{path}?X-Amz-Signature=s3cret")
        url = front.url.replace("http://", "http://user:pass@")
        assert_right(get(url), data, None)
        assert all(a and a.startswith("Basic ") for a in front.authorizations)
        assert not any(back.authorizations)
        assert any("X-Amz-Signature" in path for path, _ in back.seen)


def test_credentials_in_a_url_are_decoded(noise: tuple[Path, m.Manifest, bytes]) -> None:
    root, _, data = noise
    with web.serve(root) as server:
        assert_right(get(server.url.replace("http://", "http://user%40home:p%3Aß€@")), data, None)
        sent = {base64.b64decode(str(a).removeprefix("Basic ")).decode() for a in server.authorizations}
    assert sent == {"user@home:p:ß€"}


def test_a_redirect_to_what_is_no_url_tells_no_secret(
    noise: tuple[Path, m.Manifest, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    root, _, _ = noise
    with web.serve(root, web.Manners(redirect="http://a..b:70000/{path}?X-Amz-Signature=s3cret")) as server:
        assert cli.main(["fetch", "noise", "--store", server.url]) == 1
    assert "s3cret" not in capsys.readouterr().err


def test_a_proxy_may_be_named_without_its_scheme(
    noise: tuple[Path, m.Manifest, bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, _, _ = noise
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with web.serve(root) as server:
        monkeypatch.setenv("http_proxy", server.url.removeprefix("http://"))  # it takes whole URLs for paths, and they end alike
        assert cli.main(["list", "--store", "http://nowhere.example"]) == 1
        assert "nowhere.example" in server.seen[0][0]
        monkeypatch.setenv("http_proxy", "gopher://x")
        assert cli.main(["list", "--store", "http://nowhere.example"]) == 1
    assert "correct http_proxy" in capsys.readouterr().err


def test_a_query_in_the_url_goes_with_every_request_and_into_no_message(
    noise: tuple[Path, m.Manifest, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    root, _, data = noise
    with web.serve(root) as server:
        url = server.url.replace("http://", "http://user:hidden@") + "/?token=s3cret"
        assert_right(get(url), data, None)
        assert all("token=s3cret" in path for path, _ in server.seen)
        assert cli.main(["fetch", "other", "--store", url]) == 1
        assert cli.main(["fetch", "noise@9", "--store", url]) == 1
        assert cli.main(["fetch", "noise@9", "--store", url, "--offline"]) == 1
        server.manners = web.Manners(only="", status=500)
        assert cli.main(["fetch", "noise@8", "--store", url]) == exits.AWAY
    assert cli.main(["fetch", "noise@8", "--store", url]) == exits.AWAY
    said = capsys.readouterr().err
    assert "500" in said
    assert "s3cret" not in said
    assert "hidden" not in said


def test_a_closed_port_is_an_error_that_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "http://127.0.0.1:9"]) == exits.AWAY
    assert "cannot connect" in capsys.readouterr().err


def test_a_scheme_may_be_in_capitals(noise: tuple[Path, m.Manifest, bytes]) -> None:
    root, _, _ = noise
    with web.serve(root) as server:
        assert cli.main(["list", "--store", server.url.replace("http", "HTTP")]) == 0


@pytest.mark.parametrize("url", ["http://", "https:///x", "http://a:b/", "ftp://x/y", "s3://", "http://[::1"])
def test_urls_that_are_none_are_refused(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", url]) == 1
    assert "is no store" in capsys.readouterr().err


def test_what_is_no_store_and_looks_like_one_is_told_what_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = tmp_path / "project"
    (project / "out").mkdir(parents=True)
    (project / "dodo.py").touch()
    for said, hint in (
        ("file:///srv/store", "give /srv/store"),
        ("s3:/bucket/x", "give s3://bucket/x"),
        (str(project), "run `doit` there, then give its out/store"),
    ):
        assert cli.main(["list", "--store", said]) == 1
        assert hint in capsys.readouterr().err
    (project / "out" / "store").mkdir()
    assert cli.main(["list", "--store", str(project)]) == 1
    assert f"a project publishes to {project}/out/store: give that" in capsys.readouterr().err


# The cache


def assert_cache_is_right(cache: Cache, data: bytes) -> None:
    """Every stretch that the cache believes in is right."""
    for usage in cache.usages():
        for stretch in usage.entry.present():
            with usage.entry.path.open("rb") as file:
                file.seek(stretch.offset)
                assert sha256_bytes(file.read(stretch.length)) == stretch.sha256


def test_what_the_disk_damages_is_fetched_again_and_nothing_else(noise: tuple[Path, m.Manifest, bytes]) -> None:
    root, _manifest, data = noise
    path = get(str(root)).path
    with path.open("r+b") as file:
        file.seek(3 * 65536 + 5)
        file.write(b"damage")
    with web.serve(root) as server:
        # Another store with the same content: the same file in the cache.
        again = get(server.url)
        assert again.came == 65536
        assert sum_of_blobs(server) == 65536
    assert_right(again, data, None)


def test_damage_that_leaves_no_trace_is_found_by_verify_and_by_copying(
    noise: tuple[Path, m.Manifest, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, _manifest, data = noise

    def damage() -> None:
        path = get(str(root)).path
        times = path.stat()
        with path.open("r+b") as file:
            file.seek(70000)
            file.write(b"damage")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    damage()
    assert cli.main(["cache", "verify"]) == exits.WRONG
    assert "1 stretches were damaged" in capsys.readouterr().err
    assert get(str(root)).came == 65536
    assert cli.main(["cache", "verify"]) == 0
    damage()
    command = ["fetch", "noise", "--full", "--store", str(root), "-o", str(tmp_path / "copy.vmfb")]
    assert cli.main(command) == 0
    assert (tmp_path / "copy.vmfb").read_bytes() == data
    assert "fetched 65.5 kB" in capsys.readouterr().err


@pytest.mark.parametrize(
    "state", [b"{", b"\xff", b'{"name": "x", "stretches": [], "present": [], "modified_ns": 0, "boot": ""}', None]
)
def test_verify_harms_no_file_whose_state_is_damaged(
    noise: tuple[Path, m.Manifest, bytes], state: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    root, _manifest, data = noise
    path = get(str(root)).path
    beside = path.with_name(f"{path.name}.json")
    if state is None:  # one that can be read, of fewer stretches than the file has
        said = json.loads(beside.read_text())
        beside.write_text(json.dumps({**said, "stretches": said["stretches"][:2]}))
    else:
        beside.write_bytes(state)
        assert cli.main(["cache", "verify"]) == 1
        assert f"{path}: not checked" in capsys.readouterr().out
    cli.main(["cache", "verify"])
    assert path.read_bytes() == data
    assert get(str(root)).came == 0


@pytest.mark.parametrize("harm", ["unlink state", "garble state", "truncate", "grow", "unlink data", "garble manifest", "reboot"])
def test_a_cache_that_was_tampered_with_heals(
    noise: tuple[Path, m.Manifest, bytes], harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, manifest, data = noise
    path = get(str(root)).path
    state = path.with_name(f"{path.name}.json")
    expected = 0
    if harm == "unlink state":
        state.unlink()
    elif harm == "garble state":
        state.write_bytes(b'{"name": 3, "stretches": [[1')
    elif harm == "truncate":
        os.truncate(path, 100_000)
        expected = len(data) - 65536
    elif harm == "grow":
        os.truncate(path, 2_000_000)
    elif harm == "unlink data":
        path.unlink()
        expected = len(data)
    elif harm == "garble manifest":
        for document in (Cache().root / "stores").rglob("manifest.json"):
            document.write_bytes(document.read_bytes()[:-100])
    else:
        monkeypatch.setattr(platforms, "boot", lambda: "another")
    fetched = get(str(root), model=f"noise@{manifest.version}")
    assert fetched.came == expected
    assert_right(fetched, data, None)


def test_a_store_that_lies_about_a_digest_spoils_no_other_store(noise: tuple[Path, m.Manifest, bytes], tmp_path: Path) -> None:
    """The same blob digest with other segments: what the liar's manifest says of them is for the liar's releases only."""
    from dataclasses import replace

    from pipeline.manifest.codec import encode
    from pipeline.stages.publish import publish

    root, manifest, data = noise
    folder = tmp_path / "evil"
    evil = random.Random(1).randbytes(len(data))
    lie = replace(releases.artifact(evil, 65536), blob=manifest.artifacts[0].blob)
    write(folder / "blobs" / lie.blob.sha256, data)
    lying = replace(manifest, version="1", artifacts=(lie,))
    write(folder / "manifest.json", encode(lying))
    releases.package_evidence(folder, releases.unseen(lying))
    publish(folder, open_store(str(tmp_path / "liar")))
    write(tmp_path / "liar" / blob_key(lie.blob.sha256), evil)
    assert get(str(tmp_path / "liar")).path.read_bytes() == evil
    assert get(str(root)).path.read_bytes() == data


def test_nothing_is_written_once_the_right_to_write_has_ended(noise: tuple[Path, m.Manifest, bytes]) -> None:
    """A connection that is still at work when another one failed must not write to a descriptor that is closed."""
    root, manifest, data = noise
    entry = fetching.entry(Cache(), manifest.artifacts[0])
    first, second, *_ = entry.stretches
    with entry.writing() as writer:
        writer.put(first, memoryview(data)[first.offset : first.end])
    writer.put(second, memoryview(data)[second.offset : second.end])
    assert entry.present() == {first}
    assert entry.path.read_bytes()[second.offset : second.end] == bytes(second.length)
    assert get(str(root)).came == len(data) - first.length


def test_prune_removes_the_longest_unused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = []
    for seed in range(3):
        root = tmp_path / f"store{seed}"
        releases.release(open_store(str(root)), tmp_path / f"package{seed}", seed=seed)
        paths.append(get(str(root)).path)
        os.utime(paths[-1].with_name(f"{paths[-1].name}.json"), (seed, seed))
    get(str(tmp_path / "store0"))  # used again
    assert cli.main(["cache", "prune", "--max-size", "2.2MB"]) == 0
    assert [p.exists() for p in paths] == [True, False, True]
    assert cli.main(["cache", "prune", "--unused", "1"]) == 0
    assert [p.exists() for p in paths] == [True, False, False]
    assert len(list(Cache().root.rglob("*.lock"))) == 1
    assert cli.main(["cache", "prune"]) == 1
    assert "what is to be removed?" in capsys.readouterr().err
    assert cli.main(["cache", "list"]) == 0
    assert capsys.readouterr().out.count("noise-desktop.vmfb") == 1


def test_prune_removes_nothing_of_others(noise: tuple[Path, m.Manifest, bytes]) -> None:
    path = get(str(noise[0])).path
    orphan = path.with_name(path.name[:-4] + "0000")
    left = path.with_name(f".{path.name}.json.x.part")
    others = [Cache().root / "notes.part", Cache().root / ".notes.part", path.with_name("README"), path.with_name("x.json")]
    for file in (*others, orphan, left):
        file.write_bytes(b"{}")
        os.utime(file, (0, 0))
    folder = path.with_name(path.name[:-4] + "1111")
    folder.mkdir()
    assert cli.main(["cache", "prune", "--unused", "0"]) == 0
    assert [p.exists() for p in (path, orphan, left)] == [False, False, False]
    assert all(p.exists() for p in (*others, folder))


def test_a_copy_is_whole_while_another_process_writes_to_the_file(
    noise: tuple[Path, m.Manifest, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, manifest, data = noise
    fetched = fetching.fetch

    def then_touched(*arguments: object) -> fetching.Fetched:
        found = fetched(*arguments)  # type: ignore[arg-type]
        os.utime(found.path, (1, 1))  # as a write of another process does, before it has told what it wrote
        return found

    monkeypatch.setattr(fetching, "fetch", then_touched)
    artifact = manifest.artifacts[0]
    got, path = fetching.deliver(Remote(str(root)), Cache(), artifact, None, tmp_path / "copy", Quiet())
    assert path.read_bytes() == data
    assert got.present == len(data)


def test_two_at_once_fetch_everything_once(noise: tuple[Path, m.Manifest, bytes]) -> None:
    root, _, data = noise
    with web.serve(root, web.Manners(rate=4e6)) as server:
        processes = [vmfb("fetch", "noise", "--full", "--store", server.url) for _ in range(4)]
        for process in processes:
            out, err = process.communicate()
            assert process.returncode == 0, err
            assert Path(out.decode().strip()).read_bytes() == data
        assert sum_of_blobs(server) == len(data)


def vmfb(*arguments: str) -> subprocess.Popen[bytes]:
    """The command as a process of its own."""
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env={**os.environ}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


@pytest.mark.parametrize("rounds", [30, pytest.param(100, marks=pytest.mark.thorough)])
def test_a_kill_at_any_moment_leaves_a_cache_that_is_right(
    noise: tuple[Path, m.Manifest, bytes], tmp_path: Path, rounds: int
) -> None:
    root, _, data = noise
    chance = random.Random(7)
    finished = 0
    with web.serve(root, web.Manners(rate=3e6)) as server:
        for round_ in range(rounds):
            if round_ % 10 == 0:
                os.environ["VMFB_CACHE"] = str(tmp_path / f"cache{round_}")
            wanted = chance.choice([["--full"], ["--device", "avx512-server"]])
            limit = server.sent + chance.randrange(-len(data) // 4, len(data))
            process = vmfb("fetch", "noise", *wanted, "--store", server.url)
            wait_for(lambda: process.poll() is not None or server.sent > limit)  # noqa: B023
            finished += process.poll() is not None
            process.kill()
            process.communicate()
            assert_cache_is_right(Cache(), data)
        assert 0 < finished < rounds
        assert_right(get(server.url), data, None)
        assert cli.main(["cache", "verify"]) == 0


def test_an_interrupt_keeps_what_has_arrived(noise: tuple[Path, m.Manifest, bytes]) -> None:
    root, _, data = noise
    with web.serve(root, web.Manners(stall_after=600_000)) as server:
        process = vmfb("fetch", "noise", "--full", "--store", server.url)
        wait_for(lambda: sum(p.stat().st_blocks * 512 for p in Cache().root.glob("blobs/??/*")) > 500_000)
        process.send_signal(2)
        _, err = process.communicate()
        assert process.returncode == 130
        assert b"interrupted: what has arrived is kept" in err
        server.manners = web.Manners()
        assert get(server.url).came <= len(data) - 300_000


def test_a_full_disk_is_one_message(noise: tuple[Path, m.Manifest, bytes], capsys: pytest.CaptureFixture[str]) -> None:
    root, _, _ = noise
    code = """if True:
        import resource, signal, sys
        from pipeline import cli, platforms
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (600000, 600000))
        sys.exit(cli.main(sys.argv[1:]))"""
    done = subprocess.run(
        [sys.executable, "-c", code, "fetch", "noise", "--full", "--store", str(root)],
        cwd=ROOT,
        env={**os.environ},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "File too large" in done.stderr


# Which release


def test_a_version_needs_no_store_once_it_is_cached(noise: tuple[Path, m.Manifest, bytes]) -> None:
    root, manifest, _data = noise
    with web.serve(root) as server:
        url = server.url
        get(url)
    assert get(url, model=f"noise@{manifest.version}").came == 0
    assert cli.main(["fetch", "noise", "--full", "--offline", "--store", url]) == 0


def test_a_store_that_is_gone_is_told_and_the_last_seen_is_used(
    noise: tuple[Path, m.Manifest, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    root, _, _ = noise
    with web.serve(root) as server:
        url = server.url
        assert cli.main(["fetch", "noise", "--full", "--store", url]) == 0
    capsys.readouterr()
    assert cli.main(["fetch", "noise", "--full", "--store", url]) == 0
    assert "going by what it was when last seen" in capsys.readouterr().err
    assert cli.main(["fetch", "other", "--store", url]) == exits.AWAY


def test_a_folder_that_is_gone_is_told_and_the_last_seen_is_used(
    noise: tuple[Path, m.Manifest, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    root, _, _ = noise
    assert cli.main(["fetch", "noise", "--full", "--store", str(root)]) == 0
    root.rename(root.with_name("unmounted"))
    assert cli.main(["fetch", "noise", "--full", "--store", str(root)]) == 0
    assert "there is no such folder; going by what it was when last seen" in capsys.readouterr().err
    assert cli.main(["fetch", "other", "--store", str(root)]) == 1
    assert "is it mounted?" in capsys.readouterr().err


def test_a_bucket_out_of_reach_is_told_and_the_last_seen_is_used(
    noise: tuple[Path, m.Manifest, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, release, _ = noise
    servers.use_aws(monkeypatch, "http://127.0.0.1:9")
    remote, notes = Remote("s3://models"), []
    for key in (channel_key("noise", "latest"), release_key("noise", release.version)):
        Cache().keep(remote.cached_as, key, (root / key).read_bytes())
    assert Resolver(remote, Cache(), notes.append).manifest(parse("noise")) == release
    assert "going by what it was when last seen" in notes[0]


def test_offline_without_a_cache_says_so(noise: tuple[Path, m.Manifest, bytes], capsys: pytest.CaptureFixture[str]) -> None:
    root, _, _ = noise
    assert cli.main(["fetch", "noise", "--offline", "--store", str(root)]) == 1
    assert "noise:latest is not in the cache" in capsys.readouterr().err


def test_a_channel_moves_and_is_followed(noise: tuple[Path, m.Manifest, bytes], tmp_path: Path) -> None:
    root, _, data = noise
    assert get(str(root)).path.read_bytes() == data
    _, newer = releases.release(open_store(str(root)), tmp_path / "newer", seed=9)
    assert get(str(root)).path.read_bytes() == newer


@pytest.mark.parametrize(
    ("what", "complaint"),
    [
        ("nois", "did you mean 'noise'"),
        ("noise@1", "has no version 1"),
        ("noise:beta", "has no channel beta"),
        ("../x@1", "neither a file nor a model's name"),
        ("noise@../../x", "cannot be a version"),
        ("noise:a/b", "cannot be a channel"),
        ("NOISE", "neither a file nor a model's name"),
    ],
)
def test_what_is_not_there_is_told(
    noise: tuple[Path, m.Manifest, bytes], what: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["fetch", what, "--store", str(noise[0])]) == 1
    assert complaint in capsys.readouterr().err


def test_a_manifest_of_another_release_is_refused(noise: tuple[Path, m.Manifest, bytes]) -> None:
    root, manifest, _ = noise
    write(root / release_key("noise", "2"), (root / release_key("noise", manifest.version)).read_bytes())
    with pytest.raises(PipelineError, match="is the manifest of noise c"):
        get(str(root), model="noise@2")
    channel = json.loads((root / channel_key("noise", "latest")).read_bytes())
    write(root / channel_key("noise", "beta"), json.dumps(channel).encode())
    with pytest.raises(PipelineError, match="is the channel of another model"):
        get(str(root), model="noise:beta")


def test_a_runtime_that_nobody_tried_is_told_once_and_before_anything_comes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.stages.publish import publish

    releases.make(tmp_path / "package", 1 << 20, 1 << 16, compiler="99.1.0")
    publish(tmp_path / "package", open_store(str(tmp_path / "store")))
    assert cli.main(["fetch", "nosie", "--store", str(tmp_path / "store")]) == 1
    assert "is not signed" not in capsys.readouterr().err
    assert cli.main(["fetch", "noise", "--store", str(tmp_path / "store")]) == 0
    said = capsys.readouterr().err  # of a folder of one's own nothing is said
    assert said.startswith("noise@c")
    assert said.count("is made for IREE's runtime 99.1; here is 3.13.0, untested") == 1
    (tmp_path / "store").chmod(0o777)
    assert cli.main(["fetch", "noise", "--store", str(tmp_path / "store"), "--device", "avx512-server"]) == 0
    said = capsys.readouterr().err
    assert said.startswith("note: ") and said.count("is not signed") == 1
    assert "untested" not in said  # for another machine
    assert cli.main(["fetch", "nosie", "--store", str(tmp_path / "store")]) == 1
    assert "is not signed" not in capsys.readouterr().err  # an error is not about that


def test_output_goes_where_it_is_told(
    noise: tuple[Path, m.Manifest, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, _, data = noise
    (tmp_path / "folder").mkdir()
    assert cli.main(["fetch", "noise", "--full", "-q", "--store", str(root), "-o", str(tmp_path / "folder")]) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() == str(tmp_path / "folder" / "noise-desktop.vmfb")
    assert captured.err == ""
    assert (tmp_path / "folder" / "noise-desktop.vmfb").read_bytes() == data
    assert cli.main(["fetch", "noise", "--device", "avx512-server", "--store", str(root), "-o", str(tmp_path / "sparse")]) == 0
    assert (tmp_path / "sparse").stat().st_blocks * 512 <= len(data)


def test_output_replaces_files_only_and_keeps_to_the_umask(
    noise: tuple[Path, m.Manifest, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, _, data = noise

    def fetched(output: str) -> int:
        return cli.main(["fetch", "noise", "--full", "-q", "--store", str(root), "-o", output])

    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "to-fifo").symlink_to("fifo")
    for name in ("fifo", "to-fifo"):
        assert fetched(str(tmp_path / name)) == 1
        assert "is no regular file" in capsys.readouterr().err
    assert (tmp_path / "fifo").is_fifo()
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to("file")
    mask = os.umask(0o027)
    try:
        assert fetched(str(tmp_path / "link")) == 0
        assert fetched(f"{tmp_path}/new/") == 0
    finally:
        os.umask(mask)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == data
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "new" / "noise-desktop.vmfb").read_bytes() == data


def test_a_bucket_of_the_same_name_elsewhere_is_another_store_for_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    release, _ = releases.make(tmp_path / "package", 1 << 10, 1 << 8)
    wanted = f"noise@{release.version}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://user:secret@one.example")
    remote = Remote("s3://models", offline=True)
    assert "secret" not in remote.cached_as
    data = (tmp_path / "package" / "manifest.json").read_bytes()
    Cache().keep(remote.cached_as, release_key("noise", release.version), data)
    assert Resolver(remote, Cache()).manifest(parse(wanted)) == release
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://two.example")
    with pytest.raises(PipelineError, match="is not in the cache"):
        Resolver(Remote("s3://models", offline=True), Cache()).manifest(parse(wanted))
