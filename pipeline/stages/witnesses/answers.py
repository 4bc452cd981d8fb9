"""What witnesses answered, as values and as files of a verified bundle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes, write
from pipeline.manifest.codec import decode, encode
from pipeline.manifest.evidence import EvidenceDocument
from pipeline.stages.record import ANSWERS, canonical

FOLDER = "witnesses"


@dataclass(frozen=True)
class Heard:
    """What the machine `witness` answered: a document, or the `problem` why there is none."""

    witness: str
    document: EvidenceDocument | None = None
    problem: str = ""


def keep(heard: Sequence[Heard], folder: Path) -> list[str]:
    """Write what was answered into `folder`: documents by their digests, and which are whose. Returns the names of the files."""
    answers, names = [], [ANSWERS]
    for one in heard:
        sha256 = ""
        if one.document:
            data = encode(one.document)
            sha256 = sha256_bytes(data)
            names.append(f"{FOLDER}/{sha256}.json")
            write(folder / names[-1], data)
        answers.append({"witness": one.witness, "sha256": sha256, "problem": one.problem})
    write(folder / ANSWERS, canonical(answers))
    return list(dict.fromkeys(names))


def read(folder: Path) -> list[Heard]:
    """What `keep` wrote."""
    path, found = folder / ANSWERS, []
    try:
        for said in json.loads(path.read_text()):
            of = folder / FOLDER / f"{said['sha256']}.json"
            document = decode(EvidenceDocument, of.read_bytes(), str(of)) if said["sha256"] else None
            found.append(Heard(said["witness"], document, said["problem"]))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise PipelineError(f"is not of this version: {error}", where=str(path), hint="remove the file, run doit") from error
    return found
