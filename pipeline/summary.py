"""What a run of `doit` did, as a page: `out/report/index.html`. It is made of what the steps left, and takes part in nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.consume.render import size
from pipeline.errors import PipelineError
from pipeline.groups import BUILD_GROUPS
from pipeline.layout import Layout
from pipeline.machine import now
from pipeline.progress import left_out, strongest
from pipeline.site.folder import put_into
from pipeline.site.page import Frame, Page, Place, assets, render
from pipeline.stages import report

_KERNELS = 8  # of a bundle
_LOGS = 400  # of a step: beyond that the folder is named
_TAIL = 40  # lines of a log
_TAIL_BYTES = 16 << 10


@dataclass(frozen=True)
class Ended:
    """A step of the run: `outcome` is `done`, `up to date`, `failed` or `blocked`, `target` a file in the folder that it makes.

    `message` is why it failed.
    """

    name: str
    outcome: str
    seconds: float
    target: Path
    message: str = ""

    @property
    def stage(self) -> str:
        """Its stage."""
        return self.name.partition(":")[0]

    @property
    def about(self) -> str:
        """The model and the bundle, for people."""
        return " / ".join(self.name.split(":")[1:])


def write(layout: Layout, steps: Sequence[Ended], seconds: float) -> Path:
    """Write the page about these steps, in the order in which they ended, of a run that took so many seconds. Returns its path.

    Raises PipelineError where it cannot be written.
    """
    folder = layout.summary
    shown = [step for step in steps if step.stage in BUILD_GROUPS]
    done = [step for step in shown if step.outcome == "done"]
    values = {
        "steps": [step for step in shown if step.outcome in ("done", "failed")],
        "counts": _counts(shown),
        "seconds_in_all": seconds,
        "made": now(),
        "longest": max((step.seconds for step in shown), default=0.0) or 1.0,
        "stages": _stages(shown),
        "failures": [_failure(step, folder) for step in shown if step.outcome == "failed"],
        "bundles": [_bundle(step) for step in done if step.stage == "verify"],
        "code": [found for step in done if step.stage == "compile" if (found := _code(step))],
        "kernels": [found for step in done if step.stage == "compile" if (found := _kernels(step))],
        "published": [json.loads(step.target.read_text("utf-8")) for step in done if step.stage == "publish"],
        "logs": [(step, _logs(step, folder)) for step in shown if step.outcome in ("done", "failed")],
    }
    frame = Frame("vmfb build", (Place("run", "This run", "index.html"),), f"Written by doit with vmfb-pipeline {__version__}.")
    page = Page("index.html", "What this run did", "run")
    put_into(folder, {**assets(), page.path: render(frame, page, "report.html.j2", **values)})
    return folder / page.path


def _counts(steps: Iterable[Ended]) -> dict[str, int]:
    counts = dict.fromkeys(("failed", "blocked", "done", "up to date"), 0)
    for step in steps:
        counts[step.outcome] += 1
    return {what: count for what, count in counts.items() if count}


def _stages(steps: Sequence[Ended]) -> list[tuple[str, float]]:
    """The seconds of each stage that had something to do, all its steps together."""
    found = {stage: sum(step.seconds for step in steps if step.stage == stage) for stage in BUILD_GROUPS}
    return [(stage, seconds) for stage, seconds in found.items() if seconds]


def _failure(step: Ended, folder: Path) -> dict[str, object]:
    """Which step failed and why, and the end of the log that was written last."""
    logs = _all_logs(step)
    last = max(logs, key=lambda path: path.stat().st_mtime_ns, default=None)
    return {
        "name": step.name,
        "message": step.message,
        "log": _seen(last, folder) if last else "",
        "tail": _tail(last) if last else "",
    }


def _tail(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        lines = file.read().decode("utf-8", "replace").splitlines()
    return "\n".join(line[:500] for line in lines[-_TAIL:])


def _bundle(step: Ended) -> dict[str, object]:
    """What was seen of each variant of a verified bundle, and what it is without."""
    folder = step.target.parent
    compiled, evidence = json.loads((folder / "compiled.json").read_text("utf-8")), strongest(folder)
    return {
        "name": step.about,
        "size": size((folder / "module.vmfb").stat().st_size),
        "variants": list(_variants(compiled, evidence)),
        "left_out": left_out(step.about, folder),
        "notes": compiled["notes"],
    }


def _variants(compiled: Mapping[str, Any], evidence: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, object]]:
    for variant in compiled["variants"]:
        proof = evidence[variant["gated"]["name"]]
        worst = max(proof["functions"], key=lambda one: one["of_tolerance"], default=None)
        code = sum({piece["offset"]: piece["length"] for piece in variant["code"]}.values())
        yield {
            "name": proof["variant"],
            "kind": proof["kind"],
            "error": f"{worst['max_abs_error']:.1e}" if worst else "",
            "part": worst["of_tolerance"] if worst else None,
            "latency_s": proof["latency_s"],
            "code": size(code),
            "where": proof["driver"] or proof["device"],
            "reason": proof["reason"],
        }


def _code(step: Ended) -> dict[str, object] | None:
    """Where the pieces of a compiled bundle's code came from."""
    try:
        counts = json.loads((step.target.parent / "pieces.json").read_text("utf-8"))
    except OSError:
        return None  # what a stage found done already
    return {"name": step.about, "seconds": step.seconds, **counts}


def _kernels(step: Ended) -> dict[str, object] | None:
    """The kernels of a compiled bundle that cost most."""
    try:
        found = report.costs(step.target.parent)
    except PipelineError:
        return None  # nobody knows what they cost
    total = found.cost
    rows = [
        {
            "name": kernel.name,
            "operators": report.operators(kernel),
            "seconds": kernel.cost.seconds,
            "part": kernel.cost.seconds / total.seconds if total.seconds else 0.0,
            "bytes": size(kernel.cost.bytes),
        }
        for kernel in found.kernels[:_KERNELS]
    ]
    others = len(found.kernels) - len(rows)
    return {"name": step.about, "rows": rows, "others": others, "seconds": total.seconds, "bytes": size(total.bytes)}


def _all_logs(step: Ended) -> list[Path]:
    folder = step.target.parent
    return sorted(path for path in folder.rglob("*.log") if path.is_file()) if folder.is_dir() else []


def _logs(step: Ended, folder: Path) -> tuple[str, list[tuple[str, str]]]:
    """The folder of what a step left, and the logs in it: what they are called there, and the paths from the page."""
    logs = [(path.relative_to(step.target.parent).as_posix(), _seen(path, folder)) for path in _all_logs(step)[:_LOGS]]
    return _seen(step.target.parent, folder), logs


def _seen(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()
