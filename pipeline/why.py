"""`doit explain STEP`: why a step would run now, or that it would not; and so for every step before it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from doit.cmd_base import DoitCmdBase
from doit.exceptions import InvalidCommand

from pipeline.dialogue import WithSteps
from pipeline.plain import plain, without_secrets
from pipeline.store.published import lacks

_FILES = {
    "missing_target": "it has not made {}, or that was removed",
    "changed_file_dep": "{} changed",
    "missing_file_dep": "{} is not there yet",
    "removed_file_dep": "{} is no input any more",
    "added_file_dep": "{} is a new input",
}


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """One sentence for each place where two JSON values differ: the path, what was, what is."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from differences(before, after, f"{path}[{index}]")
    elif old != new:
        yield f"{path} was {_short(old)}, is {_short(new)}"


def _short(value: Any) -> str:
    text = without_secrets(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= 120 else f"{text[:120]}…"


class Explain(WithSteps, DoitCmdBase):  # type: ignore[misc]  # doit is untyped
    """The command."""

    name = "explain"
    doc_purpose = "say why a step would run: which input, option or output changed"
    doc_usage = "STEP..."
    doc_description = "Also for every step before it, in order. STEP is a name that `doit list --all` shows."

    def _execute(self, pos_args: list[str]) -> int:
        tasks = {task.name: task for task in self.task_list}
        if not pos_args:
            raise InvalidCommand("say which step: `doit list --all` shows them")
        makers = {path: task.name for task in self.task_list for path in task.targets}
        before = {t.name: sorted({*t.task_dep, *(makers[f] for f in t.file_dep if f in makers)}) for t in self.task_list}
        will_run: set[str] = set()
        for wanted in pos_args:
            if wanted not in tasks:
                raise InvalidCommand(not_found=wanted)
            for name in _in_order(wanted, before):
                if tasks[name].actions:
                    self._explain(tasks[name], tasks, will_run.intersection(before[name]), will_run)
        return 0

    def _explain(self, task: Any, tasks: Mapping[str, Any], runs_before: set[str], will_run: set[str]) -> None:
        reasons = [*self._reasons(task, tasks)]
        reasons += [f"{name} would run before it" for name in sorted(runs_before)]
        if not reasons:
            self.outstream.write(f"{task.name}: up to date\n")
            return
        will_run.add(task.name)
        self.outstream.write(f"{task.name}: would run\n" + "".join(f"  - {plain(reason)}\n" for reason in reasons))

    def _reasons(self, task: Any, tasks: Mapping[str, Any]) -> Iterator[str]:
        status = self.dep_manager.get_status(task, tasks, get_log=True)
        if status.status == "up-to-date":
            return
        for reason, sentence in _FILES.items():
            for path in status.reasons.get(reason) or ():
                yield sentence.format(path)
        options = self.dep_manager.get_value(task.name, "options") if self._is_known(task) else None
        if options is None:
            yield "it never ran to its end here, or is run every time"
        elif changed := list(differences(json.loads(options), json.loads(task.meta["options"]))):
            yield from changed
        elif status.reasons.get("uptodate_false") and not any(status.reasons.get(reason) for reason in _FILES):
            receipt = task.meta["receipt"]
            yield (receipt and lacks(Path(receipt))) or "what it made is not from the last run"

    def _is_known(self, task: Any) -> bool:
        try:
            self.dep_manager.get_values(task.name)["options"]
        except (KeyError, TypeError):
            return False
        return True


def _in_order(name: str, before: Mapping[str, Sequence[str]]) -> list[str]:
    """All steps that `name` needs, then `name`."""
    found: dict[str, None] = {}
    for needed in before[name]:
        found |= dict.fromkeys(_in_order(needed, before))
    return [*found, name]
