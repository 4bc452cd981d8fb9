"""`vmfb lock`: what names mean now, in a file that others obey."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.commands.release import open_remote, tell_notes
from pipeline.consume.cache import Cache
from pipeline.consume.lock import made_lock, read_lock
from pipeline.consume.reference import parse
from pipeline.consume.resolve import Resolver, default_store
from pipeline.errors import PipelineError
from pipeline.files import write
from pipeline.manifest.codec import encode
from pipeline.manifest.types import LockedRelease
from pipeline.terminal import put, say


def run(arguments: argparse.Namespace) -> None:
    """Write the lock, and tell what changed. PipelineError for a name that means nothing, or what was yanked."""
    path = Path(arguments.output)
    before = read_lock(path) if path.exists() else None
    names = arguments.models or [one.name for one in before.releases] if before else arguments.models
    if not names:
        raise PipelineError("which releases?", hint=f"give MODEL…; without any, those of {path} are locked again")
    if before and not (arguments.store or arguments.models):
        arguments.store = default_store(before)
    remote = open_remote(arguments)
    resolver = Resolver(remote, Cache(), say)
    found = []
    for reference in map(parse, names):
        manifest = resolver.manifest(reference)
        digest = resolver.pin(manifest).sha256
        found.append(LockedRelease(str(reference), manifest.model.name, manifest.version, digest))
    tell_notes(arguments, remote)
    lock = made_lock(remote.url, found)
    was = {one.name: one for one in before.releases} if before else {}
    for one in lock.releases:
        old = was.pop(one.name, None)
        more = "" if old is None or old == one else f" (was {old.version})"
        put(f"{one.name}: {one.version}{', as it was' if old == one else more}")
    for name in was:
        put(f"{name}: not locked any more")
    write(path, encode(lock))
