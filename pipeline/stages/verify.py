"""Verify: run every variant that this machine can run, compare with the reference, say for the rest why not."""

from __future__ import annotations

import functools
import logging
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count, repeat
from pathlib import Path

from pipeline import activity, arrays
from pipeline.compare import tolerances_for
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import fresh_folder
from pipeline.importers import draws as draws_of
from pipeline.iree import backends, devices, mlir
from pipeline.iree.backends.base import Inspection
from pipeline.iree.device import Device
from pipeline.iree.devices import emulator, runtimes
from pipeline.iree.file import choice
from pipeline.iree.gates import Gated, decide, select
from pipeline.machine import fingerprint, now, witness
from pipeline.spec.types import Bundle, Executable
from pipeline.stages import accuracy, checks, record, testdata, tried, twins
from pipeline.stages import compile as compile_stage
from pipeline.stages import identity as identities
from pipeline.stages.checks import Check, Failure, Result, agree, judge, told
from pipeline.stages.compiled import Compiled, Dropped, Variant
from pipeline.stages.evidence import Evidence, merged, write_evidence, write_runtimes, write_witness
from pipeline.stages.import_ import plainly
from pipeline.stages.origin import Origin
from pipeline.stages.scored import NAME, Trial, described, trials
from pipeline.stages.testdata import Draw, settled
from pipeline.stages.witnesses import answers, asking
from pipeline.stages.witnesses.answers import Heard

_log = logging.getLogger(__name__)


def _chosen(check: Check, device: Device, number: int) -> Result | None:
    """Run the file itself on `device`: the variant that the device chooses, which must be the one predicted."""
    gated = [v.gated for v in check.compiled.variants]
    predicted = select(gated, device.facts)
    if predicted is None:
        return None
    name = f"device-{number}"
    ran = checks.run(check, check.module, device, name)
    if not ran.error and (ran.selected is None or ran.selected < 0 or gated[ran.selected].name != predicted):
        reported = None if ran.selected is None else ran.selected
        raise PipelineError(
            f"{device.title} was predicted to run {predicted}, but the module reports variant number {reported}",
            where=str(check.module),
            hint="this is a bug in the gates: please report it with this file",
        )
    return judge(check, predicted, _kind(device), device, ran, name)


def _forced(check: Check, device: Device, index: int) -> Result:
    """Run a copy of the file that takes variant `index`."""
    variant = check.compiled.variants[index].gated.name
    name, module = f"forced-{variant}", checks.forced(check, index)
    ran = checks.run(check, module, device, name)
    if not ran.error and ran.selected != index:
        raise PipelineError(
            f"the copy that runs {variant} reports number {ran.selected}", where=str(module), hint="please report it"
        )
    return judge(check, variant, _kind(device), device, ran, name)


def _kind(device: Device) -> str:
    return "emulator" if device.emulator else "device"


def _untested(check: Check, variant: Variant) -> Result:
    """Why nothing here could run the variant, and what a tool that runs nothing says of its code."""
    backend = backends.named(variant.backend)
    same_format = [d for d in check.devices if variant.gated.format in d.facts.formats]
    if not same_format:
        played = backend.emulations.get(variant.gated.format)
        reason = backend.absent + (f"; QEMU plays one (Debian: {played.install})" if played else "")
        if problem := _unplayable.get(variant.gated.format):
            reason = f"{backend.absent}, and QEMU plays none: {problem}"
    else:
        refusals = [f"{d.title}: {_briefly(decide([variant.gated], d.facts)[0].reason)}" for d in same_format]
        twin = check.targets[variant.gated.name].twin
        lack = "; its twin is for software devices of another subgroup size" if twin else "; its target has no twin"
        reason = f"no device of the build takes it: {'; '.join(refusals)}{lack if backend.has_twins else ''}"
    folder, data = check.folder / f"inspected-{variant.gated.name}", check.module.read_bytes()
    folder.mkdir()
    codes = list(dict.fromkeys(data[p.offset : p.offset + p.length] for p in variant.code))
    try:
        found = backend.inspect(variant.attribute, codes, folder)
    except PipelineError as error:  # a tool that cannot be started says nothing of the code
        found = Inspection(error.what)
    if found and found.wrong:
        return Failure(variant.gated.name, "without a device", found.said)
    return Evidence(variant.gated.name, "untested", reason=reason + (f"; not run, but inspected: {found.said}" if found else ""))


def _briefly(reason: str) -> str:
    """The first gate that does not hold, and how many more: `vmfb explain` tells all."""
    first, *more = reason.split("; ")
    return f"{first} (and {len(more)} more)" if more else first


def named_once(devices: Iterable[Device]) -> str:
    """The devices for people, each once, with the widths of subgroups that its guises have."""
    guises: dict[tuple[str, str], list[int]] = {}
    for device in devices:
        guises.setdefault((device.uri, device.title), []).append(backends.subgroup_size(device))
    return ", ".join(
        f"{title} with subgroups of {', '.join(map(str, sorted(sizes)))} lanes" if len(sizes) > 1 else title
        for (_, title), sizes in guises.items()
    )


def _run_all(check: Check) -> list[Result]:
    real, software = ([d for d in check.devices if d.software is kind] for kind in (False, True))
    activity.say(f"running it on {named_once(check.devices) or 'nothing'}")
    chosen = [_chosen(check, device, number) for number, device in enumerate(real)]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:  # most of the time of software GPUs goes into compiling shaders
        chosen += pool.map(_chosen, repeat(check), software, count(len(real)))
    results: list[Result] = [result for result in chosen if result is not None]
    for device in check.devices:
        for index, variant in enumerate(check.compiled.variants):
            if variant.gated.name not in _tested(results) and decide([variant.gated], device.facts)[0].accepted:
                activity.say(f"{variant.gated.name} on {device.title}")
                results.append(_forced(check, device, index))
    for variant in check.compiled.variants:
        if variant.gated.name not in {r.variant for r in results}:
            activity.say(f"{variant.gated.name}, which no device here takes")
            hosts = twins.hosts(check, check.targets[variant.gated.name])
            results.append(_twin(check, variant, hosts, results) if hosts else _untested(check, variant))
    return results


def _twin(check: Check, variant: Variant, hosts: Sequence[Device], results: Sequence[Result]) -> Result:
    """What the variant's twins say, or those of a variant that has the same code, to the byte, and ran on as many devices."""
    for other in check.compiled.variants:
        if other.has_code_of(variant) and twins.hosts(check, check.targets[other.gated.name]) == hosts:
            for result in results:
                if result.variant == other.gated.name and isinstance(result, Evidence) and result.kind == "twin":
                    return replace(result, variant=variant.gated.name)
    return twins.verify(check, variant, hosts)


def _tested(results: Sequence[Result]) -> set[str]:
    return {r.variant for r in results if not (isinstance(r, Evidence) and r.kind == "untested")}


def _strongest(results: Sequence[Result], variant: str) -> Evidence:
    """What speaks for the variant: the first device that ran it, real GPUs before software, as it is in all its widths."""
    mine = [r for r in results if isinstance(r, Evidence) and r.variant == variant]
    proofs = [e for e in mine if e.kind != "untested"]
    if not proofs:
        return mine[0]
    same = [e for e in proofs[1:] if (e.device, e.driver) == (proofs[0].device, proofs[0].driver)]
    return functools.reduce(merged, same, proofs[0])


def _baseline(check: Check) -> Check:
    """Make the reference outputs with the weakest CPU variant, for a model that has no other reference."""
    cpu = next(filter(backends.is_cpu, check.devices))
    indices = [i for i, decision in enumerate(decide([v.gated for v in check.compiled.variants], cpu.facts)) if decision.accepted]
    if not indices:
        what = "the reference is `baseline`, but the bundle has no CPU target that this machine runs"
        raise PipelineError(what, where=str(check.model.path), hint="give .npy files")
    module = check.folder / "baseline.vmfb"
    choice.force(check.module, indices[-1], module)
    cases = check.cases
    given = [case.inputs for case in cases]
    moved = [path.with_name(path.name.replace(".inputs.", ".moved.")) for path in given]
    for path, beside in zip(given, moved, strict=True):
        arrays.write(beside, draws_of.moved(arrays.read(path), 0))
    functions = [case.data.function for case in cases] * 2
    ran = devices.run(module, cpu, functions, [*given, *moved], check.folder, "baseline", parameters=check.parameters)
    if ran.error or ran.done < len(cases) * 2:
        what = ran.error or "it takes too long"
        raise PipelineError(f"the baseline variant cannot make the reference: {what}", where=str(check.folder))
    precision = mlir.coarsest_float(check.imported / "model.mlirbc")
    judged: dict[str, list[Draw]] = {}
    for number, case in enumerate(cases):
        outputs = arrays.read(devices.outputs(check.folder, "baseline", number))
        other = arrays.read(devices.outputs(check.folder, "baseline", number + len(cases)))
        arrays.write(case.outputs, outputs)
        tolerances = tolerances_for(outputs, [precision] * len(outputs), [other])
        judged.setdefault(case.data.function, []).append(Draw(case.draw.name, tuple(tolerances)))
    where = str(check.model.path)
    data = tuple(
        settled(replace(one, draws=tuple(judged[one.function])), entry, where)
        for one, entry in zip(check.data, check.model.entries, strict=True)
    )
    for one in data:
        one.write()
    return replace(check, data=data, baseline=check.compiled.variants[indices[-1]].gated.name)


def _again(check: Check, name: str, bundle: Bundle, targets: Sequence[Executable]) -> Check:
    """The check of what is compiled once more, in a folder of this name: with other flags, or without targets that failed."""
    folder = check.folder / name
    folder.mkdir()
    made = compile_stage.compile_targets(check.imported / "model.mlirbc", folder, bundle, targets, identity=check.identity)
    made = replace(made, dropped=check.compiled.dropped, notes=check.compiled.notes)
    logs = folder / "verify"
    logs.mkdir()
    return replace(check, bundle=bundle, compiled=made, module_folder=folder, folder=logs)


def _without_optimizations(check: Check, failed: Sequence[str]) -> Check | None:
    """The check of all variants without what the pipeline chose for speed; None if that is nothing, or is refused so."""
    from pipeline.iree.compiler import RefusedError

    bundle = compile_stage.without_optimizations(check.bundle, check.compiled.own_flags)
    slower = _slower(check)
    if bundle is None and slower is None:
        return None
    check = replace(check, imported=slower or check.imported)
    try:
        plain = _again(check, "plain", bundle or check.bundle, [check.targets[v.gated.name] for v in check.compiled.variants])
    except RefusedError:
        return None
    what = ["convolutions are not compiled as matrix products"] if bundle else []
    what += [compile_stage.NOT_FASTER] if slower else []
    note = f"{' and '.join(what)}: otherwise {', '.join(failed)} failed verification"
    return replace(plain, compiled=replace(plain.compiled, notes=(*plain.compiled.notes, note)))


def _slower(check: Check) -> Path | None:
    """The model without what was changed in it for speed; None if that is nothing, or it cannot be had."""
    try:
        return plainly(check.origin, check.imported, check.folder / compile_stage.SLOWER) if check.origin else None
    except PipelineError:
        return None


def _without_failed(check: Check, failures: Sequence[Failure]) -> Check:
    """The check of the variants that did not fail; the others are dropped."""
    return _without(check, {f.variant: f"failed verification ({f.where}): {f.what}" for f in reversed(failures)}, "left")


def _without(check: Check, reasons: Mapping[str, str], name: str) -> Check:
    """The check without these variants, which are dropped for these reasons, in a folder of this name."""
    left = [check.targets[v.gated.name] for v in check.compiled.variants if v.gated.name not in reasons]
    again, dropped = _again(check, name, check.bundle, left), (Dropped(*pair) for pair in reasons.items())
    return replace(again, compiled=replace(again.compiled, dropped=(*again.compiled.dropped, *dropped)))


def _failed(failures: Sequence[Failure]) -> list[str]:
    return list(dict.fromkeys(failure.variant for failure in failures))


def _first_wrong(check: Check, failures: Sequence[Failure]) -> str:
    """A line that says where one of the variants goes wrong first; empty if that is not found."""
    from pipeline.stages import reduction

    failure = next((failure for failure in failures if failure.place), None)
    if check.origin is None or failure is None or failure.place is None:
        return ""
    target = check.targets[failure.variant]
    found = reduction.wrong(check.origin, check.folder, target, check.bundle.flags, failure.place)
    return f"\n{failure.variant}: {found}" if found else ""


def _refuse(check: Check, failures: Sequence[Failure], everything: bool) -> PipelineError:
    where = f"{check.model.name}, bundle {check.bundle.name}"
    hint = next((f.hint for f in failures if f.hint), "`tolerance` in the model says how far off is right")
    if not any(f.hint for f in failures) and any(spec.is_open for entry in check.model.entries for spec in entry.inputs):
        hint = "`low` and `high` in `inputs` say what data never comes; " + hint
    reduce = ""
    if check.origin and check.origin.can_be_reduced and any(failure.place for failure in failures):
        reduce = f"`doit reduce model={check.model.name}` writes the smallest part that is wrong as an ONNX file; "
    if everything and agree(check, failures):
        names = ", ".join(_failed(failures))
        first = _first_wrong(check, failures)
        what = (
            f"all variants give the same numbers, and not the reference's: the import or the reference differs, no target.\n"
            f"{names}: {failures[0].what}; their outputs are in {failures[0].outputs[0].parent}{first}"
        )
        return PipelineError(what, where=where, hint=reduce + "give the right outputs: `reference: [file.npy, …]`, or " + hint)
    if not everything:
        hint = "`on_failure: drop` in the bundle leaves failing variants out; " + hint
    what = "failed verification\n" + told(failures) + _first_wrong(check, failures)
    return PipelineError(what, where=where, hint=f"{reduce}{hint}; the outputs are in {check.folder}")


def _tried(check: Check, trials: Sequence[Trial]) -> tuple[list[Result], list[Failure]]:
    """Run all variants on the test data, and where all are right, on the data sets."""
    results = _run_all(check)
    if trials and not any(isinstance(result, Failure) for result in results):
        results = accuracy.scored(check, trials, [_strongest(results, v.gated.name) for v in check.compiled.variants])
    return results, [result for result in results if isinstance(result, Failure)]


def _tried_both_ways(check: Check, trials: Sequence[Trial]) -> tuple[Check, list[Result], list[Failure]]:
    """Run all variants; where some fail, try without optimizations, and keep that if fewer do."""
    results, failures = _tried(check, trials)
    if failures and (plain := _without_optimizations(check, _failed(failures))):
        others = _tried(plain, trials)
        if len(_failed(others[1])) < len(_failed(failures)):
            return plain, *others
    return check, results, failures


def _verify(
    check: Check, trials: Sequence[Trial], witnesses: Sequence[str], leaves_out: bool
) -> tuple[Check, list[Evidence], list[Heard]]:
    """Run all variants, ask the witnesses about those that are right here, and refuse or drop those that fail anywhere.

    `leaves_out`: those that nobody ran are dropped too.
    """
    check, results, failures = _tried_both_ways(check, trials)
    while True:
        heard = [] if failures else asking.ask(check, witnesses)
        failures = failures or asking.failures(heard)
        if not failures:
            break
        if check.bundle.on_failure == "fail" or len(_failed(failures)) == len(check.compiled.variants):
            raise _refuse(check, failures, everything=_tested(results) == {*_failed(failures)})
        check = _without_failed(check, failures)
        results, failures = _tried(check, trials)
    found = [asking.explained(_strongest(results, v.gated.name), heard) for v in check.compiled.variants]
    ran = asking.seen(heard)
    untested = {e.variant: e.reason for e in found if e.kind == "untested" and e.variant not in ran}
    if leaves_out and untested:
        if len(untested) == len(found):
            what = "no variant was run by anybody, and the policy leaves those out that are untested"
            raise PipelineError(what, where=str(check.model.path), hint="; ".join(f"{k} {v}" for k, v in untested.items()))
        for variant, reason in untested.items():
            _log.warning("%s, %s: %s is left out, for it is untested: %s", check.model.name, check.bundle.name, variant, reason)
        # Why is not said in the release: each machine says it otherwise, and the file is the same.
        check = _without(check, dict.fromkeys(untested, "untested: nobody ran it"), "tested")
        results, failures = _tried(check, trials)  # the file is another, with the same code
        heard = [] if failures else asking.ask(check, witnesses)
        failures = failures or asking.failures(heard)
        if failures:
            raise _refuse(check, failures, everything=_tested(results) == {*_failed(failures)})
        found = [asking.explained(_strongest(results, v.gated.name), heard) for v in check.compiled.variants]
    return check, found, heard


def _prepare(
    origin: Origin,
    bundle: Bundle,
    targets: Sequence[Executable],
    compiled_folder: Path,
    imported: Path,
    reference: Path,
    folder: Path,
    present: Sequence[Device],
    searched: bool,
) -> Check:
    """Copy the test data into `folder`, or make the reference there, and gather what the checks need.

    `searched`: where a variant goes wrong first is to be found out.
    """
    check = Check(
        origin.model,
        bundle,
        {t.name: t for t in targets},
        Compiled.read(compiled_folder / "compiled.json"),
        compiled_folder,
        imported,
        tuple(data.at(folder / str(number)) for number, data in enumerate(testdata.read_all(reference))),
        folder,
        present,
        identities.describe(origin.model, imported),
        origin if searched else None,
    )
    return check if all(data.has_outputs for data in check.data) else _baseline(check)


_found: dict[str, list[Device]] = {}  # by what this machine was when they were asked
_unplayable: dict[str, str] = {}  # formats whose CPUs could be played, and why they are not
_finding = threading.Lock()


def _devices(folder: Path, variants: Sequence[Gated]) -> list[Device]:
    """The devices of this machine, a software device once for each subgroup size that it can have.

    After them those that can be played, for `variants` that no device here takes.
    """
    with _finding:
        if (now := fingerprint()) not in _found:
            with disk_errors(str(folder)):
                found = devices.find(folder)
                _found[now] = [guise for device in found for guise in devices.guises(device, folder)]
        present = _found[now]
        missing = [v for v in variants if not any(_takes(device, [v]) for device in present)]
        played, problems = emulator.find(list(dict.fromkeys(v.format for v in missing)), folder)
        _unplayable.update(problems)
        return [*present, *(device for device in played if _takes(device, missing))]


def _takes(device: Device, variants: Sequence[Gated]) -> bool:
    return select(variants, device.facts) is not None


def failures(
    origin: Origin,
    bundle: Bundle,
    targets: Sequence[Executable],
    compiled_folder: Path,
    imported: Path,
    reference: Path,
    folder: Path,
) -> tuple[Bundle, list[Failure]]:
    """What fails when all variants run in `folder`, as in `run`, and the bundle with its flags then. Nothing is dropped."""
    imported = compile_stage.imported_for(compiled_folder, imported)
    variants = [v.gated for v in Compiled.read(compiled_folder / "compiled.json").variants]
    present = _devices(folder.parent / "devices", variants)
    with disk_errors(str(folder)), fresh_folder(folder):
        check = _prepare(origin, bundle, targets, compiled_folder, imported, reference, folder, present, searched=False)
        check, _, failed = _tried_both_ways(check, ())
        return check.bundle, failed


def run(
    origin: Origin,
    bundle: Bundle,
    targets: Sequence[Executable],
    compiled_folder: Path,
    imported: Path,
    reference: Path,
    scores: Path,
    folder: Path,
    witnesses: Sequence[str] = (),
    leaves_out: bool = False,
) -> None:
    """Verify the compiled bundle; `record.VERIFIED` into `folder`: the module to release, what it holds, its evidence and test
    data, with what the `witnesses` say (see `witnesses.address`). `leaves_out`: without variants that nobody ran.

    `origin` is what the model was imported from: where a variant goes wrong first is searched in it, for the message.
    `scores` is the folder with what the reference scores on data sets, where the model has any.
    """
    has_data = bool(origin.model.data_files)
    for made in (compiled_folder, reference, imported, *([scores] if has_data else [])):
        record.require_intact(made)
    imported = compile_stage.imported_for(compiled_folder, imported)
    variants = [v.gated for v in Compiled.read(compiled_folder / "compiled.json").variants]
    logs, wanted = folder.parent / "devices", runtimes.wanted()
    present = _devices(logs, variants)
    files = [*(compiled_folder / name for name in compile_stage.OUTPUTS), *testdata.files(testdata.read_all(reference))]
    if has_data:
        files += [scores / NAME, *origin.data.values(), *origin.model.metrics]
    key = record.key(
        files,
        made=compile_stage.options(bundle, targets),
        model=origin.model.judged,
        devices=[[d.title, sorted(d.facts.answers.items())] for d in present],
        inspectors=backends.inspectors(),
        evaluated=[described(entry.evaluate) for entry in origin.model.entries if entry.evaluate],
        runtime=devices.runtime_version(),
        witnesses=list(witnesses),
        leaves_out=leaves_out,
        revision=record.REVISIONS["verify"],
    )
    # What devices witnesses have is not known, nor whether those that were away are back: they are asked whenever this runs.
    if not witnesses and record.is_current(folder, key):
        return
    with disk_errors(str(folder)), fresh_folder(folder), ThreadPoolExecutor(1) as beside:
        others = beside.submit(runtimes.find, wanted, logs)  # pip waits for the network meanwhile
        check = _prepare(origin, bundle, targets, compiled_folder, imported, reference, folder, present, searched=True)
        check, evidence, heard = _verify(check, trials(origin, imported, scores) if has_data else (), witnesses, leaves_out)
        (folder / "module.vmfb").write_bytes(check.module.read_bytes())
        check.compiled.write(folder / "compiled.json")
        counts = [twins.matrix_kernels(check.module, variant) for variant in check.compiled.variants]
        evidence = [replace(e, matrix_kernels=count) for e, count in zip(evidence, counts, strict=True)]
        evidence = [checks.in_all_ways(check, e) for e in evidence]  # alone, or they would take time from each other
        write_evidence(folder / "evidence.json", evidence)
        write_witness(folder / "witness.json", now(), witness())
        write_runtimes(folder / "runtimes.json", tried.runtimes(check, others.result()))
        data = [str(path.relative_to(folder)) for path in testdata.files(check.data)]
        record.write_record(folder, key, [*dict.fromkeys((*record.VERIFIED, *answers.keep(heard, folder), *data))])
