"""Evidence in a signed store: what its publishers name and its witnesses sign counts, and nothing else."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.consume.cache import Cache
from pipeline.consume.evidence import Testimony
from pipeline.consume.reference import Reference
from pipeline.consume.resolve import Remote, Resolver
from pipeline.errors import PipelineError
from pipeline.layout import evidence_key, release_key, signature_key
from pipeline.manifest.codec import decode, encode
from pipeline.manifest.evidence import FileProof, FunctionProof, VariantProof
from pipeline.manifest.types import Manifest
from pipeline.stages import policy, promote, trust
from pipeline.store.documents import add_evidence
from pipeline.store.open import address_of, open_to_publish
from pipeline.trust.keys import VARIABLE
from pipeline.trust.signed import signing
from pipeline.trust.witnesses import WITNESS_KEY, add_signed_evidence, decode_witnesses, own_signer
from tests import releases, trusting
from tests.test_trust import ASKED
from tests.trusting import MODEL, Signed

LATEST = Reference(MODEL, channel="latest")


@pytest.fixture
def signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Signed:
    return trusting.begun(tmp_path, monkeypatch)


def seen(signed: Signed, problem: str = "", cpu: str = "a CPU") -> bytes:
    """What somebody saw of the first release."""
    manifest = first(signed)
    artifact = manifest.artifacts[0]
    functions = () if problem else (FunctionProof("main", 1, 0.0, 0.0, 0.0),)
    sha256 = artifact.variants[1].sha256
    proof = VariantProof("cpu", sha256, "device", "", problem, cpu, "", (), functions, None, None, None, 0, None, None)
    file = FileProof(artifact.bundle, artifact.blob.sha256, (proof,), ())
    return encode(replace(releases.unseen(manifest), files=(file,)))


def first(signed: Signed) -> Manifest:
    path = signed.root / release_key(MODEL, _version(signed))
    return decode(Manifest, path.read_bytes(), str(path))


def _version(signed: Signed) -> str:
    return str(json.loads((signed.root / "channels" / MODEL / "latest.json").read_bytes())["version"])


def gather(signed: Signed, url: str = "", cache: str = "cache") -> Testimony:
    resolver = Resolver(Remote(url or signed.url), Cache(signed.packages / cache))
    return resolver.evidence(resolver.manifest(LATEST), asks=True)


def kind(testimony: Testimony, manifest: Manifest) -> str:
    return testimony.of(manifest.artifacts[0], ["main"])["cpu"].kind


def witness(signed: Signed, monkeypatch: pytest.MonkeyPatch, name: str = "gpu-box") -> Path:
    """A witness with a key of its own, who is told to the store's owner."""
    key = signed.packages / name / f"{name}.pem"
    assert main(["trust", "key", str(key)]) == 0
    trust.run(
        "witness", signed.url, {**ASKED, "name": name, "key": str(key.with_name(f"{name}.pub.pem"))}, signed.packages / "out"
    )
    monkeypatch.setenv(WITNESS_KEY, str(key))
    return key


def put(signed: Signed, data: bytes) -> str:
    return add_signed_evidence(open_to_publish(signed.url), MODEL, _version(signed), data, own_signer())


def test_what_a_witness_signs_counts(signed: Signed, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = first(signed)
    assert kind(gather(signed), manifest) == "untested"
    witness(signed, monkeypatch)
    key = put(signed, seen(signed))
    assert kind(gather(signed), manifest) == "device"
    assert gather(signed).refused == ()
    trust.run("refresh", signed.url, ASKED, signed.packages / "out")
    assert f"taken in: {key}" in (signed.packages / "out" / "report.txt").read_text()
    for signature in signed.root.rglob("*.sig"):
        signature.unlink()
    assert kind(gather(signed, cache="another"), manifest) == "device"  # it is signed by the store's owner that it was signed


def test_what_nobody_signed_is_shown_and_does_not_count(signed: Signed, tmp_path: Path) -> None:
    """Not even that something is wrong: whoever has the bucket could stop any release by that."""
    add_evidence(open_to_publish(signed.url), MODEL, _version(signed), seen(signed, "all wrong"), seen(signed))
    testimony = gather(signed)
    assert kind(testimony, first(signed)) == "untested"
    assert testimony.contradictions == ()
    assert testimony.unread == ()
    assert len(testimony.refused) == 2
    assert all("no witness of this store has signed it: it does not count" in text for text in testimony.refused)
    assert sum("(it says: all wrong)" in text for text in testimony.refused) == 1
    store = signing(open_to_publish(signed.url), signed.url)
    assert policy.gathered(store, first(signed)).testimony.refused == testimony.refused
    promote.run(signed.url, MODEL, _version(signed), "stable", {}, tmp_path / "out")
    assert trusting.manifest_of(signed.url, Reference(MODEL, channel="stable"), tmp_path / "c") == first(signed)


def test_what_the_publisher_saw_counts(signed: Signed) -> None:
    folder = signed.packages / f"{MODEL}-3"
    manifest, _ = releases.make(folder, trusting.SIZE, trusting.SEGMENT, 3)
    shutil.rmtree(folder / "evidence")
    store = signing(open_to_publish(signed.url), signed.url)
    releases.package_evidence(folder, releases.unseen(manifest))
    from pipeline.stages.publish import publish

    publish(folder, store)
    assert [document.model for document in gather(signed).documents] == [MODEL]


def test_who_is_no_witness_any_more(signed: Signed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that leaked: nothing that it signed counts, wherever it was seen before, taken in or not."""
    manifest = first(signed)
    witness(signed, monkeypatch)
    put(signed, seen(signed))
    trust.run("refresh", signed.url, ASKED, signed.packages / "out")
    put(signed, seen(signed, cpu="another CPU"))
    assert len(gather(signed).documents) == 3
    trust.run("witness", signed.url, {**ASKED, "remove": "gpu-box"}, signed.packages / "out")
    assert kind(gather(signed), manifest) == "untested"
    assert len(gather(signed).documents) == 1
    with pytest.raises(PipelineError, match="there is no such witness"):
        trust.run("witness", signed.url, {**ASKED, "remove": "gpu-box"}, signed.packages / "out")


def test_a_witness_signs_nothing_else(signed: Signed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its key is no key of the store; and its signature over one document is none over another."""
    key = witness(signed, monkeypatch)
    put(signed, seen(signed))
    good = next(signed.root.rglob("*.sig"))
    other = seen(signed, "all wrong")
    (added,) = add_evidence(open_to_publish(signed.url), MODEL, _version(signed), other)
    signer = own_signer()
    assert signer
    shutil.copy(good, signed.root / signature_key(added, signer.public_key.keyid))
    testimony = gather(signed)
    assert testimony.contradictions == ()
    assert len(testimony.refused) == 1
    monkeypatch.setenv(VARIABLE, str(key.parent))
    with pytest.raises(PipelineError, match="the keys to sign as `targets` are not here"):
        signed.publish(1)


def test_a_stolen_online_key_makes_no_evidence(signed: Signed, monkeypatch: pytest.MonkeyPatch) -> None:
    """The role of evidence names what witnesses signed, with the signature: it cannot name what they did not."""
    witness(signed, monkeypatch)
    add_evidence(open_to_publish(signed.url), MODEL, _version(signed), forged := seen(signed))
    from tuf.api.metadata import TargetFile

    key = evidence_key(MODEL, _version(signed), trusting.sha256_bytes(forged))
    signature = {"keyid": own_signer().public_key.keyid, "sig": "00" * 64}  # type: ignore[union-attr]
    named = TargetFile.from_data(key, forged, ["sha256"])
    named.unrecognized_fields["custom"] = {"signature": signature}
    signed.forge("evidence", signed.keys / "online.pem", lambda one: one.targets.update({key: named}))
    testimony = gather(signed)
    assert kind(testimony, first(signed)) == "untested"
    assert len(testimony.refused) == 1


def test_evidence_that_was_signed_cannot_be_hidden(signed: Signed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who removes a document is found out: what is not read stops whoever asks for evidence."""
    witness(signed, monkeypatch)
    key = put(signed, seen(signed, "is off"))
    trust.run("refresh", signed.url, ASKED, signed.packages / "out")
    (signed.root / key).unlink()
    (signed.root / "evidence" / MODEL / _version(signed) / "index.json").unlink()
    assert any("is signed, and is not in the store" in text for text in gather(signed).unread)
    with trusting.served("web", signed.root, monkeypatch) as (url, _):
        trusting.believe(url, signed)
        assert any("is signed, and is not in the store" in text for text in gather(signed, url, "web").unread)
    store = signing(open_to_publish(signed.url), signed.url)
    assert policy.gathered(store, first(signed)).testimony.unread


def test_a_web_server_has_signatures_too(signed: Signed, monkeypatch: pytest.MonkeyPatch) -> None:
    witness(signed, monkeypatch)
    put(signed, seen(signed))
    with trusting.served("web", signed.root, monkeypatch) as (url, _):
        trusting.believe(url, signed)
        assert kind(gather(signed, url, "web"), first(signed)) == "device"


def test_attest_in_a_signed_store(
    signed: Signed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("VMFB_CACHE", str(tmp_path / "cache"))
    document = decode_document(seen(signed))
    monkeypatch.setattr("pipeline.commands.attest._attest", lambda *_: document)
    assert main(["attest", MODEL, "--store", signed.url]) == 0
    assert "VMFB_WITNESS_KEY is not set: what is seen does not count there" in capsys.readouterr().err
    assert kind(gather(signed), first(signed)) == "untested"
    key = witness(signed, monkeypatch)
    assert main(["attest", MODEL, "--store", signed.url]) == 0
    assert kind(gather(signed), first(signed)) == "device"
    capsys.readouterr()
    for name, told in (
        (str(tmp_path / "nothing.pem"), "No such file"),
        (str(key.with_name("gpu-box.pub.pem")), "is a public key"),
        ("magic:secret", "there is no kind of keys magic:"),
    ):
        monkeypatch.setenv(WITNESS_KEY, name)
        assert main(["attest", MODEL, "--store", signed.url]) == 1
        said = capsys.readouterr().err
        assert told in said
        assert "secret" not in said
    assert main(["trust", "key", str(key)]) == 1
    assert "a key is never written over" in capsys.readouterr().err
    assert address_of(signed.url).name == signed.url


def decode_document(data: bytes) -> object:
    from pipeline.manifest.evidence import EvidenceDocument

    return decode(EvidenceDocument, data, "here")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b'{"schema": 2, "witnesses": []}', "has schema version 2, this program knows 1"),
        (b'{"schema": "1", "witnesses": []}', "is no list of witnesses"),
        (b'{"schema": 1, "witnesses": [{"name": "\\u001b[31m", "keyid": "1", "key": {}}]}', "is no list of witnesses"),
        (b'{"schema": 1, "witnesses": [{"name": "a", "keyid": "1", "key": {"keytype": "new"}}]}', "is no list of witnesses"),
        (b"[" * 100_000, "is no list of witnesses"),
    ],
)
def test_a_list_of_witnesses_of_anything(data: bytes, told: str) -> None:
    with pytest.raises(PipelineError, match=told):
        decode_witnesses(data, "here")
