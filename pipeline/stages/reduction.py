"""Telling where a fault is: searches of `pipeline.reduction`, each in a process of its own with a limit of time.

Whatever goes wrong in one, the fault is told as if there had been none.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline import activity, process
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import fresh_folder
from pipeline.importers.child import inputs_as_text
from pipeline.iree.targets import resolve
from pipeline.reduction.job import Found, Job, Run
from pipeline.spec.types import Executable
from pipeline.stages.checks import Place
from pipeline.stages.origin import Origin

_log = logging.getLogger(__name__)
SECONDS = 60.0  # that a build spends on one search
_PATIENCE = 10.0  # for what a search has begun when its time is over
_NAMED = re.compile(r"\bonnx\.\w+ \(")
_KERNEL = re.compile(r"\S+_dispatch_\d+\w*")
_COSTLY = re.compile(r"did not end within|want of memory")  # to compile once more
_SHOWN = 3


def search(folder: Path, job: Job) -> Found | None:
    """What a search for `job` finds in its time, in `folder`; None if nothing."""
    activity.say(f"looking for the part of the model that fails, {job.seconds:.0f} s at most")
    try:
        with disk_errors(str(folder)), fresh_folder(folder):
            job.write(folder / "job.json")
            words: list[str | Path] = [sys.executable, "-m", "pipeline.reduction", folder / "job.json", folder]
            process.execute(words, folder / "search.log", timeout=job.seconds + _PATIENCE)
    except process.TimedOutError:
        pass  # what it found until then is there
    except PipelineError as error:
        _log.info("the search in %s ended: %s", folder, error)
    try:
        return Found.read(folder / "found.json")
    except (OSError, ValueError, KeyError, TypeError):
        return None


def refusal(origin: Origin, targets: Sequence[Executable], flags: Sequence[str], code: bool, suspects: Iterable[str] = ()) -> Job:
    """The search for the smallest part that the compiler refuses for these targets; without `code`, before there are kernels."""
    resolved = tuple(resolve(target) for target in targets)
    ((source, entry),) = origin.files.items()
    return Job(str(source), inputs_as_text(entry.inputs), resolved, tuple(flags), SECONDS, code, tuple(suspects))


def together(nodes: Sequence[str], is_smallest: bool = True) -> str:
    """Nodes for people."""
    if len(nodes) == 1:
        return nodes[0]
    if not is_smallest and len(nodes) > _SHOWN:
        return f"one or more of the {len(nodes)} nodes from {nodes[0]} to {nodes[-1]}"
    if len(nodes) > _SHOWN + 1:
        return f"{', '.join(nodes[:_SHOWN])} and {len(nodes) - _SHOWN} more nodes together"
    return f"{', '.join(nodes[:-1])} and {nodes[-1]} together"


def blamed(nodes: str, why: str) -> str:
    """One line that says what the fault is about, and the reason in words that go with it."""
    if not nodes:
        return why
    why = re.sub(r"^node '[^']*':? ", "", why)
    if crash := re.match(r"(\S+) crashed \(([^)]*)\)", why):
        return f"{nodes}: {crash[1]} crashes at it ({crash[2]}), a fault of IREE"
    return f"{nodes}: {why}" if why.startswith(("needs ", "computes ", "has ")) else f"{nodes}: IREE refuses it: {why}"


def front_half(
    error: PipelineError, origin: Origin, folder: Path, targets: Sequence[Executable], flags: Sequence[str]
) -> PipelineError:
    """A fault before there are kernels, told with operator and node."""
    what = error.what
    if origin.can_be_reduced and not _NAMED.search(what) and not is_costly(what):
        found = search(folder / "search", refusal(origin, targets, flags, code=False))
        what = blamed(together(found.nodes, found.is_smallest), what) if found else what
    return PipelineError(what, where=error.where, hint=origin.hint(what) + error.hint)


def is_costly(what: str) -> bool:
    """Whether an error is of a kind that no search can afford to see again and again."""
    return bool(_COSTLY.search(what))


class Kernels:
    """Which nodes kernels compute, found when that is first asked."""

    def __init__(self, source: Path, folder: Path, targets: Sequence[Executable], flags: Sequence[str]) -> None:
        self._source, self._folder, self._targets, self._flags = source, folder, targets, flags
        self._kernels: Mapping[str, Mapping[str, Sequence[str]]] | None = None

    def _find(self) -> Mapping[str, Mapping[str, Sequence[str]]]:
        from pipeline.cache import local
        from pipeline.iree.codegen.front import front_half

        try:
            found = front_half(self._source, self._folder, [resolve(t) for t in self._targets], self._flags, local())
            found.sources.unlink()
            return found.nodes
        except (PipelineError, ValueError) as error:
            _log.info("no nodes of kernels: %s", error)
            return {}

    def nodes(self, what: str) -> dict[str, Sequence[str]]:
        """The nodes of the kernel that an error names, with their operators."""
        if self._kernels is None:
            self._kernels = self._find()
        kernel = _KERNEL.search(what)
        nodes = self._kernels.get(kernel[0], {}) if kernel else {}
        return {name: operators for name, operators in nodes.items() if operators}

    def is_sure(self, what: str) -> bool:
        """Whether the kernel computes one operator, and nothing else."""
        nodes = self.nodes(what)
        return len(nodes) == 1 and len(next(iter(nodes.values()))) == 1

    def called(self, what: str) -> list[str]:
        """The same for people. The importer may have made several operators of a node."""
        return [
            f"{operators[0]} (node {name!r})" if len(operators) == 1 else f"node {name!r} (imported as {', '.join(operators)})"
            for name, operators in self.nodes(what).items()
        ]


def of_kernel(nodes: str, what: str) -> str:
    """What is wrong with a kernel, said of the nodes that it computes."""
    kernel = _KERNEL.match(what)
    if not kernel or not nodes:
        return blamed(nodes, what)
    why = what.removeprefix(kernel[0]).lstrip(": ")
    return f"{blamed(nodes, why)} (in the kernel {kernel[0]})"


def kernels(
    reasons: Mapping[str, PipelineError],
    origin: Origin,
    source: Path,
    folder: Path,
    targets: Sequence[Executable],
    flags: Sequence[str],
    thorough: bool,
) -> dict[str, str]:
    """Why targets have no code, by their names, told with operators and nodes.

    A kernel may compute several nodes. If `thorough`, what of them it takes to fail is searched, in SECONDS for all of it.
    """
    known, deadline = Kernels(source, folder, targets, flags), time.monotonic() + SECONDS
    told: dict[str, str] = {}
    for what, target in {reason.what: name for name, reason in reversed(list(reasons.items()))}.items():
        nodes, left = known.called(what), deadline - time.monotonic()
        said = together(nodes) if nodes else ""
        unclear = not (known.is_sure(what) or is_costly(what) or "computes in float64" in what)
        if origin.can_be_reduced and thorough and unclear and left > 1:
            mine = [t for t in targets if t.name == target]
            job = replace(refusal(origin, mine, flags, code=True, suspects=known.nodes(what)), seconds=left)
            found = search(folder / f"search-{target}", job)
            said = together(found.nodes, found.is_smallest) if found else said
        told[what] = of_kernel(said, what)
    return {name: told[reason.what] for name, reason in reasons.items()}


def wrong(origin: Origin, folder: Path, target: Executable, flags: Sequence[str], place: Place) -> str:
    """Where a variant that gave wrong numbers at `place` goes wrong first, in a sentence; empty if that is not found."""
    if not origin.can_be_reduced:
        return ""
    found = search(folder / "search", wrongness(origin, target, flags, place))
    if found is None or not found.nodes:
        return ""
    node = together(found.nodes)
    if found.hides:
        return f"where inner values are outputs they are right: the fault hides, because fusion changed; it shows at {node}"
    if found.is_smallest:
        return f"first wrong: {node}, which takes what is right: {found.why}"
    return f"wrong at {node} or before it: {found.why} (more was not found)"


def wrongness(origin: Origin, target: Executable, flags: Sequence[str], place: Place) -> Job:
    """The search for where `target` goes wrong at `place`."""
    narrow = resolve(target, place.narrow) if place.narrow else None
    run = Run(place.device, str(place.inputs), narrow)
    ((source, entry),) = origin.files.items()
    return Job(str(source), inputs_as_text(entry.inputs), (resolve(target, place.lanes),), tuple(flags), SECONDS, run=run)
