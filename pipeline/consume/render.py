"""What `vmfb` says, as lines: values in, text out."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from pipeline.consume.entries import Signature, describe, groups, plain
from pipeline.iree import backends
from pipeline.manifest.types import Blob, EntryInfo, EvidenceInfo, Identity, Index, Manifest

if TYPE_CHECKING:  # to say that a file is there needs none of these
    from pipeline.consume.cache import Usage
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


def manifest_lines(manifest: Manifest) -> list[str]:
    """`vmfb inspect` of a release."""
    model, compiler = manifest.model, manifest.compiler
    lines = [f"{model.name}@{manifest.version}: {model.about} ({model.licence})"]
    several = len(manifest.entries) > 1
    for name, group in groups(manifest.entries).items():
        margin = "    " if several else "  "
        lines += [f"  {plain(name)}{_functions(name, group)}"] if several else []
        lines += [f"{margin}source  {model.format}, {line}" for line in dict.fromkeys(map(_source, group))]
        lines += [f"{margin}{line}" for line in _signature(group)]
    lines.append(f"  made by {compiler.package} {compiler.version}, needs {manifest.runtime.package} {manifest.runtime.minimum}")
    lines += [f"  weights {_weights(p.blob)}, fetched with any of its files" for p in manifest.parameters]
    for artifact in manifest.artifacts:
        shared = sum(s.length for s in artifact.segments if not s.variants)
        lines.append(f"  {artifact.blob.name}: {size(artifact.blob.size)}, of which {size(shared)} for every device")
        rows = [(v.name, size(v.size), v.device, line) for v in artifact.variants for line in [evidence(v.evidence)]]
        lines += [f"    {line}" for line in columns(rows, right=(1,))]
        lines += [f"    {d.name}: left out, {d.reason}" for d in artifact.dropped]
        lines += [f"    note: {note}" for note in artifact.notes]
    return lines


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


_KINDS = ("untested", "twin", "emulator", "device")  # the weakest first


def evidence(proofs: Sequence[EvidenceInfo]) -> str:
    """How a variant was verified, in a line: as one what was verified alike, else the weakest entry point first."""
    alike: dict[EvidenceInfo, list[EvidenceInfo]] = {}
    for proof in proofs:
        known = replace(proof, function="", max_abs_error=None, max_rel_error=None, of_tolerance=None, draws=0)
        alike.setdefault(known, []).append(proof)
    found = sorted(alike.values(), key=lambda group: _KINDS.index(group[0].kind) if group[0].kind in _KINDS else 0)
    said = [(_evidence(group), ", ".join(proof.function for proof in group)) for group in found]
    return "; ".join(f"{functions}: {line}" for line, functions in said) if len(said) > 1 else said[0][0]


def _evidence(proofs: Sequence[EvidenceInfo]) -> str:
    """How entry points that were verified alike were, with the largest error."""
    proof = proofs[0]
    if proof.kind == "untested":
        return f"untested: {proof.reason}"
    errors = [p.max_abs_error for p in proofs if p.max_abs_error is not None]
    error = f", max error {max(errors):.1e}" if errors else ""
    place = f"{proof.device} played by {proof.driver}" if proof.kind == "emulator" else proof.driver or proof.device
    if proof.subgroup_sizes:
        place += f" with subgroups of {', '.join(map(str, proof.subgroup_sizes))} lanes"
    how = {"device": "verified on", "emulator": "verified on"}.get(proof.kind, "its twin verified on")
    return f"{how} {place}{error}" + (f" ({proof.reason})" if proof.reason else "")


def device_line(device: Device) -> str:
    """`vmfb devices`: one device."""
    return backends.of_device(device).line(device)


def _decision(decision: Decision, selected: bool, proofs: Sequence[EvidenceInfo]) -> list[str]:
    mark = "→" if selected else "·" if decision.accepted else "✗"
    verified = f"; {evidence(proofs)}" if proofs and decision.accepted else ""
    reasons = decision.reason.split("; ") if not decision.accepted else []
    said = reasons or ["the first whose gates all hold" if selected else "would do too"]
    width = 16
    return [
        f"  {mark if i == 0 else ' '} {decision.variant if i == 0 else '':<{width}} {r}{verified}" for i, r in enumerate(said)
    ]


def answer_lines(answer: Answer, formats: Mapping[str, str], proofs: Mapping[str, Sequence[EvidenceInfo]]) -> list[str]:
    """`vmfb explain`: what one device does. `formats` are those of the variants, `proofs` their evidence where known."""
    choice = answer.choice
    device = choice.device
    note = backends.of_device(device).note(device)
    facts = f" [{note}]" if note else ""
    runs = f"runs {choice.variant}" if choice.variant else "refuses the file"
    lines = [f"{device.title}{facts}: {runs}"]
    others = [d.variant for d in choice.decisions if formats.get(d.variant) not in device.facts.formats]
    for decision in choice.decisions:
        if decision.variant not in others:
            lines += _decision(decision, decision.variant == choice.variant, proofs.get(decision.variant, ()))
    for kind, named in itertools.groupby(others, lambda name: backends.people(formats[name])):
        lines.append(f"  - {', '.join(named)}: for {kind}")
    if answer.unfetched:
        lines.append("  ! that code is not here: `vmfb fetch` for this device brings it")
    if answer.reported and not answer.bug and choice.variant:
        lines.append(f"  ✓ loaded here, the module itself says: {answer.reported}")
    lines += [f"  ! {warning}" for warning in answer.warnings]
    if answer.bug:
        lines.append(f"  BUG {answer.bug}. Please report this with `vmfb devices --json`.")
    return lines


def index_lines(index: Index) -> list[str]:
    """`vmfb list`."""
    rows = [
        (
            m.name,
            ", ".join(f"{c.channel} → {c.version}" for c in m.channels),
            f"{len(m.versions)} versions"[: -1 if len(m.versions) == 1 else None],
        )
        for m in index.models
    ]
    return columns(rows)


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
