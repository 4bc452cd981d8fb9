"""Documents of older schemas as they would be of this one; what old manifests say of how they were verified."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

from pipeline.manifest.evidence import EVIDENCE_SCHEMA
from pipeline.manifest.types import CHANNEL_SCHEMA, MANIFEST_SCHEMA


def _second(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest of schema 1 as one of schema 2, which says more."""
    manifest["model"] = {"rewrites": [], **manifest["model"]}
    manifest["reference"]["tolerances"] = [{"scaled": 0.0, "rms": None, **t} for t in manifest["reference"]["tolerances"]]
    for artifact in manifest["artifacts"]:
        artifact.setdefault("notes", [])
        for variant in artifact["variants"]:
            variant["evidence"] = {"of_tolerance": None, "draws": 1, "subgroup_sizes": [], **variant["evidence"]}
    return manifest


def _third(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest of schema 2 as one of schema 3, which may have several entry points."""
    signature, model = manifest.pop("signature"), manifest["model"]
    function = signature.pop("entry")
    entry = {"name": function, "function": function, "dimensions": [], **signature, "reference": manifest.pop("reference")}
    entry |= {"source": {**model.pop("source"), "files": []}, "rewrites": model.pop("rewrites")}
    for artifact in manifest["artifacts"]:
        for variant in artifact["variants"]:
            variant["evidence"] = [{"function": function, **variant["evidence"]}]
    return {**manifest, "entries": [entry], "parameters": []}


def _fourth(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest of schema 3 as one of schema 4, beside which evidence is, and which may have several draws of test data."""
    manifest.pop("runtime")
    for entry in manifest["entries"]:
        reference = entry["reference"]
        draw = {key: reference.pop(key) for key in ("inputs", "outputs", "tolerances")}
        reference["draws"] = [{"name": "given", "spared": [], **draw}]
    for artifact in manifest["artifacts"]:
        for variant in artifact["variants"]:
            variant.pop("evidence")
    return manifest


def upgraded(manifest: dict[str, Any], newest: int = MANIFEST_SCHEMA) -> dict[str, Any]:
    """A manifest of an older schema as one of this. Where it is not what it should be, as it is."""
    steps = {1: _second, 2: _third, 3: _fourth}
    with contextlib.suppress(KeyError, TypeError, AttributeError, ValueError):
        for schema in range(manifest["schema"], newest):
            manifest = steps[schema](manifest)
    return {**manifest, "schema": newest}


def upgraded_channel(channel: dict[str, Any]) -> dict[str, Any]:
    """A channel of schema 1, which has no history, as one of this schema."""
    return {**channel, "history": [], "schema": CHANNEL_SCHEMA}


def proofs(variant: dict[str, Any]) -> list[dict[str, Any]]:
    """What a manifest of schema 3 says of a variant: as one proof for what was seen on one device."""
    found: dict[str, dict[str, Any]] = {}
    measured = ("max_abs_error", "max_rel_error", "of_tolerance")
    for said in variant["evidence"]:
        same = {key: said[key] for key in ("kind", "reason", "device", "driver", "subgroup_sizes")}
        unknown = dict.fromkeys(("load_s", "latency_s", "spread_s", "peak_memory", "matrix_kernels"))
        proof = {
            "variant": variant["name"],
            "sha256": variant["sha256"],
            "problem": "",
            "rounds": 0,
            "accuracy": [],
            "drivers": [],
            **unknown,
            **same,
        }
        kept = found.setdefault(json.dumps(same, sort_keys=True), {**proof, "functions": []})
        if said["kind"] != "untested":
            numbers = {key: said[key] or 0.0 for key in measured}
            if said["of_tolerance"] is None:  # which the first schema did not say: at most all of it, for it was right
                numbers["of_tolerance"] = 1.0
            kept["functions"].append({"function": said["function"], "draws": max(said["draws"], 1), **numbers})
    return list(found.values())


def upgraded_evidence(document: dict[str, Any]) -> dict[str, Any]:
    """A document of evidence of schema 1, which knew one way to run code, as one of schema 2. Where it is not what it should be,
    as it is."""
    document = copy.deepcopy(document)
    with contextlib.suppress(KeyError, TypeError, AttributeError, ValueError):
        for file in document["files"]:
            file["variants"] = [{"drivers": [], **proof} for proof in file["variants"]]
    return {**document, "schema": EVIDENCE_SCHEMA}
