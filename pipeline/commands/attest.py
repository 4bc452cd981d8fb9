"""`vmfb attest`: run every variant that the devices here accept, compare, and put what was seen beside the release."""

from __future__ import annotations

import argparse
import datetime
import re
from pathlib import Path

from pipeline.commands.release import here
from pipeline.consume import render
from pipeline.consume.cache import Cache
from pipeline.consume.reference import Reference, parse
from pipeline.consume.resolve import Remote, Resolver, default_store
from pipeline.errors import PipelineError
from pipeline.files import write
from pipeline.iree.device import Device
from pipeline.machine import witness
from pipeline.manifest.codec import encode
from pipeline.manifest.evidence import EvidenceDocument
from pipeline.manifest.types import Manifest
from pipeline.store.documents import add_evidence
from pipeline.store.open import open_store
from pipeline.terminal import Bar, put, put_document, say


def run(arguments: argparse.Namespace) -> None:
    """Attest one release, or all that channels point to. PipelineError where a variant is wrong, or nothing runs here."""
    if arguments.all == bool(arguments.model):
        raise PipelineError("says which release: give MODEL, or --all")
    if arguments.since and not arguments.all:
        raise PipelineError("--since is for --all: a MODEL is always attested")
    since = _day(arguments.since) if arguments.since else ""
    found = here(arguments.device)
    remote, cache = Remote(arguments.store or default_store()), Cache()
    if not arguments.output:
        open_store(arguments.store or default_store())  # a web server cannot be written to: say so before anything runs
    resolver = Resolver(remote, cache, say)
    references = [parse(arguments.model)] if arguments.model else _all(resolver)
    wrong, failed = [], []
    for reference in references:
        manifest = resolver.manifest(reference)
        name = f"{manifest.model.name}@{manifest.version}"
        if since and _attested(resolver, manifest, found, since):
            put(f"{name}: was attested here since {since}")
            continue
        try:
            document = _attest(arguments, remote, cache, manifest, found)
        except PipelineError as error:
            if arguments.model:
                raise
            failed.append(name)
            put(*f"{name}: {error}".split("\n"))
            continue
        lines = render.document_lines(document)
        put(name, *lines) if arguments.output != "-" else say(name, *lines)
        _keep(arguments, manifest, document)
        if any(proof.problem for file in document.files for proof in file.variants):
            wrong.append(name)
    if wrong:
        raise PipelineError(f"wrong here: {', '.join(wrong)}", hint="what was seen is written down; do not use it on this device")
    if failed:
        raise PipelineError(f"not attested: {', '.join(failed)}")


def _all(resolver: Resolver) -> list[Reference]:
    """What the channels of all models point to, each version once."""
    found = {
        (model.name, channel.version): Reference(model.name, version=channel.version)
        for model in resolver.index().models
        for channel in model.channels
    }
    return list(found.values())


def _attest(
    arguments: argparse.Namespace, remote: Remote, cache: Cache, manifest: Manifest, found: list[Device]
) -> EvidenceDocument:
    from pipeline.consume.attest import Witnessing  # numpy and the runtime

    witnessing = Witnessing(remote, cache, manifest, Bar(arguments.quiet), lambda text: None, arguments.seconds)
    return witnessing.attest(found, arguments.bundle)


def _keep(arguments: argparse.Namespace, manifest: Manifest, document: EvidenceDocument) -> None:
    data = encode(document)
    if arguments.output == "-":
        put_document(data.decode())
    elif arguments.output:
        write(Path(arguments.output), data)
        put(arguments.output)
    else:
        store = open_store(arguments.store or default_store())
        (key,) = add_evidence(store, manifest.model.name, manifest.version, data)
        put(f"wrote {store.url}/{key}")


def _day(text: str) -> str:
    """The time that `--since` means: a day such as 2026-01-31, or so many days ago, such as 7d."""
    if match := re.fullmatch(r"(\d{1,4})d", text):
        return (datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=int(match[1]))).strftime("%Y-%m-%dT%H:%M:%SZ")
    try:
        return datetime.date.fromisoformat(text).strftime("%Y-%m-%dT00:00:00Z")
    except ValueError as error:
        raise PipelineError(
            f"{text!r} is no day", where="--since", hint="give one like 2026-01-31, or 7d: so many days ago"
        ) from error


def _attested(resolver: Resolver, manifest: Manifest, found: list[Device], since: str) -> bool:
    """Whether this machine, as it is, has looked at the release since then, on all these devices that anything runs on."""
    me = witness()
    mine = [d for d in resolver.evidence(manifest, asks=True).documents if d.witness == me and d.made >= since]
    seen = {(proof.device, proof.driver) for d in mine for file in d.files for proof in file.variants if proof.kind == "device"}
    return bool(seen) and all((device.name, device.driver_info) in seen for device in found)
