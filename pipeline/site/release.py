"""What a page says of a release: its files, their variants and parts, which devices run what, and how to use it. Values for
templates, in the words that `vmfb` has for the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.accuracy import text as accuracy
from pipeline.consume.choose import gated
from pipeline.consume.diff import measured
from pipeline.consume.entries import groups
from pipeline.consume.entries import sizes as dimension_sizes
from pipeline.consume.evidence import Seen, Standing
from pipeline.consume.fetch import needed
from pipeline.consume.render import runtime_lines, size, tuning_lines
from pipeline.errors import PipelineError
from pipeline.iree import backends
from pipeline.iree.gates import Gated
from pipeline.layout import blob_key
from pipeline.manifest import provenance
from pipeline.manifest.evidence import EvidenceDocument, VariantProof
from pipeline.manifest.types import Artifact, EntryInfo, TensorInfo
from pipeline.site import machines
from pipeline.site.commands import commands
from pipeline.site.gather import Release

EVIDENCE_SHOWN = 60  # rows of a page
_HUES = 8


@dataclass(frozen=True)
class Variant:
    """A variant in its file. `kind` is how it was verified, or `wrong`; `part` is how much of its tolerance it used, of 1.

    `scores`: how well it did on data sets, a line each. `latencies`: devices, and how long it took there.
    """

    name: str
    device: str
    kind: str
    where: str
    reason: str
    witnesses: int
    error: str
    part: float | None
    scores: tuple[str, ...]
    latencies: tuple[tuple[str, str], ...]
    gates: tuple[str, ...]
    size: str
    fetched: str
    hue: int


@dataclass(frozen=True)
class Part:
    """A part of a file: what it is, how many bytes, its place in a bar 1000 wide, and its colour. `variants` as of segments."""

    label: str
    bytes: int
    text: str
    share: str
    x: float
    width: float
    hue: int
    variants: tuple[str, ...]
    directory: bool

    def fetched_for(self, variant: str) -> bool:
        """Whether a device that runs `variant` fetches it."""
        return not self.directory and (not self.variants or variant in self.variants)


@dataclass(frozen=True)
class File:
    """A file of the release. `gated` are its variants as devices choose among them; where this program does not know all of
    their gates, there are none, and `unknown` says why."""

    artifact: Artifact
    key: str
    size: str
    variants: tuple[Variant, ...]
    parts: tuple[Part, ...]
    gated: tuple[Gated, ...]
    unknown: str
    runtimes: tuple[str, ...]
    commands: tuple[tuple[str, str], ...]

    @property
    def bundle(self) -> str:
        """Its bundle."""
        return self.artifact.bundle

    @property
    def tuned(self) -> list[str]:
        """How much of which variants is tuned."""
        return list(tuning_lines(self.artifact).values())

    @property
    def question(self) -> dict[str, object]:
        """What `choose.js` has to know of it."""
        return machines.question([(self.bundle, "", self.gated)])


@dataclass(frozen=True)
class Tensor:
    """An input or output for people."""

    name: str
    shape: str
    dtype: str


@dataclass(frozen=True)
class Entry:
    """What callers ask for by name: what it takes and gives, the ranges of its dimensions, its functions where they differ from
    the name, and where it is made from."""

    name: str
    functions: tuple[str, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    ranges: tuple[tuple[str, str], ...]
    sources: tuple[tuple[str, str], ...]
    rewrites: tuple[str, ...]


@dataclass(frozen=True)
class Sighting:
    """A row of evidence: what was seen of a variant, where, by whom and when."""

    day: str
    bundle: str
    variant: str
    kind: str
    place: str
    error: str
    latency: str
    witness: str
    said: str


def entries(release: Release) -> tuple[Entry, ...]:
    """The entry points, buckets of one as one."""
    found = []
    for name, group in groups(release.manifest.entries).items():
        functions = tuple(entry.function for entry in group)
        found.append(
            Entry(
                name,
                () if functions == (name,) else functions,
                tuple(map(_tensor, group[0].inputs)),
                tuple(map(_tensor, group[0].outputs)),
                tuple(_ranges(group)),
                tuple(dict.fromkeys((entry.source.location, entry.source.sha256) for entry in group)),
                tuple(dict.fromkeys(rewrite for entry in group for rewrite in entry.rewrites)),
            )
        )
    return tuple(found)


def _tensor(tensor: TensorInfo) -> Tensor:
    shape = " × ".join("?" if dimension is None else str(dimension) for dimension in tensor.shape)
    return Tensor(tensor.name, shape or "scalar", tensor.dtype)


def _ranges(group: Sequence[EntryInfo]) -> Iterator[tuple[str, str]]:
    for name in dict.fromkeys(dimension.name for entry in group for dimension in entry.dimensions):
        yield name, dimension_sizes(name, group).removeprefix(f"{name}: ")


def files(release: Release, address: str) -> tuple[File, ...]:
    """The release's files, with commands for a store at `address`."""
    return tuple(_file(release, artifact, address) for artifact in release.manifest.artifacts)


def _file(release: Release, artifact: Artifact, address: str) -> File:
    functions = [entry.function for entry in release.manifest.entries]
    known = release.testimony.of(artifact, functions)
    hues = {variant.name: i % _HUES + 1 for i, variant in enumerate(artifact.variants)}
    variants = tuple(_variant(artifact, name, known[name], hue) for name, hue in hues.items())
    try:
        chosen, unknown = gated(artifact, release.name), ""
    except PipelineError as error:
        chosen, unknown = (), error.what
    return File(
        artifact,
        blob_key(artifact.blob.sha256),
        size(artifact.blob.size),
        variants,
        tuple(_parts(artifact, hues)),
        chosen,
        unknown,
        tuple(runtime_lines(release.testimony.runtimes(artifact))),
        tuple(commands(release, artifact, address)),
    )


def _variant(artifact: Artifact, name: str, standing: Standing, hue: int) -> Variant:
    info = next(variant for variant in artifact.variants if variant.name == name)
    best = standing.wrong[0] if standing.wrong else standing.right[0] if standing.right else None
    reason = standing.reason or (best.proof.problem or best.proof.reason if best else "")
    if standing.untested and standing.right:
        reason = f"not run: {', '.join(standing.untested)}" + (f" ({standing.reason})" if standing.reason else "")
    error = standing.max_abs_error
    return Variant(
        name,
        info.device,
        "wrong" if standing.wrong else standing.kind,
        _where(standing, best),
        reason,
        standing.witnesses,
        "" if error is None else f"{error:.1e}",
        standing.of_tolerance,
        tuple(_scores(standing)),
        tuple((device, milliseconds(median, spread)) for device, (median, spread) in measured(standing).items()),
        info.gates,
        size(info.size),
        size(sum(stretch.length for stretch in needed(artifact, [name]))),
        hue,
    )


def _where(standing: Standing, best: Seen | None) -> str:
    """The device of the newest of the strongest evidence, or of who saw it wrong, and how wide its subgroups were."""
    if best is None:
        return ""
    lanes = ", ".join(map(str, standing.subgroup_sizes)) if not standing.wrong else ""
    return best.place + (f", subgroups of {lanes} lanes" if lanes else "")


def _scores(standing: Standing) -> Iterator[str]:
    for scored in standing.accuracy:
        function = f"{scored.function}: " if len(standing.accuracy) > 1 else ""
        yield function + accuracy.line(scored.metric, scored.score, scored.reference, scored.evaluator)


def milliseconds(median_s: float, spread_s: float | None = None) -> str:
    """A time and its spread for people."""
    spread = f" ± {spread_s * 1000:.2g}" if spread_s else ""
    return f"{median_s * 1000:.3g}{spread} ms"


def _parts(artifact: Artifact, hues: dict[str, int]) -> Iterator[Part]:
    """The file's bytes by what they are for: what all devices need first, then code in order of preference."""
    totals: dict[tuple[str, tuple[str, ...]], int] = {}
    for segment in artifact.segments:
        totals[segment.kind, segment.variants] = totals.get((segment.kind, segment.variants), 0) + segment.length
    order = {
        kind: place for place, kind in enumerate(("head", "data", "code", "directory"))
    }  # others, which manifests may say, last
    names = list(hues)
    places = sorted(totals, key=lambda one: (order.get(one[0], len(order)), [names.index(v) for v in one[1] if v in hues]))
    x = 0.0
    for kind, users in places:
        count = totals[kind, users]
        width = 1000 * count / max(artifact.blob.size, 1)
        hue = hues.get(users[0], 0) if users else 0
        share = f"{count / max(artifact.blob.size, 1):.1%}"
        yield Part(_label(kind, users), count, size(count), share, round(x, 2), round(width, 2), hue, users, kind == "directory")
        x += width


def _label(kind: str, users: Sequence[str]) -> str:
    if not users:
        return {"head": "functions and gates", "data": "constants", "directory": "names of the parts"}.get(kind, "code for all")
    what = "code" if kind == "code" else "constants"
    return f"{what} of {users[0]}" if len(users) == 1 else f"{what} that {', '.join(users[:-1])} and {users[-1]} share"


def evidence(release: Release) -> tuple[list[Sighting], int]:
    """What witnesses saw, the newest first, at most EVIDENCE_SHOWN rows; and how many there are in all."""
    documents = sorted(release.testimony.documents, key=lambda document: document.made, reverse=True)
    rows = [
        _seen(document, file.bundle, proof)
        for document in documents
        for file in document.files
        for proof in file.variants
        if proof.kind != "untested" or proof.problem
    ]
    return rows[:EVIDENCE_SHOWN], len(rows)


def _seen(document: EvidenceDocument, bundle: str, proof: VariantProof) -> Sighting:
    worst = max(proof.functions, key=lambda f: f.of_tolerance, default=None)
    place = proof.device if not proof.driver or proof.driver == proof.device else f"{proof.device} ({proof.driver})"
    return Sighting(
        "" if document.made.startswith("1970") else document.made[:10],
        bundle,
        proof.variant,
        "wrong" if proof.problem else proof.kind,
        place,
        "" if worst is None else f"{worst.max_abs_error:.1e} ({percent(worst.of_tolerance)})",
        "" if proof.latency_s is None else milliseconds(proof.latency_s, proof.spread_s),
        "; ".join(filter(None, (document.witness.cpu, document.witness.system, document.witness.program))),
        proof.problem or proof.reason,
    )


def percent(part: float) -> str:
    """A part of a tolerance for people."""
    return f"{part:.0%}" if part >= 0.01 or not part else "<1%"


def counts(release: Release) -> dict[str, int]:
    """How many variants have which evidence, the strongest first, as `render.verified_briefly` counts."""
    found = dict.fromkeys(("wrong", "device", "emulator", "twin", "untested"), 0)
    functions = [entry.function for entry in release.manifest.entries]
    for artifact in release.manifest.artifacts:
        for standing in release.testimony.of(artifact, functions).values():
            found["wrong" if standing.wrong else standing.kind] += 1
    return {kind: count for kind, count in found.items() if count}


def _together(artifact: Artifact) -> Iterator[list[str]]:
    """The variants that a machine may fetch: one for its CPU, and one for a GPU beside it; one alone, where none is for CPUs."""
    cpus = [variant.name for variant in artifact.variants if backends.cpu_code([variant.format])]
    for variant in artifact.variants:
        if variant.name in cpus or not cpus:
            yield [variant.name]
        else:
            yield from ([variant.name, cpu] for cpu in cpus)


def sizes(release: Release) -> str:
    """What is fetched for the least and for the most, over all files of the release, with its weights.

    A machine with a GPU gets the code for its CPU, too.
    """
    weights = sum(parameters.blob.size for parameters in release.manifest.parameters)
    found = [
        weights + sum(stretch.length for stretch in needed(artifact, names))
        for artifact in release.manifest.artifacts
        for names in _together(artifact)
    ] or [weights + artifact.blob.size for artifact in release.manifest.artifacts]
    least, most = size(min(found, default=0)), size(max(found, default=0))
    return least if least == most else f"{least} to {most}"


def origin(release: Release) -> list[tuple[str, str]]:
    """What its builder says of where it comes from, as `vmfb inspect --provenance` does: what it is about, and what it is."""
    found: list[tuple[str, str]] = []
    for line in provenance.lines(release.provenance) if release.provenance else ():
        label, _, said = line.partition("  ")
        found.append((label, said.strip()))
    return found
