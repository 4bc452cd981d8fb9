"""The attacks on software updates that TUF names, tried on a signed store, read from a folder, a web server and a bucket.

*Extraneous dependencies* does not apply: a release has no dependencies that a consumer would install.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.consume.api import Quiet
from pipeline.consume.cache import Cache
from pipeline.consume.fetch import fetch
from pipeline.consume.reference import Reference
from pipeline.consume.resolve import Remote, Resolver
from pipeline.errors import PipelineError
from pipeline.layout import blob_key, channel_key, release_key, signed_document_key
from pipeline.manifest.types import Manifest
from pipeline.store.base import BrokenTransferError
from pipeline.store.open import address_of
from pipeline.store.web import Patience, WebSource
from pipeline.trust import anchors
from pipeline.trust.anchors import TrustError
from pipeline.trust.keys import make_key
from pipeline.trust.source import TrustedSource
from tests import releases, trusting, web
from tests.trusting import MODEL, Signed

LATEST = Reference(MODEL, channel="latest")


@dataclass
class Scene:
    """A consumer of the store at `url`, and whoever has the store in hand: `bring` shows the consumer its present files."""

    signed: Signed
    url: str
    bring: Callable[[], None]
    cache: Path

    @property
    def root(self) -> Path:
        return self.signed.root

    def ask(self, reference: Reference = LATEST) -> Manifest:
        self.bring()
        return Resolver(Remote(self.url), Cache(self.cache)).manifest(reference)

    def forget(self) -> None:
        """The consumer is one who asks for the first time."""
        anchor = anchors.anchor_of(address_of(self.url).name)
        assert anchor
        shutil.rmtree(anchor.folder / "metadata")
        (anchor.folder / "view.json").unlink()

    def refused(self, told: str, reference: Reference = LATEST) -> None:
        """The consumer refuses; and it is no passing trouble, at which it would go by what it saw last."""
        with pytest.raises(PipelineError, match=told) as caught:
            self.ask(reference)
        assert not isinstance(caught.value, BrokenTransferError)


@pytest.fixture(params=trusting.KINDS)
def scene(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    signed = trusting.begun(tmp_path, monkeypatch)
    with trusting.served(request.param, signed.root, monkeypatch) as (url, bring):
        trusting.believe(url, signed)
        yield Scene(signed, url, bring, tmp_path / "cache")


def test_what_is_signed_is_read(scene: Scene) -> None:
    first = scene.ask()
    second = scene.signed.publish(1)
    assert scene.ask() == second != first
    assert scene.ask(Reference(MODEL, version=first.version)) == first
    index = Resolver(Remote(scene.url), Cache(scene.cache)).index()
    assert [(m.name, m.channels[0].version, set(m.versions)) for m in index.models] == [
        (MODEL, second.version, {first.version, second.version})
    ]


def test_arbitrary_software(scene: Scene, tmp_path: Path) -> None:
    """Somebody puts a release of their own into the store, whole and right but for the signature."""
    right, other = scene.ask(), releases.make(tmp_path / "other", 1 << 13, 1 << 12, 7)[0]
    manifest = scene.root / release_key(MODEL, right.version)
    kept = manifest.read_bytes()
    manifest.write_bytes((tmp_path / "other" / "manifest.json").read_bytes())
    shutil.rmtree(scene.cache)
    scene.refused("and [0-9a-f]{64} is signed")
    manifest.write_bytes(kept)
    (scene.root / release_key(MODEL, other.version)).parent.mkdir()
    shutil.copy(tmp_path / "other" / "manifest.json", scene.root / release_key(MODEL, other.version))
    scene.refused("noise has no version", Reference(MODEL, version=other.version))
    pointer = scene.root / channel_key(MODEL, "latest")
    pointer.write_bytes(pointer.read_bytes().replace(right.version.encode(), other.version.encode()))
    (scene.root / "index.json").write_bytes(b"{}")
    assert scene.ask() == right  # what is signed of the channel is elsewhere, and said by its digest


def test_arbitrary_software_in_a_blob(scene: Scene) -> None:
    """The manifest that is signed has the digest of every stretch of a file."""
    manifest = scene.ask()
    blob = scene.root / blob_key(manifest.artifacts[0].blob.sha256)
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    scene.bring()
    with pytest.raises(PipelineError, match="the manifest says"):
        fetch(Remote(scene.url), Cache(scene.cache), manifest.artifacts[0], None, Quiet())


def test_arbitrary_metadata(scene: Scene) -> None:
    """All signed anew, by keys that nobody was told of."""
    scene.ask()
    stolen = make_key(scene.signed.packages / "thief", "targets")
    key = scene.signed.packages / "thief" / "targets.pem"
    assert stolen.public_key.keyid
    scene.signed.forge("timestamp", key)
    scene.refused("not signed by enough of those who are believed")


def test_a_signature_cannot_be_taken_away(scene: Scene) -> None:
    scene.ask()
    shutil.rmtree(scene.root / "trust")
    scene.refused("is not signed, though its signers are known here")


def test_rollback(scene: Scene) -> None:
    """The store as it was once, every signature right: the consumer has seen more."""
    before = scene.signed.state("before")
    scene.signed.publish(1)
    scene.ask()
    scene.signed.go_back(before)
    scene.refused("in an older state than was seen before")


def test_indefinite_freeze(scene: Scene) -> None:
    """The store stays as it is, for ever: what it says was signed for some days."""
    right = scene.ask()
    scene.signed.forge("timestamp", edit=lambda signed: setattr(signed, "expires", trusting.past()))
    scene.refused("was signed for a time that is over")
    version = Reference(MODEL, version=right.version)
    assert scene.ask(version) == right  # which never changes, and was verified


def test_indefinite_freeze_by_silence(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that does not answer is believed as it was last seen, as long as that was signed for."""
    right = scene.ask()

    def away(*_: object) -> None:
        raise BrokenTransferError("cannot connect", where=scene.url)

    monkeypatch.setattr("pipeline.consume.resolve.open_source", lambda _: type("Away", (), {"get": away, "url": scene.url})())
    assert scene.ask() == right
    monkeypatch.setattr("pipeline.trust.view.View.has_expired", True)
    scene.refused(r"does not answer \(cannot connect\), and what was seen of it is too old")


def test_endless_data(scene: Scene) -> None:
    """No file of the metadata may be larger than it is said to be, or than any real one."""
    scene.ask()
    scene.signed.publish(1)
    (scene.root / "trust" / "timestamp.json").write_bytes(b" " * (2 << 20))
    scene.refused("2097152 bytes, more than")


def test_mix_and_match(scene: Scene) -> None:
    """Files of several states, each with a right signature, that never were one state."""
    scene.ask()
    scene.signed.publish(1)
    trust = scene.root / "trust"
    shutil.copy(trust / "1.targets.json", trust / "2.targets.json")
    scene.forget()
    scene.refused("has other metadata than is signed")


def test_mix_and_match_of_documents(scene: Scene) -> None:
    """The channel as it was once, in the state of today."""
    scene.ask()
    old = trusting.digest(scene.root / channel_key(MODEL, "latest"))
    scene.signed.publish(1)
    new = trusting.digest(scene.root / channel_key(MODEL, "latest"))
    shutil.copy(scene.root / signed_document_key(old), scene.root / signed_document_key(new))
    scene.refused("and [0-9a-f]{64} is signed")


def test_wrong_software(scene: Scene) -> None:
    """What is signed as one model, given as another."""
    other = scene.signed.publish(3, "other")
    right = scene.ask()
    shutil.copy(scene.root / release_key("other", other.version), scene.root / release_key(MODEL, right.version))
    shutil.rmtree(scene.cache)
    scene.refused("and [0-9a-f]{64} is signed")


def test_a_malicious_mirror(scene: Scene, tmp_path: Path) -> None:
    """A mirror that keeps back what it likes is an error, and another one helps."""
    mirror = scene.signed.state("mirror")
    url = str(mirror)
    trusting.believe(url, scene.signed)
    for path in mirror.glob("trust/*.targets.json"):
        path.unlink()
    with pytest.raises(TrustError, match="lacks a part of its signed metadata"):
        trusting.manifest_of(url, LATEST, tmp_path / "cache")
    assert trusting.manifest_of(scene.url, LATEST, tmp_path / "cache") == scene.ask()


def test_a_stolen_online_key_makes_no_targets(scene: Scene, tmp_path: Path) -> None:
    """Who has the key of snapshot and timestamp can go neither back nor anywhere."""
    scene.ask()
    online = scene.signed.keys / "online.pem"
    scene.signed.forge("targets", online, lambda signed: signed.targets.clear())
    scene.refused("not signed by enough of those who are believed")


def test_slow_retrieval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that sends a byte now and then holds nobody for ever."""
    signed = trusting.begun(tmp_path, monkeypatch)
    with web.serve(signed.root, web.Manners(only="trust/", drip=0.02)) as server:
        anchor = trusting.believe(server.url, signed)
        source = WebSource(server.url, Patience(window=0.2, window_bytes=10_000))
        with pytest.raises(BrokenTransferError, match="too slow"):
            TrustedSource(source, anchor).find(channel_key(MODEL, "latest"))


def test_endless_data_of_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.store.web.DOCUMENT_LIMIT", 1 << 20)
    signed = trusting.begun(tmp_path, monkeypatch)
    with web.serve(signed.root, web.Manners(only="trust/", endless=True)) as server:
        anchor = trusting.believe(server.url, signed)
        with pytest.raises(PipelineError, match="larger than"):
            TrustedSource(WebSource(server.url), anchor).find(channel_key(MODEL, "latest"))


def test_a_store_that_must_be_signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMFB_TRUST_DIR", str(tmp_path / "trust"))
    releases.release(trusting.open_to_publish(str(tmp_path / "store")), tmp_path / "package", 1 << 13, 1 << 12)
    url = str(tmp_path / "store")
    assert trusting.manifest_of(url, LATEST, tmp_path / "cache")
    monkeypatch.setenv("VMFB_REQUIRE_SIGNED", "1")
    with pytest.raises(TrustError, match=r"has to be signed \(VMFB_REQUIRE_SIGNED\)"):
        trusting.manifest_of(url, LATEST, tmp_path / "cache")
    monkeypatch.setenv("VMFB_REQUIRE_SIGNED", "0")
    assert trusting.manifest_of(url, LATEST, tmp_path / "cache")
    policy = tmp_path / "trust" / "policy.json"
    policy.parent.mkdir()
    policy.write_text(f'{{"signed": ["{tmp_path}/*"]}}')
    with pytest.raises(TrustError, match=r"has to be signed \(.*policy.json\)"):
        trusting.manifest_of(url, LATEST, tmp_path / "cache")
    for damaged in ("{}", "[]", '{"signed": "s3://*"}', '{"signed": [], "more": 1}', "\x00"):
        policy.write_text(damaged)
        with pytest.raises(PipelineError, match="is no policy"):
            anchors.must_be_signed("s3://bucket")
