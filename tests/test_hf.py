"""A repository of the Hugging Face hub as a store: the hub's own library, against a server that speaks its protocol."""

from __future__ import annotations

import re
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from pipeline import cache, cli
from pipeline.consume import transfer
from pipeline.consume.reference import Reference
from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes
from pipeline.layout import INDEX_KEY, PROBE_KEY, channel_key, release_key
from pipeline.manifest import types as m
from pipeline.stages.publish import publish
from pipeline.store import conditions
from pipeline.store.base import Store
from pipeline.store.open import address_of, open_source, open_store, open_to_keep, open_to_publish
from pipeline.trust.anchors import TrustError
from tests import hub, releases, trusting, web
from tests.hub import REVISION, TOKEN, Hub
from tests.publishing import MODEL, Package, assert_whole, pointed_at
from tests.test_copy import content
from tests.test_fetch import assert_right, get, test_a_release_comes_from_every_kind_of_store  # noqa: F401
from tests.test_life import back, resolve, say_yanked
from tests.test_store import (  # noqa: F401  # what every store promises, of this kind too
    file,
    race,
    test_a_file_that_is_not_what_it_should_be_is_not_stored,
    test_a_missing_local_file_is_an_error,
    test_a_second_create_changes_nothing,
    test_an_empty_store_has_nothing,
    test_an_upload_replaces_what_was_there,
    test_of_a_race_to_create_exactly_one_wins_and_its_data_stays,
    test_of_a_race_to_replace_exactly_one_wins_and_its_data_stays,
    test_replace_needs_the_tag_of_the_present_state,
    test_replace_without_a_tag_creates,
    test_stores_of_one_bucket_or_folder_do_not_meet,
    test_what_others_wrote_over_an_object_is_not_held,
)

URL = "hf://org/net"
LARGE = bytes(range(256)) * 40  # which git does not hold
Vmfb = Callable[..., int]
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # how the library calls its own


def _upload(store: Store) -> None:
    with tempfile.NamedTemporaryFile() as temporary:
        temporary.write(LARGE)
        temporary.flush()
        store.upload("folder/a", Path(temporary.name), sha256_bytes(LARGE))


WRITES: dict[str, Callable[[Store], object]] = {"create": lambda store: store.create("folder/a", b"a"), "upload": _upload}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cache of its own for each test, and no long waits."""
    monkeypatch.setenv("VMFB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PIPELINE_STORE", raising=False)
    monkeypatch.setattr(transfer, "_BACKOFF", 0.001)


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[web.Web]:
    """The server that has the hub's large files."""
    (tmp_path / "objects").mkdir()
    with web.serve(tmp_path / "objects", web.Manners(only="")) as running:
        yield running


@pytest.fixture
def a_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, storage: web.Web) -> Iterator[Hub]:
    """A hub with a new repository, and a user who may write to it."""
    files = {("org/net", ".gitattributes"): b"*.bin lfs", ("org/net", "README.md"): b"# net"}
    with hub.asked(Hub(files=files, storage=storage.url, objects=tmp_path / "objects", large=1000), monkeypatch) as running:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr("pipeline.store.hf._PAUSE", 0.001)
        yield running


@pytest.fixture
def new_store(a_hub: Hub) -> Callable[[], Store]:
    """Makes empty stores, each in another repository."""

    def make() -> Store:
        repo = f"org/{uuid.uuid4().hex}"
        a_hub.files[repo, ".gitattributes"] = b"*.bin lfs"
        return open_store(f"hf://{repo}")

    return make


@pytest.fixture
def vmfb() -> Vmfb:
    return lambda *words: cli.main([str(word) for word in words])


@pytest.fixture
def noise(a_hub: Hub, tmp_path: Path) -> tuple[m.Manifest, bytes]:
    """A release on the hub, of which anybody put a folder there."""
    folder = open_store(str(tmp_path / "folder"))
    made = releases.release(folder, tmp_path / "package")
    for key in folder.keys(""):
        data = (tmp_path / "folder" / key).read_bytes()
        a_hub.files["org/net", key] = data
        (tmp_path / "objects" / sha256_bytes(data)).write_bytes(data)
    return made


# Reading


@pytest.mark.parametrize("variants", [None, ["cpu"]])
def test_a_release_comes_from_the_hub_in_ranges_and_storage_sees_no_token(
    a_hub: Hub, storage: web.Web, noise: tuple[m.Manifest, bytes], variants: list[str] | None
) -> None:
    manifest, data = noise
    a_hub.private.add("org/net")
    fetched = get(URL, variants)
    assert_right(fetched, data, variants)
    assert fetched.came == len(data) if variants is None else fetched.came < len(data)
    sha256 = manifest.artifacts[0].blob.sha256
    bodies = [asked for path, asked in storage.seen if sha256 in path]
    assert bodies and all(asked.startswith("bytes=") for asked in bodies)
    assert set(storage.authorizations) == {None}
    assert {given for _, _, given in a_hub.seen} == {f"Bearer {TOKEN}"}


def test_without_a_token_what_is_public_is_read_and_listed(
    a_hub: Hub, noise: tuple[m.Manifest, bytes], monkeypatch: pytest.MonkeyPatch, vmfb: Vmfb, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert_right(get(URL), noise[1], None)
    assert vmfb("list", "--store", URL) == 0
    assert noise[0].version in capsys.readouterr().out
    source = open_source(URL)
    assert source.listed("channels/") == [channel_key("noise", "latest")]
    assert source.listed("channels/no") == [channel_key("noise", "latest")]
    assert source.listed("yanked/") == []
    assert {"README.md", INDEX_KEY} < set(source.listed("") or ())
    assert ".gitattributes" not in (source.listed("") or ())
    assert {given for _, _, given in a_hub.seen} == {None}


def test_a_revision_is_read_as_it_is_there(a_hub: Hub, package: Package, tmp_path: Path) -> None:
    """A commit never changes; a branch has another history; a branch's name may have a slash."""
    store = open_store(URL)
    publish(package("one"), store, version="1.0")
    pinned = a_hub.commits["org/net"][-1][0]
    publish(package("two"), store, version="2.0")
    assert pointed_at(store) == "2.0"
    then = open_source(f"{URL}@{pinned}")
    assert (then.listed("releases/"), then.listed("yanked/")) == ([k for k in store.keys("releases/") if "/1.0/" in k], [])
    found = then.get(channel_key(MODEL, "latest"))
    assert found and b'"1.0"' in found.data
    assert get(f"{URL}@{pinned}", model=MODEL).path.read_bytes() == b"one" * 1000
    before = open_source(f"{URL}@{REVISION}")
    assert before.get(INDEX_KEY) is None
    tree = a_hub.tree("org/net")
    assert tree
    a_hub.commits["org/net"].append(("refs/pr/1", tree[1]))
    assert open_source(f"{URL}@refs/pr/1").get(INDEX_KEY) == store.get(INDEX_KEY)
    with pytest.raises(PipelineError, match="a commit never changes"):
        open_store(f"{URL}@{pinned}")


@pytest.mark.parametrize(
    ("url", "complaint", "remedy"),
    [
        ("hf://org/nothing", "there is no such repository, or it is private", "HF_TOKEN"),
        ("hf://org/private", "there is no such repository, or it is private", "HF_TOKEN"),
        ("hf://org/gated", "only for those who were given access", "org/gated"),
        ("hf://org/net@v9", "the repository has no such revision", "what follows the @"),
        ("hf://net", "'hf://net' is no store", "hf://user/repo@revision"),
        ("hf://datasets/org/net", "'hf://datasets/org/net' is no store", "a model's repository"),
    ],
)
def test_what_the_hub_has_not_is_one_message(
    a_hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    vmfb: Vmfb,
    capsys: pytest.CaptureFixture[str],
    url: str,
    complaint: str,
    remedy: str,
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    a_hub.files |= {("org/private", "a"): b"", ("org/gated", "a"): b""}
    a_hub.private.add("org/private")
    a_hub.gated.add("org/gated")
    for words in (["fetch", "noise"], ["list"]):
        assert vmfb(*words, "--store", url) == 1
        said = capsys.readouterr().err
        assert complaint in said, said
        assert remedy in said.split("→")[-1]
        assert "Traceback" not in said and len([line for line in said.splitlines() if not line.startswith("note: ")]) <= 2


def test_no_hub_no_network_and_no_library_are_one_message(
    a_hub: Hub, monkeypatch: pytest.MonkeyPatch, vmfb: Vmfb, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import constants

    def refused(*words: str) -> str:
        assert vmfb(*words, "--store", URL) in (1, 75)  # 75: it is away
        said = capsys.readouterr().err
        assert "Traceback" not in said and "hf_s3cr3t" not in said
        return said

    monkeypatch.setenv("HF_TOKEN", "hf_s3cr3t")
    for words in (["fetch", "noise"], ["list"]):
        said = refused(*words)
        assert "401" in said and "HF_TOKEN" in said
    monkeypatch.setattr(a_hub, "trouble", lambda _method, _path: 404)
    assert "this is no hub" in refused("fetch", "noise")
    monkeypatch.setattr(a_hub, "trouble", lambda _method, _path: 0)
    a_hub.is_hub = False
    assert "this is no hub" in refused("fetch", "noise")
    with pytest.raises(PipelineError, match="this is no hub"):
        open_source(URL).listed("")
    for name in ("create", "upload"):
        with pytest.raises(PipelineError, match="this is no hub"):
            WRITES[name](open_store(URL))
    for endpoint, complaint in (("http://127.0.0.1:1", "cannot connect"), ("ftp://x", "'ftp://x' is no hub")):
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        assert complaint in refused("fetch", "noise")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "ENDPOINT", a_hub.url)
    assert "HF_HUB_OFFLINE is set" in refused("fetch", "noise")
    for module in ("hf", "hub"):
        monkeypatch.delitem(sys.modules, f"pipeline.store.{module}")
        monkeypatch.delattr(f"pipeline.store.{module}")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install 'huggingface_hub" in refused("fetch", "noise")


def test_the_same_repository_of_another_hub_is_another_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert address_of("hf://org/net@main/").name == address_of(URL).name == URL
    assert address_of(f"{URL}@v1").name == f"{URL}@v1"
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example.org/")
    assert address_of(URL).name == f"https://hub.example.org {URL}"


# Writing


def test_a_store_is_copied_to_the_hub_and_back(
    a_hub: Hub, storage: web.Web, package: Package, vmfb: Vmfb, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = open_store(str(tmp_path / "source"))
    for version, text in (("1.0", "one"), ("2.0", "two")):
        publish(package(text), source, version=version)
    assert vmfb("copy", "--all", "--store", source.url, "--to", URL) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[1].startswith(f"{MODEL}@2.0: ") and ", channel latest" in said.out
    assert not re.search("Xet|commit|LFS", said.err)
    there = open_store(URL)
    assert content(there, ("channels/", "README.md")) == content(source, ("channels/",))
    assert pointed_at(there) == "2.0"
    made = len(a_hub.commits["org/net"])
    assert vmfb("copy", "--all", "--store", source.url, "--to", URL) == 0
    assert capsys.readouterr().out.splitlines() == [f"{MODEL}@{v}: nothing to send, was there" for v in ("1.0", "2.0")]
    assert len(a_hub.commits["org/net"]) == made
    back = open_store(str(tmp_path / "back"))
    assert vmfb("copy", "--all", "--store", URL, "--to", back.url) == 0
    assert content(back) == content(there, ("README.md",))


def test_a_copy_goes_on_though_answers_are_lost_and_others_commit(
    a_hub: Hub, package: Package, vmfb: Vmfb, tmp_path: Path
) -> None:
    """Others commit in between, at every second commit: what they put stays, and all that was copied is there."""
    source = open_store(str(tmp_path / "source"))
    publish(package("one"), source, version="1.0")
    count = 0

    def disturb() -> None:
        nonlocal count
        count += 1
        if count % 2:
            a_hub.commit("org/net", {f"others/{count}": b"theirs"})

    a_hub.before_commit, a_hub.lost = disturb, 2
    assert vmfb("copy", "--all", "--store", source.url, "--to", URL) == 0
    there = open_store(URL)
    assert content(there, ("channels/", "others/", "README.md")) == content(source, ("channels/",))
    assert pointed_at(there) == "1.0"
    assert len(there.keys("others/")) == (count + 1) // 2


def test_two_publish_at_once_and_a_release_lives_its_life_there(a_hub: Hub, package: Package, tmp_path: Path) -> None:
    """Each with a connection of its own: both releases are there and listed, and the channel has had both."""
    packages = [package("one"), package("two")]
    race(*(partial(publish, one, open_store(URL), version=f"{n}.0") for n, one in enumerate(packages, 1)))
    store = open_store(URL)
    for version in ("1.0", "2.0"):
        assert_whole(store, version)
    last = pointed_at(store)
    first = "1.0" if last == "2.0" else "2.0"
    index = store.get(INDEX_KEY)
    assert index and all(f'"{version}"'.encode() in index.data for version in (first, last))
    assert f"{first}" in back(store, tmp_path)
    assert pointed_at(store) == first
    say_yanked(store, tmp_path, last)
    with pytest.raises(PipelineError, match="wrong on Tuesdays"):
        resolve(store, f"{MODEL}@{last}", tmp_path / "cache")


def test_a_large_file_goes_in_parts(a_hub: Hub) -> None:
    a_hub.part = 3000
    store = open_store(URL)
    _upload(store)
    assert sum("/upload/" in path for _, path, _ in a_hub.seen) == 4 + 1
    assert store.holds("folder/a", len(LARGE), sha256_bytes(LARGE))
    found = store.get("folder/a")
    assert found and found.data == LARGE


def test_a_write_whose_answer_was_lost_is_told_as_made(a_hub: Hub) -> None:
    store = open_store(URL)
    a_hub.lost = 1
    assert store.create("a.json", b"one")
    found = store.get("a.json")
    a_hub.lost = 1
    assert found and store.replace("a.json", b"two", found.tag)
    assert len(a_hub.commits["org/net"]) == 2
    assert not store.create("a.json", b"two")


def test_what_others_commit_meanwhile_is_seen(a_hub: Hub) -> None:
    """At the same key: nothing is written over it. What was in between is looked at again, once for each commit."""
    store = open_store(URL)
    assert store.create("a.json", b"one")
    before = store.get("a.json")
    assert before
    others = iter([b"theirs"])

    def theirs(key: str) -> None:
        for data in others:
            a_hub.commit("org/net", {key: data})

    a_hub.before_commit = lambda: theirs("a.json")
    assert not store.replace("a.json", b"two", before.tag)
    others = iter([b"theirs"])
    a_hub.before_commit = lambda: theirs("b.json")
    assert not store.create("b.json", b"ours")
    for key in ("a.json", "b.json"):
        found = store.get(key)
        assert found and found.data == b"theirs"


def test_a_commit_that_never_comes_first_is_an_error(a_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.store.hf._CONFLICTS", 3)
    numbers = iter(range(100))
    a_hub.before_commit = lambda: a_hub.commit("org/net", {f"others/{next(numbers)}": b""})
    with pytest.raises(PipelineError, match="others put 3 commits on top"):
        open_store(URL).create("a.json", b"ours")
    assert open_store(URL).get("a.json") is None


@pytest.mark.parametrize("name", ["create", "upload"])
def test_what_the_hub_does_not_take_is_one_message(a_hub: Hub, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    write = WRITES[name]

    def refused() -> str:
        with pytest.raises(PipelineError) as caught:
            write(open_store(URL))
        said = str(caught.value)
        assert said.startswith(URL) and len(said.splitlines()) == 2
        return said

    monkeypatch.setattr(a_hub, "trouble", lambda method, path: 429 if "/commit/" in path else 0)
    assert "the hub answers 429" in (said := refused()) and "go on later" in said
    monkeypatch.setattr(a_hub, "trouble", lambda method, path: 403 if method == "PUT" or "/commit/" in path else 0)
    assert "the hub answers 403" in (said := refused()) and "HF_TOKEN" in said
    monkeypatch.setattr(a_hub, "trouble", lambda method, path: 0)
    a_hub.ignored = ("folder/",)
    if name == "create":
        assert ".gitignore" in refused()
    a_hub.readers.add("hf_reader")
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    assert "the hub answers 403 You must use a token with write access" in (said := refused()) and "HF_TOKEN" in said
    monkeypatch.delenv("HF_TOKEN")
    refused()
    assert open_store(URL).get("folder/a") is None


def test_a_hub_that_takes_commits_on_top_of_any_is_refused(a_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked once a run, and by one commit ever."""

    def publishes() -> None:
        monkeypatch.setattr(conditions, "_obeyed", set())
        open_to_publish(URL)

    publishes()
    publishes()
    assert [set(tree) - set(a_hub.tree("org/net", REVISION)[1]) for _, tree in a_hub.commits["org/net"]] == [{PROBE_KEY}]
    a_hub.obeys_parents = False
    with pytest.raises(PipelineError, match="the server ignores parentCommit"):
        publishes()
    with pytest.raises(PipelineError, match="the server ignores parentCommit"):
        publishes()
    a_hub.obeys_parents = True
    publishes()


def test_a_signed_store_is_mirrored_there(a_hub: Hub, vmfb: Vmfb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By who has no key, and read as its signers say: not as who may commit there does."""
    signed = trusting.begun(tmp_path, monkeypatch)
    monkeypatch.setenv(trusting.VARIABLE, str(tmp_path / "none"))
    assert vmfb("copy", "--all", "--store", signed.url, "--to", URL) == 0
    trusting.believe(URL, signed)
    latest = Reference(trusting.MODEL, channel="latest")
    found = trusting.manifest_of(URL, latest, tmp_path / "a")
    assert found == trusting.manifest_of(signed.url, latest, tmp_path / "b")
    tree = a_hub.tree("org/net")
    assert tree
    key = release_key(found.model.name, found.version)
    a_hub.commit("org/net", {key: tree[1][key] + b"\n"})
    with pytest.raises(TrustError):
        trusting.manifest_of(URL, latest, tmp_path / "c")


@pytest.mark.usefixtures("builders_key")
def test_pieces_of_code_are_not_kept_there(caplog: pytest.LogCaptureFixture) -> None:
    assert cache.shared_at(URL, writable=True) is None
    assert "every piece would be a commit" in caplog.text


def test_nothing_is_removed_from_the_hub(a_hub: Hub) -> None:
    with pytest.raises(PipelineError, match="keeps all that it ever had"):
        open_to_keep(URL)
