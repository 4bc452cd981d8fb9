"""Package: everything verified about a model → `manifest.json`, the blobs it names, `evidence/`, and where it comes from; ready
to be published."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from pipeline.consume.evidence import misfit
from pipeline.errors import disk_errors
from pipeline.files import fresh_folder, sha256_bytes, write
from pipeline.layout import BOM, PACKAGED_EVIDENCE, PROVENANCE
from pipeline.machine import now
from pipeline.manifest import provenance
from pipeline.manifest import types as m
from pipeline.manifest.codec import encode, reference_digest
from pipeline.manifest.evidence import (
    EVIDENCE_INDEX_SCHEMA,
    EVIDENCE_SCHEMA,
    EvidenceDocument,
    EvidenceIndex,
    FileProof,
    FunctionProof,
    VariantProof,
)
from pipeline.spec.types import Model
from pipeline.stages import identity as identities
from pipeline.stages import provenance as origins
from pipeline.stages import record
from pipeline.stages.assembly import File, assemble, described_model, described_source
from pipeline.stages.compiled import Compiled
from pipeline.stages.evidence import Evidence, read_evidence, read_runtimes, read_witness
from pipeline.stages.origin import Recipe
from pipeline.stages.testdata import files, read_all
from pipeline.stages.witnesses import answers

_log = logging.getLogger(__name__)


def _proof(variant: m.VariantInfo, evidence: Evidence, functions: Sequence[str]) -> VariantProof:
    """What was seen of a variant; functions for which there was no time are left out, and the reason says so."""
    known = {k: v for k, v in asdict(evidence).items() if k not in ("variant", "functions", "reason", "accuracy", "drivers")}
    found = tuple(
        FunctionProof(f.function, f.draws, f.max_abs_error, f.max_rel_error, f.of_tolerance) for f in evidence.functions
    )
    missing = [name for name in functions if name not in {f.function for f in found}] if found else []
    reasons = [evidence.reason] if evidence.reason else []
    if missing:
        reasons.append(f"not run, for other functions took all the time that there was: {', '.join(missing)}")
    return VariantProof(
        variant.name,
        variant.sha256,
        reason="; ".join(reasons),
        problem="",
        functions=found,
        accuracy=evidence.accuracy,
        drivers=evidence.drivers,
        **known,
    )


def _home(manifest: m.Manifest, verified: Mapping[str, Path]) -> EvidenceDocument:
    """What was seen of the release when its bundles were verified."""
    functions, files, witnesses = [entry.function for entry in manifest.entries], [], []
    for artifact in manifest.artifacts:
        found = {e.variant: e for e in read_evidence(verified[artifact.bundle] / "evidence.json")}
        proofs = tuple(_proof(variant, found[variant.name], functions) for variant in artifact.variants)
        others = read_runtimes(verified[artifact.bundle] / "runtimes.json")
        files.append(FileProof(artifact.bundle, artifact.blob.sha256, proofs, tuple(others)))
        witnesses.append(read_witness(verified[artifact.bundle] / "witness.json"))
    made, witness = max(witnesses, key=lambda pair: pair[0])
    weights = tuple(p.blob.sha256 for p in manifest.parameters)
    return EvidenceDocument(
        EVIDENCE_SCHEMA, manifest.model.name, reference_digest(manifest), weights, made, witness, tuple(files)
    )


def _documents(manifest: m.Manifest, verified: Mapping[str, Path]) -> Iterator[EvidenceDocument]:
    """What was seen here, and what the witnesses that were asked saw."""
    yield _home(manifest, verified)
    for folder in verified.values():
        for heard in answers.read(folder):
            # Where the reference is the weakest CPU variant's, the files of two bundles may have been judged by different ones.
            if heard.document and (problem := misfit(heard.document, manifest)):
                _log.warning("%s: what %s saw %s: it is not published", manifest.model.name, heard.witness, problem)
            elif heard.document:
                yield heard.document


def _tell_origin(model: Model, manifest: m.Manifest, data: bytes, recipe: Recipe, folder: Path) -> None:
    from pipeline.stages import bom  # its library takes a while to import

    details = origins.details(recipe.builder)
    said = provenance.statement(manifest, data, origins.definition(model, manifest, recipe, Path()), details)
    write(folder / PROVENANCE, provenance.as_bytes(said))
    made = bom.make(manifest, data, now(), origins.own(), origins.programs(model.format))
    write(folder / BOM, provenance.as_bytes(made))


def run(model: Model, imported: Path, verified: Mapping[str, Path], folder: Path, recipe: Recipe) -> None:
    """Write `manifest.json`, `blobs/<sha256>`, `evidence/<sha256>.json` and their list, `provenance.json` and `bom.json` into
    `folder`, from the verified folder of each of the model's bundles, built by the `recipe`."""
    data = {bundle: read_all(path) for bundle, path in verified.items()}
    record_of_import = imported / record.NAME  # which has the digests of all that is there
    kept = [record_of_import]
    for bundle, path in verified.items():
        kept += [*(path / name for name in record.VERIFIED), *files(data[bundle])]
    for path in (imported, *verified.values()):
        record.require_intact(path)
    identity = identities.describe(model, imported)
    info = described_model(model)
    sources = [asdict(described_source(entry.source)) for entry in model.entries]
    key = record.key(
        kept,
        model=asdict(info),
        sources=sources,
        identity=asdict(identity),
        bundles=list(verified),
        revision=record.REVISIONS["package"],
    )
    if record.is_current(folder, key):
        return
    with disk_errors(str(folder)), fresh_folder(folder):
        made = {
            bundle: File(path / "module.vmfb", Compiled.read(path / "compiled.json"), tuple(data[bundle]))
            for bundle, path in verified.items()
        }
        manifest = assemble(model, imported, made, folder / "blobs")
        write(folder / "manifest.json", encoded := encode(manifest))
        _tell_origin(model, manifest, encoded, recipe, folder)
        documents = {sha256_bytes(one): one for one in map(encode, _documents(manifest, verified))}
        names = [str(Path(PACKAGED_EVIDENCE).with_name(f"{sha256}.json")) for sha256 in documents]
        for name, document in zip(names, documents.values(), strict=True):
            write(folder / name, document)
        write(folder / PACKAGED_EVIDENCE, encode(EvidenceIndex(EVIDENCE_INDEX_SCHEMA, tuple(sorted(documents)))))
        blobs = [f"blobs/{b.sha256}" for b in manifest.blobs()]
        record.write_record(folder, key, ["manifest.json", PROVENANCE, BOM, PACKAGED_EVIDENCE, *names, *blobs])
