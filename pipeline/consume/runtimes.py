"""Whether the installed runtime of IREE runs a file, as far as is known, before anything of it is fetched or loaded."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import PipelineError
from pipeline.iree.devices import PACKAGE
from pipeline.manifest.evidence import RuntimeInfo
from pipeline.names import numbers

if TYPE_CHECKING:
    from pipeline.consume.inspect import Contents


@dataclass(frozen=True)
class Fit:
    """Whether a runtime `works` with a file; None where nobody knows. `text` says it for people, and is empty where all is well.

    `hint`: what to install instead.
    """

    works: bool | None
    text: str = ""
    hint: str = ""


def fit(compiler: str, known: Sequence[RuntimeInfo], installed: str) -> Fit:
    """What is to be expected of the runtime `installed` with a file by the compiler of this version.

    `known` are the runtimes that the file was tried with, in any order, one several times if several tried it. A patch of a
    minor release that works is as good; that one fails says nothing certain of others.
    """
    bad, good = ([info for info in known if info.works is works] for works in (False, True))
    expected = {_minor(compiler), *(_minor(info.version) for info in good)} - {_minor(info.version) for info in bad}
    made = f"made for IREE's runtime {_ranges(expected or {_minor(compiler)})}"
    best = _best({compiler, *(info.version for info in good)} - {info.version for info in bad}, compiler)
    hint = f"pip install '{PACKAGE}=={best}'" if best else ""
    works, fails = ([info for info in infos if info.version == installed] for infos in (good, bad))
    if works and fails:
        return Fit(None, f"{made}; here is {installed}, seen to work ({works[0].how}) and to fail: {fails[0].how}", hint)
    if fails:
        return Fit(False, f"{made}; here is {installed}, which fails: {fails[0].how}", hint)
    if works or _minor(installed) in expected:
        return Fit(True)
    near = [info for info in bad if _is_near(_minor(info.version), _minor(installed), expected)]
    told = f" ({near[0].version} fails: {near[0].how})" if near else ""
    return Fit(None, f"{made}; here is {installed}, untested{told}", hint)


def require(what: str, compiler: str, known: Callable[[], Sequence[RuntimeInfo]], note: Callable[[str], None]) -> Fit:
    """Raise PipelineError where the installed runtime is known to fail with `what`, a file by the compiler of this version.

    `note` is told where nobody knows. All is well if no runtime is installed. `known` gives what the file was tried with: it is
    not asked where the runtime is the compiler's own, which verification has.
    """
    try:
        installed = importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return Fit(True)
    found = Fit(True) if installed == compiler else fit(compiler, known(), installed)
    if found.works is False:
        raise PipelineError(f"{what} is {found.text}", hint=found.hint)
    if found.works is None:
        note(f"{what} is {found.text}")
    return found


def require_of_file(contents: Contents, note: Callable[[str], None]) -> None:
    """The same for a file that is not known to be of a release, by what it says of itself: `note` is told at most."""
    if contents.identity:
        require(str(contents.path), contents.identity.compiler.version, lambda: (), note)


def _minor(version: str) -> tuple[int, ...]:
    return numbers(version)[:2]


def _is_near(failing: tuple[int, ...], installed: tuple[int, ...], expected: Iterable[tuple[int, ...]]) -> bool:
    """Whether the minor release that fails is the installed one, or lies between that and all that work."""
    return failing == installed or all(installed < failing < works or works < failing < installed for works in expected)


def _best(versions: Collection[str], compiler: str) -> str:
    """The version to install: the compiler's own, if it is one of those that work, else the newest; empty if none is known."""
    return compiler if compiler in versions else max(versions, key=numbers, default="")


def _ranges(minors: Iterable[tuple[int, ...]]) -> str:
    """Minor releases for people: 3.12-3.13, 3.15."""
    runs: list[list[tuple[int, ...]]] = []
    for minor in sorted(minors):
        follows = runs and len(minor) == 2 and runs[-1][-1] == (minor[0], minor[1] - 1)
        if follows:
            runs[-1].append(minor)
        else:
            runs.append([minor])
    words = [[".".join(map(str, minor)) for minor in dict.fromkeys((run[0], run[-1]))] for run in runs]
    return ", ".join("-".join(word) for word in words)
