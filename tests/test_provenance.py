"""Where a release comes from: told by its own statement and bill of materials, which others' programs can read."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement

from pipeline import __version__, cli
from pipeline.consume.cache import Cache
from pipeline.consume.resolve import Remote
from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes, sha256_file, write
from pipeline.iree.file import choice
from pipeline.layout import Layout, blob_key, bom_key, provenance_key, release_key
from pipeline.manifest import provenance
from pipeline.spec.load import load
from pipeline.stages import provenance as origins
from pipeline.stages import rebuild, reproduce
from pipeline.stages.publish import publish
from pipeline.store.base import Store
from pipeline.store.open import open_store
from tests import trusting
from tests.project import ROOT, Project, manifest
from tests.publishing import LATEST, MODEL, Package, Spy, manifest_of


def _document(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


@pytest.fixture(scope="module")
def said(built: Project) -> dict[str, Any]:
    """The provenance of a real build."""
    return _document(built.layout.package("small") / "provenance.json")


def test_it_is_what_in_toto_and_slsa_define(said: dict[str, Any]) -> None:
    """By the types that the two publish, which refuse a key that they do not know."""
    parsed = json_format.ParseDict(said, statement_pb2.Statement())
    Statement.copy_from_pb(parsed).validate()
    assert said["predicateType"] == "https://slsa.dev/provenance/v1"
    predicate = json_format.ParseDict(said["predicate"], provenance_pb2.Provenance())
    assert predicate.build_definition.build_type == provenance.BUILD_TYPE
    assert predicate.run_details.builder.id == "urn:vmfb-pipeline:builder"


def test_it_is_about_every_file_of_the_release(built: Project, said: dict[str, Any]) -> None:
    found = manifest(built)
    digest = sha256_file(built.layout.package("small") / "manifest.json")
    wanted = {blob_key(b.sha256): b.sha256 for b in found.blobs()} | {release_key("small", found.version): digest}
    assert {one["name"]: one["digest"]["sha256"] for one in said["subject"]} == wanted


def test_it_tells_specs_sources_flags_and_programs(built: Project, said: dict[str, Any]) -> None:
    definition = said["predicate"]["buildDefinition"]
    external = definition["externalParameters"]
    specs = [
        f"targets/{name}.yaml" for name in ("models/small", "bundles/desktop", "executables/x86-64", "executables/amd-rdna3")
    ]
    assert {name: external["specs"][name] for name in specs} == {name: sha256_file(built.root / name) for name in specs}
    assert external["sources"][0]["sha256"] == sha256_file(built.targets / "models/small.mlir")
    assert external["options"]["desktop"]["bundle"]["on_failure"] == "fail"
    assert definition["internalParameters"]["flags"]["desktop"] == list(manifest(built).artifacts[0].flags)
    known = provenance.dependencies(said)
    assert known["iree-base-compiler"]["uri"] == "pkg:pypi/iree-base-compiler@3.13.0"
    assert len(known["iree-base-compiler"]["annotations"]["libraryAndLinkerSha256"]) == 64
    assert {"numpy", "sympy", "mpmath"} <= known.keys()  # which the compiler needs
    assert known["vmfb-pipeline"]["uri"] == f"pkg:pypi/vmfb-pipeline@{__version__}"
    assert str(ROOT) not in json.dumps(said)  # nothing of this machine's folders
    assert str(built.root) not in json.dumps(said)


def test_the_bill_of_materials_is_cyclonedx(built: Project) -> None:
    data = (built.layout.package("small") / "bom.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(data) is None
    bom = json.loads(data)
    model = bom["metadata"]["component"]
    assert (model["type"], model["name"], model["version"]) == ("machine-learning-model", "small", manifest(built).version)
    assert model["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert model["modelCard"]["modelParameters"]["inputs"] == [{"format": "a: 64x128 float32"}, {"format": "b: 128x64 float32"}]
    assert {c["hashes"][0]["content"] for c in model["components"]} == {b.sha256 for b in manifest(built).blobs()}
    (source,) = model["pedigree"]["ancestors"]
    assert source["hashes"][0]["content"] == sha256_file(built.targets / "models/small.mlir")
    purls = {c["purl"] for c in bom["components"]}
    assert "pkg:pypi/iree-base-compiler@3.13.0" in purls
    depends = {d["ref"]: d.get("dependsOn", []) for d in bom["dependencies"]}
    assert depends["release"] == ["pkg:pypi/iree-base-compiler@3.13.0"]
    assert any(ref.startswith("pkg:pypi/sympy@") for ref in depends["pkg:pypi/iree-base-compiler@3.13.0"])


def test_both_are_the_same_again_but_for_when_and_who(again: Project) -> None:
    folder = again.layout.package("small")
    before = [_document(folder / name) for name in ("provenance.json", "bom.json")]
    (folder / "record.json").unlink()
    (folder / "manifest.json").unlink()
    assert again.doit("package", PIPELINE_BUILDER="urn:example:other").returncode == 0
    after = [_document(folder / name) for name in ("provenance.json", "bom.json")]
    assert after[0]["predicate"]["runDetails"]["builder"]["id"] == "urn:example:other"
    for said, bom in (before, after):
        del said["predicate"]["runDetails"]["builder"], said["predicate"]["runDetails"]["metadata"], bom["metadata"]["timestamp"]
    assert before == after


# Published


def _about(store: Store, package: Path, version: str) -> tuple[Any, Any]:
    """The documents in the store, which are about the manifest there."""
    found = [store.get(key(MODEL, version)) for key in (provenance_key, bom_key, release_key)]
    assert all(found)
    said, bom, data = (one.data for one in found if one)
    provenance.require_about(json.loads(said), sha256_bytes(data), "")
    provenance.require_bom_of(json.loads(bom), sha256_bytes(data), "")
    return json.loads(said), json.loads(bom)


def test_a_version_of_ones_own_has_documents_about_itself(store: Store, package: Package) -> None:
    folder = package("one")
    for version in ("", "1.2.0"):  # content that has a version of its own is not given a derived one
        publish(folder, store, version=version)
    derived = manifest_of(folder).version
    first, second = _about(store, folder, "1.2.0"), _about(store, folder, derived)
    assert first[0]["predicate"] == second[0]["predicate"]
    assert (first[1]["metadata"]["component"]["version"], second[1]["metadata"]["component"]["version"]) == ("1.2.0", derived)
    assert first[1]["serialNumber"] != second[1]["serialNumber"]


def test_what_was_said_first_stays(store: Store, package: Package) -> None:
    folder = package("one")
    publish(folder, store)
    version = manifest_of(folder).version
    before = store.get(provenance_key(MODEL, version))
    said = _document(folder / "provenance.json")
    said["predicate"]["runDetails"]["builder"]["id"] = "urn:example:other"
    (folder / "provenance.json").write_bytes(provenance.as_bytes(said))
    spy = Spy(store)
    publish(folder, spy)
    assert not [key for word, key in spy.writes if key.startswith("releases/") and word != "create"]
    assert store.get(provenance_key(MODEL, version)) == before


def test_a_release_by_an_older_program_gets_them_when_it_is_published_again(tmp_path: Path, package: Package) -> None:
    folder, store = package("one"), open_store(str(tmp_path / "store"))
    publish(folder, store)
    version = manifest_of(folder).version
    (tmp_path / "store" / provenance_key(MODEL, version)).unlink()
    (tmp_path / "store" / bom_key(MODEL, version)).unlink()
    publish(folder, store)
    _about(store, folder, version)


@pytest.mark.parametrize("key", [provenance_key, bom_key])
def test_strangers_words_about_a_release_keep_the_channel_where_it_is(tmp_path: Path, package: Package, key: Any) -> None:
    store, other = open_store(str(tmp_path / "store")), open_store(str(tmp_path / "other"))
    publish(package("two"), other)
    strange = other.get(key(MODEL, manifest_of(package("two")).version))
    folder = package("one")
    for data in (strange.data if strange else b"", b"[]", b"{}", b"\xff"):
        path = tmp_path / "store" / key(MODEL, manifest_of(folder).version)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        with pytest.raises(PipelineError) as caught:
            publish(folder, store)
        assert key(MODEL, manifest_of(folder).version) in caught.value.where
        assert not store.get(LATEST)


# Told


def test_vmfb_inspect_tells_it(built: Project, said: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--store", str(built.layout.store)]
    assert cli.main(["inspect", "small", "--provenance", *where]) == 0
    told = capsys.readouterr().out
    for word in ("commit   not known", "spec     targets/models/small.yaml", "source   small.mlir", "made by  vmfb-pipeline@"):
        assert word in told
    assert cli.main(["inspect", "small", "--provenance", "--json", *where]) == 0
    assert json.loads(capsys.readouterr().out) == said
    assert cli.main(["inspect", "small", "--provenance", "--json", "--offline", *where]) == 0  # it was kept
    assert json.loads(capsys.readouterr().out) == said
    assert cli.main(["inspect", str(built.layout.compiled("small", "desktop") / "module.vmfb"), "--provenance"]) == 1
    assert "a file does not tell where it comes from" in capsys.readouterr().err


def test_a_release_that_tells_nothing_or_of_another_is_said(
    tmp_path: Path, package: Package, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "store"
    publish(package("one"), open_store(str(root)))
    path = root / provenance_key(MODEL, manifest_of(package("one")).version)
    path.write_bytes(path.read_bytes().replace(b'"sha256": "', b'"sha256": "0'))
    assert cli.main(["inspect", MODEL, "--provenance", "--store", str(root)]) == 1
    assert "is about another release" in capsys.readouterr().err
    path.unlink()
    assert cli.main(["inspect", MODEL, "--provenance", "--store", str(root)]) == 1
    assert "does not say where it comes from" in capsys.readouterr().err


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@settings(max_examples=40, deadline=None)
@given(_JSON, st.data())
def test_whatever_a_document_holds_its_lines_are_plain_and_few(value: Any, data: st.DataObject) -> None:
    words = ("externalParameters", "internalParameters", "resolvedDependencies", "buildType")
    definition = {word: data.draw(_JSON) for word in words}
    definition["internalParameters"] = {"flags": {"x": ["\x1b[2J"] * 1000}} if value is None else value
    for document in (
        {"predicate": value, "subject": value},
        {"predicate": {"buildDefinition": definition, "runDetails": {"builder": value, "metadata": value}}},
        {
            "predicate": {
                "buildDefinition": {"externalParameters": {"specs": {"\n": "\x07"}, "sources": [value, {"location": "\u202e"}]}}
            }
        },
    ):
        lines = list(provenance.lines(document))
        assert len(lines) < 60
        assert all(line.isprintable() or not any(ord(c) < 32 or c in "\u202e\x7f" for c in line) for line in lines)


# The checkout and the builder


def _git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    return subprocess.run(["git", "-C", folder, *who, *words], check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_is_told_and_whether_all_is_in_it(tmp_path: Path) -> None:
    assert origins.checkout(tmp_path) is None
    _git(tmp_path, "init", "--quiet")
    assert origins.checkout(tmp_path) is None  # no commit yet
    (tmp_path / "spec.yaml").write_text("one")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "--quiet", "-m", "one")
    commit = _git(tmp_path, "rev-parse", "HEAD")
    assert origins.checkout(tmp_path) == origins.Checkout(commit, clean=True)
    own = tmp_path / "own" / "dodo.py"
    write(own, b"")
    assert origins.checkout(own.parent) is None  # of which the repository around it knows nothing
    own.unlink()
    (tmp_path / "new.yaml").write_text("two")
    assert origins.checkout(tmp_path) == origins.Checkout(commit, clean=False)
    for clean, told in ((True, commit), (False, f"{commit}, with changes that are in no commit")):
        one = {"name": "project", "digest": {"gitCommit": commit}, "annotations": {"clean": clean}}
        document = {"predicate": {"buildDefinition": {"resolvedDependencies": [one]}}}
        assert next(provenance.lines(document)) == f"commit   {told}"


def test_a_builder_has_a_name_that_is_a_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_BUILDER", "https://ci.example.org/builders/1")
    assert provenance.builder() == "https://ci.example.org/builders/1"
    for wrong in ("gpu-box", "urn:a b", "https://me:secret@host/x", "urn:a\x1b[2J", "https://host/?token=1", "urn:"):
        monkeypatch.setenv("PIPELINE_BUILDER", wrong)
        with pytest.raises(PipelineError, match="no URI") as caught:
            provenance.builder()
        assert "secret" not in str(caught.value)


def test_a_builder_without_a_name_is_told_before_anything_is_built(again: Project) -> None:
    result = again.doit("build", PIPELINE_BUILDER="gpu box")
    assert (result.returncode, "PIPELINE_BUILDER: is no URI" in result.stderr) == (3, True)


# Built again


def test_a_release_is_reproduced_to_the_byte(again: Project) -> None:
    version = manifest(again).version
    kept = {path: path.stat().st_mtime_ns for path in again.layout.root.rglob("*") if path.is_file() and ".doit" not in path.name}
    result = again.doit("reproduce", "model=small", f"version={version}")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "the same: small-desktop.vmfb" in result.stdout
    assert "not compared: test data of small, whose outputs are the weakest CPU variant's" in result.stdout
    assert "note:" not in result.stdout
    assert kept == {path: path.stat().st_mtime_ns for path in kept}  # what doit built is as it was
    log = (Layout(again.layout.reproduced / "small").compiled("small", "desktop") / "pieces.json").read_text()
    assert json.loads(log)["generated"] == json.loads(log)["total"] == 12  # all of it anew
    assert not (again.layout.reproduced / "small" / "pieces").exists()


def test_a_file_that_differs_is_told_by_its_parts(again: Project, tmp_path: Path) -> None:
    """As the one below, of a copy that says that another variant runs, which differs in its head alone."""
    built = again.layout.compiled("small", "desktop") / "module.vmfb"
    choice.force(built, 5, tmp_path / "other.vmfb")
    built.write_bytes((tmp_path / "other.vmfb").read_bytes())
    model, _, _ = again.spec("small")
    remote = Remote(str(again.layout.store))
    compared = reproduce._Compared(manifest(again), model, again.layout, remote, Cache(tmp_path / "cache"))
    differs, *parts = compared.differing()
    assert differs.startswith("differs: small-desktop.vmfb, ")
    assert [p.partition(" differ,")[0] for p in parts if "stretches" in p] == ["  head for every device: 1 of 1 stretches"]
    assert compared.same == []


@pytest.mark.thorough
def test_what_differs_is_told_by_its_parts(again: Project) -> None:
    version = manifest(again).version
    path = again.targets / "executables" / "x86-64.yaml"
    path.write_text(path.read_text() + "flags: [--iree-llvmcpu-target-cpu-features=+sse4.2]\n")
    result = again.doit("reproduce", "model=small", f"version={version}")
    said = result.stdout + result.stderr
    assert result.returncode in (1, 2), said
    assert "note: targets/executables/x86-64.yaml is not as it was" in said
    assert "differs: small-desktop.vmfb" in said
    assert "code for x86-64: " in said
    assert "code for amd-rdna3" not in said
    assert "Traceback" not in said


def test_what_cannot_be_reproduced_is_said(again: Project) -> None:
    version = manifest(again).version
    assert "which release?" in again.doit("reproduce").stdout
    assert "there is no such model" in again.doit("reproduce", "model=smal", f"version={version}").stderr
    result = again.doit("reproduce", "model=small", "version=9.9")
    assert (bool(result.returncode), "small has no version 9.9" in result.stdout) == (True, True)
    (again.targets / "executables" / "vulkan-any.yaml").unlink()  # the package has one, with the same content
    result = again.doit("reproduce", "model=small", f"version={version}")
    assert "note: targets/executables/vulkan-any.yaml is not as it was" in result.stdout
    assert "the same: small-desktop.vmfb" in result.stdout
    spec = load(again.targets)
    others = {"vulkan-all" if name == "vulkan-any" else name: target for name, target in spec.executables.items()}
    job = rebuild.Job("small", "targets", "out", "own", {"desktop": ("vulkan-any",)}, ())
    with pytest.raises(PipelineError, match="there is no executable target vulkan-any: did you mean 'vulkan-all'"):
        rebuild._bundle(replace(spec, executables=others), job, "desktop")


def test_in_a_signed_store_it_is_signed_even_if_its_publisher_was_killed_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    signed = trusting.begun(tmp_path, monkeypatch)
    trusting.believe(signed.url, signed)

    def unsigned(store: Store) -> None:
        raise PipelineError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.stages.publish.sign_changes", unsigned)
        with pytest.raises(PipelineError, match="killed"):
            signed.publish(1)
    version = signed.publish(1).version
    assert cli.main(["inspect", f"noise@{version}", "--provenance", "--store", signed.url]) == 0
    assert "builder  urn:test" in capsys.readouterr().out
    path = signed.root / provenance_key("noise", version)
    path.write_bytes(path.read_bytes().replace(b"urn:test", b"urn:evil"))  # about the right release, and not what was signed
    monkeypatch.setenv("VMFB_CACHE", str(tmp_path / "another cache"))
    assert cli.main(["inspect", f"noise@{version}", "--provenance", "--store", signed.url]) == 1
    assert "urn:evil" not in capsys.readouterr().out
