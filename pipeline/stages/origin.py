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

    def hint(self, what: str) -> str:
        """What to do about a fault of the compiler, which `what` says, beside reading its output."""
        outside = "" if "outside" in what else "compute it outside the model, or say it by other operators; "
        reduce = f"`doit reduce model={self.model.name}` writes the smallest part that fails as an ONNX file, for a bug report; "
        return outside + (reduce if self.can_be_reduced else "")
