"""Steps → doit's tasks, with what doit leaves to its users: errors as messages, one run at a time, clean interrupts."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from doit.exceptions import TaskFailed
from doit.tools import config_changed

from pipeline import __version__, process
from pipeline.errors import PipelineError
from pipeline.files import locked, remove_leftovers
from pipeline.layout import Layout
from pipeline.plan import GROUPS, Step


class Run:
    """This process's run of the pipeline: takes the lock with the first step that has something to do."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._held = contextlib.ExitStack()
        self._mutex = threading.Lock()
        self._ready = False

    def start(self) -> None:
        """Hold the lock until this process ends. Raises PipelineError if another `doit` has it."""
        with self._mutex:
            if not self._ready:
                self._held.enter_context(locked(self._layout.lock, "another doit is at work in this folder: wait for it to end"))
                remove_leftovers(self._layout.root)
                self._ready = True


def end_on_signals() -> None:
    """On SIGINT and SIGTERM end every tool at once, then let doit close its books."""

    def handler(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one ends this process too
        process.refuse_more()
        process.end_all()
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, handler)
        signal.signal(signal.SIGTERM, handler)


def _action(step: Step, run: Run) -> Callable[[], Any]:
    def act() -> Any:
        try:
            run.start()
            step.action()
        except PipelineError as error:
            return TaskFailed(str(error))
        return True

    return act


def _release_is_there(receipt: Path) -> Callable[[], bool]:
    """Whether the directory store still has what the receipt says was published."""

    def check() -> bool:
        import json

        try:
            manifest = str(json.loads(receipt.read_text())["manifest"])
        except (OSError, ValueError, KeyError):
            return False
        return manifest.startswith("s3://") or os.path.exists(manifest)

    return check


def _task(step: Step, run: Run) -> dict[str, Any]:
    uptodate: list[Any] = [config_changed({"program": __version__, **step.options})]
    if step.name.startswith("publish:"):
        uptodate.append(_release_is_there(step.outputs[0]))
    return {
        "basename": step.name.split(":")[0],
        "name": step.name.split(":", 1)[1],
        "doc": step.about,
        "actions": [_action(step, run)],
        "file_dep": [str(p) for p in step.inputs],
        "targets": [str(p) for p in step.outputs],
        "uptodate": uptodate,
        "io": {"capture": False},
        "clean": True,
    }


def tasks(steps: list[Step], layout: Layout) -> Iterator[Mapping[str, Any]]:
    """The tasks of all steps, grouped by stage, and `build`: up to the compiled file."""
    run = Run(layout)
    for group, about in GROUPS.items():
        yield {"basename": group, "name": None, "doc": about}
    yield {"basename": "build", "name": None, "doc": "fetch, import and compile; verify and publish nothing"}
    for step in steps:
        yield _task(step, run)
        stage, _, rest = step.name.partition(":")
        if stage == "compile":
            yield {"basename": "build", "name": rest, "doc": step.about, "actions": None, "task_dep": [step.name]}


@contextlib.contextmanager
def errors_as_messages() -> Iterator[None]:
    """Print a PipelineError raised while tasks are made, and leave with exit code 3."""
    try:
        yield
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(3) from None
