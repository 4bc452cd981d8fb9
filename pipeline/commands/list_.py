"""`vmfb list`: the models of a store."""

from __future__ import annotations

import argparse

from pipeline.consume.cache import Cache
from pipeline.consume.render import index_lines
from pipeline.consume.resolve import Remote, Resolver, default_store
from pipeline.errors import PipelineError
from pipeline.manifest.codec import encode
from pipeline.terminal import put, say


def run(arguments: argparse.Namespace) -> None:
    """Print the store's index, for people or as JSON."""
    if arguments.url and arguments.store:
        raise PipelineError("two stores are named", hint="give STORE or --store")
    remote = Remote(arguments.url or arguments.store or default_store(), arguments.offline)
    index = Resolver(remote, Cache(), say).index()
    put(encode(index).decode() if arguments.json else "\n".join(index_lines(index)))
