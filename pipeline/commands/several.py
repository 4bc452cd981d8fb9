"""What commands have in common that are about several releases: which these are, with which channels."""

from __future__ import annotations

import argparse

from pipeline.commands.release import open_lock
from pipeline.consume.cache import Cache
from pipeline.consume.reference import parse
from pipeline.consume.resolve import Remote, Resolver
from pipeline.consume.wanted import Wanted, everything, named
from pipeline.errors import PipelineError
from pipeline.manifest.types import Channel
from pipeline.names import RULE, is_name
from pipeline.terminal import say


def require_releases(arguments: argparse.Namespace) -> None:
    """Raise PipelineError where the arguments do not say which releases are meant: by default all of the lock that they name."""
    if not arguments.models and not arguments.all and arguments.lock is not None and (lock := open_lock(arguments)):
        arguments.models = [one.name for one in lock.releases]
    if bool(arguments.models) == arguments.all:
        raise PipelineError("which releases?", hint="give MODEL…, or --all; `vmfb list` shows what is there")
    if arguments.channel and (arguments.all or not is_name(arguments.channel)):
        raise PipelineError(f"--channel {arguments.channel}: give it with MODEL…, as a name", hint=RULE)


def asked(arguments: argparse.Namespace, remote: Remote) -> tuple[list[Wanted], list[Channel]]:
    """The releases that are meant; and of `--all` the channels, as they are. PipelineError for one that is not there."""
    resolver = Resolver(remote, Cache(), say, shows=True, lock=None if arguments.all else open_lock(arguments))
    if arguments.all:
        return everything(resolver, remote.source)
    return named(resolver, map(parse, arguments.models), arguments.channel), []
