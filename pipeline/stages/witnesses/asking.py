"""Asking all witnesses, and what follows from their answers for a bundle that is verified."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count

from pipeline import activity
from pipeline.consume.evidence import Seen
from pipeline.manifest.evidence import VariantProof
from pipeline.plain import plain
from pipeline.stages.assembly import File
from pipeline.stages.checks import Check, Failure
from pipeline.stages.evidence import Evidence
from pipeline.stages.witnesses import ssh
from pipeline.stages.witnesses.address import parse, patience
from pipeline.stages.witnesses.answers import FOLDER, Heard
from pipeline.stages.witnesses.job import prepare


def ask(check: Check, witnesses: Sequence[str]) -> list[Heard]:
    """What each of the witnesses says of the file under test, side by side. One that says nothing does not stop it."""
    if not witnesses:
        return []
    seconds, folder = patience(), check.folder / FOLDER
    folder.mkdir(exist_ok=True)
    activity.say(f"waiting for witnesses: {', '.join(witnesses)}")
    store = folder / "store"
    try:
        file = File(check.module, check.compiled, check.data)
        job = prepare(check.model, check.bundle.name, check.imported, file, store)

        def one(number: int, text: str) -> list[Heard]:
            if address := parse(text):
                return [ssh.ask(address, job, folder / f"asked-{number}", seconds)]
            from pipeline.stages.witnesses import dask

            return dask.ask(job, seconds)

        with ThreadPoolExecutor(len(witnesses)) as pool:
            return [heard for several in pool.map(one, count(), witnesses) for heard in several]
    finally:
        activity.say("")
        shutil.rmtree(store, ignore_errors=True)


def _proofs(heard: Heard) -> Iterator[tuple[VariantProof, str]]:
    """What a witness says of each variant, and where it was seen."""
    if heard.document:
        for file in heard.document.files:
            for proof in file.variants:
                yield proof, plain(f"{Seen(proof, heard.document).place} at {heard.witness}")


def failures(heard: Sequence[Heard]) -> list[Failure]:
    """The variants that a witness saw wrong."""
    found = [(proof, place) for one in heard for proof, place in _proofs(one)]
    return [Failure(proof.variant, f"on {place}", plain(proof.problem)) for proof, place in found if proof.problem]


def seen(heard: Sequence[Heard]) -> set[str]:
    """The variants that a witness ran."""
    return {proof.variant for one in heard for proof, _ in _proofs(one) if proof.kind != "untested"}


def explained(evidence: Evidence, heard: Sequence[Heard]) -> Evidence:
    """The evidence from here; of what is untested, if no witness ran it either, with their reasons too."""
    if evidence.kind != "untested":
        return evidence
    reasons = []
    for one in heard:
        mine = [proof for proof, _ in _proofs(one) if proof.variant == evidence.variant]
        if any(proof.kind != "untested" for proof in mine):
            return evidence
        lack = mine[0].reason if mine else "no device there takes it"
        reasons.append(f"witness {one.witness}: {one.problem or plain(lack)}")
    return replace(evidence, reason="; ".join([evidence.reason, *reasons]))
