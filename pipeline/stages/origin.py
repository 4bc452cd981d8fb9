"""Where an imported module comes from: for messages, which name the nodes of the model's own file. And a release."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.layout import Layout
from pipeline.spec.types import DataFile, Entry, Model, source_files


@dataclass(frozen=True)
class Recipe:
    """What a release is built by: its `specs`, files, for each bundle all that its file depends on but the model; and by whom."""

    specs: tuple[Path, ...]
    options: Mapping[str, object]
    builder: str


@dataclass(frozen=True)
class Origin:
    """What an imported module was made of: its model, and the file of each of its entry points.

    `data` is where the files of its data sets are.
    """

    model: Model
    sources: tuple[Path, ...]
    data: Mapping[DataFile, Path] = field(default_factory=dict)

    @staticmethod
    def of(model: Model, layout: Layout) -> Origin:
        """The model's origin below `out/`."""
        numbers = {source: number for number, source in enumerate(model.sources)}
        sources = tuple(layout.source(model.name, numbers[entry.source], model.format) for entry in model.entries)
        data = {file: layout.data(model.name) / file.source.sha256[:16] / "data.npy" for file in model.data_files}
        return Origin(model, sources, data)

    @property
    def files(self) -> dict[Path, Entry]:
        """Each model file once, with an entry point that comes from it."""
        return dict(reversed(list(zip(self.sources, self.model.entries, strict=True))))

    @property
    def all_files(self) -> tuple[Path, ...]:
        """Each model file, and the data files beside it."""
        return tuple(path for own, entry in self.files.items() for path in source_files(entry.source, own))

    @property
    def can_be_reduced(self) -> bool:
        """Whether there is one graph to cut."""
        return self.model.format == "onnx" and len(self.model.entries) == 1

    def hint(self, what: str) -> str:
        """What to do about a fault of the compiler, which `what` says, beside reading its output."""
        outside = "" if "outside" in what else "compute it outside the model, or say it by other operators; "
        reduce = f"`doit reduce model={self.model.name}` writes the smallest part that fails as an ONNX file, for a bug report; "
        return outside + (reduce if self.can_be_reduced else "")
