"""Where the time of a run goes: the kernels of the variant that runs, the slowest first, with the model's names for them."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline import __version__, arrays
from pipeline.arrays import Array
from pipeline.consume.choose import Choice
from pipeline.consume.inspect import Contents
from pipeline.consume.render import columns
from pipeline.consume.run import run
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import is_file
from pipeline.iree.devices.profiling import Timing, profile
from pipeline.iree.file import kernels
from pipeline.plain import plain

_SECONDS = 1.0  # that the profiled runs take together, about
_FEWEST, _MOST = 3, 200
_SHOWN = 15
_SCHEMA = "https://www.speedscope.app/file-format-schema.json"


@dataclass(frozen=True)
class Row:
    """A kernel: the compiler's name for it, or of its dispatch; the name of its function in the code; what a run spends in it.

    `calls` are in a run, `share` is of the time in all kernels. `nodes` are those of the model that it computes, each with its
    operators; empty where that is not known.
    """

    kernel: str
    symbol: str
    calls: float
    seconds: float
    share: float
    nodes: Mapping[str, Sequence[str]]

    @property
    def operators(self) -> str:
        """The operators that it computes, for people: `Conv, Relu`."""
        names = dict.fromkeys(name.rpartition(".")[2] for names in self.nodes.values() for name in names)
        return ", ".join(names)


@dataclass(frozen=True)
class Profile:
    """A function's kernels, in the order of their first calls, over so many `runs`.

    All seconds are of one run, the median of the runs; `latency_s` is that of runs without profiling. `named`: whether it is
    known what kernels compute.
    """

    function: str
    variant: str
    device: str
    runs: int
    latency_s: float
    named: bool
    rows: tuple[Row, ...]

    @property
    def kernels_s(self) -> float:
        """The seconds in all kernels. They may run at the same time, and a run has more to do."""
        return sum(row.seconds for row in self.rows)


def measure(contents: Contents, choice: Choice, function: str, given: Sequence[Array], parameters: Path | None = None) -> Profile:
    """Profile `function` on the device, with what is beside the file for names.

    Raises PipelineError as `run` does, and where the device cannot be profiled.
    """
    latency = run(contents, choice, function, given, parameters, seconds=_SECONDS).run.latency_s or _SECONDS
    runs = min(max(round(_SECONDS / latency), _FEWEST), _MOST)
    with disk_errors("the folder for temporary files"), tempfile.TemporaryDirectory(prefix="vmfb-") as name:
        folder = Path(name)
        arrays.write(folder / "inputs.npz", given)
        timings = profile(
            contents.path,
            choice.device,
            function,
            folder / "inputs.npz",
            folder,
            runs=runs,
            parameters=parameters,
            timeout=60 + 20 * runs * latency,
        )
    if not timings:
        raise PipelineError("calls no kernel: there is nothing to profile", where=function)
    beside = contents.path.with_name(kernels.NAME)
    known = _known(kernels.read(beside), choice.variant or "") if is_file(str(beside)) else {}
    rows = tuple(_rows(timings, known, _dispatches(contents, choice.variant or "")))
    named = any(row.nodes for row in rows)
    return Profile(function, choice.variant or "", choice.device.title, runs, latency, named, rows)


def _known(found: Sequence[kernels.Kernel], variant: str) -> dict[str, kernels.Kernel]:
    """The kernels by the names of their functions in a variant's code."""
    return {kernel.code[variant].symbol: kernel for kernel in found if variant in kernel.code}


def _rows(timings: Sequence[Timing], known: Mapping[str, kernels.Kernel], dispatches: Mapping[str, str]) -> Iterator[Row]:
    total = sum(timing.seconds for timing in timings)
    for timing in timings:
        base = re.sub(r"_\d+$", "", timing.symbol)  # a kernel's second function, and so on
        kernel = known.get(timing.symbol) or known.get(base)
        name = kernel.name if kernel else dispatches.get(timing.symbol) or dispatches.get(base) or timing.symbol
        share = timing.seconds / total if total else 0.0
        yield Row(name, timing.symbol, timing.calls, timing.seconds, share, kernel.nodes if kernel else {})


def _dispatches(contents: Contents, variant: str) -> dict[str, str]:
    """What the file itself tells: by the name of a function in the variant's code, the dispatch that it is.

    A file of this project names a kernel by a digest of its content, and its segment by a variant and the dispatch.
    """
    owners = sorted((re.sub(r"\W", "_", v.name) + "_" for v in contents.variants), key=len, reverse=True)
    found = {}
    for part in contents.parts:
        if variant in part.variants and part.segment.name:
            owner = next((o for o in owners if part.segment.name.startswith(o)), "")
            for symbol in set(re.findall(rb"\bkernel_[0-9a-f]{32}(?:_\d+)?\b", contents.read(part))):
                found[symbol.decode()] = part.segment.name.removeprefix(owner).rpartition(".")[0]
    return found


def lines(found: Profile) -> list[str]:
    """The profile for people: the slowest kernels first."""
    rows = [("share", "time", "calls", "kernel", *(("operators", "nodes") if found.named else ()))]
    ordered = sorted(found.rows, key=lambda row: -row.seconds)
    for row in ordered[:_SHOWN]:
        names = (row.operators, _nodes(row)) if found.named else ()
        rows.append((f"{row.share:.1%}", _time(row.seconds), f"{row.calls:g}", plain(row.kernel), *map(plain, names)))
    if rest := ordered[_SHOWN:]:
        seconds, calls = sum(row.seconds for row in rest), sum(row.calls for row in rest)
        blank = ("", "") if found.named else ()
        share = sum(row.share for row in rest)
        rows.append((f"{share:.1%}", _time(seconds), f"{calls:g}", f"the other {len(rest)}", *blank))
    head = f"{found.function}, {found.variant} on {found.device}: {_time(found.latency_s)} a run"
    head += f", {_time(found.kernels_s)} in kernels (medians; {found.runs} profiled runs)"
    return [head, *(f"  {line}" for line in columns(rows, right=(0, 1, 2)))]


def _nodes(row: Row) -> str:
    names = list(row.nodes)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _time(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} µs"
    return f"{seconds * 1e3:.3f} ms" if seconds < 10 else f"{seconds:.2f} s"


def as_json(found: Sequence[Profile]) -> str:
    """Profiles for programs, the slowest kernels of each first. Seconds are of one run."""
    documents = []
    for one in found:
        document = {**asdict(one), "kernels_s": one.kernels_s, "kernels": _slowest_first(one)}
        del document["rows"]
        documents.append(document)
    return json.dumps({"profiles": documents}, indent=1)


def _slowest_first(found: Profile) -> list[dict[str, Any]]:
    return [asdict(row) for row in sorted(found.rows, key=lambda row: -row.seconds)]


def flame_graph(found: Sequence[Profile]) -> str:
    """Profiles as a file for https://www.speedscope.app, which draws flame graphs: function, operators, nodes, kernel.

    Each is of one run: kernels are in the order of their first calls, and weigh what the run spends in them, in nanoseconds.
    """
    numbers: dict[str, int] = {}
    profiles = []
    for one in found:
        stacks = ([one.function, *filter(None, (row.operators, _nodes(row))), row.kernel] for row in one.rows)
        samples = [[numbers.setdefault(name, len(numbers)) for name in stack] for stack in stacks]
        weights = [round(row.seconds * 1e9) for row in one.rows]
        about = {"name": f"{one.function}: {one.variant} on {one.device}", "type": "sampled", "unit": "nanoseconds"}
        profiles.append({**about, "startValue": 0, "endValue": sum(weights), "samples": samples, "weights": weights})
    document = {
        "$schema": _SCHEMA,
        "exporter": f"vmfb-pipeline@{__version__}",
        "activeProfileIndex": 0,
        "shared": {"frames": [{"name": name} for name in numbers]},
        "profiles": profiles,
    }
    return json.dumps(document, indent=1)
