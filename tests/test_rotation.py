"""Who signs changes: lost and leaked keys, more publishers, thresholds, a role of its own for a model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Root

from pipeline.consume.reference import Reference
from pipeline.errors import PipelineError
from pipeline.layout import channel_key
from pipeline.stages import trust
from pipeline.stages.publish import publish
from pipeline.store.open import open_to_publish
from pipeline.trust import anchors
from pipeline.trust.anchors import TrustError
from pipeline.trust.keys import VARIABLE, make_key, read_key
from pipeline.trust.rotate import Rotation, rotate
from pipeline.trust.setup import Setup
from pipeline.trust.signed import signing
from tests import releases, trusting
from tests.publishing import Spy
from tests.test_trust import ASKED, KilledError, _killer
from tests.trusting import MODEL, SEGMENT, SIZE, Signed

LATEST = Reference(MODEL, channel="latest")


@pytest.fixture
def signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Signed:
    return trusting.begun(tmp_path, monkeypatch)


def turn(signed: Signed, tmp_path: Path, **asked: str) -> str:
    trust.run("rotate", signed.url, {**ASKED, **asked}, tmp_path / "out")
    return (tmp_path / "out" / "report.txt").read_text()


def consumer(signed: Signed, tmp_path: Path) -> Callable[[], str]:
    """One who knows the first root, elsewhere: what it gets is the version of the channel."""
    url = str(tmp_path / "mirror")
    root, keeps = anchors.every()[0].root, tmp_path / "mirror-keeps"

    def ask() -> str:
        shutil.rmtree(url, ignore_errors=True)
        shutil.copytree(signed.root, url)
        anchors.add(url, root)
        return trusting.manifest_of(url, LATEST, keeps).version

    return ask


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp", "evidence", "online"])
def test_a_key_is_replaced(role: str, signed: Signed, tmp_path: Path) -> None:
    """Consumers who know the first root alone follow; the old key signs nothing any more, and the new one does."""
    ask = consumer(signed, tmp_path)
    first = ask()
    old = signed.keys / f"{'online' if role in ('snapshot', 'timestamp', 'evidence') else role}.pem"
    assert f"{role if role != 'online' else 'snapshot'}" in turn(signed, tmp_path, role=role)
    assert ask() == first
    if role not in ("snapshot", "timestamp", "evidence"):  # whose old key is that of the others still
        old.unlink()
    second = signed.publish(1).version
    assert ask() == second != first


def test_a_lost_key(signed: Signed, tmp_path: Path) -> None:
    ask = consumer(signed, tmp_path)
    for role in ("targets", "online"):
        (signed.keys / f"{role}.pem").unlink()
        if role == "online":
            with pytest.raises(PipelineError, match="the keys to sign as `snapshot` are not here"):
                signed.publish(1)
        turn(signed, tmp_path, role=role)
        assert ask()
    second = signed.publish(1).version
    assert ask() == second
    (signed.keys / "root.pem").unlink()
    with pytest.raises(PipelineError, match="the keys to sign as `root` are not here"):
        turn(signed, tmp_path, role="targets")


def test_a_leaked_key_signs_nothing_any_more(signed: Signed, tmp_path: Path) -> None:
    ask = consumer(signed, tmp_path)
    stolen = shutil.copy(signed.keys / "targets.pem", tmp_path / "stolen.pem")
    turn(signed, tmp_path, role="targets")
    assert ask()
    signed.forge("targets", Path(stolen), lambda one: one.targets.clear())
    with pytest.raises(TrustError, match="not signed by enough"):
        ask()


def test_fast_forward(signed: Signed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has the online key signs a state far ahead: with a new key, consumers believe the store's own numbers again."""
    ask = consumer(signed, tmp_path)
    before = signed.state("before")
    signed.forge("snapshot", edit=lambda one: setattr(one, "version", 10**9))
    assert ask()
    signed.go_back(before)
    with pytest.raises(TrustError, match="older state"):
        ask()
    turn(signed, tmp_path, role="online")
    assert ask()


def test_a_threshold_of_root_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two keys that have to sign makes no root; one that is forged so is not followed."""
    signed = trusting.begun(tmp_path, monkeypatch, Setup(roots=3, threshold=2))
    ask = consumer(signed, tmp_path)
    assert ask()
    names = ["root.pem", "root-2.pem", "root-3.pem"]
    for name in names[1:]:
        (tmp_path / "away").mkdir(exist_ok=True)
        (signed.keys / name).rename(tmp_path / "away" / name)
    with pytest.raises(PipelineError, match="the keys to sign as `root` are not here: 2 of"):
        turn(signed, tmp_path, role="targets")
    root = Metadata[Root].from_file(str(signed.root / "trust" / "1.root.json"))
    root.signed.version = 2
    root.signed.roles["root"].threshold = 1
    signer = read_key(signed.keys / names[0])
    assert signer
    root.sign(signer)
    (signed.root / "trust" / "2.root.json").write_bytes(root.to_bytes())
    with pytest.raises(TrustError, match="not signed by enough"):
        ask()
    (signed.root / "trust" / "2.root.json").unlink()
    monkeypatch.setenv(VARIABLE, f"{signed.keys},{tmp_path / 'away'}")
    assert "root: 2 of 3" in turn(signed, tmp_path, role="targets")
    assert ask()


def test_a_new_publisher(signed: Signed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key beside the others, of which only the public half is known here; and it goes again."""
    ask = consumer(signed, tmp_path)
    theirs = tmp_path / "theirs"
    keyid = make_key(theirs, "anna").public_key.keyid
    public = tmp_path / "anna.pub.pem"
    public.write_text(str(read_key(theirs / "anna.pem").public_key.keyval["public"]))  # type: ignore[union-attr]
    text = turn(signed, tmp_path, role="targets", key=str(theirs / "anna.pem"), add="yes")
    assert "targets: 1 of 2" in text
    assert keyid in text
    shutil.copy(signed.keys / "online.pem", theirs / "online.pem")
    monkeypatch.setenv(VARIABLE, str(theirs))
    second = signed.publish(1).version
    assert ask() == second
    monkeypatch.setenv(VARIABLE, str(signed.keys))
    assert "targets: 1 of 1" in turn(signed, tmp_path, role="targets", remove=keyid[:12])
    assert ask() == second
    monkeypatch.setenv(VARIABLE, str(theirs))
    with pytest.raises(PipelineError, match="the keys to sign as `targets` are not here"):
        signed.publish(2)


def test_a_role_of_its_own_for_a_model(signed: Signed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has a model's key publishes that one alone, and what was signed of it before stays."""
    ask = consumer(signed, tmp_path)
    first, other = ask(), signed.publish(4, "other")
    theirs = tmp_path / "theirs"
    make_key(theirs, MODEL)
    assert f"{MODEL}: 1 of 2" in turn(signed, tmp_path, model=MODEL, key=str(theirs / f"{MODEL}.pem"))
    assert ask() == first
    shutil.copy(signed.keys / "online.pem", theirs / "online.pem")
    monkeypatch.setenv(VARIABLE, str(theirs))
    second = signed.publish(1).version
    assert ask() == second != first
    with pytest.raises(PipelineError, match="the keys to sign as `targets` are not here"):
        signed.publish(5, "other")
    forged = signed.root / channel_key("other", "latest")
    assert forged.exists()
    signed.forge(MODEL, theirs / f"{MODEL}.pem", lambda one: one.targets.pop(channel_key(MODEL, "latest")))
    with pytest.raises(PipelineError, match="has no channel"):
        ask()
    assert trusting.manifest_of(signed.url, Reference("other", channel="latest"), tmp_path / "c") == other
    monkeypatch.setenv(VARIABLE, str(signed.keys))
    signed.publish(2)  # the keys of the top may, too
    stolen = shutil.copy(signed.keys / "targets.pem", tmp_path / "stolen.pem")
    turn(signed, tmp_path, role="targets")
    third = ask()
    signed.forge(MODEL, Path(stolen), lambda one: one.targets.clear())
    with pytest.raises(TrustError, match="not signed by enough"):
        ask()
    assert third not in (first, second)


def test_a_model_that_is_new_may_have_a_role(signed: Signed, tmp_path: Path) -> None:
    turn(signed, tmp_path, model="young")
    made = signed.publish(9, "young")
    assert (signed.keys / "young.pem").exists()
    assert trusting.manifest_of(signed.url, Reference("young", channel="latest"), tmp_path / "c") == made


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({}, "which role"),
        ({"role": "targets", "model": MODEL}, "which role"),
        ({"role": "tragets"}, "did you mean 'targets'"),
        ({"role": "Targets"}, "is no role"),
        ({"model": "online"}, "can have no role"),
        ({"role": "targets", "remove": "0000"}, "is no key of"),
        ({"role": "targets", "threshold": "2"}, "2 of 1 keys cannot sign"),
        ({"role": "targets", "threshold": "two"}, "no number"),
        ({"role": "targets", "add": "maybe"}, "neither yes nor no"),
        ({"role": "targets", "key": "/no/such/key.pem"}, "No such file"),
        ({"role": "targets", "key": "PUBLIC"}, "0 of them are here"),
    ],
)
def test_what_cannot_be_is_refused(asked: dict[str, str], told: str, signed: Signed, tmp_path: Path) -> None:
    make_key(tmp_path / "theirs", "anna")
    asked = {name: str(tmp_path / "theirs" / "anna.pem") if word == "PUBLIC" else word for name, word in asked.items()}
    before = {path: path.read_bytes() for path in [*signed.root.rglob("*"), *signed.keys.iterdir()] if path.is_file()}
    with pytest.raises(PipelineError, match=told):
        turn(signed, tmp_path, **asked)
    assert before == {path: path.read_bytes() for path in [*signed.root.rglob("*"), *signed.keys.iterdir()] if path.is_file()}


@pytest.mark.parametrize("role", ["targets", "online", "root", "young"])
def test_a_kill_at_any_write_leaves_what_consumers_believe(role: str, signed: Signed, tmp_path: Path) -> None:
    ask = consumer(signed, tmp_path)
    anchor, before = anchors.every()[0], signed.state("before")
    first, number, done = ask(), 0, False
    while not done:
        number += 1
        signed.go_back(before)
        shutil.rmtree(anchor.folder / "metadata", ignore_errors=True)
        for each in anchors.every():
            if each.store != anchor.store:
                anchors.remove(each.store)
        spy = Spy(open_to_publish(signed.url), after=_killer(number))
        try:
            rotate(spy, anchor, Rotation(role, model=role == "young"))
            done = True
        except KilledError:
            assert ask() == first
            rotate(open_to_publish(signed.url), anchor, Rotation(role, model=role == "young"))
        assert ask() == first
    releases.make(tmp_path / "next", SIZE, SEGMENT, 5)
    publish(tmp_path / "next", signing(open_to_publish(signed.url), signed.url))
    assert ask() != first
    assert number > (1 if role == "root" else 3)
