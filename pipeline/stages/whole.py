"""Whether a whole model is right and faster as it is tuned: measured beside what it is without, in each way to run it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline import arrays
from pipeline.compare import compare
from pipeline.iree import devices
from pipeline.iree.device import Device
from pipeline.stages.testdata import TestData
from pipeline.tuner.deadline import Deadline

_ROUNDS, _SERIES = 5, 3  # of measuring, with and without, each way in turn
_SECONDS, _BRIEFLY = 0.4, 0.05  # of runs at a time; of models that take longer, which are run once more
_NO_WORSE = 1.05  # of the untuned latency, by ways that are not the fastest
_RUNS, _LOAD = 4, 1.5  # in which a model is looked at once, and seconds besides
PLAIN, TUNED = "plain", "tuned"


@dataclass(frozen=True)
class Comparison:
    """A model as it is compiled without and with a record: `modules` by PLAIN and TUNED, `ways` to run them, all test data.

    Files go into `folder`.
    """

    modules: Mapping[str, Path]
    ways: Sequence[Device]
    data: Sequence[TestData]
    parameters: Path | None
    folder: Path
    _times: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def run(self, deadline: Deadline) -> tuple[bool, list[str]]:
        """Whether the record is to be kept, and what was measured: each once, and more often as far as there is time.

        Other work on the machine only adds, so another series of rounds follows only where the ones before say no.
        """
        problem = ""
        for series in range(_SERIES):
            for turn in range(_ROUNDS):
                left = deadline.left
                wrong = self._turn(f"{series}-{turn}", bool(turn % 2), deadline)
                if wrong and (deadline.left or not (series or turn)):  # and not merely too late for once more
                    return False, [wrong]
                slow, took = min(map(min, self._times.values())) > _SECONDS, left - deadline.left
                if (slow and turn) or deadline.left < took:
                    break
            problem = self._problem()
            if not problem or deadline.left < took:
                break
        best = [(way.title, self._best(PLAIN, way) * 1e3, self._best(TUNED, way) * 1e3) for way in self.ways]
        lines = [f"the model on {where}: {before:.3f} ms without, {after:.3f} ms tuned" for where, before, after in best]
        return not problem, [*lines, *([problem] if problem else [])]

    def _turn(self, name: str, reversed_: bool, deadline: Deadline) -> str:
        """Measure each of the two in each way; what is wrong with the numbers of one."""
        kinds = (PLAIN, TUNED) if reversed_ else (TUNED, PLAIN)
        for number, (way, kind) in enumerate(itertools.product(self.ways, kinds)):
            seconds, wrong = self._latency(kind, way, f"{name}-{number}", deadline)
            if wrong:
                return f"{kind} on {way.title}: {wrong}"
            self._times.setdefault((kind, way.uri), []).append(seconds)
        return ""

    def _best(self, kind: str, way: Device) -> float:
        return min(self._times[kind, way.uri])

    def _problem(self) -> str:
        """Why a record is not to be kept; empty if it is."""
        times = [(self._best(PLAIN, way), self._best(TUNED, way)) for way in self.ways]
        if min(after for _, after in times) >= min(before for before, _ in times):  # each kernel is faster beyond noise
            return "that is not faster"
        if any(after > _NO_WORSE * before for before, after in times):
            return "that is slower in one way"
        return ""

    def _latency(self, kind: str, way: Device, name: str, deadline: Deadline) -> tuple[float, str]:
        """The seconds of all functions together, and what is wrong with the numbers of one."""
        total, known = 0.0, self._times.get((kind, way.uri))
        seconds = _BRIEFLY if known and min(known) > _SECONDS else _SECONDS
        for number, data in enumerate(self.data):
            draw, own = data.draws[0], f"{name}-{number}"
            called = (self.modules[kind], way, data.function, [data.inputs_of(draw)], self.folder, own)
            ran = devices.run(*called, parameters=self.parameters, seconds=seconds, timeout=max(deadline.left, 1.0))
            if ran.error or ran.latency_s is None:
                return 0.0, ran.error or "it was not measured"
            total += ran.latency_s
            if draw.tolerances:
                found = arrays.read(devices.outputs(self.folder, own))
                compared = compare(found, arrays.read(data.outputs_of(draw)), draw.tolerances, spared=draw.spared)
                if compared.problem:
                    return 0.0, compared.problem
        return total, ""


def expected(latency: float, ways: int) -> float:
    """Seconds that looking at a model of this latency takes at least."""
    return 2 * ways * (_LOAD + _RUNS * latency)
