"""Audit: generate a sample of a bundle's cached code again and compare; an entry that differs is an error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pipeline import activity, cache
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import fresh_folder, write
from pipeline.spec.types import Bundle, Executable
from pipeline.stages import record


def run(source: Path, folder: Path, bundle: Bundle, targets: Sequence[Executable], sample: int) -> None:
    """Check `sample` pieces of the imported model at `source`, as they are cached for `bundle`; `audit.json` and logs."""
    from pipeline.iree.codegen.audit import audit
    from pipeline.iree.targets import resolve

    with disk_errors(str(folder)), fresh_folder(folder):
        activity.say("generating a sample again")
        found = audit(source, folder, [resolve(t) for t in targets], bundle.flags, cache.from_environment(), sample)
        write(folder / "audit.json", record.canonical(asdict(found)))
    if found.wrong:
        raise PipelineError(
            "\n".join(f"{w.kernel} for {w.target}, in {w.cache}, is not what this compiler generates" for w in found.wrong),
            where=f"audit of {source.parent}",
            hint="those entries are replaced; for the others remove the whole cache, then `rm -rf out` and build again",
        )
