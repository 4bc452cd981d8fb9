"""Evidence: documents of many witnesses beside a release, which of them count, and what they say together."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pipeline import cli, exits
from pipeline.commands import attest
from pipeline.consume import load
from pipeline.consume.cache import Cache
from pipeline.consume.evidence import Standing, Testimony
from pipeline.consume.reference import parse
from pipeline.consume.render import contradiction_lines
from pipeline.consume.resolve import Remote, Resolver
from pipeline.consume.runtimes import Fit
from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes, sha256_file, write
from pipeline.iree.device import Device
from pipeline.iree.gates import Facts
from pipeline.layout import channel_key, evidence_index_key, evidence_key, release_key
from pipeline.machine import now, witness
from pipeline.manifest import types as m
from pipeline.manifest.codec import decode, encode
from pipeline.manifest.evidence import EvidenceDocument, FileProof, FunctionProof, VariantProof, Witness
from pipeline.stages import publish
from pipeline.store.base import BrokenTransferError, Object
from pipeline.store.directory import DirectoryStore
from pipeline.store.documents import add_evidence
from pipeline.store.open import open_store
from tests import releases, talk, web

SCHEMA = Path(cli.__file__).parent / "manifest" / "evidence.schema.json"


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cache:
    """A cache of its own for each test."""
    monkeypatch.setenv("VMFB_CACHE", str(tmp_path / "cache"))
    return Cache()


@dataclasses.dataclass
class Released:
    """A release of noise in a folder, with one document, of a witness who ran nothing."""

    root: Path
    manifest: m.Manifest

    def document(self, *proofs: VariantProof, made: str = "2026-02-01T00:00:00Z", cpu: str = "a CPU") -> EvidenceDocument:
        """What a witness saw of its file."""
        artifact = self.manifest.artifacts[0]
        file = FileProof(artifact.bundle, artifact.blob.sha256, proofs)
        witness = Witness("a test", "3.13.0", "a system", cpu)
        return replace(releases.unseen(self.manifest), made=made, witness=witness, files=(file,))

    def add(self, document: EvidenceDocument | bytes) -> str:
        """Publish it; its digest."""
        data = document if isinstance(document, bytes) else encode(document)
        add_evidence(open_store(str(self.root)), "noise", self.manifest.version, data)
        return sha256_bytes(data)

    def gather(self, url: str = "", offline: bool = False) -> Testimony:
        """What a consumer finds."""
        resolver = Resolver(Remote(url or str(self.root), offline), Cache())
        return resolver.evidence(resolver.manifest(parse("noise")))

    def standings(self) -> dict[str, Standing]:
        return self.gather().of(self.manifest.artifacts[0], ["main"])


@pytest.fixture
def released(tmp_path: Path) -> Released:
    manifest, _ = releases.release(open_store(str(tmp_path / "store")), tmp_path / "package")
    return Released(tmp_path / "store", manifest)


def proof(variant: str = "cpu", kind: str = "device", problem: str = "", device: str = "a CPU", **changes: Any) -> VariantProof:
    seen = () if kind == "untested" else (FunctionProof("main", 3, 1e-6, 1e-6, 2.0 if problem else 0.1),)
    nothing = dict.fromkeys(("load_s", "latency_s", "spread_s", "peak_memory", "matrix_kernels"))
    known = {"sha256": "0" * 64, "reason": "", "driver": "", "subgroup_sizes": (), "functions": seen, "rounds": 0, **nothing}
    return VariantProof(variant=variant, kind=kind, problem=problem, device=device, **(known | changes))


# What documents say together


def test_the_strongest_and_newest_speaks_for_a_variant(released: Released) -> None:
    assert released.standings()["cpu"].kind == "untested"
    released.add(released.document(proof(kind="untested", reason="nothing here")))
    assert released.standings()["cpu"].reason == "nothing here"
    for kind, day in (("twin", "2026-02-05"), ("device", "2026-02-01"), ("emulator", "2026-02-04"), ("device", "2026-02-03")):
        released.add(released.document(proof(kind=kind, device=f"{kind} of {day}"), made=f"{day}T00:00:00Z"))
    found = released.standings()
    assert (found["cpu"].kind, found["gpu"].kind) == ("device", "untested")
    assert [s.proof.device for s in found["cpu"].right] == [
        *("device of 2026-02-03", "device of 2026-02-01", "emulator of 2026-02-04", "twin of 2026-02-05")
    ]
    assert (found["cpu"].witnesses, found["cpu"].newest) == (2, "2026-02-05")
    assert found["cpu"].is_at_least("device")
    assert not found["gpu"].is_at_least("twin")


def test_a_machine_that_looks_twice_is_one_witness(released: Released) -> None:
    for day in (1, 2, 3):
        released.add(released.document(proof(), made=f"2026-02-0{day}T00:00:00Z"))
    released.add(released.document(proof(), cpu="another"))
    assert released.standings()["cpu"].witnesses == 2


def test_who_saw_it_wrong_is_shown_first_and_nothing_outweighs_it(released: Released, capsys: pytest.CaptureFixture[str]) -> None:
    released.add(released.document(proof(), made="2026-02-02T00:00:00Z"))
    released.add(released.document(proof(problem="output 'y' is off\x1b[31m", device="another CPU"), cpu="that one"))
    standing = released.standings()["cpu"]
    assert not standing.is_at_least("twin")
    assert [s.place for s in standing.wrong] == ["another CPU"]
    for command in (["inspect", "noise"], ["explain", "noise", "--pretend", "skylake"]):
        assert cli.main([*command, "--store", str(released.root)]) == 0
        first = capsys.readouterr().out.splitlines()[0]
        assert first.startswith("! cpu of desktop is WRONG on another CPU (a system, IREE 3.13.0, 2026-02-01): output 'y' is off")
        assert first.endswith("; right on a CPU")
        assert "\x1b" not in first
    assert cli.main(["list", "--store", str(released.root)]) == 0
    assert "1 untested, 1 WRONG" in capsys.readouterr().out


def test_functions_that_nobody_ran_are_untested(tmp_path: Path) -> None:
    manifest, _ = releases.make(tmp_path / "package", 1 << 16, 1 << 14)
    released = Released(tmp_path, manifest)
    found = Testimony((released.document(proof(reason="no time for step")),)).of(manifest.artifacts[0], ["main", "step"])
    assert (found["cpu"].kind, found["cpu"].untested, found["cpu"].reason) == ("untested", ("step",), "no time for step")


# What does not count


def _of(document: EvidenceDocument, **changes: Any) -> EvidenceDocument:
    """The document with other values of its only file, or of its only proof."""
    (file,) = document.files
    keys = {f.name for f in dataclasses.fields(FileProof)}
    file = replace(file, **{k: v for k, v in changes.items() if k in keys})
    seen = replace(file.variants[0], **{k: v for k, v in changes.items() if k not in keys})
    return replace(document, files=(replace(file, variants=(seen,)),))


def _raw(document: EvidenceDocument, **changes: Any) -> bytes:
    return json.dumps(json.loads(encode(document)) | changes).encode()


@pytest.mark.parametrize(
    ("forge", "complaint"),
    [
        (lambda d: replace(d, model="other"), "is of another model, 'other'"),
        (lambda d: replace(d, reference="1" * 64), "is of other test data"),
        (lambda d: replace(d, parameters=("1" * 64,)), "is of other weights"),
        (lambda d: _of(d, bundle="portable"), "is of another file for 'portable'"),
        (
            lambda d: replace(d, files=(replace(d.files[0], sha256="1" * 64),)),
            "is of another file for 'desktop', with",
        ),
        (lambda d: replace(d, files=(replace(d.files[0], variants=(proof(sha256="1" * 64),)),)), "is of other code for 'cpu'"),
        (lambda d: _of(d, variant="tpu"), "is of other code for 'tpu'"),
        (lambda d: _of(d, functions=(FunctionProof("step", 1, 0.0, 0.0, 0.0),)), "is of a function that there is not, 'step'"),
        (lambda d: replace(d, made="2999-01-01T00:00:00Z"), "is of the future, 2999-01-01"),
        (lambda d: replace(d, made="2026-02-31T00:00:00Z"), "is of no time, 2026-02-31"),
        (lambda d: replace(d, made="yesterday"), "is no time such as"),
        (lambda d: replace(d, witness=replace(d.witness, runtime="9'; rm -rf ~ #")), "is no version"),
        (lambda d: _raw(d, schema=3), "has schema version 3, this program reads version 2"),
        (lambda d: _raw(d, surprise=1), "surprise: is not a key here"),
        (lambda d: _of(d, kind="guess"), "'guess' is none of untested, twin"),
        (lambda d: _of(d, functions=()), "nothing was compared"),
        (lambda d: _of(d, functions=(FunctionProof("main", 1, 9.0, 9.0, 1.5),)), "is called right, and is beyond its limit"),
        (lambda d: _of(d, functions=(FunctionProof("main", 0, 0.0, 0.0, 0.0),)), "is called right, and is beyond its limit"),
        (lambda d: encode(d).replace(b'"rounds": 0', b'"rounds": -1'), "must not be negative"),
        (lambda d: encode(d).replace(b"0.1", b"NaN"), "nan is no number here"),
        (lambda d: encode(d).replace(b"0.1", b"-Infinity"), "-inf is no number here"),
        (lambda d: encode(d)[:100], "not JSON"),
        (lambda d: b"", "not JSON"),
    ],
)
def test_forged_evidence_is_never_counted_and_named(
    released: Released, forge: Callable[[EvidenceDocument], EvidenceDocument | bytes], complaint: str
) -> None:
    digest = released.add(forge(released.document(proof())))
    testimony = released.gather()
    assert [d.files for d in testimony.documents] == [()]  # the one who ran nothing
    (told,) = testimony.refused
    assert complaint in told
    assert told.startswith(evidence_key("noise", released.manifest.version, digest))
    assert released.standings()["cpu"].kind == "untested"


def test_a_document_that_is_not_what_its_name_says_is_never_counted(released: Released) -> None:
    digest = released.add(released.document(proof()))
    path = released.root / evidence_key("noise", released.manifest.version, digest)
    path.write_bytes(path.read_bytes().replace(b"twin", b"device") + b"\n")
    (told,) = released.gather().refused
    assert "does not have the digest that it is named by" in told
    path.write_bytes(path.read_bytes()[:-40])
    assert "does not have the digest" in released.gather().refused[0]


def test_evidence_holds_for_the_same_content_under_another_version(released: Released, tmp_path: Path) -> None:
    document = encode(released.document(proof()))
    store = open_store(str(released.root))
    publish.publish(tmp_path / "package", store, version="1.0")
    add_evidence(store, "noise", "1.0", document)
    assert released.standings()["cpu"].kind == "device"


# Where it is found


def test_a_web_server_that_lists_nothing_has_a_list(released: Released, cache: Cache) -> None:
    released.add(released.document(proof()))
    with web.serve(released.root) as server:
        testimony = released.gather(server.url)
        assert len(testimony.documents) == 2
        asked = len(server.seen)
        assert len(released.gather(server.url).documents) == 2
        assert len(server.seen) == asked + 3  # which release it is, if it was yanked, and the list: documents never change
    again = released.gather(server.url)  # it is away: what was last seen
    assert len(again.documents) == 2
    assert len(released.gather(server.url, offline=True).documents) == 2


def test_a_list_of_anything_is_no_document(released: Released) -> None:
    key = evidence_index_key("noise", released.manifest.version)
    write(released.root / key, json.dumps({"schema": 1, "documents": ["../../secret"]}).encode())
    with web.serve(released.root) as server:
        assert released.gather(server.url).documents == ()
    write(released.root / key, json.dumps({"schema": 1, "documents": ["3" * 64]}).encode())
    with web.serve(released.root) as server:
        assert "is not there" in released.gather(server.url).refused[0]


def test_the_list_is_made_again_by_whoever_adds(released: Released) -> None:
    index = released.root / evidence_index_key("noise", released.manifest.version)
    index.write_bytes(b"damaged")
    digest = released.add(released.document(proof()))
    assert digest in json.loads(index.read_bytes())["documents"]
    assert len(json.loads(index.read_bytes())["documents"]) == 2


def test_who_has_a_release_in_the_cache_and_never_asked_about_it_asks_now(released: Released, cache: Cache) -> None:
    reference = parse(f"noise@{released.manifest.version}")
    Resolver(Remote(str(released.root)), cache).manifest(reference)  # as a fetch does
    released.add(released.document(proof(problem="is off")))

    def kept(offline: bool = False) -> Testimony:
        resolver = Resolver(Remote(str(released.root), offline), cache, notes.append)
        return resolver.evidence(resolver.manifest(reference))

    notes: list[str] = []
    assert kept(offline=True).contradictions == ()
    assert notes == [f"what witnesses say of noise@{released.manifest.version} was never read: it is not known here"]
    assert len(kept().contradictions) == 1
    released.add(released.document(proof()))
    assert len(kept().documents) == 2  # what was read is good enough where the release itself is not asked for


class _Away:
    """A store that does not answer."""

    url = "a store"

    def __init__(self) -> None:
        self.asked = list[str]()

    def get(self, key: str) -> None:
        self.asked.append(key)
        raise BrokenTransferError("cannot connect", where=self.url)

    listed = get


def test_a_store_that_does_not_answer_is_asked_once(
    released: Released, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    released.add(released.document(proof()))
    for channel in ("beta", "stable"):
        publish.publish(released.root.parent / "package", open_store(str(released.root)), channel=channel)
    assert cli.main(["list", "--store", str(released.root)]) == 0
    expected = capsys.readouterr().out
    away = _Away()
    monkeypatch.setattr(Remote, "source", away)
    assert cli.main(["list", "--store", str(released.root)]) == 0
    captured = capsys.readouterr()
    assert captured.out == expected
    assert captured.err.count("going by what it was when last seen") == 1
    assert away.asked == ["index.json"]
    assert released.standings()["cpu"].kind == "device"
    assert len(away.asked) == 2


def test_a_document_that_cannot_be_read_is_named(released: Released, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = released.add(released.document(proof(problem="is off")))
    get = DirectoryStore.get

    def broken(store: DirectoryStore, key: str) -> Object | None:
        if digest in key:
            raise BrokenTransferError("the connection broke", where=key)
        return get(store, key)

    monkeypatch.setattr(DirectoryStore, "get", broken)
    testimony = released.gather()
    assert (testimony.contradictions, testimony.refused) == ((), ())
    (told,) = (line for line in testimony.unread if digest in line)  # others, if their turn came after: it is away
    assert told.endswith(f"{digest}.json: the connection broke")
    assert f"! this evidence could not be read: {told}" in contradiction_lines(testimony)


def test_what_witnesses_write_cannot_move_a_terminal(released: Released, capsys: pytest.CaptureFixture[str]) -> None:
    bell, surrogate = "\x1b]0;title\x07", json.loads('"\\ud800"')
    seen = proof(device=f"a{bell}", reason=f"b{bell}", driver=f"c{bell}{surrogate}")
    document = replace(
        released.document(seen, proof("gpu", "untested", reason=f"d{bell}")), witness=Witness(bell, "3", bell, bell)
    )
    released.add(json.dumps(dataclasses.asdict(document)).encode())
    store = ["--store", str(released.root)]
    for command in (["inspect", "noise"], ["inspect", "noise", "--evidence"], ["explain", "noise", "--pretend", "skylake"]):
        assert cli.main([*command, *store]) == 0
        captured = capsys.readouterr()
        assert "\\x1b]0;title" in captured.out
        assert "\x1b" not in captured.out + captured.err
    for found in released.gather().documents:
        encode(found)  # as what a witness that was asked answers


# Being a witness


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return talk.make(tmp_path_factory.mktemp("talk"))


@pytest.fixture
def store(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the release `talk`: several entry points and weights of its own."""
    monkeypatch.setenv("PIPELINE_STORE", str(tmp_path / "talk"))
    return Path(shutil.copytree(made, tmp_path / "talk"))


def _documents(store: Path) -> list[EvidenceDocument]:
    paths = sorted(store.glob(f"evidence/talk/*/{'?' * 64}.json"))
    for path in paths:
        assert sha256_file(path) == path.stem
        jsonschema.validate(json.loads(path.read_text()), json.loads(SCHEMA.read_text()))
    return [decode(EvidenceDocument, path.read_bytes(), str(path)) for path in paths]


def _manifest(store: Path) -> m.Manifest:
    version = json.loads((store / channel_key("talk", "latest")).read_bytes())["version"]
    return decode(m.Manifest, (store / release_key("talk", version)).read_bytes(), "store")


def test_a_witness_runs_all_that_its_devices_accept(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(_documents(store)) == 1
    assert cli.main(["attest", "talk", "--seconds", "0.05"]) == 0
    out = capsys.readouterr().out
    assert "wrote " in out
    new = max(_documents(store), key=lambda d: d.made)
    assert [file.bundle for file in new.files] == list(talk.BUNDLES)
    manifest = _manifest(store)
    for file, artifact in zip(new.files, manifest.artifacts, strict=True):
        assert file.sha256 == artifact.blob.sha256
        seen = {p.variant: p for p in file.variants}
        assert "x86-64" in seen  # which is accepted, and not chosen where there is something better
        for one in seen.values():
            assert (one.kind, one.problem) == ("device", "")
            assert {f.function for f in one.functions} == {"encode", "main_4", "main_16", "step"}
            assert min(one.latency_s or 0, one.load_s or 0) > 0
            assert (one.peak_memory or 0) > 1 << 20
            assert one.rounds >= 1
    resolver = Resolver(Remote(str(store)), Cache())
    found = resolver.evidence(manifest, asks=True).of(manifest.artifacts[0], ["encode", "main_4", "main_16", "step"])
    assert found["x86-64"].kind == "device"  # at home there had been no time for `step`


def test_what_is_wrong_on_a_device_is_written_down_and_stops_the_command(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The release says that something else is right."""
    talk.add_wrong(store, _manifest(store))
    assert cli.main(["attest", "talk@wrong", "--seconds", "0", "--bundle", "cpus"]) == exits.WRONG
    captured = capsys.readouterr()
    assert "WRONG" in captured.out
    assert "wrong here: talk@wrong" in captured.err
    (seen,) = (d for d in _documents(store) if any(p.problem for file in d.files for p in file.variants))
    assert all(p.problem.startswith("step: output ") for file in seen.files for p in file.variants)
    run = ["run", "talk@wrong", "--function", "encode", "--check", "--device", "local"]
    assert cli.main([*run, "--require", "device"]) == 1
    assert "was wrong on" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="of talk@wrong was wrong on"):  # as the store said when it was asked
        load("talk@wrong", device="local")


def test_what_fails_in_a_runtime_that_nobody_knows_to_work_is_no_evidence(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    talk.add_wrong(store, _manifest(store))
    count = len(_documents(store))
    monkeypatch.setattr("pipeline.consume.runtimes.fit", lambda *_: Fit(None, "made for another", "install that"))
    monkeypatch.setattr("importlib.metadata.version", lambda _: "3.99.0")
    assert cli.main(["attest", "talk@wrong", "--seconds", "0", "--bundle", "cpus"]) == 1
    said = capsys.readouterr().err
    assert "talk@wrong fails in a runtime that it is not known to work in" in said
    assert "install that" in said
    monkeypatch.setattr("pipeline.consume.runtimes.fit", lambda *_: Fit(False, "made for another", "install that"))
    assert cli.main(["attest", "talk@wrong", "--seconds", "0", "--bundle", "cpus"]) == 1
    assert "talk@wrong is made for another" in capsys.readouterr().err
    assert len(_documents(store)) == count


def test_attesting_all_leaves_out_what_was_attested(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["attest", "--all", "--since", "1d", "--seconds", "0"]
    assert cli.main(command) == 0
    count = len(_documents(store))
    assert cli.main(command) == 0
    assert "was attested here since" in capsys.readouterr().out
    assert len(_documents(store)) == count


def test_a_night_leaves_out_devices_that_take_nothing_and_goes_on_after_a_damaged_release(
    released: Released, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def device(name: str, *formats: str) -> Device:
        return Device(f"{name}://0", name, name, "", False, Facts(name, frozenset(formats), {}))

    devices = [device("a CPU", "embedded-elf-x86_64"), device("another", "cuda-nvptx-fb")]
    made = replace(released.document(proof()), made=now(), witness=witness())
    monkeypatch.setattr(attest, "here", lambda _: devices)
    monkeypatch.setattr(attest, "_attest", lambda *_: made)
    command = ["attest", "--all", "--since", "1d", "--store", str(released.root)]
    assert cli.main(command) == 0
    assert "wrote " in capsys.readouterr().out
    assert cli.main(command) == 0
    assert "was attested here since" in capsys.readouterr().out
    del devices[0]
    assert cli.main(command) == 0  # a machine without a device for it: nothing is wrong
    assert "no device here accepts any variant" in capsys.readouterr().out
    devices.append(device("a GPU", "vulkan-spirv-fb"))
    store = open_store(str(released.root))
    publish.publish(released.root.parent / "package", store, version="0.9", channel="damaged")
    (released.root / release_key("noise", "0.9")).write_bytes(b"damaged")
    assert cli.main(command) == 1
    captured = capsys.readouterr()
    assert "some were not attested: noise@0.9" in captured.err
    assert f"noise@{released.manifest.version}\n" in captured.out


def test_a_document_may_go_into_a_file(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["attest", "talk", "--seconds", "0", "--device", "local", "-o", str(tmp_path / "seen.json")]) == 0
    decode(EvidenceDocument, (tmp_path / "seen.json").read_bytes(), "the file")
    capsys.readouterr()
    assert cli.main(["attest", "talk", "--seconds", "0", "--device", "local", "-o", "-"]) == 0
    decode(EvidenceDocument, capsys.readouterr().out.encode(), "standard output")
    assert len(_documents(store)) == 1


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "give MODEL, or --all"),
        (["talk", "--all"], "give MODEL, or --all"),
        (["talk", "--since", "7d"], "--since is for --all"),
        (["--all", "-o", "seen.json"], "--output is for a MODEL"),
        (["--all", "--since", "soon"], "'soon' is no day"),
        (["talk", "--store", "https://localhost:1/x"], "can only be read"),
        (["tlak"], "did you mean 'talk'?"),
    ],
)
def test_a_command_that_cannot_be_is_one_message(
    store: Path, words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["attest", *words]) == 1
    captured = capsys.readouterr()
    assert complaint in captured.err
    assert "Traceback" not in captured.err


# Asking for evidence


def test_less_evidence_than_is_asked_for_is_refused(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At home there was no time for `step`: so the variant is untested."""
    run = ["run", "talk", "--function", "encode", "--check", "--device", "local"]
    assert cli.main([*run, "--require", "device"]) == 1
    assert "the strongest evidence for it is untested, not device" in capsys.readouterr().err
    assert cli.main(run) == 0
    assert "untested" in capsys.readouterr().err
    with pytest.raises(PipelineError, match="the strongest evidence for it is untested"):
        load("talk", device="local", require="device")
    with pytest.raises(PipelineError, match="is no kind of evidence"):
        load("talk", device="local", require="devices")
    assert cli.main(["attest", "talk", "--seconds", "0", "--device", "local"]) == 0
    assert cli.main([*run, "--require", "device"]) == 0
    everywhere = ["run", "talk", "--function", "encode", "--bundle", "desktop", "--benchmark", "--require", "device"]
    assert cli.main([*everywhere, "--device", "local"]) == 0
    capsys.readouterr()
    assert cli.main(everywhere) == 1  # on the GPU too, where nobody saw it
    assert "vulkan-any would run here, and the strongest evidence for it is " in capsys.readouterr().err
    model = load("talk", device="local", require="device")
    assert model.evidence is not None
    assert model.evidence.kind == "device"
