"""Where an imported module comes from: for messages, which name the nodes of the model's own file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.spec.types import Model


@dataclass(frozen=True)
class Origin:
    """What an imported module was made of: its model, and the file of that."""

    model: Model
    source: Path

    @property
    def can_be_reduced(self) -> bool:
        """Whether there is a graph to cut."""
        return self.model.format == "onnx"

    @property
    def hint(self) -> str:
        """What to do with a fault of the compiler."""
        if not self.can_be_reduced:
            return ""
        return (
            "compute it outside the model, or say it by other operators; "
            f"`doit reduce model={self.model.name}` writes the smallest part that fails as an ONNX file, for a bug report; "
        )
