"""Manifests: canonical bytes, both directions, strictness, and the JSON Schema that is published with them."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import jsonschema
import pytest

from pipeline.consume.evidence import misfit
from pipeline.errors import PipelineError
from pipeline.manifest import codec
from pipeline.manifest.evidence import EvidenceDocument
from pipeline.manifest.types import MANIFEST_SCHEMA, Channel, Lock, Manifest, TuningInfo, Yank
from tests.project import DATA

SCHEMA = Path(codec.__file__).with_name("schema.json")
GOLDEN = Path(__file__).parent / "golden" / "manifest.json"


def test_the_published_schema_is_the_one_of_the_types() -> None:
    assert SCHEMA.read_bytes() == codec.json_schema(Manifest)
    for name, type_ in (("evidence", EvidenceDocument), ("channel", Channel), ("yank", Yank), ("lock", Lock)):
        assert SCHEMA.with_name(f"{name}.schema.json").read_bytes() == codec.json_schema(type_)


def test_the_golden_manifest_round_trips_and_fits_the_schema() -> None:
    data = GOLDEN.read_bytes()
    assert codec.encode(codec.decode(Manifest, data, "golden")) == data
    jsonschema.validate(json.loads(data), json.loads(SCHEMA.read_text()))


def test_the_derived_version_depends_on_content_alone() -> None:
    manifest = codec.decode(Manifest, GOLDEN.read_bytes(), "golden")
    assert codec.content_version(dataclasses.replace(manifest, version="9")) == manifest.version
    assert re.fullmatch("c[0-9a-f]{32}", manifest.version)
    other = dataclasses.replace(manifest, compiler=dataclasses.replace(manifest.compiler, version="9"))
    assert codec.content_version(other) != manifest.version


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"schema": 6}, "has schema version 6, this program reads version 5"),
        ({"schema": 5}, "schema: is 5, and what it says is of 4"),
        ({"schema": None}, "has schema version None"),
        ({"surprise": 1}, "surprise: is not a key here"),
        ({"version": 1}, "version: 1 is no str"),
        ({"artifacts": {}}, "artifacts: must be a list"),
        ({"artifacts": [{}]}, r"artifacts\[0\].blob: is missing"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_path(change: dict[str, object], complaint: str) -> None:
    data = json.dumps(json.loads(GOLDEN.read_text()) | change).encode()
    with pytest.raises(PipelineError, match=complaint):
        codec.decode(Manifest, data, "test")


def entry(**changes: object) -> dict[str, object]:
    return {"entries": [json.loads(GOLDEN.read_text())["entries"][0] | changes]}


def tensor(shape: list[object], dtype: str = "float32") -> list[dict[str, object]]:
    return [{"name": "x", "dtype": dtype, "shape": shape}]


def size(least: int, most: int, multiple: int = 1) -> dict[str, object]:
    return {"name": "T", "min": least, "max": most, "multiple": multiple}


def weights(name: str = "w.irpa", length: int = 5) -> dict[str, object]:
    parts = [{"kind": "data", "offset": 0, "length": length, "sha256": "0" * 64, "variants": []}]
    blob = {"name": name, "sha256": "0" * 64, "size": 5}
    return {"parameters": [{"scope": "model", "blob": blob, "segments": parts}]}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"entries": []}, "entries: there are none"),
        ({"entries": entry()["entries"] * 2}, "entries: two have the same function"),  # type: ignore[operator]
        (entry(inputs=tensor(["T"])), "inputs.0..shape: names a dimension that has no range"),
        (entry(inputs=tensor(["T"]), dimensions=[size(3, 2)]), "dimensions: T goes from 3 to 2"),
        (entry(inputs=tensor(["T"]), dimensions=[size(0, 2)]), "dimensions: T goes from 0 to 2"),
        (entry(inputs=tensor(["T"]), dimensions=[size(1, 2), size(1, 3)]), "dimensions: two have the same name"),
        (entry(inputs=tensor([1.5])), r"shape\[0\]: 1.5 is no int or str or NoneType"),
        (entry(inputs=tensor([], "float99")), "'float99' is no type here"),
        (weights(length=4), r"parameters\[0\].segments: cover 4 bytes, the file has 5"),
        (weights("w.bin"), "does not end in .irpa"),
        (weights("../w.irpa"), "is no file name"),
        ({"parameters": weights()["parameters"] * 2}, "parameters: are more than one"),  # type: ignore[operator]
    ],
)
def test_entry_points_and_weights_that_cannot_be_are_refused(change: dict[str, object], complaint: str) -> None:
    data = json.dumps(json.loads(GOLDEN.read_text()) | change).encode()
    with pytest.raises(PipelineError, match=complaint):
        codec.decode(Manifest, data, "test")


def said_tuned(schema: int, *tunings: dict[str, object]) -> bytes:
    manifest = json.loads(GOLDEN.read_text()) | {"schema": schema, "version": "1"}
    manifest["artifacts"][0]["variants"][0]["tuning"] = tunings
    return json.dumps(manifest).encode()


def test_a_manifest_that_says_what_is_tuned_is_of_a_schema_of_its_own() -> None:
    of = {"tuned": 2, "kernels": 3, "sha256": "0" * 64}
    found = codec.decode(Manifest, said_tuned(5, of), "test")
    assert found.artifacts[0].variants[0].tuning == (TuningInfo(2, 3, "0" * 64),)
    data = codec.encode(found)
    assert codec.decode(Manifest, data, "test") == found
    jsonschema.validate(json.loads(data), json.loads(SCHEMA.read_text()))
    assert codec.content_version(found) != codec.content_version(codec.decode(Manifest, GOLDEN.read_bytes(), "golden"))
    for schema, tunings, complaint in (
        (4, [of], "schema: is 4, and what it says is of 5"),
        (5, [of | {"tuned": 4}], r"variants\[0\].tuning: 4 of 3 kernels cannot be tuned"),
        (5, [of, of], "is there more than once"),
        (5, [of | {"sha256": "x"}], "is no SHA-256"),
    ):
        with pytest.raises(PipelineError, match=complaint):
            codec.decode(Manifest, said_tuned(schema, *tunings), "test")


def test_open_dimensions_and_weights_are_read() -> None:
    said = entry(inputs=tensor(["T", 3, None]), dimensions=[size(1, 8, 2)]) | weights() | {"version": "1"}
    found = codec.decode(Manifest, json.dumps(json.loads(GOLDEN.read_text()) | said).encode(), "test")
    assert found.entries[0].inputs[0].shape == ("T", 3, None)
    assert [b.name for b in found.blobs()][1] == "w.irpa"


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"3", b"\xff", b"[" * 100000])
def test_bytes_that_are_no_manifest_are_refused(data: bytes) -> None:
    with pytest.raises(PipelineError):
        codec.decode(Manifest, data, "test")


@pytest.mark.parametrize("schema", [1, 2, 3])
def test_a_manifest_of_an_older_schema_is_read(schema: int) -> None:
    """The documents are what earlier versions of this program published of the same model."""
    data = (DATA / "manifests" / f"{schema}.json").read_bytes()
    old, found = json.loads(data), codec.decode(Manifest, data, "test")
    one = old["entries"][0] if schema == 3 else old
    jsonschema.validate(json.loads(codec.encode(found)), json.loads(SCHEMA.read_text()))
    (entry,) = found.entries
    assert (found.schema, found.version, found.parameters) == (MANIFEST_SCHEMA, old["version"], ())
    assert (entry.name, entry.function) == ("main" if schema == 3 else "small", "small")
    assert entry.source.sha256 == (one if schema == 3 else old["model"])["source"]["sha256"]
    assert [t.name for t in entry.inputs] == ["a", "b"]
    assert [b.sha256 for b in entry.reference.draws[0].inputs] == [b["sha256"] for b in one["reference"]["inputs"]]
    evidence = codec.embedded_evidence(data, found)
    assert evidence is not None
    assert misfit(evidence, found) == ""
    said = [v["evidence"] for v in old["artifacts"][0]["variants"]]
    kinds = [(e[0] if schema == 3 else e)["kind"] for e in said]
    assert [proof.kind for proof in evidence.files[0].variants] == kinds
    assert [s.sha256 for s in found.artifacts[0].segments] == [s["sha256"] for s in old["artifacts"][0]["segments"]]


@pytest.mark.parametrize("schema", [1, 2])
@pytest.mark.parametrize("key", ["model", "artifacts", "reference", "signature"])
@pytest.mark.parametrize("value", [None, [], {}, [3], "x"])
def test_a_damaged_manifest_of_an_older_schema_is_refused(schema: int, key: str, value: object) -> None:
    old = json.loads((DATA / "manifests" / f"{schema}.json").read_text()) | {key: value}
    with pytest.raises(PipelineError, match="is no valid manifest"):
        codec.decode(Manifest, json.dumps(old).encode(), "test")


@pytest.mark.parametrize("value", [None, 3, "x", {"a": 1}, [1], [{}], [{"runtime": 1, "kind": "device"}]])
def test_damaged_evidence_in_a_manifest_of_an_older_schema_is_one_message(value: object) -> None:
    old = json.loads((DATA / "manifests" / "3.json").read_text()) | {"version": "1"}
    old["artifacts"][0]["variants"][0]["evidence"] = value
    data = json.dumps(old).encode()
    found = codec.decode(Manifest, data, "test")
    with pytest.raises(PipelineError, match="the evidence in the manifest of small") as caught:
        codec.embedded_evidence(data, found)
    assert "is damaged" in str(caught.value)


def test_of_a_manifest_that_says_nothing_of_tolerances_nothing_is_made_up() -> None:
    old = json.loads((DATA / "manifests" / "1.json").read_text()) | {"version": "1"}
    seen = {"kind": "device", "max_abs_error": 1e-6, "max_rel_error": 1e-6, "reason": ""}
    old["artifacts"][0]["variants"][0]["evidence"] |= seen
    data = json.dumps(old).encode()
    evidence = codec.embedded_evidence(data, codec.decode(Manifest, data, "test"))
    assert evidence is not None
    assert [f.of_tolerance for f in evidence.files[0].variants[0].functions] == [1.0]
