"""What `vmfb` says, as lines: values in, text out."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pipeline.accuracy.text import line as accuracy_line
from pipeline.consume.entries import Signature, describe, groups
from pipeline.consume.evidence import Seen, Standing, Testimony
from pipeline.iree import backends, tuning
from pipeline.manifest.evidence import KINDS, EvidenceDocument, RuntimeInfo, VariantProof
from pipeline.manifest.types import Artifact, Blob, EntryInfo, Identity, Index, Manifest
from pipeline.names import numbers
from pipeline.plain import plain

if TYPE_CHECKING:  # to say that a file is there needs none of these
    from pipeline.consume.cache import Usage
    from pipeline.consume.diff import Difference
    from pipeline.consume.explain import Answer
    from pipeline.consume.inspect import Contents
    from pipeline.iree.device import Device
    from pipeline.iree.gates import Decision


def size(count: int) -> str:
    """Bytes for people, in powers of 1000 as networks and disks count."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


def columns(rows: Sequence[Sequence[str]], right: Iterable[int] = ()) -> list[str]:
    """`rows` with aligned columns; those numbered in `right` are aligned there."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    return [
        "  ".join(c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]


def contents_lines(contents: Contents) -> list[str]:
    """`vmfb inspect` of a file."""
    module = contents.module
    lines = [f"{contents.path}: module @{module.name}, {size(module.size)}"]
    lines += [f"  {line}" for line in (identity_lines(contents.identity) if contents.identity else contents.declarations)]
    if contents.needs_parameters and not (contents.identity and contents.identity.parameters):
        lines.append("  needs weights that it does not hold")
    constants = [p.segment.length for p in contents.parts if not p.format]
    rows = [("", "constants", size(sum(constants)), f"{sum(constants) / module.size:.0%}", _segments(len(constants)))]
    if contents.described:
        for variant in contents.variants:
            parts = [p for p in contents.parts if variant.name in p.variants]
            length = sum(p.segment.length for p in parts)
            note = _segments(len(parts)) + ("" if contents.holds(variant.name) else ", not fetched: a hole in this file")
            rows.append(("code", variant.name, size(length), f"{length / module.size:.0%}", f"{variant.format}, {note}"))
    else:
        for name, length in contents.formats.items():
            count = sum(p.format == name for p in contents.parts)
            rows.append(("code", name, size(length), f"{length / module.size:.0%}", _segments(count)))
    lines += [f"  {line}" for line in columns(rows, right=(2, 3))]
    lines.append(f"  imports {len(module.imports)} functions of the runtime")
    if not contents.described:
        lines.append("  no gates: a device takes the first code of its format, right for it or not")
    if contents.forced:
        lines.append(f"  a copy that runs {contents.forced} wherever it loads, whatever the gates say")
    for variant in contents.variants:
        lines.append(f"  gates of {variant.name}: {', '.join(str(g) for g in variant.gates) or 'none, any device of its kind'}")
    return [plain(line) for line in lines]


def _segments(count: int) -> str:
    return f"{count} segment{'' if count == 1 else 's'}"


def contents_json(contents: Contents) -> str:
    """`vmfb inspect --json` of a file."""
    module = contents.module
    document = {
        "module": module.name,
        "identity": asdict(contents.identity) if contents.identity else None,
        "size": module.size,
        "exports": [{"name": e.name, "attributes": dict(e.attributes)} for e in module.exports],
        "imports": list(module.imports),
        "segments": [
            {
                "name": p.segment.name,
                "offset": p.segment.offset,
                "length": p.segment.length,
                "sha256": p.segment.sha256,
                "format": p.format,
                "variants": list(p.variants),
                "fetched": p.fetched,
            }
            for p in contents.parts
        ],
        "variants": [{"name": v.name, "format": v.format, "gates": [str(g) for g in v.gates]} for v in contents.variants],
        "forced": contents.forced or None,
    }
    return json.dumps(document, indent=1)


def manifest_lines(manifest: Manifest, testimony: Testimony) -> list[str]:
    """`vmfb inspect` of a release, with what witnesses say of it."""
    model, compiler = manifest.model, manifest.compiler
    lines = [*contradiction_lines(testimony), f"{model.name}@{manifest.version}: {model.about} ({model.licence})"]
    several = len(manifest.entries) > 1
    for name, group in groups(manifest.entries).items():
        margin = "    " if several else "  "
        lines += [f"  {plain(name)}{_functions(name, group)}"] if several else []
        lines += [f"{margin}source  {model.format}, {line}" for line in dict.fromkeys(map(_source, group))]
        lines += [f"{margin}{line}" for line in _signature(group)]
    lines.append(f"  made by {compiler.package} {compiler.version}")
    lines += [f"  weights {_weights(p.blob)}, fetched with any of its files" for p in manifest.parameters]
    for artifact in manifest.artifacts:
        shared = sum(s.length for s in artifact.segments if not s.variants)
        lines.append(f"  {artifact.blob.name}: {size(artifact.blob.size)}, of which {size(shared)} for every device")
        known = testimony.of(artifact, [entry.function for entry in manifest.entries])
        rows = [(v.name, size(v.size), v.device, standing_line(known[v.name])) for v in artifact.variants]
        lines += [f"    {line}" for line in columns(rows, right=(1,))]
        lines += [f"    {line}" for line in tuning_lines(artifact).values()]
        lines += [f"    {line}" for line in runtime_lines(testimony.runtimes(artifact))]
        lines += [f"    {d.name}: left out, {d.reason}" for d in artifact.dropped]
        lines += [f"    note: {note}" for note in artifact.notes]
    return [plain(line) for line in lines]


def tuning_lines(artifact: Artifact) -> dict[str, str]:
    """By variant, how much of its code is tuned; nothing of those of which none is."""
    return {v.name: plain(tuning.told(v.name, one.tuned, one.kernels)) for v in artifact.variants for one in v.tuning}


def runtime_lines(known: Sequence[RuntimeInfo]) -> list[str]:
    """In which versions of IREE's runtime a file works, fails, and was not tried: each version once, by the newest word."""
    newest = {info.version: info for info in reversed(known)}
    found = sorted(newest.values(), key=lambda info: numbers(info.version))
    works = [info.version for info in found if info.works]
    lines = [f"works with IREE's runtime {', '.join(works)}"] if works else []
    lines += [f"fails with {info.version}: {info.how}" for info in found if info.works is False]
    lines += [f"not tried with {info.version}: {info.how}" for info in found if info.works is None]
    return [plain(line) for line in lines]


def _source(entry: EntryInfo) -> str:
    return f"{entry.source.location}, sha256 {entry.source.sha256[:16]}…"


def _functions(name: str, group: Sequence[Signature]) -> str:
    functions = [entry.function for entry in group]
    if functions == [name]:
        return ""
    said = f", {len(functions)} buckets" if len(functions) > 1 else ""
    return plain(f"{said} (function{'s' if len(functions) > 1 else ''} {', '.join(functions)})")


def _signature(group: Sequence[Signature]) -> list[str]:
    """What an entry point takes and gives; all its buckets are told as one."""
    return [f"takes   {describe(group[0].inputs, group)}", f"gives   {describe(group[0].outputs, group)}"]


def entry_lines(entries: Sequence[Signature]) -> list[str]:
    """`vmfb explain`: the entry points, where there are several."""
    found = groups(entries).items() if len(entries) > 1 else ()
    shown = [(name, describe(group[0].inputs, group), describe(group[0].outputs, group)) for name, group in found]
    return [f"{plain(name)}: takes {takes}; gives {gives}" for name, takes, gives in shown]


def _weights(blob: Blob) -> str:
    return plain(f"in a file of their own: {blob.name}, {size(blob.size)}, sha256 {blob.sha256[:16]}…")


def identity_lines(identity: Identity) -> list[str]:
    """What a file says of itself."""
    compiler = identity.compiler
    flags = f" with {' '.join(identity.flags)}" if identity.flags else ""
    lines = [f"says that it is {identity.model}, made by {compiler.package} {compiler.version}{flags}"]
    for name, group in groups(identity.entries).items():
        made = ", ".join(f"{digest[:16]}…" for digest in dict.fromkeys(entry.sha256 for entry in group))
        lines.append(f"  {name}{_functions(name, group)}, of the source with sha256 {made}")
        lines += [f"    {line}" for line in _signature(group)]
    return [*lines, *(f"  weights {_weights(blob)}" for blob in identity.parameters)]


def standing_line(standing: Standing) -> str:
    """How a variant was verified, in a line: what nobody ran first, then the strongest and newest that speaks for it."""
    reason = f": {standing.reason}" if standing.reason else ""
    if not standing.right:
        return plain(f"untested{reason}")
    missing = f"{', '.join(standing.untested)}: untested{reason}; " if standing.untested else ""
    best = standing.right[0]
    proof, error = best.proof, standing.max_abs_error
    sizes = ", ".join(map(str, standing.subgroup_sizes))
    lanes = f" with subgroups of {sizes} lanes" if sizes else ""
    how = "its twin verified on" if proof.kind == "twin" else "verified on"
    said = f"{how} {best.place}{lanes}" + (f", max error {error:.1e}" if error is not None else "")
    for scored in standing.accuracy:
        function = f"{scored.function}: " if len(standing.accuracy) > 1 else ""
        said += f", {function}{accuracy_line(scored.metric, scored.score, scored.reference, scored.evaluator)}"
    if standing.witnesses > 1:
        said += f" (and {standing.witnesses - 1} more, the newest of {standing.newest})"
    return plain(missing + said + (f" ({proof.reason})" if proof.reason and not standing.untested else ""))


def contradiction_lines(testimony: Testimony) -> list[str]:
    """Variants that somebody saw wrong, and documents that do not count or are not known: shown before all else."""
    lines = []
    for bundle, variant, seen in testimony.contradictions:
        others = [
            Seen(proof, document)
            for document in testimony.documents
            for file in document.files
            for proof in file.variants
            if (file.bundle, proof.variant) == (bundle, variant) and proof.kind != "untested" and not proof.problem
        ]
        right = f"; right on {', '.join(dict.fromkeys(s.place for s in others))}" if others else ""
        lines.append(
            f"! {variant} of {bundle} is WRONG on {seen.place} ({_who(seen.document)}, {seen.document.made[:10]}): "
            f"{seen.proof.problem}{right}"
        )
    lines += [f"! this evidence does not count: {text}" for text in testimony.refused]
    lines += [f"! this evidence could not be read: {text}" for text in testimony.unread]
    return [plain(line) for line in lines]


def _who(document: EvidenceDocument) -> str:
    return f"{document.witness.system}, IREE {document.witness.runtime}"


def evidence_lines(testimony: Testimony) -> list[str]:
    """`vmfb inspect --evidence`: every document, the newest first, and what each saw of each variant."""
    lines = contradiction_lines(testimony)
    for document in sorted(testimony.documents, key=lambda d: d.made, reverse=True):
        witness = document.witness
        lines.append(plain(f"{document.made}  {witness.cpu}, {_who(document)}, {witness.program}"))
        lines += document_lines(document)
    return lines or ["nobody has verified it"]


def document_lines(document: EvidenceDocument) -> list[str]:
    """What a document says of each variant, a line for each device."""
    rows = [
        (
            file.bundle,
            proof.variant,
            "WRONG" if proof.problem else proof.kind,
            _error(proof),
            _latency(proof),
            _seen(proof, document),
        )
        for file in document.files
        for proof in file.variants
    ]
    lines = columns(rows, right=(3, 4))
    lines += [f"{file.bundle}  {line}" for file in document.files for line in runtime_lines(file.runtimes)]
    return [plain(f"  {line}") for line in lines]


def _error(proof: VariantProof) -> str:
    return f"max error {max(f.max_abs_error for f in proof.functions):.1e}" if proof.functions else ""


def _seen(proof: VariantProof, document: EvidenceDocument) -> str:
    return "; ".join(text for text in (Seen(proof, document).place, proof.problem, proof.reason) if text)


def _latency(proof: VariantProof) -> str:
    return "" if proof.latency_s is None else _measured_ms(proof.latency_s, proof.spread_s or 0)


def difference_lines(found: Difference) -> list[str]:
    """`vmfb diff`: what differs, a line each."""
    lines = [f"{found.before} → {found.after}"]
    rows = [(change.variant, change.what, _change(change.what, change.before, change.after)) for change in found.changes]
    lines += [f"  {line}" for line in columns(rows)] or ["  the same code for every device, and nothing else differs"]
    for variant, names in found.kernels.items():
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        lines.append(f"  {len(names)} kernel{'s' * (len(names) != 1)} of {variant} changed: {shown}")
    for one in found.latencies:
        how = "within the spread" if one.is_within_spread else "slower" if one.ratio > 1 else "faster"
        before, after = (_measured_ms(*pair) for pair in ((one.before_s, one.before_spread_s), (one.after_s, one.after_spread_s)))
        lines.append(f"  latency of {one.variant} on {one.device}: {before} → {after}, {one.ratio:.2f} times: {how}")
    return [plain(line) for line in lines]


def _measured_ms(median_s: float, spread_s: float) -> str:
    return f"{median_s * 1000:.3f} ms ± {spread_s * 1000:.3f}"


_SIZES = ("file", "for every device", "weights", "code")


def _change(what: str, before: str | float | None, after: str | float | None) -> str:
    if what in _SIZES:
        a, b = int(before or 0), int(after or 0)
        part = f" ({(b - a) / a:+.1%})" if a else ""
        return f"{size(a)} → {size(b)}{part}" if a != b else f"other bytes, {size(a)} as before"
    said = [f"{v:.1e}" if isinstance(v, float) else "nothing" if v is None or v == "" else str(v) for v in (before, after)]
    digests = [text if len(text) != 64 else f"{text[:16]}…" for text in said]
    return f"{digests[0]} → {digests[1]}"


def device_line(device: Device) -> str:
    """`vmfb devices`: one device."""
    return backends.of_device(device).line(device)


def _decision(decision: Decision, selected: bool, standing: Standing | None) -> list[str]:
    mark = "→" if selected else "·" if decision.accepted else "✗"
    verified = f"; {standing_line(standing)}" if standing and decision.accepted else ""
    reasons = decision.reason.split("; ") if not decision.accepted else []
    said = reasons or ["the first whose gates all hold" if selected else "would do too"]
    width = 16
    return [
        f"  {mark if i == 0 else ' '} {decision.variant if i == 0 else '':<{width}} {r}{verified}" for i, r in enumerate(said)
    ]


def answer_lines(
    answer: Answer, formats: Mapping[str, str], known: Mapping[str, Standing], tuned: Mapping[str, str], fetch: str
) -> list[str]:
    """`vmfb explain`: what one device does. `formats` are those of the variants; of a release, `known` is their evidence, and
    `tuned` says how much of each is tuned. `fetch` is the command that brings code for the device.
    """
    choice = answer.choice
    device = choice.device
    note = backends.of_device(device).note(device)
    facts = f" [{note}]" if note else ""
    runs = f"runs {choice.variant}" if choice.variant else "refuses the file"
    lines = [f"{device.title}{facts}: {runs}"]
    others = [d.variant for d in choice.decisions if formats.get(d.variant) not in device.facts.formats]
    for decision in choice.decisions:
        if decision.variant not in others:
            lines += _decision(decision, decision.variant == choice.variant, known.get(decision.variant))
    standing = known.get(choice.variant or "")
    lines += [f"  {line}" for line in _ways(standing, device)] if standing else []
    lines += [f"  · {said}"] if (said := tuned.get(choice.variant or "")) else []
    for kind, named in itertools.groupby(others, lambda name: backends.people(formats[name])):
        lines.append(f"  - {', '.join(named)}: for {kind}")
    if answer.unfetched:
        lines.append(f"  ! that code is not here: `{fetch}` brings it")
    if answer.reported and not answer.bug and choice.variant:
        lines.append(f"  ✓ loaded here, the module itself says: {answer.reported}")
    lines += [f"  ! {warning}" for warning in answer.warnings]
    if answer.bug:
        lines.append(f"  BUG {answer.bug}. Please report this with `vmfb devices --json`.")
    return lines


def _ways(standing: Standing, device: Device) -> list[str]:
    """By which drivers a CPU was seen to run a variant, the fastest first."""
    known = [proof for seen in standing.right if (proof := seen.proof).drivers]
    mine = next((proof for proof in known if proof.device == device.name), None)
    seen_first = mine or next(iter(known), None)
    if not backends.is_cpu(device) or seen_first is None:
        return []
    said = [
        f"{_ms(one.latency_s)} by {one.driver}" + (f" with {one.threads} threads" if one.threads else "")
        for one in sorted(seen_first.drivers, key=lambda one: one.latency_s)
    ]
    return [f"· on {seen_first.device}: {', '.join(said)}"]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms"


def index_lines(index: Index, verified: Mapping[tuple[str, str], str]) -> list[str]:
    """`vmfb list`: a line for each channel. `verified`: how what a model's channel points to was, where that is known."""
    rows = []
    for model in index.models:
        count = f"{len(model.versions)} versions"[: -1 if len(model.versions) == 1 else None]
        rows += [
            (model.name, f"{c.channel} → {c.version}", count, verified.get((model.name, c.channel), "")) for c in model.channels
        ] or [(model.name, "", count, "")]
    return [plain(line) for line in columns(rows)]


def verified_briefly(testimony: Testimony, manifest: Manifest) -> str:
    """How many variants of a release have which evidence, the strongest first."""
    functions = [entry.function for entry in manifest.entries]
    found = [standing for artifact in manifest.artifacts for standing in testimony.of(artifact, functions).values()]
    kinds = [*(kind for kind in KINDS[::-1]), "WRONG"]
    counts = dict.fromkeys(kinds, 0)
    for standing in found:
        counts["WRONG" if standing.wrong else standing.kind] += 1
    return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)


def usage_lines(usages: Sequence[Usage]) -> list[str]:
    """`vmfb cache list`."""
    rows = [("file", "there", "of", "last used")]
    for usage in usages:
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(usage.used))
        rows.append((usage.entry.name or usage.entry.path.name[:16], size(usage.bytes), size(usage.entry.size), day))
    return columns(rows, right=(1, 2))


def array_lines(name: str, array: Any) -> list[str]:
    """An output for people: numpy's way, cut where it is long."""
    import numpy as np

    text = np.array2string(array, threshold=20, edgeitems=4, precision=6, suppress_small=True)
    return [f"{name}: {'x'.join(map(str, array.shape)) or 'scalar'} {array.dtype}", *(f"  {line}" for line in text.splitlines())]
