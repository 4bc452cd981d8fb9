"""What the `dodo.py` of a project imports: the tasks for everything under `targets/`, built in `out/`.

They are published to PIPELINE_STORE (default: out/store). Only `doit` may import this: where nothing changed since the last run,
it says so and ends the process.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import disk_errors
from pipeline.layout import Layout
from pipeline.machine import fingerprint
from pipeline.snapshot import Snapshot

LAYOUT = Layout(Path("out"))
MACHINE = fingerprint()
SNAPSHOT = Snapshot(LAYOUT.snapshot, MACHINE)
SNAPSHOT.leave_if_it_holds()  # before anything else is imported: nothing to do shall take no time

from pipeline.database import Checker  # noqa: E402
from pipeline.plan import Target, steps  # noqa: E402
from pipeline.progress import Reporter  # noqa: E402
from pipeline.spec.load import load  # noqa: E402
from pipeline.stages.witnesses.address import VARIABLE, addresses  # noqa: E402
from pipeline.store.open import address  # noqa: E402
from pipeline.tasks import ASKED, asked_for, end_on_signals, errors_as_messages, tasks, variables  # noqa: E402

with errors_as_messages(), disk_errors(str(LAYOUT.root)):
    LAYOUT.root.mkdir(exist_ok=True)


class Reporting(Reporter):
    """The reporter of this project's runs, which remembers a run that had nothing to do."""

    snapshot, database, layout = SNAPSHOT, LAYOUT.database, LAYOUT


DOIT_CONFIG = {
    "default_tasks": ["publish"],
    "reporter": Reporting,
    "dep_file": str(LAYOUT.database),
    "check_file_uptodate": Checker,
    "backend": "forgiving",  # this package's entry points name it for doit, and the command `doit explain`
    "par_type": "thread",
    "continue": True,
}


def task_all() -> Iterator[Mapping[str, Any]]:
    """One task for each stage of each model."""
    end_on_signals()
    with errors_as_messages():
        store = address(os.environ.get("PIPELINE_STORE") or str(LAYOUT.store))
        target = variables(version="", channel="latest", **ASKED)
        asked = asked_for({name: target.pop(name) for name in ASKED})
        witnesses = addresses(os.environ.get(VARIABLE, ""))
        made = steps(load(Path("targets")), LAYOUT, Target(store, **target), MACHINE, asked, witnesses)
    yield from tasks(made, LAYOUT)
