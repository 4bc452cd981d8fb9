"""The ways to lower a kernel, run and compared, and measured in turn; a process of its own does it, which code may crash.

`measure` starts it: `python -m pipeline.tuner.rounds JOB RESULT`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import process
from pipeline.errors import PipelineError
from pipeline.files import write
from pipeline.iree.device import Device
from pipeline.iree.devices.session import Session, open_device
from pipeline.tuner.calls import Buffer, Call, Region

_TYPES = {"f16": "float16", "f32": "float32", "f64": "float64", "i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64"}
# Parts of the number itself and of all numbers' root mean square: reductions in another order move last places.
_TOLERANCES = {"f16": 4e-3, "f32": 1e-5, "f64": 1e-13}
_ROUND = 0.004  # seconds that a way is run for in a round, about
_HOPELESS = 1.25  # of the first one's time, after two rounds
_HOPELESS_AT_FIRST, _PREPARED = 3.0, 0.5  # likewise, at the first call; seconds that a driver may take to prepare it
_LONGEST = 1.5  # seconds for all rounds of a lowering; two there are
_SLOW = 0.05  # seconds of a call, above which one says how long it takes
_TIMEOUT, _PLANNED = 120.0, 0.7  # seconds of the process; the part of them in which rounds are begun


@dataclass(frozen=True)
class Timed:
    """A lowering: why it is `wrong`, empty if it gives what the first one does; the seconds of a call, and what part they are of
    the first one's: those of the best of the rounds, for other work on the machine only adds. What is hopeless has fewer rounds.
    """

    wrong: str
    seconds: float
    ratio: float
    rounds: int


def measure(
    module: Path, call: Call, count: int, ways: Sequence[Device], folder: Path, rounds: int, seconds: float = _TIMEOUT
) -> list[list[Timed]]:
    """For each of `ways` to run code on the device: the `count` functions of `module`, the first of which is what others are
    compared with. In so many `seconds`: what there is no time for has fewer rounds, or none.

    Raises PipelineError where the process did not end well: it is not told which of the functions it was. TimedOutError where it
    did not end in time.
    """
    asked, result = folder / "rounds.json", folder / "measured.json"
    places, seconds = [[way.uri, way.threads] for way in ways], min(seconds, _TIMEOUT)
    part = _PLANNED * seconds / len(ways)
    job = {"module": str(module), "call": asdict(call), "count": count, "ways": places, "rounds": rounds, "seconds": part}
    write(asked, json.dumps(job).encode())
    result.unlink(missing_ok=True)
    words: list[str | Path] = [sys.executable, "-m", "pipeline.tuner.rounds", asked, result]
    ended = process.execute(words, folder / "rounds.log", timeout=seconds, env=ways[0].environment)
    if ended.returncode or not result.exists():
        raise PipelineError(f"running it was {ended.ending}: {process.tail(ended.log, 1).strip()}", where=str(ended.log))
    return [[Timed(**one) for one in of_way] for of_way in json.loads(result.read_bytes())]


def expected(once: float, rounds: int) -> float:
    """The seconds that so many rounds of a kernel take of which a call takes `once`, with looking at its numbers."""
    return 2 * once + min(rounds * max(once, _ROUND), max(_LONGEST, 2 * once))


def _stretches(buffer: Buffer) -> list[tuple[int, int, str]]:
    """Where the regions of a buffer begin and end, and what they hold: each reaches to the next one."""
    starts = [region.offset for region in buffer.regions]
    ends = [*starts[1:], buffer.length]
    return [(region.offset, end, region.element) for region, end in zip(buffer.regions, ends, strict=True) if end > region.offset]


def fill(buffer: Buffer, rng: np.random.Generator, low: float) -> np.ndarray[Any, Any]:
    """Bytes for a buffer: floats from `low` to 1, any whole numbers of 8 bits, small ones of more: they may be indices."""
    data = np.zeros(buffer.length, np.uint8)
    for start, end, element in _stretches(buffer):
        size = np.dtype(_TYPES.get(element, "uint8")).itemsize
        count = (end - start) // size
        if element == "bf16":
            values = (rng.uniform(low, 1, (end - start) // 2).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        elif element.startswith("f"):
            values = rng.uniform(low, 1, count).astype(_TYPES[element])
        elif element in ("i8", "i1"):
            values = (
                rng.integers(0, 2, count).astype(np.int8) if element == "i1" else rng.integers(-128, 128, count).astype(np.int8)
            )
        else:
            values = rng.integers(0, 4, count).astype(_TYPES.get(element, "uint8"))
        found = values.view(np.uint8)
        data[start : start + found.size] = found
    return data


def difference(buffer: Buffer, wanted: np.ndarray[Any, Any], found: np.ndarray[Any, Any]) -> str:
    """What is not the same in a buffer that was written; empty if all is, but for the last places of floats."""
    for start, end, element in _stretches(buffer):
        a, b = wanted[start:end], found[start:end]
        if a.tobytes() == b.tobytes():
            continue
        if element not in _TOLERANCES:
            return f"{int((a != b).sum())} bytes of {element} differ"
        type_ = np.dtype(_TYPES[element])
        whole = len(a) // type_.itemsize * type_.itemsize
        x, y = (one[:whole].view(type_).astype(np.float64) for one in (a, b))
        finite = np.isfinite(x)
        if not np.array_equal(finite, np.isfinite(y)):
            return "numbers that are finite are not, or the other way round"
        x, y = x[finite], y[finite]
        scale = float(np.sqrt(np.mean(x**2))) if x.size else 0.0
        excess = np.abs(x - y) / (_TOLERANCES[element] * (np.abs(x) + scale) + 1e-30)
        if x.size and excess.max() > 1:
            return f"{element} differ by {np.abs(x - y).max():.2g}, {excess.max():.1f} times what is allowed"
    return ""


class _Runner:
    """The functions of a module on a device, with buffers for all of them."""

    def __init__(self, module: Path, call: Call, uri: str, threads: int) -> None:
        self._session = Session(module, open_device(uri, threads))
        self._call = call
        self._views: list[Any] = []
        self._clock: Callable[[], float] = time.perf_counter

    def place(self, data: Sequence[np.ndarray[Any, Any]]) -> None:
        self._data = data
        self._views = self._session.place(data)

    def outputs(self, number: int) -> list[np.ndarray[Any, Any]]:
        """What the kernel writes when it is called once, with fresh buffers."""
        views = self._session.place(self._data)
        self._session.call(f"run_{number}", [1, *views])
        return [self._session.read(v) for v, buffer in zip(views, self._call.buffers, strict=True) if buffer.written]

    def seconds(self, number: int, times: int) -> float:
        """Of one call, when it is called so often. Of a device that is this thread those that it had, whatever else runs here."""
        before = self._clock()
        self._session.call(f"run_{number}", [times, *self._views])
        return (self._clock() - before) / times

    def settle(self) -> None:
        """Find out whether the device is this thread."""
        for _ in range(3):
            began, before = time.thread_time(), time.perf_counter()
            self._session.call("run_0", [1, *self._views])
            if time.thread_time() - began > 0.9 * (time.perf_counter() - before):
                self._clock = time.thread_time


def _is_finite(call: Call, outputs: Sequence[np.ndarray[Any, Any]]) -> bool:
    for buffer, data in zip([b for b in call.buffers if b.written], outputs, strict=True):
        for start, end, element in _stretches(buffer):
            if element in _TOLERANCES:
                type_ = np.dtype(_TYPES[element])
                part = data[start:end]
                if not np.isfinite(part[: len(part) // type_.itemsize * type_.itemsize].view(type_)).all():
                    return False
    return True


def _data(runner: _Runner, call: Call) -> list[np.ndarray[Any, Any]]:
    """Place inputs of both signs; where that gives what is not finite, as of a root, positive ones. What the first one gives."""
    wanted: list[np.ndarray[Any, Any]] = []
    for low in (-1.0, 0.25):
        rng = np.random.default_rng(16)
        runner.place([fill(buffer, rng, low) for buffer in call.buffers])
        wanted = runner.outputs(0)
        if _is_finite(call, wanted):
            break
    return wanted


def _measured(runner: _Runner, call: Call, count: int, rounds: int, ends: Callable[[], bool]) -> list[Timed]:
    """What there is to measure before it `ends`: the first of them, and more as far as there is time."""
    wanted = _data(runner, call)
    written = [buffer for buffer in call.buffers if buffer.written]
    once = runner.seconds(0, 1)
    if once < _SLOW:
        runner.settle()
        once = min(runner.seconds(0, 1) for _ in range(3))
    wrong = [""] * count
    seconds: list[list[float]] = [[] for _ in range(count)]
    left = [0]
    for number in range(1, count):
        if ends():
            break
        before = time.perf_counter()
        found = runner.outputs(number)
        took = time.perf_counter() - before
        wrong[number] = next(filter(None, map(difference, written, wanted, found)), "")
        if took > _HOPELESS_AT_FIRST * once + _PREPARED:
            seconds[number].append(took)
        elif not wrong[number]:
            left.append(number)
    times = max(1, min(2000, round(_ROUND / once)))
    for index in range(max(2, min(rounds, round(_LONGEST / once)))):
        for number in left if index % 2 == 0 else reversed(left):
            if seconds[0] and ends():
                break
            seconds[number].append(runner.seconds(number, times))
        if index == 1:
            left = [n for n in left if n == 0 or (seconds[n] and min(seconds[n]) < _HOPELESS * max(seconds[0]))]
    return [_timed(wrong[number], seconds[number], seconds[0]) for number in range(count)]


def _timed(wrong: str, mine: Sequence[float], first: Sequence[float]) -> Timed:
    if not mine:
        return Timed(wrong, 0.0, 0.0, 0)
    return Timed(wrong, min(mine), min(mine) / min(first), len(mine))


def _within(seconds: float) -> Callable[[], bool]:
    """Whether so many seconds from now are over."""
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() > end


def _of_json(value: dict[str, Any]) -> Call:
    buffers = (Buffer(b["length"], b["written"], tuple(Region(**region) for region in b["regions"])) for b in value["buffers"])
    return Call(tuple(value["workload"]), tuple(value["constants"]), tuple(buffers))


def main(job: Path, result: Path) -> int:
    """Do the job in a file: what was measured, in the other one."""
    asked = json.loads(job.read_bytes())
    call = _of_json(asked["call"])
    runners = [_Runner(Path(asked["module"]), call, uri, threads) for uri, threads in asked["ways"]]
    found = [_measured(runner, call, asked["count"], asked["rounds"], _within(asked["seconds"])) for runner in runners]
    write(result, json.dumps([[asdict(one) for one in of_way] for of_way in found]).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
