"""The tasks of `doit`: everything under `targets/`, built in `out/`, published to PIPELINE_STORE (default: out/store)."""

import os
from pathlib import Path

from pipeline.errors import disk_errors
from pipeline.layout import Layout
from pipeline.machine import fingerprint
from pipeline.plan import Target, steps
from pipeline.progress import Reporter
from pipeline.spec.load import load
from pipeline.tasks import end_on_signals, errors_as_messages, positive, tasks, variables

LAYOUT = Layout(Path("out"))
with errors_as_messages(), disk_errors(str(LAYOUT.root)):
    LAYOUT.root.mkdir(exist_ok=True)
DOIT_CONFIG = {"default_tasks": ["publish"], "reporter": Reporter, "dep_file": str(LAYOUT.root / ".doit.db")}


def task_all():
    """One task for each stage of each model."""
    end_on_signals()
    with errors_as_messages():
        store = os.environ.get("PIPELINE_STORE") or str(LAYOUT.store)
        given = variables(version="", channel="latest", sample="20")
        sample = positive(given.pop("sample"), "sample")
        made = steps(load(Path("targets")), LAYOUT, Target(store, **given), fingerprint(), sample)
    yield from tasks(made, LAYOUT)
