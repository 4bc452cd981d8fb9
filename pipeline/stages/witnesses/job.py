"""What is sent to a witness: a release of one file in a store of its own, as it would be published; and what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.consume.evidence import admit
from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes, write
from pipeline.layout import blob_key, release_key
from pipeline.manifest.codec import encode
from pipeline.manifest.types import Manifest
from pipeline.plain import plain
from pipeline.spec.types import Model
from pipeline.stages.assembly import File, assemble
from pipeline.stages.witnesses.answers import Heard

ANSWER_LIMIT = 16 << 20  # bytes; a real one has some thousands


@dataclass(frozen=True)
class Job:
    """A store in `folder` with one release, to be attested."""

    folder: Path
    manifest: Manifest

    @property
    def release(self) -> str:
        """MODEL@VERSION."""
        return f"{self.manifest.model.name}@{self.manifest.version}"


def prepare(model: Model, bundle: str, imported: Path, file: File, folder: Path) -> Job:
    """The job for a bundle's file, in `folder`. Its evidence holds for the release that has this file, whatever else it has."""
    blobs = folder / "made"
    manifest = assemble(model, imported, {bundle: file}, blobs)
    for sha256 in {blob.sha256 for blob in manifest.blobs()}:
        target = folder / blob_key(sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        (blobs / sha256).rename(target)
    blobs.rmdir()
    write(folder / release_key(manifest.model.name, manifest.version), encode(manifest))
    return Job(folder, manifest)


def admitted(job: Job, witness: str, answer: bytes, said: str) -> Heard:
    """What a witness's `answer` says of the job, if it is a document that counts. `said`: why there is no answer."""
    if len(answer) >= ANSWER_LIMIT:
        return Heard(witness, problem=f"its answer is no evidence: it has more than {ANSWER_LIMIT >> 20} MiB")
    if not answer.strip():
        return Heard(witness, problem=said or "it gave no answer, and no reason")
    try:
        document = admit(answer, sha256_bytes(answer), job.manifest, witness)
    except PipelineError as error:
        return Heard(witness, problem=f"its answer is no evidence: {plain(error.what)[:300]}")
    if not any(file.variants for file in document.files):
        return Heard(witness, problem="its answer says nothing of any variant")
    return Heard(witness, document)


def complaint(text: str) -> str:
    """What a program wrote on standard error, in one line that is not too long."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return plain("; ".join(line.removeprefix("error: ").removeprefix("→ ") for line in lines[-3:]))[:400]
