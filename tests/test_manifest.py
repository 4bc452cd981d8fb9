"""Manifests: canonical bytes, both directions, strictness, and the JSON Schema that is published with them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jsonschema
import pytest

from pipeline.errors import PipelineError
from pipeline.manifest import codec
from pipeline.manifest.types import Manifest

SCHEMA = Path(codec.__file__).with_name("schema.json")
GOLDEN = Path(__file__).parent / "golden" / "manifest.json"


def test_the_published_schema_is_the_one_of_the_types() -> None:
    assert SCHEMA.read_bytes() == codec.json_schema()


def test_the_golden_manifest_round_trips_and_fits_the_schema() -> None:
    data = GOLDEN.read_bytes()
    assert codec.encode(codec.decode(Manifest, data, "golden")) == data
    jsonschema.validate(json.loads(data), json.loads(SCHEMA.read_text()))


def test_the_derived_version_depends_on_content_alone() -> None:
    manifest = codec.decode(Manifest, GOLDEN.read_bytes(), "golden")
    assert codec.content_version(dataclasses.replace(manifest, version="9")) == manifest.version
    other = dataclasses.replace(manifest, runtime=dataclasses.replace(manifest.runtime, minimum="9"))
    assert codec.content_version(other) != manifest.version


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"schema": 3}, "has schema version 3, this program reads version 2"),
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


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"3", b"\xff", b"[" * 100000])
def test_bytes_that_are_no_manifest_are_refused(data: bytes) -> None:
    with pytest.raises(PipelineError):
        codec.decode(Manifest, data, "test")


def test_a_manifest_of_schema_1_is_read() -> None:
    old = json.loads(GOLDEN.read_text()) | {"schema": 1}
    del old["model"]["rewrites"]
    old["reference"]["tolerances"] = [{"absolute": 1e-4, "relative": 1e-3}]
    for artifact in old["artifacts"]:
        del artifact["notes"]
        for variant in artifact["variants"]:
            for key in ("of_tolerance", "draws", "subgroup_sizes"):
                del variant["evidence"][key]
    found = codec.decode(Manifest, json.dumps(old).encode(), "test")
    assert (found.schema, found.model.rewrites, found.artifacts[0].notes) == (2, (), ())
    assert found.reference.tolerances[0].rms is None
