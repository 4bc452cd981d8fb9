"""`doit check`: reads everything under `targets/`, and says all that is wrong there. Builds nothing, and needs no compiler."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.dialogue import Alone, count
from pipeline.errors import PipelineError
from pipeline.files import write
from pipeline.spec.keys import SPECS
from pipeline.spec.load import load
from pipeline.spec.schema import beside, shipped
from pipeline.terminal import put, say

TARGETS = Path("targets")


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
    return ", ".join(count(number, what) for number, what in counts if number)


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


class Check(Alone):
    """The command."""

    name = "check"
    doc_purpose = "read all specs and say everything that is wrong with them, without building"
    doc_usage = ""
    doc_description = "Exit code 0: all is good; 1: there are mistakes, a line for each, with its file and place."

    def act(self, words: Sequence[str]) -> None:
        """Print how much is right. Raises ManyProblemsError with what is wrong."""
        if words:
            raise PipelineError(f"{words[0]}: it takes no words", hint="run it in the project's folder")
        told = summary(TARGETS)
        for path in renew_schemas(TARGETS):
            say(f"{path} was of another release: written anew")
        put(f"{told}: all good")
