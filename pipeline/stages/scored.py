"""What the reference scores on the data sets of a model, as values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.accuracy.dataset import PART, DataSet
from pipeline.files import sha256_bytes, sha256_file, write
from pipeline.importers import signature
from pipeline.spec.types import Evaluation
from pipeline.stages.origin import Origin
from pipeline.stages.record import canonical

NAME = "scores.json"


@dataclass(frozen=True)
class Scored:
    """What `evaluator` scores with an exported `function` on the samples of these `numbers`, and on the first PART of them.

    `call_bytes`: of inputs and outputs of one call.
    """

    function: str
    evaluator: str
    numbers: tuple[int, ...]
    score: float
    part: float
    call_bytes: int


@dataclass(frozen=True)
class Trial:
    """The data set of a function with `outputs`, and what its reference scores on it; `spec` is the file that says so."""

    scored: Scored
    evaluation: Evaluation
    data: DataSet
    outputs: tuple[str, ...]
    spec: str

    @property
    def sha256(self) -> str:
        """The digest of the data set and the metric."""
        return sha256_bytes(canonical(described(replace(self.evaluation, limit=0.0))))

    def numbers(self, everything: bool) -> tuple[int, ...]:
        """The samples to score: all, or the first PART."""
        return self.scored.numbers if everything else self.scored.numbers[:PART]

    def allowed(self, numbers: Sequence[int]) -> float:
        """How much worse a score on these samples may be: on a part of them one sample more may be off."""
        return self.evaluation.limit + (1 / len(numbers) if len(numbers) < len(self.scored.numbers) else 0.0)


def described(evaluation: Evaluation) -> dict[str, object]:
    """An evaluation as JSON values: its files by their digests."""
    said = asdict(evaluation) | {"program": sha256_file(evaluation.program) if evaluation.program else None}
    files = {"inputs": [_digest(file) for file in said["inputs"]], "labels": _digest(said["labels"])}
    return said | files | {"vocabulary": _digest(said["vocabulary"])}


def _digest(file: Mapping[str, Any] | None) -> object:
    return [file["source"]["sha256"], file["array"]] if file else None


def write_scores(folder: Path, scores: Sequence[Scored]) -> None:
    """Write them, whole or not at all."""
    write(folder / NAME, canonical([asdict(scored) for scored in scores]))


def trials(origin: Origin, imported: Path, folder: Path) -> tuple[Trial, ...]:
    """The data sets of the model, with the scores that `write_scores` wrote into `folder`."""
    scores = {
        said["function"]: Scored(**said | {"numbers": tuple(said["numbers"])}) for said in json.loads((folder / NAME).read_text())
    }
    found = []
    for entry, own in zip(origin.model.entries, signature.read_all(imported / "signature.json"), strict=True):
        if entry.evaluate and own.entry in scores:
            data = DataSet(entry.evaluate, entry.given, origin.data, spec := str(origin.model.path))
            found.append(Trial(scores[own.entry], entry.evaluate, data, tuple(o.name for o in own.outputs), spec))
    return tuple(found)
