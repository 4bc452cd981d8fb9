"""What differs between two releases, or files: code, gates, sizes, signatures, errors, latency. Values in, values out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pipeline.consume.entries import describe
from pipeline.consume.evidence import Standing, Testimony
from pipeline.consume.inspect import Contents
from pipeline.manifest.codec import reference_digest
from pipeline.manifest.types import Artifact, Manifest, VariantInfo

Value = str | int | float | None


@dataclass(frozen=True)
class Variant:
    """A variant of one side. `tuning`: how much of it is tuned, and by what. `kernels`: the digest of each dispatch's code,
    where the file itself was looked at."""

    gates: tuple[str, ...]
    size: int
    sha256: str
    flags: tuple[str, ...] | None = None
    tuning: str | None = None
    kernels: Mapping[str, str] | None = None
    standing: Standing | None = None


@dataclass(frozen=True)
class Side:
    """One of the two: what is known of it, called `title`. `facts` are single values by name, sizes in bytes among them.

    A file knows less than a release: what only one of the two can know is not compared.
    """

    title: str
    facts: Mapping[str, Value]
    variants: Mapping[str, Variant]
    is_file: bool = False

    @property
    def order(self) -> list[str]:
        """The variants in order of preference."""
        return list(self.variants)


@dataclass(frozen=True)
class Change:
    """A value that differs: of a `variant`, or of the whole where that is empty. None where a side has no such thing."""

    what: str
    variant: str
    before: Value
    after: Value


@dataclass(frozen=True)
class Latency:
    """A variant's latency on one device by one kind of witness, on both sides: medians and quartile distances in seconds."""

    variant: str
    device: str
    before_s: float
    before_spread_s: float
    after_s: float
    after_spread_s: float

    @property
    def ratio(self) -> float:
        """After, by before."""
        return self.after_s / self.before_s

    @property
    def is_within_spread(self) -> bool:
        """Whether the difference is no larger than what the runs of one side differ among themselves."""
        return abs(self.after_s - self.before_s) <= max(self.before_spread_s, self.after_spread_s)


@dataclass(frozen=True)
class Difference:
    """All that differs. `kernels`: for each variant whose code differs, the dispatches that changed, came or went."""

    before: str
    after: str
    changes: tuple[Change, ...]
    kernels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    latencies: tuple[Latency, ...] = ()


def of_release(manifest: Manifest, artifact: Artifact, testimony: Testimony, contents: Contents | None = None) -> Side:
    """A release, by one of its files; `contents` is what is in that, where it is here."""
    known = testimony.of(artifact, [entry.function for entry in manifest.entries])
    compiler = manifest.compiler
    facts: dict[str, Value] = {
        "file": artifact.blob.size,
        "for every device": sum(s.length for s in artifact.segments if not s.variants),
        "weights": sum(p.blob.size for p in manifest.parameters),
        "weights' sha256": ", ".join(p.blob.sha256 for p in manifest.parameters),
        "compiler": f"{compiler.package} {compiler.version} ({compiler.commit[:12]})",
        "flags": " ".join(artifact.flags),
        "test data": reference_digest(manifest),
        "notes": "; ".join(artifact.notes),
    }
    for entry in manifest.entries:
        facts |= _signature(entry.function, describe(entry.inputs, [entry]), describe(entry.outputs, [entry]))
        facts[f"source of {entry.function}"] = entry.source.sha256
    facts |= {f"left out, {dropped.name}": dropped.reason for dropped in artifact.dropped}
    variants = {
        v.name: Variant(v.gates, v.size, v.sha256, v.flags, _tuning(v), _kernels(contents, v.name), known[v.name])
        for v in artifact.variants
    }
    title = f"{manifest.model.name}@{manifest.version}"
    return Side(title, facts, variants)


def of_file(contents: Contents) -> Side:
    """A vmfb, ours or anyone's."""
    facts: dict[str, Value] = {"file": contents.module.size}
    if identity := contents.identity:
        facts["compiler"] = f"{identity.compiler.package} {identity.compiler.version} ({identity.compiler.commit[:12]})"
        facts["weights' sha256"] = ", ".join(blob.sha256 for blob in identity.parameters)
        for entry in identity.entries:
            facts |= _signature(entry.function, describe(entry.inputs, [entry]), describe(entry.outputs, [entry]))
            facts[f"source of {entry.function}"] = entry.sha256
    else:
        facts |= {f"function {number}": text for number, text in enumerate(contents.declarations)}
    variants = {}
    for variant in contents.variants:
        gates = tuple(map(str, variant.gates))
        variants[variant.name] = Variant(gates, *contents.code(variant.name), kernels=_kernels(contents, variant.name))
    return Side(str(contents.path), facts, variants, is_file=True)


def _tuning(variant: VariantInfo) -> str:
    said = (f"{one.tuned} of {one.kernels} kernels (record {one.sha256[:16]}…)" for one in variant.tuning)
    return next(said, "none")


def _signature(function: str, takes: str, gives: str) -> dict[str, Value]:
    return {f"{function} takes": takes, f"{function} gives": gives}


def _kernels(contents: Contents | None, variant: str) -> dict[str, str] | None:
    """The digest of each dispatch's code; a dispatch is called as the file's part is, without the variant before it."""
    if contents is None:
        return None
    names = sorted((re.sub(r"\W", "_", v.name) for v in contents.variants), key=len, reverse=True)
    found = {}
    for part in contents.parts:
        if variant in part.variants:
            name = part.segment.name.rpartition(".")[0] or part.segment.name
            owner = next((n for n in names if name.startswith(f"{n}_")), "")
            found[name.removeprefix(f"{owner}_")] = part.segment.sha256
    return found


def difference(before: Side, after: Side) -> Difference:
    """What differs between the two."""
    alike = before.is_file is after.is_file
    names = [name for name in {**before.facts, **after.facts} if alike or (name in before.facts and name in after.facts)]
    pairs = ((name, before.facts.get(name), after.facts.get(name)) for name in names)
    changes = [Change(name, "", a, b) for name, a, b in pairs if a != b and (a or b)]
    kernels, latencies = {}, list[Latency]()
    both = [name for name in after.order if name in before.variants]
    changes += [Change("variant", name, "there", None) for name in before.order if name not in after.variants]
    changes += [Change("variant", name, None, "there") for name in after.order if name not in before.variants]
    if [n for n in before.order if n in both] != both:
        changes.append(Change("order of preference", "", ", ".join(before.order), ", ".join(after.order)))
    for name in both:
        a, b = before.variants[name], after.variants[name]
        changes += _variant(name, a, b)
        if a.sha256 != b.sha256 and a.kernels is not None and b.kernels is not None:
            kernels[name] = tuple(sorted(k for k in {*a.kernels, *b.kernels} if a.kernels.get(k) != b.kernels.get(k)))
        latencies += _latencies(name, a.standing, b.standing)
    return Difference(before.title, after.title, tuple(changes), kernels, tuple(latencies))


def _variant(name: str, a: Variant, b: Variant) -> Iterator[Change]:
    if a.gates != b.gates:
        yield Change("gates", name, "; ".join(a.gates) or "none", "; ".join(b.gates) or "none")
    if a.flags is not None and b.flags is not None and a.flags != b.flags:
        yield Change("flags", name, " ".join(a.flags), " ".join(b.flags))
    if a.tuning is not None and b.tuning is not None and a.tuning != b.tuning:
        yield Change("tuned", name, a.tuning, b.tuning)
    if a.sha256 != b.sha256:
        yield Change("code", name, a.size, b.size)
    if a.standing and b.standing:
        told = [(s.kind, "WRONG" if s.wrong else "", s.max_abs_error) for s in (a.standing, b.standing)]
        for what, x, y in zip(("evidence", "contradicted", "max error"), *told, strict=True):
            if x != y:
                yield Change(what, name, x, y)


def _latencies(name: str, a: Standing | None, b: Standing | None) -> Iterator[Latency]:
    """For each device that was measured on both sides, the newest of each; not what is one measurement of both."""
    before, after = measured(a), measured(b)
    for device in after:
        if device in before and before[device] != after[device]:
            yield Latency(name, device, *before[device], *after[device])


def measured(standing: Standing | None) -> dict[str, tuple[float, float]]:
    """The latency of a variant on each device that ran it, the newest measurement: median and quartile distance in seconds."""
    found: dict[str, tuple[float, float]] = {}
    for seen in standing.right if standing else ():
        proof = seen.proof
        if proof.latency_s and proof.kind == "device":
            cpu = seen.document.witness.cpu
            device = seen.place if seen.place == cpu else f"{seen.place} ({cpu})"
            found.setdefault(device, (proof.latency_s, proof.spread_s or 0.0))
    return found
