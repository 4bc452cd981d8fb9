"""The reporter of `doit --reporter json`: what people read goes to standard error, and the result to standard output."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from doit.exceptions import BaseFail, UnmetDependency

from pipeline import process, result
from pipeline.layout import Layout
from pipeline.plain import plain_lines
from pipeline.progress import REPORTING, Reporter


class ResultReporter(Reporter):
    """doit's reporter for programs. Of a run that never began, which ends with the exit code 3, there is no result."""

    layout = Layout(Path("out"))

    def initialize(self, tasks: dict[str, Any], selected_tasks: list[str]) -> None:
        """Called once before anything runs."""
        self._steps: dict[str, result.StepResult] = {}
        self._begun: dict[str, float] = {}
        self._document = self.outstream
        sys.stdout = sys.stderr
        super().initialize(tasks, selected_tasks)
        self._initialized = True

    def execute_task(self, task: Any) -> None:
        """A task starts."""
        if task.actions:
            self._begun[task.name] = time.monotonic()
        super().execute_task(task)

    def add_success(self, task: Any) -> None:
        """A task is done."""
        self._note(task, "done")
        super().add_success(task)

    def skip_uptodate(self, task: Any) -> None:
        """A task has nothing to do."""
        self._note(task, "up to date")
        super().skip_uptodate(task)

    def add_failure(self, task: Any, fail: BaseFail) -> None:
        """A task failed, or could not run because another did."""
        is_blocked = isinstance(fail, UnmetDependency)
        message = "" if is_blocked else ("".join(fail.traceback) or fail.message).rstrip()
        self._note(task, "blocked" if is_blocked else "failed", "\n".join(plain_lines(message)))
        super().add_failure(task, fail)

    def complete_run(self) -> None:
        """Called at the end, interrupted or not."""
        if not hasattr(self, "_initialized"):
            return
        super().complete_run()
        for name in self._begun:
            self._note(self._tasks[name], "interrupted")
        steps = [self._steps[name] for name in self._tasks if name in self._steps]  # in the order of the plan
        published = [step for step in steps if step.name.startswith("publish:")]
        there = [step for step in published if step.outcome in ("done", "up to date")]
        releases = [result.release(self._target(step.name), step.outcome) for step in there]
        seconds = time.monotonic() - self._started
        errors, ended = list(map(str, self.runtime_errors)), not process.interrupted()
        self._document.write(result.document(steps, releases, errors, seconds, ended))
        self._document.flush()

    def _target(self, name: str) -> Path:
        return Path(self._tasks[name].targets[0])

    def _note(self, task: Any, outcome: str, error: str = "") -> None:
        """Remember how a step ended; groups of steps are none."""
        if not task.actions or (outcome == "interrupted" and task.name in self._steps):
            return
        begun = self._begun.get(task.name)
        seconds = round(time.monotonic() - begun, 3) if begun is not None else 0.0
        target = self._target(task.name)
        log = result.last_log(target.parent) if outcome in ("failed", "interrupted") else ""
        report = target.as_posix() if outcome == "done" and task.name.startswith(REPORTING) else ""
        self._steps[task.name] = result.StepResult(task.name, outcome, seconds, error, log, report)

    def _remember(self) -> None:
        """Nothing: the next run of this kind has to say all of it again."""
