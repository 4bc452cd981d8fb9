"""The child process that builds a model once more: `python -m pipeline.stages.rebuild JOB RESULT`, in the project's folder.

A process of its own, for it has an environment of its own: no cache of code but an empty one.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType

from pipeline import process
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import write
from pipeline.layout import Layout
from pipeline.names import did_you_mean
from pipeline.spec.load import load
from pipeline.spec.types import Bundle, Executable, Model, Spec
from pipeline.stages import compile as compile_stage
from pipeline.stages import import_, reference, source
from pipeline.stages.origin import Origin


@dataclass(frozen=True)
class Job:
    """Build the `model` of the specs in `targets`, below `root`; for each bundle its file with these executable targets.

    `plain` are the bundles whose files were made without the pipeline's own optimizations. `own`: where the model's files may be
    already, as they were fetched.
    """

    model: str
    targets: str
    root: str
    own: str
    bundles: Mapping[str, tuple[str, ...]]
    plain: tuple[str, ...]


def _end(_number: int, _frame: FrameType | None) -> None:
    """What this process started ends with it."""
    process.refuse_more()
    process.end_all()
    raise SystemExit(1)


def _bundle(spec: Spec, job: Job, name: str) -> tuple[Bundle, list[Executable]]:
    """The bundle with the executable targets that the release's file has."""
    hint = "check out what the release was built from: `vmfb inspect MODEL@VERSION --provenance`"
    if name not in spec.bundles:
        raise PipelineError(f"there is no bundle {name}: {did_you_mean(name, spec.bundles)}", where=job.targets, hint=hint)
    for target in job.bundles[name]:
        if target not in spec.executables:
            what = f"there is no executable target {target}: {did_you_mean(target, spec.executables)}"
            raise PipelineError(what, where=job.targets, hint=hint)
    bundle = replace(spec.bundles[name], targets=job.bundles[name])
    if name in job.plain:
        bundle = replace(bundle, flags=(*bundle.flags, compile_stage.plain_flag()))
    return bundle, [spec.executables[target] for target in job.bundles[name]]


def _bring(origin: Origin, model: Model, own: Layout) -> None:
    """The model's files: those that were fetched already, as far as they are right, which `source` looks at, and else anew."""
    fetched = Origin.of(model, own)
    for there, here in zip(fetched.all_files, origin.all_files, strict=True):
        if there.is_file():
            with disk_errors(str(here)):
                here.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(there, here)
    source.run(replace(origin, data={}))


def build(job: Job) -> None:
    """Do the job. Raises PipelineError as the stages do."""
    spec = load(Path(job.targets))
    model, layout = spec.models[job.model], Layout(Path(job.root))
    origin, imported = Origin.of(model, layout), layout.imported(model.name)
    _bring(origin, model, Layout(Path(job.own)))
    import_.run(origin, imported)
    reference.run(origin, imported, layout.reference(model.name))
    for name in job.bundles:
        compile_stage.run(origin, imported, layout.compiled(model.name, name), *_bundle(spec, job, name))


def main(job: Path, result: Path) -> int:
    """Do the job in a file; in the other one the `problem`, empty where there is none."""
    said = json.loads(job.read_bytes())
    said |= {"bundles": {name: tuple(targets) for name, targets in said["bundles"].items()}, "plain": tuple(said["plain"])}
    problem: dict[str, str] = {}
    try:
        build(Job(**said))
    except PipelineError as error:
        problem = {"what": error.what, "where": error.where, "hint": error.hint}
    write(result, json.dumps(problem).encode())
    return 0


def run(job: Job, folder: Path, environment: Mapping[str, str]) -> None:
    """Do the job in a child process with this environment; `rebuild.log` into `folder`. Raises PipelineError as the stages do."""
    asked, result = folder / "job.json", folder / "result.json"
    write(asked, json.dumps(asdict(job)).encode())
    log = folder / "rebuild.log"
    ended = process.execute([sys.executable, "-m", "pipeline.stages.rebuild", asked, result], log, timeout=86400, env=environment)
    if ended.returncode or not result.is_file():
        raise PipelineError(f"building it again was {ended.ending}: {process.tail(log, 1).strip()}", where=str(log))
    if problem := json.loads(result.read_bytes()):
        raise PipelineError(**problem)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
