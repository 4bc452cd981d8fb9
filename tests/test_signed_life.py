"""The life of a release in a signed store: yanks, rollbacks, prunes and checks, and what others have put there in between."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.consume.reference import Reference
from pipeline.errors import PipelineError
from pipeline.layout import channel_key, release_key, signed_document_key, yank_key
from pipeline.manifest.types import Manifest
from pipeline.stages import fsck, prune, rollback, yank
from pipeline.stages.publish import publish
from pipeline.store.directory import DirectoryStore
from pipeline.store.open import open_to_keep, open_to_publish
from pipeline.store.yanks import YankedError
from pipeline.trust import anchors
from pipeline.trust.anchors import TrustError
from pipeline.trust.signed import keeping, signing
from pipeline.trust.source import TrustedSource
from tests import releases, trusting
from tests.test_trust import KilledError
from tests.trusting import MODEL, Signed

LATEST = Reference(MODEL, channel="latest")


@pytest.fixture
def signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Signed:
    return trusting.begun(tmp_path, monkeypatch)


def ask(signed: Signed, reference: Reference = LATEST) -> Manifest:
    return trusting.manifest_of(signed.url, reference, signed.packages / "cache")


def test_a_yank_is_signed_and_cannot_be_taken_away(signed: Signed, tmp_path: Path) -> None:
    first, second = ask(signed), signed.publish(1)
    yank.run(signed.url, MODEL, second.version, "wrong", False, tmp_path / "out")
    with pytest.raises(YankedError, match="wrong"):
        ask(signed)
    path = signed.root / yank_key(MODEL, second.version)
    path.unlink()
    with pytest.raises(YankedError, match="wrong"):
        ask(signed)
    rollback.run(signed.url, MODEL, "", "latest", {}, tmp_path / "out")
    assert ask(signed) == first
    yank.run(signed.url, MODEL, second.version, "", True, tmp_path / "out")
    assert ask(signed, Reference(MODEL, version=second.version)) == second


def test_a_yank_that_others_put_there_is_none(signed: Signed, tmp_path: Path) -> None:
    """Nor is it taken for what it was by who yanks; and one that was killed before it was signed is signed by the next."""
    first = ask(signed)
    yank.run(signed.url, MODEL, first.version, "wrong", False, tmp_path / "out")
    forged = (signed.root / yank_key(MODEL, first.version)).read_bytes()
    yank.run(signed.url, MODEL, first.version, "", True, tmp_path / "out")
    second = signed.publish(1)
    path = signed.root / yank_key(MODEL, second.version)
    path.write_bytes(forged.replace(first.version.encode(), second.version.encode()))
    assert ask(signed) == second
    yank.run(signed.url, MODEL, second.version, "wrong", False, tmp_path / "out")
    with pytest.raises(YankedError):
        ask(signed)


def test_a_rollback_goes_by_the_history_that_is_signed(signed: Signed, tmp_path: Path) -> None:
    """Whoever has the bucket writes another into the channel: nobody follows."""
    first, second = ask(signed), signed.publish(1)
    third = signed.publish(2)
    path = signed.root / channel_key(MODEL, "latest")
    forged = json.loads(path.read_bytes())
    forged["history"] = [one for one in forged["history"] if one["version"] == first.version]
    path.write_bytes(json.dumps(forged).encode())
    rollback.run(signed.url, MODEL, "", "latest", {}, tmp_path / "out")
    assert ask(signed) == second
    path.unlink()
    rollback.run(signed.url, MODEL, third.version, "latest", {}, tmp_path / "out")
    assert ask(signed) == third
    assert [one["version"] for one in json.loads(path.read_bytes())["history"]][-1] == first.version


def published(signed: Signed) -> list[Manifest]:
    """Three more releases, of whose publishers nobody is at work any more."""
    made = [signed.publish(number) for number in (1, 2, 3)]
    for lease in signed.root.glob("prune/leases/*"):
        lease.unlink()
    return made


def test_a_prune_leaves_nothing_signed_that_is_not_there(signed: Signed, tmp_path: Path) -> None:
    made = [ask(signed), *published(signed)]
    prune.prune(keeping(open_to_keep(signed.url), signed.url), prune.Asked(1, grace=-60), dry=False)
    source = TrustedSource(open_to_publish(signed.url), anchors.every()[0])
    keys = source.listed("")
    assert keys
    assert all((signed.root / key).exists() for key in keys)
    assert len([key for key in keys if key.endswith("/manifest.json")]) < len(made)
    assert ask(signed) == made[3]


def test_a_prune_that_is_killed_leaves_nothing_signed_that_is_not_there(signed: Signed, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any removal; and the next finishes it."""
    published(signed)
    before, number, real, done = signed.state("before"), 0, DirectoryStore.remove, False
    while not done:
        number, count = number + 1, [0]
        signed.go_back(before)
        shutil.rmtree(anchors.every()[0].folder / "metadata", ignore_errors=True)

        def remove(store: DirectoryStore, key: str, left: int = number, count: list[int] = count) -> None:
            count[0] += 1
            if count[0] >= left:
                raise KilledError
            real(store, key)

        with monkeypatch.context() as patch:
            patch.setattr(DirectoryStore, "remove", remove)
            try:
                prune.prune(keeping(open_to_keep(signed.url), signed.url), prune.Asked(1, grace=-60), dry=False)
                done = True
            except KilledError:
                pass
        source = TrustedSource(open_to_publish(signed.url), anchors.every()[0])
        assert all((signed.root / key).exists() for key in source.listed("") or ())
        assert ask(signed)
    assert number > 4


def test_a_prune_goes_by_what_is_signed(signed: Signed) -> None:
    """What others have put there is newer, and does not count."""
    forged = signed.state("forged")
    for seed in (1, 2):
        folder = signed.packages / f"other-{seed}"
        releases.make(folder, trusting.SIZE, trusting.SEGMENT, seed, name=MODEL)
        publish(folder, open_to_publish(str(forged)), channel="other")
    shutil.copytree(forged / "releases", signed.root / "releases", dirs_exist_ok=True)
    told = prune.prune(keeping(open_to_keep(signed.url), signed.url), prune.Asked(1))
    assert [line.count("not signed, and newer than the last 1") for line in told if line.startswith(MODEL)] == [2]
    assert not [line for line in told if line.startswith("goes:")]


def test_a_prune_without_the_key_removes_nothing(signed: Signed) -> None:
    published(signed)
    before = sorted((signed.root / "releases").rglob("*"))
    (signed.keys / "targets.pem").unlink()
    with pytest.raises(PipelineError, match="the keys to sign as `targets` are not here"):
        prune.prune(keeping(open_to_keep(signed.url), signed.url), prune.Asked(1, grace=-60), dry=False)
    assert sorted((signed.root / "releases").rglob("*")) == before


def test_a_check_of_a_signed_store(signed: Signed, tmp_path: Path) -> None:
    """It is right as it is; what is not as it is signed is told; without the keys too."""
    first = signed.publish(1)
    for key in signed.keys.glob("*.pem"):
        key.unlink()
    fsck.run(signed.url, True, False, tmp_path / "made", tmp_path / "out")
    (signed.root / release_key(MODEL, first.version)).write_bytes(b"{}")
    with pytest.raises(PipelineError, match="is not what was signed"):
        fsck.run(signed.url, False, False, tmp_path / "made", tmp_path / "out")


def test_what_is_signed_of_a_channel_and_gone_is_an_error(signed: Signed) -> None:
    """To go on without it would lose what the channel was."""
    path = signed.root / channel_key(MODEL, "latest")
    data = path.read_bytes()
    path.write_bytes(b"{}")
    (signed.root / signed_document_key(trusting.sha256_bytes(data))).write_bytes(b"{}")
    with pytest.raises(TrustError, match="is not there as it was signed"):
        signing(open_to_publish(signed.url), signed.url).get(channel_key(MODEL, "latest"))
