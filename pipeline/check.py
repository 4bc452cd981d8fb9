"""`doit check`: reads everything under `targets/`, and says all that is wrong there. Builds nothing, and needs no compiler."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from doit.cmd_base import Command

from pipeline.errors import ManyProblemsError, PipelineError, permitted
from pipeline.files import write
from pipeline.spec.keys import SPECS
from pipeline.spec.load import load
from pipeline.spec.schema import beside, shipped
from pipeline.terminal import prepare_streams, put, say

TARGETS = Path("targets")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def summary(targets: Path) -> str:
    """How many specs there are, the package's too. Raises ManyProblemsError with all that is wrong with them."""
    spec = load(targets)
    counts = [
        (len(spec.models), "model"),
        (len(spec.bundles), "bundle"),
        (len(spec.executables), "target"),
        (sum(bool(target.tuning_files) for target in spec.executables.values()), "tuned target"),
        (len(spec.channels), "channel"),
    ]
    return ", ".join(_count(number, what) for number, what in counts if number)


def renew_schemas(targets: Path) -> list[Path]:
    """Write the schemas that a project has for editors as this release has them, where they are another's. Returns those."""
    old = [
        name
        for name in SPECS
        if beside(targets, name).is_file() and beside(targets, name).read_bytes() != shipped(name).read_bytes()
    ]
    for name in old:
        write(beside(targets, name), shipped(name).read_bytes())
    return [beside(targets, name) for name in old]


class Check(Command):  # type: ignore[misc]  # doit is untyped
    """The command."""

    name = "check"
    doc_purpose = "read all specs and say everything that is wrong with them, without building"
    doc_usage = ""
    doc_description = "Exit code 0: all is good; 1: there are mistakes, a line for each, with its file and place."

    def execute(self, _options: dict[str, Any], words: Sequence[str]) -> int:
        """Print what is wrong, or how much is right."""
        prepare_streams()
        try:
            if words:
                raise PipelineError(f"{words[0]}: it takes no words", hint="run it in the project's folder")
            with permitted():
                told = summary(TARGETS)
                for path in renew_schemas(TARGETS):
                    say(f"{path} was of another release: written anew")
                put(f"{told}: all good")
        except PipelineError as error:
            say(*f"error: {error}".split("\n"))
            if isinstance(error, ManyProblemsError):
                say(_count(len(error.problems), "mistake"))
            return 1
        return 0
