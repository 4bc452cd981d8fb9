"""The result of a run of `doit` for programs: `doit --reporter json`. Light, for it is imported where nothing is to be done."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

SCHEMA = 1


@dataclass(frozen=True)
class StepResult:
    """How a step ended.

    `outcome`: `done`, `up to date`, `failed`, `blocked` (by one that failed) or `interrupted`. `error`: why it failed; `log`: the
    file with what its last tool said; `report`: a file that it wrote for people. Paths are as seen from the project's folder.
    """

    name: str
    outcome: str
    seconds: float
    error: str = ""
    log: str = ""
    report: str = ""


@dataclass(frozen=True)
class Release:
    """What a `publish` step has put, or found, in a store. `outcome` is the step's, `differs` what changed for the channel."""

    model: str
    version: str
    channel: str
    store: str
    manifest: dict[str, str]
    outcome: str
    differs: Sequence[str]


def asked_for(words: Sequence[str]) -> bool:
    """Whether a command line of doit asks for a result instead of text."""
    ways = ("-rjson", "--reporter=json")
    return any(word in ways for word in words) or any(
        word in ("-r", "--reporter") and value == "json" for word, value in pairwise(words)
    )


def release(receipt: Path, outcome: str) -> Release:
    """The release that a receipt of publishing is about."""
    said = json.loads(receipt.read_text("utf-8"))
    model, _, version = said["release"].partition("@")
    return Release(model, version, said["channel"], said["store"], said["manifest"], outcome, said["differs"])


def last_log(folder: Path) -> str:
    """The log in a step's folder that was written to last; empty where there is none."""
    logs = [path for path in folder.rglob("*.log") if path.is_file()] if folder.is_dir() else []
    found = max(logs, key=lambda path: path.stat().st_mtime_ns, default=None)
    return found.as_posix() if found else ""


def document(steps: Iterable[StepResult], releases: Iterable[Release], errors: Sequence[str], seconds: float, ended: bool) -> str:
    """The result as JSON. `errors` are of doit itself; not `ended`: the run was interrupted."""
    listed = list(steps)
    failed = bool(errors) or any(step.outcome in ("failed", "blocked") for step in listed)
    outcome = "interrupted" if not ended else "failed" if failed else "done"
    found: dict[str, Any] = {
        "schema": SCHEMA,
        "outcome": outcome,
        "seconds": round(seconds, 3),
        "errors": list(errors),
        "steps": [asdict(step) for step in listed],
        "releases": [asdict(one) for one in releases],
    }
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


class JsonReporter:
    """What doit knows by the name `json`: the class itself is imported when there is something to report."""

    desc = "one JSON document on standard output, all text on standard error"

    def __new__(cls, outstream: Any, options: Any = None) -> Any:
        """A reporter that writes the document into `outstream`."""
        from pipeline.reporting import ResultReporter

        return ResultReporter(outstream, options)
