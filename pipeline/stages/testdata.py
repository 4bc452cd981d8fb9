"""A model's test data as the stages pass it on: draws of inputs, the outputs they must give, and how far off these may be.

In a folder for each entry point, called by its number: NAME.inputs.npz and NAME.outputs.npz for each draw, and `data.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipeline import arrays
from pipeline.arrays import Array
from pipeline.compare import Tolerance, is_unstable
from pipeline.errors import PipelineError
from pipeline.files import write
from pipeline.importers.draws import GIVEN, LARGE
from pipeline.spec.types import Entry
from pipeline.stages.record import canonical

NAME = "data.json"


@dataclass(frozen=True)
class Draw:
    """A set of inputs, what it must give, and within what, for each output. `spared`: outputs of which it tells nothing."""

    name: str
    tolerances: tuple[Tolerance, ...]
    spared: tuple[int, ...] = ()


@dataclass(frozen=True)
class TestData:
    """Of an exported `function`: `draws`, of which the first is what the spec gives; names of the outputs; for each, whether it
    depends on the inputs.

    Without outputs yet (`draws` have no tolerances), where the weakest CPU variant makes them. `left_out`: what other draws
    there were, and why they are not used. `note`: what the evaluator of the reference did not do as the model says.
    """

    folder: Path
    function: str
    draws: tuple[Draw, ...]
    outputs: tuple[str, ...]
    depends: tuple[bool, ...]
    left_out: Mapping[str, str]
    note: str = ""

    __test__ = False  # pytest takes it for a test by its name

    def inputs_of(self, draw: Draw) -> Path:
        """The file of the draw's inputs."""
        return self.folder / f"{draw.name}.inputs.npz"

    def outputs_of(self, draw: Draw) -> Path:
        """The file of the draw's outputs."""
        return self.folder / f"{draw.name}.outputs.npz"

    @property
    def has_outputs(self) -> bool:
        """Whether there is a reference already."""
        return all(draw.tolerances for draw in self.draws)

    def files(self) -> list[Path]:
        """Every file of the data."""
        outputs = [self.outputs_of(d) for d in self.draws] if self.has_outputs else []
        return [self.folder / NAME, *(self.inputs_of(d) for d in self.draws), *outputs]

    def write(self) -> None:
        """Write `data.json`, whole or not at all."""
        write(self.folder / NAME, canonical(asdict(replace(self, folder=Path())) | {"folder": ""}))

    @staticmethod
    def read(folder: Path) -> TestData:
        """What `write` wrote."""
        data = json.loads((folder / NAME).read_text())
        draws = tuple(Draw(d["name"], tuple(Tolerance(**t) for t in d["tolerances"]), tuple(d["spared"])) for d in data["draws"])
        return TestData(
            folder, data["function"], draws, tuple(data["outputs"]), tuple(data["depends"]), data["left_out"], data["note"]
        )

    def at(self, folder: Path) -> TestData:
        """A copy of the data in another folder."""
        folder.mkdir(exist_ok=True)
        for path in self.files():
            (folder / path.name).write_bytes(path.read_bytes())
        return replace(self, folder=folder)


def read_all(folder: Path) -> tuple[TestData, ...]:
    """The test data of all entry points of a model, in order."""
    found = sorted((path for path in folder.iterdir() if (path / NAME).is_file()), key=lambda path: int(path.name))
    return tuple(map(TestData.read, found))


def files(data: Iterable[TestData]) -> list[Path]:
    """Every file of the data of all entry points."""
    return [path for one in data for path in one.files()]


def settled(data: TestData, entry: Entry, where: str, strict: Sequence[Tolerance] = ()) -> TestData:
    """The draws that test something, with the spec's own tolerance if it has one.

    Values in a file may be meant to be on the verge, as halves to be rounded are: an output that moves with the last place of
    such inputs is held to `strict`, the tolerances of the spec's own draw without noise.

    Outputs are spared of which a draw tells nothing: those that large numbers, where the spec says nothing of the range, make
    infinite or NaN, and, but for the spec's own draw, those that move with the last place of the inputs. A draw that has no
    other output is left out.
    Raises PipelineError where the spec's own data tests nothing: an output is the same for all inputs, or moves with the last
    place of the inputs.
    """
    found = {draw.name: arrays.read(data.outputs_of(draw)) for draw in data.draws}
    left_out = dict(data.left_out)
    kept = []
    for draw in data.draws:
        if draw.name == GIVEN and strict and any(i.file for i in entry.inputs):
            draw = replace(draw, tolerances=_steady(draw, found[GIVEN], strict))
        reasons = _useless(draw, found[draw.name], found[GIVEN], entry)
        said = "; ".join(f"output {data.outputs[index]!r} {reason}" for index, reason in reasons.items())
        if reasons and draw.name == GIVEN:
            hint = "give other test data (low, high or file in `inputs`), or say how far off is right: `tolerance`"
            raise PipelineError(f"the test data tests nothing: {said}", where=where, hint=hint)
        if reasons:
            left_out[draw.name] = said
        if len(reasons) < len(data.outputs):
            own = (entry.tolerance,) * len(draw.tolerances) if entry.tolerance else draw.tolerances
            kept.append(replace(draw, tolerances=own, spared=tuple(reasons)))
    if problems := _constant(data, kept, found, entry.constant):
        hint = "give test data that makes them vary (low, high or file in `inputs`); if they are meant so: `constant: [NAME]`"
        raise PipelineError("the test data tests nothing: " + "; ".join(problems), where=where, hint=hint)
    return replace(data, draws=tuple(kept), left_out=left_out)


def _steady(draw: Draw, outputs: Sequence[Array], strict: Sequence[Tolerance]) -> tuple[Tolerance, ...]:
    """The draw's tolerances, for outputs that are unstable the strict ones."""
    triples = zip(outputs, draw.tolerances, strict, strict=True)
    return tuple(exact if is_unstable(array, tolerance) else tolerance for array, tolerance, exact in triples)


def _useless(draw: Draw, outputs: Sequence[Array], given: Sequence[Array], entry: Entry) -> dict[int, str]:
    """The outputs of which the draw tells nothing, and why."""
    import numpy as np

    found = {}
    for index, (array, own, tolerance) in enumerate(zip(outputs, given, draw.tolerances, strict=True)):
        if array.dtype.kind == "f" and draw.name == LARGE and np.isfinite(own).all() and not np.isfinite(array).all():
            found[index] = "is not finite for inputs up to 256"
        elif entry.tolerance is None and is_unstable(array, tolerance):
            found[index] = "moves by more than a tenth of its size when its inputs move by one unit in the last place"
    return found


def _is_one(arrays: Sequence[Array]) -> bool:
    """Whether all elements of all arrays are one value: NaN is one, and so are 0 and -0."""
    value = arrays[0].flat[0]
    return all(bool((a != a).all() if value != value else (a == value).all()) for a in arrays)


def _constant(data: TestData, draws: Sequence[Draw], found: Mapping[str, Sequence[Array]], meant: Sequence[str]) -> list[str]:
    """A sentence for each output that is the same whatever the inputs, and neither has to be nor is meant to be."""
    problems = []
    for index, (name, depends) in enumerate(zip(data.outputs, data.depends, strict=True)):
        values = [found[draw.name][index] for draw in draws if index not in draw.spared]
        if not depends or name in meant or not values[0].size:
            continue
        if values[0].size > 1 and _is_one(values):
            problems.append(f"output {name!r} is {values[0].flat[0]} everywhere")
        elif len(values) > 1 and all(v.tobytes() == values[0].tobytes() for v in values):
            problems.append(f"output {name!r} is the same for {len(values)} different inputs")
    return problems
