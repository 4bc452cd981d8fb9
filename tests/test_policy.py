"""What a channel asks of a release before it moves there: read, decided, obeyed by `doit publish` and `doit promote`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.consume.cache import Cache
from pipeline.consume.reference import Reference
from pipeline.consume.resolve import Remote, Resolver
from pipeline.errors import ManyProblemsError, PipelineError
from pipeline.files import write
from pipeline.layout import channel_key, release_key
from pipeline.manifest import types as m
from pipeline.manifest.codec import content_version, decode, encode
from pipeline.manifest.evidence import FileProof, FunctionProof, VariantProof
from pipeline.spec.load import load
from pipeline.spec.types import OTHERS, Policy
from pipeline.stages import policy, promote, rollback, verify
from pipeline.stages.origin import Origin
from pipeline.stages.policy import Release, stops
from pipeline.stages.publish import move, publish
from pipeline.stages.witnesses import asking
from pipeline.stages.witnesses.answers import Heard
from pipeline.store.base import BrokenTransferError, Object, Store
from pipeline.store.documents import add_evidence
from pipeline.store.open import open_store
from tests import releases
from tests.project import DATA, Project, evidence, manifest

STRICT = Policy("device", "refused", 0.1, 0.1, 2.0)


def proof(
    variant: str, kind: str = "device", of_tolerance: float = 0.1, latency: float | None = None, problem: str = ""
) -> VariantProof:
    numbers = () if kind == "untested" else (FunctionProof("main", 3, 1e-6, 1e-6, of_tolerance),)
    reason = "nothing here" if kind == "untested" else ""
    spread = None if latency is None else 0.0001
    sha256 = "0" * 64
    return VariantProof(variant, sha256, kind, reason, problem, "a CPU", "", (), numbers, None, latency, spread, 9, None, None)


def release(folder: Path, *proofs: VariantProof, size: int = 1 << 16, version: str = "1") -> Release:
    """A release of noise with these proofs, which nobody published."""
    found, _ = releases.make(folder / version, size, 1 << 14, seed=int(version))
    found = replace(found, version=version)
    artifact = found.artifacts[0]
    document = replace(releases.unseen(found), files=(FileProof(artifact.bundle, artifact.blob.sha256, proofs),))
    return Release(found, policy.Testimony((document,)))


def told(policy_: Policy, one: Release, before: Release | None = None) -> list[str]:
    return [str(stop) for stop in stops({"desktop": policy_}, one, before)]


# The decision


def test_every_variant_needs_the_evidence_that_is_asked_for(tmp_path: Path) -> None:
    one = release(tmp_path, proof("gpu", "twin"), proof("cpu"))
    assert told(STRICT, one) == ["desktop, gpu: the strongest evidence is twin (evidence: device)"]
    assert told(replace(STRICT, evidence="twin"), one) == []
    assert stops({}, one, None) == []
    assert stops({"portable": STRICT}, one, None) == []


def test_what_nobody_ran_is_refused_or_allowed(tmp_path: Path) -> None:
    one = release(tmp_path, proof("gpu", "untested"), proof("cpu"))
    assert told(STRICT, one) == ["desktop, gpu: is untested: nothing here (untested: refused)"]
    assert told(replace(STRICT, untested="allowed"), one) == []
    assert len(told(replace(STRICT, untested="left out"), one)) == 1  # it should have been


def test_what_somebody_saw_wrong_stops_any_policy(tmp_path: Path) -> None:
    one = release(tmp_path, proof("gpu"), proof("cpu"), proof("cpu", problem="output 'y' is off", of_tolerance=3.0))
    lenient = Policy("untested", "allowed", None, None, None)
    assert told(lenient, one) == ["desktop, cpu: was wrong on a CPU: output 'y' is off (no variant may be wrong)"]
    store = open_store(str(tmp_path / "store"))
    with pytest.raises(PipelineError, match="a document that is itself wrong is removed from evidence/noise/1/"):
        policy.require({"desktop": lenient}, one, None, "stable", store)
    policy.require({}, one, None, "stable", store)
    assert policy.remarks({}, one, None) == ["! desktop, cpu: WRONG on a CPU: output 'y' is off"]  # nor is it silent


def test_what_cannot_be_compared_is_said_and_stops_nothing(tmp_path: Path) -> None:
    before = release(tmp_path, proof("gpu", "untested"), proof("cpu", latency=0.010))
    elsewhere = replace(proof("cpu", latency=0.1), device="another CPU")
    after = release(tmp_path, proof("gpu"), elsewhere, version="2")
    assert told(STRICT, after, before) == []
    lacks = "desktop: not compared with noise@1, for "
    assert policy.remarks({"desktop": STRICT}, after, before) == [
        f"{lacks}no device's latency is known of both: gpu, cpu (slower: 10%)",
        f"{lacks}the errors of both are not known: gpu (less_exact: 2x)",
    ]
    none = "desktop: there is no present release that can be read: nothing to compare with"
    assert policy.remarks({OTHERS: STRICT}, after, None) == [f"{none} (slower: 10%, larger: 10%, less_exact: 2x)"]
    assert policy.remarks({OTHERS: STRICT}, after, after) == []
    again = replace(before, manifest=replace(before.manifest, version="1.1"))  # the same file by another name, measured again
    again = replace(again, testimony=release(tmp_path, proof("gpu"), proof("cpu", latency=0.1)).testimony)
    assert (told(STRICT, again, before), policy.remarks({"desktop": STRICT}, again, before)) == ([], [])
    assert policy.told(again, before) == ["desktop is the very file of noise@1"]
    assert policy.remarks({"desktop": replace(STRICT, slower=None, larger=None, less_exact=None)}, after, before) == []


def test_two_devices_of_one_driver_are_two(tmp_path: Path) -> None:
    """CUDA's driver does not say which GPU it is of."""
    cpu, slow, fast = (
        proof("cpu"),
        *(replace(proof("gpu", latency=s), driver="cuda", device=d) for d, s in (("A", 0.02), ("B", 0.01))),
    )
    assert told(STRICT, release(tmp_path, cpu, slow, version="2"), release(tmp_path, cpu, fast)) == []
    both = release(tmp_path, cpu, slow, fast)
    assert both.standings(both.manifest.artifacts[0])["gpu"].witnesses == 2
    (stop,) = told(STRICT, release(tmp_path, cpu, replace(slow, latency_s=0.03), version="2"), both)
    assert "gpu: is slower on A (cuda) (a CPU) than" in stop


def test_documents_that_do_not_count_are_named(tmp_path: Path) -> None:
    one = release(tmp_path, proof("cpu"))
    one = replace(one, testimony=replace(one.testimony, refused=tuple(f"evidence/{n}: is of other code" for n in range(7))))
    said = policy.remarks({}, one, None)
    assert said[0] == "does not count: evidence/0: is of other code"
    assert said[5:] == ["and 2 more documents do not count"]
    with pytest.raises(PipelineError, match="does not count: evidence/4: is of other code"):
        policy.require({"desktop": STRICT}, one, None, "stable", open_store(str(tmp_path / "store")))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"size": 1 << 17}, "the file is larger than in noise@1: 131.1 kB, not 65.5 kB (larger: 10%)"),
        ({"size": 70_000}, ""),
        ({"of_tolerance": 0.3}, "cpu: is less exact than in noise@1: it uses 30.0% of its tolerance, not 10.0% (less_exact: 2x)"),
        ({"of_tolerance": 0.19}, ""),
        ({"latency": 0.012}, "cpu: is slower on a CPU than in noise@1: 12.000 ms, not 10.000 ms (slower: 10%)"),
        ({"latency": 0.0109}, ""),
        ({"latency": None}, ""),  # nothing to compare with
    ],
)
def test_how_much_worse_than_the_present_release_it_may_be(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    before = release(tmp_path, proof("gpu"), proof("cpu", latency=0.010))
    known = {"of_tolerance": 0.1, "latency": 0.010} | {k: v for k, v in changes.items() if k != "size"}
    after = release(tmp_path, proof("gpu"), proof("cpu", **known), size=changes.get("size", 1 << 16), version="2")
    found = told(STRICT, after, before)
    assert len(found) == bool(complaint)
    assert all(line.endswith(complaint) for line in found)
    assert told(Policy("device", "refused", None, None, None), after, before) == []


def test_a_difference_within_the_spread_is_none(tmp_path: Path) -> None:
    before = release(tmp_path, proof("gpu"), replace(proof("cpu", latency=0.010), spread_s=0.005))
    after = release(tmp_path, proof("gpu"), proof("cpu", latency=0.014), version="2")
    assert told(STRICT, after, before) == []


def test_a_bundle_that_is_not_known_here_has_the_policy_of_all(tmp_path: Path) -> None:
    one = release(tmp_path, proof("gpu", "twin"), proof("cpu"))
    lenient = Policy("untested", "allowed", None, None, None)
    assert len(stops({"portable": lenient, OTHERS: STRICT}, one, None)) == 1
    assert stops({"desktop": lenient, OTHERS: STRICT}, one, None) == []


# What stands in specs


def _spec(tmp_path: Path, channels: object, of_bundle: object = None) -> Callable[[str], dict[str, Policy]]:
    project = Project(tmp_path, "small")
    (project.targets / "policy.yaml").write_text(yaml.safe_dump({"channels": channels}))
    if of_bundle:
        path = project.targets / "bundles" / "desktop.yaml"
        path.write_text(path.read_text() + yaml.safe_dump({"policy": of_bundle}))
    return load(project.targets).policies


def test_a_bundle_has_its_own_policy_or_the_projects(tmp_path: Path) -> None:
    strict = {"evidence": "device", "slower": "10%", "larger": "12.5 %", "less_exact": "2x"}
    channels = {"stable": strict, "latest": {"evidence": "twin"}, "nightly": {}}
    found = _spec(tmp_path, channels, {"latest": {"untested": "left out"}})
    assert found("nightly")["cpus"] == Policy("untested", "allowed", None, None, None)
    assert found("stable")["desktop"] == Policy("device", "refused", 0.1, 0.125, 2.0)
    assert found("stable")["cpus"] == found("stable")["desktop"]
    assert found("latest")["desktop"] == Policy("untested", "left out", None, None, None)
    assert found("latest")["cpus"].evidence == found("latest")[OTHERS].evidence == "twin"
    assert found("beta") == {}
    assert found("latest")["desktop"].path.name == "desktop.yaml"
    assert found("latest")["cpus"].path.name == "policy.yaml"


@pytest.mark.parametrize(
    ("policies", "complaint"),
    [
        ({"stable": {"evidence": "devices"}}, "channels.stable.evidence: 'devices' is unknown: did you mean 'device'?"),
        ({"stable": {"untested": "drop"}}, "channels.stable.untested: 'drop' is unknown"),
        ({"stable": {"slower": "10"}}, "channels.stable.slower: must be a part such as 10%, not '10'"),
        ({"stable": {"slower": 10}}, "channels.stable.slower: must be a part such as 10%, not '10'"),
        ({"stable": {"less_exact": "0.5x"}}, "must be a factor of 1 or more, such as 2x, not '0.5x'"),
        ({"stable": {"faster": "1%"}}, "channels.stable.faster: is not a key here"),
        ({"Stable": {}}, "cannot be a channel"),
        ({"stable": 3}, "channels.stable: must be a mapping"),
    ],
)
def test_a_policy_that_cannot_be_is_named_with_its_place(tmp_path: Path, policies: object, complaint: str) -> None:
    with pytest.raises(ManyProblemsError) as caught:
        _spec(tmp_path, policies)
    assert complaint in str(caught.value)
    assert "policy.yaml: " in str(caught.value)


# Obeyed


def _published(folder: Path, store: Store, version: str, seed: int) -> m.Manifest:
    """A release of noise in the store under this version, whose channel is `beta`."""
    found, _ = releases.make(folder / version, 1 << 16, 1 << 14, seed=seed)
    found = replace(found, version=version)
    write(folder / version / "manifest.json", encode(found))
    publish(folder / version, store, version=version, channel="beta")
    return found


def _see(store: Store, found: m.Manifest, *proofs: VariantProof) -> None:
    artifact = found.artifacts[0]
    document = replace(releases.unseen(found), files=(FileProof(artifact.bundle, artifact.blob.sha256, proofs),))
    add_evidence(store, "noise", found.version, encode(document))


def test_a_channel_moves_when_the_witnesses_have_spoken(new_store: Callable[[], Store], tmp_path: Path) -> None:
    store = new_store()
    one = _published(tmp_path, store, "1.0", 1)
    arguments = (store.url, "noise", "1.0", "stable", {"desktop": STRICT}, tmp_path / "out")
    with pytest.raises(PipelineError, match="is untested: nobody ran it") as caught:
        promote.run(*arguments)
    assert "`vmfb attest noise@1.0`" in str(caught.value)
    assert store.get(channel_key("noise", "stable")) is None
    _see(store, one, proof("gpu"), proof("cpu"))
    promote.run(*arguments)
    pointer = store.get(channel_key("noise", "stable"))
    assert pointer is not None
    assert json.loads(pointer.data)["version"] == "1.0"
    assert "noise@1.0 is stable" in (tmp_path / "out" / "report.txt").read_text()
    two = _published(tmp_path, store, "2.0", 2)
    _see(store, two, proof("gpu"), proof("cpu"))
    promote.run(*arguments[:2], "2.0", *arguments[3:])
    assert "noise@1.0 → noise@2.0" in (tmp_path / "out" / "report.txt").read_text()
    promote.run(*arguments)  # and back
    pointer = store.get(channel_key("noise", "stable"))
    assert pointer is not None
    assert json.loads(pointer.data)["version"] == "1.0"


def test_a_release_of_an_older_schema_is_promoted_with_its_evidence(new_store: Callable[[], Store], tmp_path: Path) -> None:
    store, old = new_store(), (DATA / "manifests" / "3.json").read_bytes()
    said = json.loads(old) | {"version": "1.0"}  # which is not derived from the content, for that changes here
    model, version = said["model"]["name"], said["version"]
    seen = {**said["artifacts"][0]["variants"][-1]["evidence"][0], "kind": "device", "reason": "", "draws": 1}
    seen |= {"max_abs_error": 1e-6, "max_rel_error": 1e-6, "of_tolerance": 0.1}
    for variant in said["artifacts"][0]["variants"]:
        variant["evidence"] = [seen]
    store.create(release_key(model, version), json.dumps(said).encode())
    promote.run(store.url, model, version, "stable", {"desktop": Policy("device", "refused", None, None, None)}, tmp_path / "out")
    found = Resolver(Remote(store.url), Cache(tmp_path / "cache")).manifest(Reference(model, channel="stable"))
    assert found.version == version
    pointer = store.get(channel_key(model, "stable"))
    assert pointer
    present = policy.present(store, decode(m.Channel, pointer.data, "stable"))
    assert present
    assert {s.kind for s in present.standings(found.artifacts[0]).values()} == {"device"}


def test_the_way_back_is_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong for other reasons is left in a hurry, though it is faster; what was seen wrong is no place to go back to."""
    store = open_store(str(tmp_path / "store"))
    one, two = _published(tmp_path, store, "1.0", 1), _published(tmp_path, store, "2.0", 2)
    _see(store, one, proof("gpu"), proof("cpu", latency=0.02))
    _see(store, two, proof("gpu"), proof("cpu", latency=0.01))
    promote.run(store.url, "noise", "2.0", "stable", {}, tmp_path / "out")
    back = (store.url, "noise", "1.0", "stable", {"desktop": STRICT}, tmp_path / "out")
    with pytest.raises(PipelineError, match="is slower on a CPU") as caught:
        promote.run(*back)
    assert "`doit rollback model=noise version=1.0 channel=stable`" in str(caught.value)
    with monkeypatch.context() as patch:  # nor is what is left read
        for stage in (promote, rollback):
            patch.setattr(stage, "open_to_publish", lambda _: _Fails(store, "evidence/noise/2.0/"))
        with pytest.raises(PipelineError, match="the connection broke"):
            promote.run(*back)
        rollback.run(*back)
    pointer = store.get(channel_key("noise", "stable"))
    assert pointer
    assert json.loads(pointer.data)["version"] == "1.0"
    _see(store, one, proof("gpu", problem="is off"))
    with pytest.raises(PipelineError, match="the channel stable points to it, and would not move there now"):
        rollback.run(*back)


def test_a_slip_of_the_hand_makes_no_channel(tmp_path: Path) -> None:
    """It would have no policy."""
    store = open_store(str(tmp_path / "store"))
    _published(tmp_path, store, "1.0", 1)  # to beta
    for channel, meant in (("stabel", "stable"), ("lates", "latest"), ("betta", "beta")):
        with pytest.raises(PipelineError, match=f"there is no channel {channel}: did you mean '{meant}'") as caught:
            promote.run(store.url, "noise", "1.0", channel, {}, tmp_path / "out", ["stable"])
        assert f"`{channel}: {{}}`" in str(caught.value)
        assert store.get(channel_key("noise", channel)) is None
    promote.run(store.url, "noise", "1.0", "stabel", {}, tmp_path / "out", ["stable", "stabel"])
    promote.run(store.url, "noise", "1.0", "stabel", {}, tmp_path / "out", ["stable"])  # it is there
    promote.run(store.url, "noise", "1.0", "test", {}, tmp_path / "out", ["stable"])


def test_a_channel_never_points_to_what_is_not_there(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    _published(tmp_path, store, "1.0", 1)
    arguments = (store.url, "noise", "1.0", "stable", {}, tmp_path / "out")
    promote.run(*arguments)
    (tmp_path / "store" / channel_key("noise", "stable")).unlink()
    (tmp_path / "store" / release_key("noise", "1.0")).unlink()  # what was seen of it is still in the cache
    with pytest.raises(PipelineError, match="is not in the store"):
        promote.run(*arguments)
    assert store.get(channel_key("noise", "stable")) is None


class _Fails:
    """A store of which some keys cannot be read."""

    def __init__(self, store: Store, lost: str) -> None:
        self._store, self._lost = store, lost

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def get(self, key: str) -> Object | None:
        if self._lost in key:
            raise BrokenTransferError("the connection broke", where=key)
        return self._store.get(key)

    def listed(self, prefix: str) -> list[str] | None:
        if self._lost in prefix:
            raise BrokenTransferError("the connection broke", where=prefix)
        return self._store.listed(prefix)


@pytest.mark.parametrize("lost", ["evidence/noise/2.0/", "evidence/noise/1.0/", "releases/noise/1.0/", "wrong"])
def test_a_channel_does_not_move_on_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    """What stops it, or what it is compared with, may be there."""
    store = open_store(str(tmp_path / "store"))
    one, two = _published(tmp_path, store, "1.0", 1), _published(tmp_path, store, "2.0", 2)
    for found in (one, two):
        _see(store, found, proof("gpu"), proof("cpu"))
    promote.run(store.url, "noise", "1.0", "stable", {}, tmp_path / "out")
    if lost == "wrong":
        _see(store, two, proof("gpu", problem="is off"))
        keys = set(store.keys("evidence/noise/2.0/"))
        _see(store, two, proof("gpu", problem="is off again"))
        (lost,) = set(store.keys("evidence/noise/2.0/")) - keys
    moves = (store.url, "noise", "2.0", "stable", {OTHERS: Policy("untested", "allowed", None, 0.1, None)}, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(promote, "open_to_publish", lambda _: _Fails(store, lost))
        with pytest.raises(PipelineError, match="the connection broke"):
            promote.run(*moves)
    pointer = store.get(channel_key("noise", "stable"))
    assert pointer
    assert json.loads(pointer.data)["version"] == "1.0"


def test_what_another_publishes_meanwhile_is_what_a_release_is_compared_with(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    found = [_published(tmp_path, store, f"{n}.0", n) for n in (1, 2, 3)]
    promote.run(store.url, "noise", "1.0", "stable", {}, tmp_path / "out")
    asked = []

    def allowed(pointer: m.Channel | None) -> None:
        assert pointer
        asked.append(pointer.version)
        if len(asked) == 1:
            promote.run(store.url, "noise", "2.0", "stable", {}, tmp_path / "other")

    assert move(store, found[2], "stable", allowed)
    assert asked == ["1.0", "2.0"]


@pytest.mark.parametrize(
    ("model", "version", "complaint"),
    [
        ("", "", "doit promote model=NAME version=VERSION"),
        ("noise", "", "doit promote model=NAME version=VERSION"),
        ("nois", "1.0", "did you mean 'noise'?"),
        ("noise", "1.1", "did you mean '1.0'?"),
    ],
)
def test_what_cannot_be_promoted_is_one_message(tmp_path: Path, model: str, version: str, complaint: str) -> None:
    store = open_store(str(tmp_path / "store"))
    _published(tmp_path, store, "1.0", 1)
    with pytest.raises(PipelineError) as caught:
        promote.run(store.url, model, version, "stable", {}, tmp_path / "out")
    assert complaint in str(caught.value)


def test_doit_publishes_and_does_not_move_a_channel_that_may_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then a variant that nobody could run is left out, and the channel moves; at last another is promoted."""
    project = Project(tmp_path, "small", bundle={"targets": ["nvidia-ampere", "cuda-sm80", "x86-64"]})
    path = project.targets / "policy.yaml"
    path.write_text(yaml.safe_dump({"channels": {"stable": {"evidence": "twin"}}}))
    result = project.doit("publish", "channel=stable")
    assert result.returncode != 0
    version = manifest(project).version
    assert f"small@{version} is in out/store, and the channel stable does not move to it" in result.stdout
    assert "desktop, cuda-sm80: is untested: " in result.stdout
    assert "(untested: refused)" in result.stdout
    assert f"doit promote model=small version={version} channel=stable" in result.stdout
    assert "Traceback" not in result.stdout
    assert (project.layout.store / f"releases/small/{version}/manifest.json").exists()
    assert not (project.layout.store / channel_key("small", "stable")).exists()
    stopped = project.doit("promote", "model=small", f"version={version}", "channel=stable")
    assert stopped.returncode != 0
    assert "(untested: refused)" in stopped.stdout
    path.write_text(yaml.safe_dump({"channels": {"stable": {"evidence": "twin", "untested": "left out"}}}))
    result = project.doit("publish", "channel=stable")
    assert result.returncode == 0, result.stdout
    assert list(evidence(project)) == ["nvidia-ampere", "x86-64"]  # the twin is the same file: it is not run again
    (dropped,) = manifest(project).artifacts[0].dropped
    assert dropped.name == "cuda-sm80"
    assert dropped.reason == "untested: nobody ran it"  # not why: that differs from machine to machine, and the file does not
    clone, store = Project(tmp_path / "clone", "small"), str(project.layout.store)  # in which nothing was built
    result = clone.doit("rollback", "model=small", f"version={manifest(project).version}", PIPELINE_STORE=store)
    assert result.returncode == 0, result.stdout
    assert f"small@{manifest(project).version} is latest in {store}" in result.stdout
    result = clone.doit("promote", PIPELINE_STORE=store)
    assert result.returncode != 0
    assert "doit promote model=NAME version=VERSION channel=stable" in result.stdout
    _what_is_wrong_with_the_file_that_is_left_stops_it(project, monkeypatch)


def _what_is_wrong_with_the_file_that_is_left_stops_it(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Witnesses are asked about it too, for it is another file."""
    (model, bundle, targets), layout = project.spec("small"), project.layout
    proofs = (proof("x86-64", problem="output 'y' is off"),)
    document = replace(releases.unseen(manifest(project)), files=(FileProof("desktop", "0" * 64, proofs),))
    answers: Iterator[list[Heard]] = iter([[], [Heard("gpu-box", document)]])
    monkeypatch.setattr(asking, "ask", lambda *_: next(answers))
    made = (layout.compiled("small", "desktop"), layout.imported("small"), layout.reference("small"), layout.scored("small"))
    monkeypatch.chdir(project.root)
    with pytest.raises(PipelineError, match=r"at gpu-box.*output 'y' is off"):
        verify.run(Origin.of(model, layout), bundle, targets, *made, project.root / "verify", ["ssh://gpu-box"], leaves_out=True)
    assert next(answers, None) is None


def test_the_version_of_a_manifest_is_that_of_its_content(tmp_path: Path) -> None:
    found = release(tmp_path).manifest
    assert content_version(found) == content_version(replace(found, version=""))
