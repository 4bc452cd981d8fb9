"""The examples of the documentation: what is typed in `console` blocks is run, what is printed compared with what stands there.

`python -m tests.examples PAGE` prints what a page's commands print now.

In a document, a comment before a block says what a reader need not know:

    <!-- begin: released -->      all commands of the page run in a copy of this project (else in an empty folder)
    <!-- first: damage -->        something is done to that folder before the next block
    <!-- not run: needs AWS -->   the next block is not run
    <!-- not run from here: … --> nor are all that follow
    <!-- exit: 2 -->              its last command ends with this code

`…` in a line of output stands for anything, a line of `…` for any lines, two spaces and more for some. A block of another
language with a path after it is written there: ```yaml targets/models/mine.yaml.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.site.markdown import parse
from tests.project import ROOT
from tests.waiting import FOREVER

ANY = "…"
_PATIENCE = re.compile(r"(?:  |vmfb \w+: )still at work[:,] ")  # said on a machine that is busy


@dataclass(frozen=True)
class Command:
    """A command, the lines that it is to print, and its exit code."""

    text: str
    printed: tuple[str, ...]
    code: int = 0


@dataclass(frozen=True)
class Block:
    """One step of a page: a file to write, something to do `first`, or commands to run; `skipped` says why they are not."""

    commands: tuple[Command, ...] = ()
    file: str = ""
    content: str = ""
    first: str = ""
    skipped: str = ""


@dataclass
class Examples:
    """All steps of a page, and the project that it begins in."""

    begin: str = ""
    blocks: list[Block] = field(default_factory=list)


def commands(text: str, code: int = 0) -> tuple[Command, ...]:
    """The commands of a `console` block. One goes on in the next line after a backslash."""
    found: list[tuple[str, list[str]]] = []
    for line in text.rstrip("\n").split("\n"):
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif not found:
            raise ValueError(f"output before any command: {line!r}")
        elif not found[-1][1] and found[-1][0].endswith("\\"):
            found[-1] = (f"{found[-1][0][:-1]}{line.strip()}", [])
        else:
            found[-1][1].append(line)
    last = len(found) - 1
    return tuple(Command(typed, tuple(lines), code if at == last else 0) for at, (typed, lines) in enumerate(found))


def examples(source: str) -> Examples:
    """What a document says."""
    result, said, skipped = Examples(), dict[str, str](), ""
    for token in parse(source):
        if token.type == "html_block" and (match := re.fullmatch(r"<!-- ([a-z ]+): (.*?) -->\s*", token.content, re.DOTALL)):
            if match[1] == "begin":
                result.begin = match[2]
            elif match[1] == "not run from here":
                skipped = match[2]
            elif match[1] == "first":
                result.blocks.append(Block(first=match[2]))
            else:
                said[match[1]] = match[2]
        elif token.type == "fence":
            language, *more = token.info.split()
            if language == "console":
                found = commands(token.content, int(said.pop("exit", "0")))
                result.blocks.append(Block(found, skipped=said.pop("not run", skipped)))
            elif more:
                result.blocks.append(Block(file=more[0], content=token.content))
    if said:
        raise ValueError(f"a comment without a block: {said}")
    return result


def fits(printed: list[str], expected: tuple[str, ...]) -> bool:
    """Whether output is as it stands in a document."""
    if not expected:
        return not printed
    if expected[0].strip() == ANY:
        return any(fits(printed[count:], expected[1:]) for count in range(len(printed) + 1))
    pattern = ".*".join(re.escape(part) for part in expected[0].rstrip().split(ANY))
    pattern = re.sub(r"(\\ ){2,}", r"\\ +", pattern)  # columns are as wide as what stands in them
    return bool(printed) and bool(re.fullmatch(pattern, printed[0].rstrip())) and fits(printed[1:], expected[1:])


class Shell:
    """A shell in a folder, whose variables and current folder stay from one command to the next."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self.folder = folder
        self._state = folder.with_name(f"{folder.name}.state")
        self._state.mkdir()
        (self._state / "folder").write_text(str(folder))
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        home = self._state / "home"
        home.mkdir()
        _install(self._state / "installed")
        python = f"{self._state / 'installed'}{os.pathsep}{ROOT}"
        own = {"PATH": path, "HOME": str(home), "PYTHONPATH": python, "VMFB_CACHE": str(home / "cache"), "COLUMNS": "120"}
        inherited = {k: v for k, v in os.environ.items() if k not in ("PIPELINE_STORE", "VMFB_TRUST_DIR", "VMFB_CACHE")}
        self.environment = {**inherited, **own, **variables}

    @property
    def now(self) -> Path:
        """The folder in which the next command runs."""
        return Path((self._state / "folder").read_text())

    def run(self, command: str) -> tuple[list[str], int]:
        """What a command prints on both streams, in its order, and its exit code."""
        variables, folder = (shlex.quote(str(self._state / name)) for name in ("variables", "folder"))
        keep = f'code=$?; export -p > {variables}; printf %s "$PWD" > {folder}; exit $code'
        script = f"[ -f {variables} ] && . {variables}\n{command}\n{keep}"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.now,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=FOREVER,
            check=False,
        )
        said = [line for line in done.stdout.rstrip("\n").split("\n") if not _PATIENCE.match(line)]
        return said if any(said) else [], done.returncode


def _install(folder: Path) -> None:
    """Let this checkout's plugins of doit be found, whatever pip has installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    info = folder / "vmfb_pipeline-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vmfb-pipeline\nVersion: 0\n")
    groups = project["entry-points"].items()
    text = "".join(f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items()) for group, points in groups)
    (info / "entry_points.txt").write_text(text)


def follow(page: Examples, shell: Shell, first: Mapping[str, Callable[[Path], None]]) -> Iterator[tuple[Command, list[str], int]]:
    """Do what a page says; of each command what it printed, and its exit code."""
    for block in page.blocks:
        if block.first:
            first[block.first](shell.now)
        elif block.file:
            (shell.now / block.file).parent.mkdir(parents=True, exist_ok=True)
            (shell.now / block.file).write_text(block.content)
        elif not block.skipped:
            for command in block.commands:
                yield command, *shell.run(command.text)


def main(name: str) -> None:
    """Print what the commands of a page print now, in a folder that is left for a look."""
    import tempfile

    from pipeline.site.documents import ALL
    from tests.test_docs import FIRST

    document = next(one for one in ALL if one.name == name)
    page = examples(document.text())
    folder = Path(tempfile.mkdtemp()) / "models"
    begin = os.environ.get("EXAMPLES_BEGIN")
    if begin and page.begin:
        import shutil

        shutil.copytree(begin, folder)
    else:
        folder.mkdir()
    for command, printed, code in follow(page, Shell(folder, {}), FIRST):
        fit = fits(printed, command.printed) and code == command.code
        print("" if fit else f"<<< {code}", f"$ {command.text}", *printed, sep="\n")
    print(folder)


if __name__ == "__main__":
    main(sys.argv[1])
