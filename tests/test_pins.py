"""A release is what it was when it was first seen: by its version, by its content, by the digest that a user names."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import cli
from pipeline.consume.cache import Cache
from pipeline.consume.reference import parse
from pipeline.consume.resolve import Remote, Resolver
from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes, write
from pipeline.layout import release_key
from pipeline.manifest.codec import content_version, decode, encode
from pipeline.manifest.types import Manifest
from pipeline.stages.publish import publish
from pipeline.store.open import open_store
from tests import releases
from tests.project import DATA


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VMFB_CACHE", str(tmp_path / "cache"))
    releases.make(tmp_path / "package", 1000, 100)
    return tmp_path / "package"


def resolve(store: Path, text: str, notes: list[str] | None = None, offline: bool = False) -> Manifest:
    return Resolver(Remote(str(store), offline), Cache(), [].append if notes is None else notes.append).manifest(parse(text))


def digest(manifest: Manifest) -> str:
    return sha256_bytes(encode(manifest))


def twice(tmp_path: Path, package: Path) -> tuple[Path, Manifest, Manifest]:
    """A store that has served version 1, and now serves another manifest for it, to which its channel points; and both."""
    store = tmp_path / "store"
    publish(package, open_store(str(store)), "1")
    first = resolve(store, "noise")
    releases.make(tmp_path / "other", 1000, 100, seed=1)
    shutil.rmtree((store / release_key("noise", "1")).parent)  # with all that is about the other
    publish(tmp_path / "other", open_store(str(store)), "1")
    return store, first, decode(Manifest, (store / release_key("noise", "1")).read_bytes(), "")


def test_a_version_that_is_served_with_another_manifest_is_an_error(tmp_path: Path, package: Path) -> None:
    store, first, second = twice(tmp_path, package)
    assert first != second
    for _ in range(2):
        with pytest.raises(
            PipelineError, match=f"has the SHA-256 {digest(second)}; when it was first seen here it had"
        ) as caught:
            resolve(store, "noise")
        assert resolve(store, "noise@1") == first
    assert f"noise@sha256:{digest(second)}" in caught.value.hint


def test_what_the_disk_lost_of_a_manifest_is_no_way_to_replace_it(tmp_path: Path, package: Path) -> None:
    store, _, second = twice(tmp_path, package)
    (kept,) = Cache().root.rglob("manifest.json")
    kept.unlink()
    with pytest.raises(PipelineError, match="when it was first seen"):
        resolve(store, "noise@1")
    kept.with_name("manifest.json.sha256").unlink()
    assert resolve(store, "noise@1") == second  # seen for the first time


def test_a_cache_of_an_older_program_is_believed_as_well(tmp_path: Path, package: Path) -> None:
    store, first, _ = twice(tmp_path, package)
    for path in Cache().root.rglob("manifest.json.sha256"):
        path.unlink()
    with pytest.raises(PipelineError, match="when it was first seen"):
        resolve(store, "noise")
    assert resolve(store, "noise@1") == first


def test_a_digest_names_one_manifest(tmp_path: Path, package: Path) -> None:
    store, first, second = twice(tmp_path, package)
    notes: list[str] = []
    assert resolve(store, f"noise@sha256:{digest(first)}", notes) == first
    assert notes == []
    assert resolve(store, f"noise@sha256:{digest(second)}", notes) == second
    assert "was another manifest so far" in notes[0]
    assert resolve(store, f"noise@sha256:{digest(second)}", offline=True) == second
    with pytest.raises(PipelineError, match="no release of noise has this manifest"):
        resolve(store, f"noise@sha256:{'0' * 64}")
    with pytest.raises(PipelineError, match="is no SHA-256"):
        parse("noise@sha256:12")


def test_a_digest_is_found_among_many_versions(tmp_path: Path, package: Path) -> None:
    store = tmp_path / "store"
    for version in range(20):
        publish(package, open_store(str(store)), str(version))
    seventh = decode(Manifest, (store / release_key("noise", "7")).read_bytes(), "")
    assert resolve(store, f"noise@sha256:{digest(seventh)}") == seventh
    with pytest.raises(PipelineError, match="is not in the cache"):
        resolve(store, f"noise@sha256:{digest(replace(seventh, version='8'))}", offline=True)


def test_commands_take_a_digest_and_tell_it(tmp_path: Path, package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "store"
    publish(package, open_store(str(store)))
    where = ["--store", str(store)]
    assert cli.main(["inspect", "noise", *where]) == 0
    pin = capsys.readouterr().out.split("its name for good: ")[1].strip()
    assert cli.main(["fetch", pin, "--full", "-q", *where]) == 0
    assert cli.main(["inspect", pin, *where]) == 0
    assert cli.main(["diff", pin, "noise", *where]) == 0
    wrong = pin[:-1] + ("0" if pin[-1] != "0" else "1")
    assert cli.main(["fetch", wrong, "--full", "-q", *where]) == 1


def test_a_derived_version_is_that_of_its_content(tmp_path: Path, package: Path) -> None:
    honest = decode(Manifest, (package / "manifest.json").read_bytes(), "")
    other = replace(honest, model=replace(honest.model, about="another"))
    with pytest.raises(PipelineError, match=f"version: {honest.version} is derived from other content"):
        decode(Manifest, encode(other), "here")
    assert decode(Manifest, encode(replace(other, version=content_version(other))), "here")
    assert decode(Manifest, encode(replace(other, version="1")), "here")
    write(tmp_path / "store" / release_key("noise", honest.version), encode(other))
    with pytest.raises(PipelineError, match="is derived from other content"):
        resolve(tmp_path / "store", f"noise@{honest.version}")
    with pytest.raises(PipelineError, match="is derived from other content"):
        publish(package, open_store(str(tmp_path / "new")), "c" + "0" * 32)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("schema", [1, 2, 3])
def test_derived_versions_of_older_schemas_are_checked_as_they_were_made(schema: int) -> None:
    data = (DATA / "manifests" / f"{schema}.json").read_bytes()
    assert decode(Manifest, data, "here")
    changed = json.loads(data)
    changed["model"]["about"] = "another"
    with pytest.raises(PipelineError, match="is derived from other content"):
        decode(Manifest, json.dumps(changed).encode(), "here")
