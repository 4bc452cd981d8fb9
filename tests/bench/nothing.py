"""Nothing to do: `python -m tests.bench.nothing [--models 100]` times doit where everything is up to date.

Builds one small model, copies what was made to many models, lets doit look at all of it once, and then times, against
`doit --version` in the same run: a plain run, one after every file of `out` was touched, and one after a fresh checkout with
the cache of `out` restored (new times and inodes everywhere). Prints ratios, and never fails on a time.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from tests.project import Project


def seconds(project: Project, *arguments: str, expect: str = "") -> float:
    """The wall time of a run of doit."""
    started = time.monotonic()
    done = project.doit(*arguments)
    taken = time.monotonic() - started
    assert done.returncode == 0, done.stdout + done.stderr
    assert expect in done.stdout, done.stdout[-2000:]
    return taken


def many(folder: Path, count: int) -> Project:
    """A project with `count` models of one bundle of six targets, all of it made."""
    project = Project(folder / "project", "small")
    seconds(project)
    made = project.layout.root / "models" / "small"
    for number in range(1, count):
        name = f"small-{number:04}"
        project.add("small")
        (project.targets / "models" / "small.yaml").rename(project.targets / "models" / f"{name}.yaml")
        shutil.copytree(made, made.with_name(name))
    project.add("small")
    print(f"doit looks at {count} models once: {seconds(project):.1f} s")
    return project


def median(project: Project, count: int, *arguments: str, expect: str = "") -> float:
    """The median of `count` runs."""
    return statistics.median(seconds(project, *arguments, expect=expect) for _ in range(count))


def main() -> None:
    """All of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=100)
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as name:
        project = many(Path(name), arguments.models)
        base = median(project, 5, "--version")
        plain = median(project, 5, expect="up to date in")
        for path in project.root.rglob("*"):
            if path.is_file():
                path.touch()
        touched = seconds(project, expect="up to date in")
        after = median(project, 3, expect="up to date in")
        restored = Project.at(Path(shutil.copytree(project.root, Path(name) / "restored", copy_function=shutil.copyfile)))
        fresh = seconds(restored, expect="up to date in")
        fresh_after = median(restored, 3, expect="up to date in")
    print(f"doit --version                        {base:.3f} s")
    for what, taken in (
        ("nothing to do", plain),
        ("after touching every file, first run", touched),
        ("… and from then on", after),
        ("restored in another place, first run", fresh),
        ("… and from then on", fresh_after),
    ):
        print(f"{what:<37} {taken:.3f} s  {taken / base:.2f}")


if __name__ == "__main__":
    main()
