"""Signing a store: beginning, publishing by many, kills, keys that are not there, and the time that is left."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.consume.cache import Cache
from pipeline.consume.reference import Reference
from pipeline.consume.resolve import Remote, Resolver
from pipeline.errors import PipelineError
from pipeline.layout import channel_key, release_key
from pipeline.plan import TRUST
from pipeline.stages import trust
from pipeline.stages.publish import publish
from pipeline.store.base import Store
from pipeline.store.open import address_of, open_to_publish
from pipeline.trust import anchors
from pipeline.trust.anchors import TrustError
from pipeline.trust.keys import VARIABLE, find_keys, make_key, places, read_key
from pipeline.trust.repository import read_days
from pipeline.trust.setup import Setup, begin
from pipeline.trust.signed import signing
from pipeline.trust.upkeep import refresh
from tests import releases, trusting
from tests.project import Project
from tests.publishing import Spy
from tests.trusting import MODEL, SEGMENT, SIZE, Signed

LATEST = Reference(MODEL, channel="latest")
ASKED = {**TRUST, "model": ""}


@pytest.fixture
def signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Signed:
    return trusting.begun(tmp_path, monkeypatch)


class KilledError(BaseException):
    """As SIGKILL does, nothing catches it."""


def test_a_store_is_signed_with_all_that_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMFB_TRUST_DIR", str(tmp_path / "trust"))
    monkeypatch.setenv(VARIABLE, str(tmp_path / "keys"))
    url = str(tmp_path / "store")
    store = open_to_publish(url)
    first, _ = releases.release(store, tmp_path / "a", SIZE, SEGMENT)
    for key in ("releases/noise/README.txt", "releases/noise/9/manifest.json", "channels/noise/x.json"):
        assert store.create(key, b"{}")
    trust.run("init", url, ASKED, tmp_path / "out")
    told = (tmp_path / "out" / "report.txt").read_text()
    assert "signed from now on: 5 documents" in told
    assert [line.split(":")[1].strip() for line in told.splitlines() if "not signed" in line] == [
        "channels/noise/x.json",
        "releases/noise/9/manifest.json",
        "releases/noise/README.txt",
    ]
    assert trusting.manifest_of(url, LATEST, tmp_path / "cache") == first
    assert sorted(path.name for path in (tmp_path / "keys").iterdir()) == ["online.pem", "root.json", "root.pem", "targets.pem"]
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "keys").glob("*.pem")}
    assert set(modes.values()) == {0o600}
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    everything = b"".join(path.read_bytes() for path in [*tmp_path.rglob("*.json"), *tmp_path.rglob("*.txt")])
    assert b"PRIVATE" not in everything
    with pytest.raises(PipelineError, match="is signed already"):
        trust.run("init", url, ASKED, tmp_path / "out")


@pytest.mark.parametrize("asked", [{"roots": "0"}, {"threshold": "2"}, {"days": "root"}, {"days": "roof:3"}, {"roots": "x"}])
def test_what_cannot_be_is_refused(asked: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "keys"))
    with pytest.raises(PipelineError):
        trust.run("init", str(tmp_path / "store"), {**ASKED, **asked}, tmp_path / "out")
    assert not (tmp_path / "keys").exists()


def test_a_kill_while_it_begins_is_made_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "keys"))
    made = tmp_path / "made"
    releases.release(open_to_publish(str(made)), tmp_path / "package", SIZE, SEGMENT)
    done, number = False, 0
    while not done:
        number += 1
        url = str(tmp_path / f"store-{number}")
        shutil.copytree(made, url)
        monkeypatch.setenv("VMFB_TRUST_DIR", str(tmp_path / f"trust-{number}"))
        spy = Spy(open_to_publish(url), after=_killer(number))
        try:
            begin(spy, url, Setup())
            done = True
        except KilledError:
            trusting.manifest_of(url, LATEST, tmp_path / "cache")  # as before, or signed: in any case it is read
            begin(open_to_publish(url), url, Setup())
        assert anchors.anchor_of(url)
        trusting.manifest_of(url, LATEST, tmp_path / "cache")
    assert number > 6


def _killer(number: int) -> Callable[[Spy], None]:
    """Ends everything after so many writes."""

    def after(spy: Spy) -> None:
        if len(spy.writes) >= number and spy.calls[-1] == spy.writes[-1]:
            raise KilledError

    return after


def test_a_kill_at_any_write_leaves_the_old_state_or_the_new_one(signed: Signed, tmp_path: Path) -> None:
    first, before = trusting.manifest_of(signed.url, LATEST, tmp_path / "cache"), signed.state("before")
    releases.make(tmp_path / "next", SIZE, SEGMENT, 5)
    seen, number, done = set(), 0, False
    while not done:
        number += 1
        signed.go_back(before)
        shutil.rmtree(anchors.every()[0].folder / "metadata")
        spy = Spy(open_to_publish(signed.url), after=_killer(number))
        try:
            publish(tmp_path / "next", signing(spy, signed.url))
            done = True
        except KilledError:
            found = trusting.manifest_of(signed.url, LATEST, tmp_path / "cache")
            seen.add(found.version)
        publish(tmp_path / "next", signing(open_to_publish(signed.url), signed.url))
        after = trusting.manifest_of(signed.url, LATEST, tmp_path / "cache")
        assert after != first
    assert first.version in seen
    assert number > 8


def test_publishing_the_same_again_signs_nothing(signed: Signed) -> None:
    signed.publish(1)
    before = sorted((signed.root / "trust").rglob("*"))
    content = (signed.root / "trust" / "timestamp.json").read_bytes()
    signed.publish(1)
    assert sorted((signed.root / "trust").rglob("*")) == before
    assert (signed.root / "trust" / "timestamp.json").read_bytes() == content


def test_a_publisher_without_the_key_is_refused_before_anything_is_sent(
    signed: Signed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (signed.keys / "targets.pem").rename(tmp_path / "elsewhere.pem")
    releases.make(tmp_path / "next", SIZE, SEGMENT, 5)
    spy = Spy(open_to_publish(signed.url))
    with pytest.raises(PipelineError, match="the keys to sign as `targets` are not here") as caught:
        publish(tmp_path / "next", signing(spy, signed.url))
    assert spy.writes == []
    assert str(signed.keys) in str(caught.value)
    monkeypatch.setenv("VMFB_TRUST_DIR", str(tmp_path / "nothing"))
    with pytest.raises(TrustError, match="no root of trust is known for it here"):
        signing(spy, signed.url)
    assert spy.writes == []


def test_a_key_by_its_uri(signed: Signed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = (signed.keys / "targets.pem").rename(tmp_path / "elsewhere.pem")
    monkeypatch.setenv(VARIABLE, f"{signed.keys},targets=file2:{moved}")
    assert signed.publish(2)
    for uri, told in (
        ("magic:key", "there is no kind of keys magic:"),
        (f"file2:{tmp_path}/secret-place", "cannot be used"),
        ("azurekms:secret-vault/keys/1", "azure"),
        ("hv:secret-key/1", "hvac"),
    ):
        monkeypatch.setenv(VARIABLE, f"{signed.keys},targets={uri}")
        with pytest.raises(PipelineError, match=told) as caught:
            signed.publish(3)
        assert "secret" not in str(caught.value)
    monkeypatch.setenv(VARIABLE, "Targets=x")
    with pytest.raises(PipelineError, match="neither a folder nor ROLE=URI"):
        places()


def test_what_is_no_key_is_refused(signed: Signed) -> None:
    path = signed.keys / "targets.pem"
    path.chmod(0o644)
    with pytest.raises(PipelineError, match="may be read by others"):
        find_keys()
    path.chmod(0o600)
    path.write_bytes(b"-----BEGIN PRIVATE KEY-----\nrubbish\n-----END PRIVATE KEY-----\n")
    with pytest.raises(PipelineError, match="is no private key"):
        read_key(path)


def test_nothing_that_others_put_there_is_signed(signed: Signed) -> None:
    """Whoever has the bucket waits for the next who signs in vain."""
    first = signed.publish(0)
    pointer = signed.root / channel_key(MODEL, "latest")
    (signed.root / channel_key(MODEL, "beta")).write_bytes(pointer.read_bytes())
    forged = signed.root / release_key(MODEL, "9")
    forged.parent.mkdir()
    forged.write_bytes((signed.root / release_key(MODEL, first.version)).read_bytes())
    second = signed.publish(1, channel="stable")
    index = Resolver(Remote(signed.url), Cache(signed.packages / "cache")).index()
    assert {(c.channel, c.version) for c in index.models[0].channels} == {("latest", first.version), ("stable", second.version)}
    assert set(index.models[0].versions) == {first.version, second.version}


def test_nobody_signs_on_top_of_what_is_not_signed_or_is_older(signed: Signed) -> None:
    before = signed.state("before")
    signed.publish(1)
    signed.go_back(before)
    with pytest.raises(TrustError, match="older state"):
        signed.publish(2)
    signed.forge("timestamp", signed.keys / "targets.pem")
    with pytest.raises(TrustError, match="not signed by enough"):
        signed.publish(2)


def test_eight_publishers_at_once(new_store: Callable[[], Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several models, and of one: all that they say is signed in the end, and each channel is what its pointer says."""
    monkeypatch.setenv("VMFB_TRUST_DIR", str(tmp_path / "trust"))
    monkeypatch.setenv(VARIABLE, str(tmp_path / "keys"))
    store = new_store()
    url = store.url
    name = address_of(url).name
    releases.release(store, tmp_path / "first", SIZE, SEGMENT)
    begin(store, name, Setup())
    jobs = [(f"model-{n % 4}", n) for n in range(8)]
    for model, seed in jobs:
        releases.make(tmp_path / f"{model}-{seed}", SIZE, SEGMENT, seed, name=model)

    def job(of: tuple[str, int]) -> str:
        return str(publish(tmp_path / f"{of[0]}-{of[1]}", signing(open_to_publish(url), url))["release"])

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(job, jobs))
    index = Resolver(Remote(url), Cache(tmp_path / "cache")).index()
    assert {f"{m.name}@{v}" for m in index.models for v in m.versions} == {*made, *_names(index, MODEL)}
    for model in index.models:
        pointer = store.get(channel_key(model.name, "latest"))
        assert pointer
        assert json.loads(pointer.data)["version"] == model.channels[0].version
        assert trusting.manifest_of(url, Reference(model.name, channel="latest"), tmp_path / "cache")


def _names(index: object, model: str) -> set[str]:
    return {f"{m.name}@{v}" for m in index.models if m.name == model for v in m.versions}  # type: ignore[attr-defined]


def test_what_would_expire_is_signed_anew(signed: Signed, tmp_path: Path) -> None:
    anchor = anchors.anchor_of(signed.url)
    assert anchor
    signed.forge("timestamp", edit=lambda one: setattr(one, "expires", trusting.past()))
    with pytest.raises(TrustError, match="a time that is over"):
        trusting.manifest_of(signed.url, LATEST, tmp_path / "cache")
    (signed.keys / "targets.pem").rename(tmp_path / "targets.pem")
    trust.run("refresh", signed.url, ASKED, tmp_path / "out")
    assert (tmp_path / "out" / "report.txt").read_text() == f"{signed.url} is signed anew\n"
    assert trusting.manifest_of(signed.url, LATEST, tmp_path / "cache")
    signed.forge("snapshot", edit=lambda one: setattr(one, "expires", trusting.past()))
    signed.forge("targets", tmp_path / "targets.pem", edit=lambda one: setattr(one, "expires", trusting.past()))
    told = refresh(open_to_publish(signed.url), anchor, find_keys())
    assert told[1] == "signed anew: snapshot"
    assert told[2].startswith("! targets ends ")
    (tmp_path / "targets.pem").rename(signed.keys / "targets.pem")
    assert refresh(open_to_publish(signed.url), anchor, find_keys())[1:] == ["signed anew: targets"]
    assert trusting.manifest_of(signed.url, LATEST, tmp_path / "cache")


def test_the_days_of_roles() -> None:
    assert read_days("timestamp:1,root:30") == {"root": 30, "timestamp": 1}


def test_a_key_is_never_written_over(tmp_path: Path) -> None:
    made = [make_key(tmp_path, "root").public_key.keyid for _ in range(3)]
    found = [read_key(tmp_path / name) for name in ("root.pem", "root-2.pem", "root-3.pem")]
    assert [key.public_key.keyid for key in found if key] == made


def test_the_commands(
    signed: Signed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VMFB_CACHE", str(tmp_path / "cache"))
    root = str(signed.keys / "root.json")
    assert main(["list", signed.url]) == 0
    assert capsys.readouterr().err == ""
    assert main(["trust", "list"]) == 0
    assert signed.url in capsys.readouterr().out
    assert main(["trust", "remove", signed.url]) == 0
    assert main(["list", signed.url]) == 0
    assert "is not signed, as far as is known here" in capsys.readouterr().err
    assert main(["fetch", MODEL, "--full", "-q", "--store", signed.url]) == 0
    assert capsys.readouterr().err == ""
    assert main(["trust", "add", signed.url, root]) == 0
    assert "targets: 1 of 1" in capsys.readouterr().out
    other = tmp_path / f"other-{uuid.uuid4().hex}"
    shutil.copytree(signed.root, other)
    shutil.rmtree(other / "trust")
    assert main(["trust", "add", str(other), root]) == 1
    assert "is not signed so: is not signed, though its signers are known here" in capsys.readouterr().err
    assert main(["trust", "add", str(other / "nothing"), root]) == 1
    assert main(["trust", "add", signed.url, str(signed.root / "trust" / "timestamp.json")]) == 1
    assert "is other metadata than a root" in capsys.readouterr().err
    assert main(["trust", "remove", str(other)]) == 1
    assert "no root of trust is known" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to(signed: Signed, tmp_path: Path) -> None:
    anchor = anchors.anchor_of(signed.url)
    assert anchor
    anchor.folder.chmod(0o500)
    assert trusting.manifest_of(signed.url, LATEST, tmp_path / "cache")


def test_doit_signs(built: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user does it: the store of a project, from its folder."""
    clone, store = Project(tmp_path / "clone", "small"), str(shutil.copytree(built.layout.store, tmp_path / "store"))
    trusted = {"VMFB_TRUST_DIR": str(tmp_path / "trust"), VARIABLE: str(tmp_path / "keys"), "PIPELINE_STORE": store}
    done = clone.doit("trust-init", "days=timestamp:2", **trusted)
    assert done.returncode == 0, done.stdout
    assert f"{store} is signed from now on: " in done.stdout
    version = next(Path(store).glob("releases/small/*")).name
    done = clone.doit("promote", "model=small", f"version={version}", "channel=stable", **trusted)
    assert done.returncode == 0, done.stdout
    monkeypatch.setenv("VMFB_TRUST_DIR", trusted["VMFB_TRUST_DIR"])
    assert trusting.manifest_of(store, Reference("small", channel="stable"), tmp_path / "cache").version == version
    done = clone.doit("trust-rotate", "role=root", "kye=x", **trusted)
    assert done.returncode == 3
    assert "did you mean 'key'?" in done.stderr
