"""`vmfb cache`: what was fetched is listed, verified, removed."""

from __future__ import annotations

import argparse

from pipeline.consume import render
from pipeline.consume.cache import Cache
from pipeline.errors import PipelineError, WrongError
from pipeline.terminal import put


def run(arguments: argparse.Namespace) -> None:
    """List, verify or prune the cache, as the action says. WrongError after listing what is damaged."""
    cache = Cache()
    if arguments.action == "list":
        put(f"{cache.root}")
        put(*render.usage_lines(cache.usages()))
    elif arguments.action == "verify":
        damaged = unknown = 0
        for entry, right, bad in cache.verify():
            if bad is None:
                unknown += 1
                put(f"{entry.path}: not checked: what is said of it beside it is damaged; its next fetch checks it")
                continue
            damaged += len(bad)
            said = f"{len(bad)} stretches were damaged and will be fetched again" if bad else "right"
            put(f"{entry.name}: {render.size(right)} {said}")
        if damaged:
            raise WrongError(f"{damaged} stretches were damaged", where=str(cache.root), hint="fetch again: only they come")
        if unknown:
            raise PipelineError(f"{unknown} files were not checked", where=str(cache.root), hint="fetch again, or remove them")
    else:
        if arguments.max_size is None and arguments.unused is None:
            raise PipelineError("what is to be removed?", hint="give --max-size 5GB, or --unused 30, days")
        most = arguments.max_size if arguments.max_size is not None else 1 << 62
        removed = cache.prune(most, arguments.unused if arguments.unused is not None else 1e9)
        put(f"removed {len(removed)} files, {render.size(sum(u.bytes for u in removed))}")
