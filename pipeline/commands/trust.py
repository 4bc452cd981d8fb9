"""`vmfb trust`: whom this machine believes of what a store says."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.errors import PipelineError, disk_errors
from pipeline.store.open import address_of, open_source
from pipeline.terminal import put, say
from pipeline.trust import anchors
from pipeline.trust.source import believe

_LONG = 1 << 20  # bytes of a root of trust


def run(arguments: argparse.Namespace) -> None:
    """Add, list or remove roots of trust; or make a key."""
    {"add": _add, "list": _list, "remove": _remove, "key": _key}[arguments.action](arguments)


def _add(arguments: argparse.Namespace) -> None:
    from pipeline.trust.client import root_lines

    path = Path(arguments.root)
    with disk_errors(str(path)), path.open("rb") as file:
        data = file.read(_LONG)
    address = address_of(arguments.store)
    lines = root_lines(data, str(path))
    try:
        believe(address.name, data, open_source(address.to_open))
    except anchors.TrustError:
        raise
    except PipelineError as error:
        if anchors.anchor_of(address.name) is None:
            raise
        say(f"note: whether it is signed so cannot be seen now: {error.what}")
    put(f"{address.name} is believed only as it is signed by", *lines)


def _list(_arguments: argparse.Namespace) -> None:
    from pipeline.trust.client import root_lines

    for anchor in anchors.every():
        put(anchor.store, *(f"  {line}" for line in root_lines(anchor.root, str(anchor.folder))))


def _remove(arguments: argparse.Namespace) -> None:
    name = address_of(arguments.store).name
    anchors.remove(name)
    put(f"what {name} says is not verified any more")


def _key(arguments: argparse.Namespace) -> None:
    from pipeline.files import write
    from pipeline.trust.keys import make_key, public_pem

    path = Path(arguments.file)
    public = path.with_name(f"{path.stem}.pub.pem")
    for one in (path, public):
        with disk_errors(str(one)):
            if one.exists():
                raise PipelineError("is there already", where=str(one), hint="a key is never written over: name another file")
    if path.suffix != ".pem":
        raise PipelineError("is no name of a key", where=str(path), hint="give one that ends in .pem")
    signer = make_key(path.parent, path.stem)
    write(public, public_pem(signer))
    put(f"{path}: keep it", f"{public}: give it to who owns the store; its id is {signer.public_key.keyid}")
