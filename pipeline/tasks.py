"""Steps → doit's tasks, with what doit leaves to its users: errors as messages, one run at a time, clean interrupts."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from doit import doit_cmd
from doit.exceptions import TaskFailed
from doit.tools import config_changed

from pipeline import __version__, activity, platforms, process
from pipeline.errors import PipelineError, permitted
from pipeline.files import locked, remove_leftovers, write
from pipeline.groups import GROUPS, STORE_GROUPS
from pipeline.layout import Layout, stamp
from pipeline.names import did_you_mean, whole_number
from pipeline.plan import TRUST, Asked, Step
from pipeline.store.published import lacks
from pipeline.terminal import prepare_streams, say

# The variables of steps that are only done when asked for, as they are where nothing is said.
ASKED = {
    **{"sample": "20", "seconds": "600", "budget": "600", "target": "", "model": "", "reason": "", "undo": "no"},
    **{"keep": "", "pins": "", "dry": "yes", "deep": "no", "repair": "no", "site": ""},
    **TRUST,
}
_PATIENCE = 10.0  # seconds; the tools of a killed run end, or finish a step, in about that time


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
                busy = "another doit is at work in this folder, or a tool of one that was killed: wait for it to end"
                process.share(self._held.enter_context(locked(self._layout.lock, busy, patience=_PATIENCE)))
                remove_leftovers(self._layout.root)
                self._ready = True


def end_on_signals() -> None:
    """On SIGINT, SIGTERM and SIGHUP end every tool at once, then let doit close its books."""

    def handler(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one ends this process too
        process.refuse_more()
        process.end_all()
        raise KeyboardInterrupt

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            print("interrupted: every tool was ended; the next run goes on where this one stopped", file=sys.stderr)
        else:
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = hook
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, handler)
        for number in platforms.ENDING_SIGNALS:
            if signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores SIGHUP
                signal.signal(number, handler)


def _stamp(step: Step) -> Path:
    return stamp(step.name, step.outputs[0])


def _options(step: Step) -> str:
    return json.dumps({"program": __version__, **step.options}, sort_keys=True)


def _action(step: Step, run: Run) -> Callable[[], Any]:
    def act() -> Any:
        try:
            run.start()
            _stamp(step).unlink(missing_ok=True)
            with activity.step(step.name), permitted():
                step.action()
            made = uuid.uuid4().hex
            write(_stamp(step), made.encode())
        except PipelineError as error:
            return TaskFailed(str(error))
        return {"stamp": made, "options": _options(step)}

    return act


def _made_by_the_run_that_doit_remembers(step: Step) -> Callable[[Any, dict[str, Any]], bool]:
    """Whether what lies there is from the run whose inputs doit has in its database.

    doit saves only when it ends: after a kill its database speaks of an earlier run than the files do.
    """

    def check(task: Any, values: dict[str, Any]) -> bool:  # doit goes by these names
        try:
            return values.get("stamp") == _stamp(step).read_text()
        except OSError:
            return False

    return check


def _release_is_there(receipt: Path) -> Callable[[], bool]:
    """Whether the store still has what the receipt says was published."""
    return lambda: not lacks(receipt)


def _task(step: Step, run: Run) -> dict[str, Any]:
    uptodate: list[Any] = [_made_by_the_run_that_doit_remembers(step), config_changed(_options(step))]
    if step.always:
        uptodate = [False]
    receipt = step.outputs[0] if step.name.startswith("publish:") else None
    if receipt:
        uptodate.append(_release_is_there(receipt))
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
        "meta": {"options": _options(step), "receipt": receipt and str(receipt)},  # for `doit explain`
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


def variables(**defaults: str) -> dict[str, str]:
    """The `name=value` words of the command line, which must be among `defaults`."""
    given = dict(doit_cmd._CMDLINE_VARS or {})
    for name in given.keys() - defaults.keys():
        raise PipelineError(f"{name}= is no variable here: {did_you_mean(name, defaults)}")
    return {**defaults, **given}


def positive(text: str, name: str) -> int:
    """The number that the variable `name` of the command line gives."""
    number = whole_number(text)
    if not number:
        raise PipelineError(f"{name}={text:.100} is no number of things: give 1 or more")
    return number


def decided(text: str, name: str) -> bool:
    """Whether the variable `name` of the command line says yes."""
    if text not in ("yes", "no"):
        raise PipelineError(f"{name}={text} is neither yes nor no")
    return text == "yes"


def _publishes(text: str) -> bool:
    if text not in ("", "publish"):
        raise PipelineError(f"site={text:.100}: it can be `publish`, or left out")
    return text == "publish"


def asked_for(given: Mapping[str, str]) -> Asked:
    """What the variables among ASKED mean."""
    return Asked(
        sample=positive(given["sample"], "sample"),
        seconds=positive(given["seconds"], "seconds"),
        budget=positive(given["budget"], "budget"),
        target=given["target"],
        model=given["model"],
        reason=given["reason"],
        undo=decided(given["undo"], "undo"),
        keep=positive(given["keep"], "keep") if given["keep"] else 0,
        pins=given["pins"],
        dry=decided(given["dry"], "dry"),
        deep=decided(given["deep"], "deep"),
        repair=decided(given["repair"], "repair"),
        publishes_site=_publishes(given["site"]),
        trust={name: given[name] for name in TRUST},
        any_model=any(word.partition(":")[0] in STORE_GROUPS for word in sys.argv[1:]),
    )


@contextlib.contextmanager
def errors_as_messages() -> Iterator[None]:
    """Print a PipelineError raised while tasks are made, and leave with exit code 3."""
    prepare_streams()
    try:
        with permitted():
            yield
    except PipelineError as error:
        say(*f"error: {error}".split("\n"))
        raise SystemExit(3) from None
