"""What is beside a manifest about where its release comes from: `provenance.json` and `bom.json`.

The first is an in-toto Statement (v1) about the release's files, whose predicate is SLSA provenance (v1), the second a bill of
materials (CycloneDX). Both are for people and other tools: this program believes none of it, but which manifest they are about.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes
from pipeline.layout import blob_key, release_key
from pipeline.manifest.types import Manifest
from pipeline.plain import is_plain, plain, public_url

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:vmfb-pipeline:build:1"  # what its parameters mean says pipeline/README.md
BUILDER = "urn:vmfb-pipeline:builder"  # where a builder has no name of its own
VARIABLE = "PIPELINE_BUILDER"
PROJECT = "project"  # the dependency that is the checkout with the specs, by its git commit
_MOST = 12  # of a kind, for people
_BOMS = uuid.uuid5(uuid.NAMESPACE_OID, "urn:vmfb-pipeline:bom:1")


def builder() -> str:
    """The name of who builds, PIPELINE_BUILDER, a URI. Raises PipelineError for what is none."""
    name = os.environ.get(VARIABLE) or BUILDER
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s]{1,500}", name) or not is_plain(name) or public_url(name) != name:
        hint = "give one without user and query, such as urn:example:builders:gpu-box"
        raise PipelineError("is no URI to call a builder by", where=VARIABLE, hint=hint)
    return name


def as_bytes(document: Mapping[str, object]) -> bytes:
    """A document as it is published: the same bytes for equal ones."""
    return (json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def statement(
    manifest: Manifest, data: bytes, definition: Mapping[str, object], details: Mapping[str, object]
) -> dict[str, object]:
    """The statement about a release: its `manifest`, which is `data` as it is published, and each of its blobs.

    `definition` and `details` are what SLSA calls `buildDefinition` and `runDetails`.
    """
    blobs = sorted({blob.sha256 for blob in manifest.blobs()})
    subject = [_file(release_key(manifest.model.name, manifest.version), sha256_bytes(data))]
    subject += [_file(blob_key(sha256), sha256) for sha256 in blobs]
    predicate = {"buildDefinition": definition, "runDetails": details}
    return {"_type": STATEMENT, "subject": subject, "predicateType": PREDICATE, "predicate": predicate}


def statement_about(document: Mapping[str, Any], manifest: Manifest, data: bytes) -> dict[str, Any]:
    """The same statement about the same content as another version's manifest, `data`."""
    predicate = document["predicate"]
    return statement(manifest, data, predicate["buildDefinition"], predicate["runDetails"])


def bom_about(document: Mapping[str, Any], manifest: Manifest, data: bytes) -> dict[str, Any]:
    """The same bill of materials about the same content as another version's manifest, `data`."""
    sha256 = sha256_bytes(data)
    said = {"version": manifest.version, "hashes": [{"alg": "SHA-256", "content": sha256}]}  # a release is what its manifest says
    metadata = {**document["metadata"], "component": {**document["metadata"]["component"], **said}}
    return {**document, "metadata": metadata, "serialNumber": uuid.uuid5(_BOMS, sha256).urn}


def _file(name: str, sha256: str) -> dict[str, object]:
    return {"name": name, "digest": {"sha256": sha256}}


def read(data: bytes, where: str) -> dict[str, Any]:
    """A JSON object from anywhere. Raises PipelineError for what is none."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise PipelineError(f"not JSON: {error}", where=where) from error
    if not isinstance(found, dict):
        raise PipelineError("is no JSON object", where=where)
    return found


def require_about(document: Mapping[str, Any], sha256: str, where: str) -> None:
    """Raise PipelineError unless the statement is provenance, and about the manifest with this digest."""
    kinds = (document.get("_type"), document.get("predicateType"))
    if kinds != (STATEMENT, PREDICATE):
        raise PipelineError("is no in-toto statement of SLSA provenance", where=where)
    if not any(at(one, "digest", "sha256") == sha256 for one in _list(document.get("subject"))):
        raise PipelineError("is about another release", where=where, hint="nobody's word about this one: do not count on it")


def require_bom_of(document: Mapping[str, Any], sha256: str, where: str) -> None:
    """Raise PipelineError unless the document is a bill of materials, and of the manifest with this digest."""
    hashes = [at(one, "content") for one in _list(at(document, "metadata", "component", "hashes"))]
    if document.get("bomFormat") != "CycloneDX" or sha256 not in hashes:
        raise PipelineError("is no CycloneDX document, or of another release", where=where, hint="do not count on it")


def at(value: Any, *path: str) -> Any:
    """What a document, whatever it is, has at this path of keys; None where it has nothing there."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return plain(value[:300]) if isinstance(value, str) else "?"


def dependencies(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What the build depended on, by name; of two that have one name, the first."""
    found = _list(at(document, "predicate", "buildDefinition", "resolvedDependencies"))
    known: dict[str, dict[str, Any]] = {}
    for one in found:
        if isinstance(one, dict):
            known.setdefault(str(one.get("name")), one)
    return known


def specs(document: Mapping[str, Any]) -> dict[str, str]:
    """The digests of the spec files, by their paths."""
    found = at(document, "predicate", "buildDefinition", "externalParameters", "specs")
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def lines(document: Mapping[str, Any]) -> Iterator[str]:
    """What it says, for people, in short."""
    definition, details = at(document, "predicate", "buildDefinition"), at(document, "predicate", "runDetails")
    known = dependencies(document)
    if project := known.pop(PROJECT, None):
        state = {True: "", False: ", with changes that are in no commit"}.get(
            at(project, "annotations", "clean"), ", perhaps changed"
        )
        yield f"commit   {_text(at(project, 'digest', 'gitCommit'))}{state}"
    else:
        yield "commit   not known: it was built outside a git checkout"
    for name, sha256 in list(specs(document).items())[:_MOST]:
        yield f"spec     {_text(name)}, sha256 {_text(sha256)[:16]}…"
    for source in _list(at(definition, "externalParameters", "sources"))[:_MOST]:
        yield f"source   {_text(at(source, 'location'))}, sha256 {_text(at(source, 'sha256'))[:16]}…"
    if programs := [_text(uri) for name, one in known.items() if f"pkg:pypi/{name}@" in (uri := str(at(one, "uri")))]:
        yield f"made by  {', '.join(programs[:_MOST])}".replace("pkg:pypi/", "")
    flags = at(definition, "internalParameters", "flags")
    for bundle, words in list(flags.items())[:_MOST] if isinstance(flags, dict) else []:
        yield f"flags    {_text(bundle)}: {' '.join(_text(word) for word in _list(words)[:_MOST])}"
    builder = at(details, "builder")
    versions = at(builder, "version")
    told = ", ".join(f"{_text(k)} {_text(v)}" for k, v in list(versions.items())[:_MOST]) if isinstance(versions, dict) else ""
    yield f"builder  {_text(at(builder, 'id'))}" + (f" ({told})" if told else "")
    yield f"when     {_text(at(details, 'metadata', 'finishedOn'))}"
