"""What doit's commands have in common here: mistakes are messages, and output that nobody reads any more is no mistake."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from doit.cmd_base import Command
from doit.cmd_list import List as DoitList
from doit.cmd_run import Run as DoitRun
from doit.exceptions import InvalidCommand, InvalidDodoFile

from pipeline import exits
from pipeline.errors import ManyProblemsError, PipelineError, permitted
from pipeline.names import closest
from pipeline.terminal import flush, give_up_output, prepare_streams, say

_PROJECT = "dodo.py"


def count(number: int, what: str) -> str:
    """`1 model`, `2 models`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


class Alone(Command):  # type: ignore[misc]  # doit is untyped
    """A command that needs no steps. It does what it has to in `act`."""

    def act(self, words: Sequence[str]) -> None:
        """Do it, with the words that follow the command's name. Raises PipelineError."""
        raise NotImplementedError

    def execute(self, _options: dict[str, Any], words: Sequence[str]) -> int:
        """Do it, and say what went wrong. The exit code."""
        prepare_streams()
        try:
            with permitted():
                self.act(words)
                flush()
        except BrokenPipeError:
            give_up_output()
        except PipelineError as error:
            say(*f"error: {error}".split("\n"))
            if isinstance(error, ManyProblemsError):
                say(count(len(error.problems), "mistake"))
            return exits.NOT_DONE
        return exits.DONE


class WithSteps:
    """What a command of doit's own does beside, where it is about the steps of a project."""

    def execute(self, params: Any, words: Sequence[str]) -> Any:
        """As doit does it, but for what is said of words and folders that mean nothing."""
        try:
            try:
                return super().execute(params, words)  # type: ignore[misc]  # of the class beside this one
            finally:  # also where nothing had to be done, and the process is about to end
                sys.stdout.flush()
        except BrokenPipeError:
            give_up_output()
            return exits.DONE
        except InvalidDodoFile as error:
            if Path(_PROJECT).exists() or params.get("dodoFile") != _PROJECT or params.get("cwdPath"):
                raise
            raise InvalidDodoFile(no_project(Path.cwd())) from error
        except InvalidCommand as error:
            if error.not_found is None or "pipeline.dodo" not in sys.modules:  # another project's steps are not ours to explain
                raise
            raise InvalidCommand(no_step(error.not_found, self._words())) from error

    def _words(self) -> list[str]:
        command: Any = self  # one of doit's
        return [*(task.name for task in command.task_list), *command.loader.cmd_names]


class Run(WithSteps, DoitRun):  # type: ignore[misc]  # doit is untyped
    """`doit`, `doit run`."""

    name = "run"


class List(WithSteps, DoitList):  # type: ignore[misc]  # doit is untyped
    """`doit list`."""

    name = "list"


def no_step(word: str, known: Iterable[str]) -> str:
    """What to say of a word that is neither a step nor a command: those are `known`."""
    names = set(known)
    near = f"publish:{word}" if f"publish:{word}" in names else closest(word, names)
    hint = f"did you mean {near!r}?" if near else "`doit list --all` shows all steps, `doit help` the commands"
    return f"there is no step, file or command {word!r}: {hint}"


def no_project(folder: Path) -> str:
    """What to say where no project is in the folder."""
    above = next((parent for parent in folder.parents if (parent / _PROJECT).exists()), None)
    hint = f"the project is in {above}: run it there" if above else "run it in a project's folder; `vmfb init models` begins one"
    return f"{folder}: there is no {_PROJECT}, so no project is here\n  → {hint}"
