"""What a shell offers after `vmfb` and Tab: words of the command line, and names of releases. Nothing is asked of a network."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from pipeline.errors import PipelineError
from pipeline.names import is_name, is_version
from pipeline.terminal import put

SHELLS = ("bash", "zsh", "fish")
_HINT = "pip install 'vmfb-pipeline[completion]'"
_RELEASES = ("model", "models", "what", "before", "after")  # arguments that name them
_FILES = ("what", "before", "after")  # which may name a file instead
_DEVICES = ("device", "pretend")


def is_asked_for() -> bool:
    """Whether this process was started by a shell that wants to know what may come next."""
    return "_ARGCOMPLETE" in os.environ


def shell_code(shell: str) -> None:
    """Print what a shell is to source. PipelineError where argcomplete is not installed."""
    try:
        from argcomplete.shell_integration import shellcode
    except ImportError:
        raise PipelineError("argcomplete is not installed", where="vmfb completion", hint=_HINT) from None
    put(*shellcode(["vmfb"], shell=shell).rstrip().split("\n"))


def answer(parser: argparse.ArgumentParser) -> None:
    """Tell the shell what may come next, and end this process."""
    import argcomplete
    from argcomplete.completers import FilesCompleter

    files = FilesCompleter()
    for action in _actions(parser):
        found = _completer(action, files)
        if found:
            action.completer = found  # type: ignore[attr-defined]  # by which argcomplete knows it
    argcomplete.autocomplete(parser, always_complete_options=False)


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in dict.fromkeys(action.choices.values()):
                yield from _actions(command)


def _completer(action: argparse.Action, files: Callable[..., Any]) -> Callable[..., list[str]] | None:
    """What offers values for an argument; None where argcomplete knows better."""

    def values(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
        found = releases(prefix, parsed_args)
        return [*found, *files(prefix)] if action.dest in _FILES else found

    def machines(prefix: str, **_: object) -> list[str]:
        from pipeline.consume import facts
        from pipeline.iree import backends

        return ["auto", *backends.words(), *facts.known_machines(), *files(prefix)]

    def channels(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
        return sorted({channel for _, _, names in _known(parsed_args) for channel in names})

    if action.dest in _RELEASES:
        return values
    if action.dest in _DEVICES:
        return machines
    return channels if action.dest == "channel" else None


def releases(prefix: str, arguments: argparse.Namespace) -> list[str]:
    """Models; after `MODEL@` its versions, after `MODEL:` its channels: of a folder, else of what was last seen of the store."""
    known = _known(arguments)
    if "@" in prefix:
        return [f"{model}@{version}" for model, versions, _ in known for version in versions]
    if ":" in prefix:
        return [f"{model}:{channel}" for model, _, channels in known for channel in channels]
    return [model for model, *_ in known]


def _known(arguments: argparse.Namespace) -> list[tuple[str, tuple[str, ...], list[str]]]:
    """Each model of the store that the arguments name, with its versions and channels. Empty where nothing is known."""
    from pipeline.consume.cache import Cache
    from pipeline.consume.resolve import Remote, Resolver, default_store

    with suppress(PipelineError, OSError):
        url = getattr(arguments, "store", None) or default_store()
        index = Resolver(Remote(url, offline="://" in url), Cache()).index()
        return [
            (m.name, tuple(filter(is_version, m.versions)), [c.channel for c in m.channels if is_name(c.channel)])
            for m in index.models
        ]
    return []
