"""`vmfb attest`: run every variant that the devices here accept, compare, and put what was seen beside the release."""

from __future__ import annotations

import argparse
import datetime
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import platforms
from pipeline.commands.release import here, open_lock, open_remote, tell_notes
from pipeline.consume import render, runtimes
from pipeline.consume.cache import Cache
from pipeline.consume.choose import gated
from pipeline.consume.fetch import pick
from pipeline.consume.reference import Reference, parse
from pipeline.consume.resolve import Remote, Resolver, default_store
from pipeline.errors import PipelineError, WrongError
from pipeline.files import write
from pipeline.iree.device import Device
from pipeline.iree.gates import decide
from pipeline.machine import witness
from pipeline.manifest.codec import encode
from pipeline.manifest.evidence import EvidenceDocument, RuntimeInfo
from pipeline.manifest.types import Manifest
from pipeline.plain import public_url
from pipeline.store.base import Store
from pipeline.store.open import open_store
from pipeline.store.yanks import YankedError
from pipeline.terminal import Bar, put, put_document, say
from pipeline.trust.anchors import WITNESS_KEY

if TYPE_CHECKING:
    from pipeline.trust.witnesses import Signer


def run(arguments: argparse.Namespace) -> None:
    """Attest one release, or all that channels point to. WrongError where a variant is, PipelineError where nothing runs here."""
    _check(arguments)
    since = _day(arguments.since) if arguments.since else ""
    found = here(arguments.device)
    remote, cache = open_remote(arguments), Cache()
    _require_own(cache.root)
    if not arguments.output:
        _open(arguments)  # a web server cannot be written to: say so before anything runs
    signer = _signer(remote, arguments)
    resolver = Resolver(remote, cache, say, lock=open_lock(arguments))
    references = [parse(arguments.model)] if arguments.model else _all(resolver)
    wrong, failed = [], []
    for reference in references:
        name = str(reference)
        try:
            manifest = resolver.manifest(reference)
            tell_notes(arguments, remote)
            name = f"{manifest.model.name}@{manifest.version}"
            fitting = _fitting(manifest, arguments.bundle, remote, found) if arguments.all else found
            if not fitting:
                put(f"{name}: no device here accepts any variant")
                continue
            if since and _attested(resolver, manifest, fitting, since):
                put(f"{name}: was attested here since {since}")
                continue
            document = _attest(arguments, resolver, cache, manifest, found)
        except PipelineError as error:
            if arguments.model:
                raise
            if isinstance(error, YankedError):
                put(error.what)
                continue
            failed.append(name)
            put(*(str(error) if error.what.startswith(name) and not error.where else f"{name}: {error}").split("\n"))
            continue
        lines = [*render.document_lines(document), *_not_run(manifest, document, arguments.bundle)]
        put(name, *lines) if arguments.output != "-" else say(name, *lines)
        _keep(arguments, manifest, document, signer)
        if any(proof.problem for file in document.files for proof in file.variants):
            wrong.append(name)
    if wrong:
        raise WrongError(f"wrong here: {', '.join(wrong)}", hint="what was seen is written down; do not use it on this device")
    if failed:
        raise PipelineError(f"some were not attested: {', '.join(failed)}")


def _check(arguments: argparse.Namespace) -> None:
    """Raise PipelineError for arguments that do not belong together."""
    if arguments.all == bool(arguments.model):
        raise PipelineError("which release?", hint="give MODEL, or --all")
    if arguments.since and not arguments.all:
        raise PipelineError("--since is for --all: a MODEL is always attested")
    if arguments.output and arguments.all:
        raise PipelineError("--output is for a MODEL: --all makes a document for each")


def _require_own(folder: Path) -> None:
    """Raise PipelineError for a cache into which others may put what this machine would say it saw of a release."""
    if folder.exists() and not platforms.is_own(folder.stat()):
        raise PipelineError(
            "others may write to this cache", where=str(folder), hint=f"`chmod -R go-w {folder}`, or set VMFB_CACHE"
        )


def _all(resolver: Resolver) -> list[Reference]:
    """What the channels of all models point to, each version once."""
    found = {
        (model.name, channel.version): Reference(model.name, version=channel.version)
        for model in resolver.index().models
        for channel in model.channels
    }
    return list(found.values())


def _not_run(manifest: Manifest, document: EvidenceDocument, bundle: str) -> list[str]:
    """The variants that no device here accepts, a line for each file that has any."""
    seen = {(file.bundle, proof.variant) for file in document.files for proof in file.variants}
    lines = []
    for artifact in manifest.artifacts:
        names = [v.name for v in artifact.variants if (artifact.bundle, v.name) not in seen]
        if names and bundle in ("", artifact.bundle):
            lines.append(f"  {artifact.bundle}  not run, for no device here takes it: {', '.join(names)}")
    return lines


def _open(arguments: argparse.Namespace) -> Store:
    """The store that documents are put into. Raises PipelineError for one that can only be read."""
    url = arguments.store or default_store()
    if url.lower().startswith(("http://", "https://")):
        hint = "give --store s3://bucket/prefix or the folder that it serves, or write the document with -o FILE"
        raise PipelineError("can only be read", where=public_url(url), hint=hint)
    return open_store(url)


def _attest(
    arguments: argparse.Namespace, resolver: Resolver, cache: Cache, manifest: Manifest, found: list[Device]
) -> EvidenceDocument:
    from pipeline.consume.attest import Witnessing  # numpy and the runtime

    def known() -> list[RuntimeInfo]:
        testimony = resolver.evidence(manifest, asks=True)
        return [info for artifact in manifest.artifacts for info in testimony.runtimes(artifact)]

    name = f"{manifest.model.name}@{manifest.version}"
    fit = runtimes.require(name, manifest.compiler.version, known, say)
    witnessing = Witnessing(resolver.remote, cache, manifest, Bar(arguments.quiet), lambda text: None, arguments.seconds)
    document = witnessing.attest(found, arguments.bundle)
    problems = [proof for file in document.files for proof in file.variants if proof.problem]
    if problems and not fit.works:  # it may be the runtime's fault: that is no evidence against the file
        first = problems[0]
        what = f"{name} fails in a runtime that it is not known to work in, which says nothing of its code"
        raise PipelineError(f"{what}: {first.variant} on {first.driver or first.device}: {first.problem}", hint=fit.hint)
    return document


def _signer(remote: Remote, arguments: argparse.Namespace) -> Signer | None:
    """What signs for this machine; None without a key, which is said where it matters."""
    if not os.environ.get(WITNESS_KEY):
        if remote.is_signed and not arguments.output:
            say(f"note: {remote.url} is signed, and {WITNESS_KEY} is not set: what is seen does not count there")
        return None
    from pipeline.trust.witnesses import own_signer

    return own_signer()


def _keep(arguments: argparse.Namespace, manifest: Manifest, document: EvidenceDocument, signer: Signer | None) -> None:
    data = encode(document)
    if arguments.output == "-":
        put_document(data.decode())
    elif arguments.output:
        write(Path(arguments.output), data)
        put(arguments.output)
    else:
        from pipeline.trust.witnesses import add_signed_evidence

        store = _open(arguments)
        key = add_signed_evidence(store, manifest.model.name, manifest.version, data, signer)
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


def _fitting(manifest: Manifest, bundle: str, remote: Remote, found: list[Device]) -> list[Device]:
    """The devices that accept a variant of the release, or of one bundle's file."""
    chosen = [pick(manifest, bundle)] if bundle else manifest.artifacts
    variants = [variant for artifact in chosen for variant in gated(artifact, remote.url)]
    return [device for device in found if any(decision.accepted for decision in decide(variants, device.facts))]


def _attested(resolver: Resolver, manifest: Manifest, found: list[Device], since: str) -> bool:
    """Whether this machine, as it is, has looked at the release since then, on all these devices."""
    me = witness()
    mine = [d for d in resolver.evidence(manifest, asks=True).documents if d.witness == me and d.made >= since]
    ran = (proof for d in mine for file in d.files for proof in file.variants if proof.kind in ("device", "untested"))
    seen = {(proof.device, proof.driver) for proof in ran}  # what was too slow is untested, and has its device
    return all((device.name, device.driver_info) in seen for device in found)
