"""What a run of `doit` did, as Markdown for the page of a CI job: GitHub shows what is appended to GITHUB_STEP_SUMMARY."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.plain import plain

VARIABLE = "GITHUB_STEP_SUMMARY"
_LINES, _WIDTH = 40, 500  # of a step's error; its log has all of it
_ROWS = 500  # GitHub shows 1 MiB


def cell(text: str) -> str:
    """Text that Markdown shows as it is, on one line, in a table too."""
    return re.sub(r"([\\`*_{}\[\]<>|#&~])", r"\\\1", plain(text))


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows under a heading, which is the first."""
    head, *others = [[cell(text) for text in row] for row in rows]
    lines = [head, ["---"] * len(head), *others[:_ROWS]]
    left = [f"… and {len(others) - _ROWS} rows more"] if len(others) > _ROWS else []
    return [*(f"| {' | '.join(line)} |" for line in lines), "", *left]


def _quoted(text: str) -> list[str]:
    """Lines between fences that they cannot close."""
    lines = [plain(line)[:_WIDTH] for line in text.rstrip().split("\n")]
    shown = lines[:_LINES] + (["…"] if len(lines) > _LINES else [])
    fence = "`" * max(3, *(len(run) + 1 for line in shown for run in re.findall("`+", line) or [""]))
    return [fence, *shown, fence, ""]


def lines(
    head: str, rows: Sequence[Sequence[str]], published: Sequence[tuple[str, Sequence[str]]], failed: Mapping[str, str]
) -> list[str]:
    """A section: what failed and why, a table of variants, and of each release what changes for those who follow its channel."""
    said = [f"### doit: {cell(head)}", ""]
    for name, message in failed.items():
        said += [f"**{cell(name)}** failed:", "", *_quoted(message)]
    said += table(rows) if len(rows) > 1 else []
    for release, differs in published:
        said += [cell(release), "", *(f"- {cell(line.strip())}" for line in differs), ""]
    return said


def append(section: Sequence[str]) -> None:
    """Add a section to the page of the job, where there is one. Raises OSError where that cannot be written."""
    if path := os.environ.get(VARIABLE):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write("\n".join(section) + "\n")
